// From votes to a certificate, as in rvlib.smoothing.statistics.

// Logarithm of the gamma function: Stirling's series, after a shift to arguments where it is exact.
function logGamma(z) {
  let shift = 0;
  for (; z < 15; z++) shift += Math.log(z);
  const q = 1 / (z * z);
  const series = (1 / 12 - q * (1 / 360 - q * (1 / 1260 - q * (1 / 1680 - q / 1188)))) / z;
  return (z - 0.5) * Math.log(z) - z + 0.5 * Math.log(2 * Math.PI) + series - shift;
}

// Regularised incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22),
// evaluated from the front by the modified Lentz method (DLMF 3.10).
function incompleteBeta(x, a, b) {
  if (x > (a + 1) / (a + b + 2)) return 1 - incompleteBeta(1 - x, b, a);
  const front = a * Math.log(x) + b * Math.log1p(-x) + logGamma(a + b) - logGamma(a) - logGamma(b);
  let c = 1, d = 1 / (1 - ((a + b) / (a + 1)) * x), fraction = d;
  for (let m = 1, change = 0; Math.abs(change - 1) > 1e-15 && m < 10_000; m++) {
    const even = (m * (b - m) * x) / ((a + 2 * m - 1) * (a + 2 * m));
    const odd = (-(a + m) * (a + b + m) * x) / ((a + 2 * m) * (a + 2 * m + 1));
    change = 1;
    for (const term of [even, odd]) {
      d = 1 / (1 + term * d);
      c = 1 + term / c;
      change *= c * d;
    }
    fraction *= change;
  }
  return (Math.exp(front) * fraction) / a;
}

// Clopper-Pearson: the p at which k or more successes in n trials have probability alpha.
function lowerConfidenceBound(k, n, alpha) {
  if (k === 0) return 0;
  let low = 0, high = k / n; // the bound lies below the share, as alpha is below one half
  for (let i = 0; i < 60; i++) {
    const middle = (low + high) / 2;
    if (incompleteBeta(middle, k, n - k + 1) > alpha) high = middle;
    else low = middle;
  }
  return low;
}

// Inverse of the normal distribution function for p in [1/2, 1) by Newton's method from the
// left, which only rises: beyond zero the function is concave. Its series is DLMF 7.6.2.
function inverseNormal(p) {
  for (let x = 0, i = 0; ; i++) {
    const density = Math.exp(-x * x / 2) / Math.sqrt(2 * Math.PI);
    let sum = 0;
    for (let term = x, k = 1; term > 1e-17 * sum; k += 2, term *= (x * x) / k) sum += term;
    const step = (p - 0.5 - density * sum) / density;
    x += step;
    if (Math.abs(step) < 1e-14 * (1 + x) || i === 100) return x;
  }
}

// The l2 radius in which the smoothed network keeps an answer of at least this probability.
const certifiedRadius = (p, sigma) => (p > 0.5 ? sigma * inverseNormal(p) : 0);
