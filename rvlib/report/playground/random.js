// Random numbers that a seed repeats, whatever the browser.

// Uniform on (0, 1): Marsaglia, "Xorshift RNGs", Journal of Statistical Software 8(14), 2003,
// with 128 bits of state. `purpose` (a whole number) makes streams of one seed differ.
function makeUniform(seed, purpose) {
  // An array: a function's own numbers of 32 bits are made anew each time they change.
  const s = Int32Array.of(0x9e3779b9 ^ seed, 0x243f6a88 ^ purpose, 0xb7e15162, 1);
  const uniform = () => {
    const t = s[0] ^ (s[0] << 11), last = s[3];
    s[0] = s[1];
    s[1] = s[2];
    s[2] = last;
    s[3] = last ^ (last >>> 19) ^ t ^ (t >>> 8);
    return ((s[3] >>> 0) + 0.5) / 2 ** 32;
  };
  for (let i = 0; i < 64; i++) uniform(); // seeds that are alike begin alike
  return uniform;
}

// Standard normal deviates by the polar method: two from every point in the unit disc.
function fillNormal(values, uniform) {
  for (let i = 0; i < values.length; ) {
    const u = 2 * uniform() - 1, v = 2 * uniform() - 1, square = u * u + v * v;
    if (square >= 1) continue;
    const scale = Math.sqrt((-2 * Math.log(square)) / square);
    values[i++] = u * scale;
    values[i++] = v * scale; // beyond an odd end a typed array keeps nothing
  }
  return values;
}
