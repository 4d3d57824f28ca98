// Votes under Gaussian noise, and the attack on them, as in rvlib.smoothing and smoothed_pgd.

// Adds the answers to n noisy copies to `counts`; `fill(copy)` writes standard normal noise.
// Returns the last copy, which is not clipped: the network sees it so.
function countVotes(network, x, sigma, n, fill, counts) {
  const copy = new Float32Array(PIXELS);
  for (let vote = 0; vote < n; vote++) {
    addNoise(x, sigma, fill, copy);
    counts[argmax(network.forward(copy))]++;
  }
  return copy;
}

function addNoise(x, sigma, fill, copy) {
  fill(copy);
  for (let i = 0; i < PIXELS; i++) copy[i] = x[i] + sigma * copy[i];
  return copy;
}

// Where -log of the mean probability of `label` over noisy copies rises: the mean of the slopes of
// the log odds m with weights p (1 - p) that sum to one (Salman et al. 2019, equation S).
function noisyGradient(network, x, label, sigma, draws, fill) {
  const made = Array.from({ length: draws }, () => {
    const copy = addNoise(x, sigma, fill, new Float32Array(PIXELS));
    const { loss, slope } = logOdds(network.forward(copy), label), size = Math.abs(loss);
    // log p (1 - p) of p = 1 / (1 + e^m), an even function of m, written so that nothing overflows
    return { weight: -size - 2 * Math.log1p(Math.exp(-size)), gradient: network.backward(slope).slice() };
  });
  const weights = probabilities(made.map(({ weight }) => weight)), mean = new Float32Array(PIXELS);
  made.forEach(({ gradient }, k) => {
    for (let i = 0; i < PIXELS; i++) mean[i] += weights[k] * gradient[i];
  });
  return mean;
}

// PGD in the l2 ball against the smoothed network, from the image itself; the last iterate.
function smoothedAttack(network, x, label, { sigma, eps, steps, draws }, fill) {
  const gradient = (at) => noisyGradient(network, at, label, sigma, draws, fill);
  return climb(x, x, gradient, { ball: BALLS.l2, eps, steps, stepSize: (2.5 * eps) / steps }).at(-1);
}
