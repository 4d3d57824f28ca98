// Gradient attacks as in rvlib.attacks: balls of perturbations, and steps uphill that stay inside.

const TINY = 2 ** -126; // the smallest normal number in single precision

// Vectors whose length an l2 ball limits: the whole image, or every pixel's three colours.
const WHOLE = { count: 1, entries: PIXELS, stride: 1 };
const COLOURS = { count: PIXELS / 3, entries: 3, stride: PIXELS / 3 };

// Multiplies every vector by `factor(its length)`; squares of small gradients do not underflow.
function scale(v, { count, entries, stride }, factor) {
  for (let first = 0; first < count; first++) {
    const end = first + entries * stride;
    let largest = TINY, squares = 0;
    for (let i = first; i < end; i += stride) largest = Math.max(largest, Math.abs(v[i]));
    for (let i = first; i < end; i += stride) squares += (v[i] / largest) * (v[i] / largest);
    const by = factor(Math.max(largest * Math.sqrt(squares), TINY));
    for (let i = first; i < end; i += stride) v[i] *= by;
  }
}

const makeL2 = (vectors) => ({
  steepest: (v) => scale(v, vectors, (length) => 1 / length),
  project: (v, eps) => scale(v, vectors, (length) => Math.min(1, eps / length)),
  // Uniform: a uniform direction, of a length r for which (r / eps)^entries is uniform.
  sample(v, eps, uniform) {
    fillNormal(v, uniform);
    scale(v, vectors, (length) => (eps * uniform() ** (1 / vectors.entries)) / length);
  },
});

// Every verb overwrites the vector that it is given.
const BALLS = {
  linf: {
    steepest(v) {
      for (let i = 0; i < PIXELS; i++) v[i] = Math.sign(v[i]);
    },
    project(v, eps) {
      for (let i = 0; i < PIXELS; i++) v[i] = Math.min(Math.max(v[i], -eps), eps);
    },
    sample(v, eps, uniform) {
      for (let i = 0; i < PIXELS; i++) v[i] = eps * (2 * uniform() - 1);
    },
  },
  l2: makeL2(WHOLE),
  "pixel-l2": makeL2(COLOURS),
};

// Logarithm of the odds that the network is wrong, and its slope at the logits: the cross-entropy's
// direction, which survives where the network is sure (rvlib.attacks.gradient.log_odds).
function logOdds(logits, label) {
  const others = Array.from(logits, (z, k) => (k === label ? -Infinity : z));
  const most = Math.max(...others);
  const sum = others.reduce((total, z) => total + Math.exp(z - most), 0);
  const slope = others.map((z, k) => (k === label ? -1 : Math.exp(z - most) / sum));
  return { loss: most + Math.log(sum) - logits[label], slope };
}

// x + delta, with delta in the ball and the sum in the box; overwrites delta.
function addInside(x, delta, ball, eps) {
  ball.project(delta, eps);
  for (let i = 0; i < PIXELS; i++) delta[i] = Math.min(Math.max(x[i] + delta[i], 0), 1);
  return delta;
}

// Steps uphill from `start`, each projected onto ball and box; `gradient(x)` is where a loss
// rises. Returns every iterate, the start among them.
function climb(x, start, gradient, { ball, eps, steps, stepSize }) {
  const path = [start];
  for (let t = 0; t < steps; t++) {
    const at = path[t], delta = gradient(at).slice();
    ball.steepest(delta);
    for (let i = 0; i < PIXELS; i++) delta[i] = at[i] + stepSize * delta[i] - x[i];
    path.push(addInside(x, delta, ball, eps));
  }
  return path;
}

// FGSM is one step of full length from the image itself; PGD starts at random in the ball.
const ATTACKS = {
  fgsm: { norm: "linf", single: true },
  "pgd-linf": { norm: "linf" },
  "pgd-l2": { norm: "l2" },
  "pgd-pixel-l2": { norm: "pixel-l2" },
};

// One run: every iterate, and the loss and the logits there.
function attackOnce(network, x, label, { attack, eps, steps }, uniform) {
  const { single, norm } = ATTACKS[attack], ball = BALLS[norm];
  let start = x;
  if (!single) {
    start = new Float32Array(PIXELS);
    ball.sample(start, eps, uniform);
    addInside(x, start, ball, eps);
  }
  const logits = [], losses = [];
  const slope = (at) => {
    logits.push(Array.from(network.forward(at)));
    const { loss, slope } = logOdds(logits.at(-1), label);
    losses.push(loss);
    return slope;
  };
  const gradient = (at) => network.backward(slope(at));
  const options = single ? { steps: 1, stepSize: eps } : { steps, stepSize: (2.5 * eps) / steps };
  const path = climb(x, start, gradient, { ball, eps, ...options });
  slope(path.at(-1));
  return { path, logits, losses, fooled: argmax(logits.at(-1)) !== label };
}
