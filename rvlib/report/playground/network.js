// The report's network, one image at a time: logits, and a loss's gradient at the pixels.
// An image is a Float32Array of 3 planes of 32 x 32 pixels in [0, 1], red first.

const PIXELS = 3 * 32 * 32;
const CLASSES = 10;

const CONVOLUTIONS = [
  { inputs: 3, outputs: 6, size: 32 }, // size: side of an input plane
  { inputs: 6, outputs: 16, size: 14 },
];
const LINEARS = [{ inputs: 400, outputs: 120 }, { inputs: 120, outputs: 84 }, { inputs: 84, outputs: CLASSES }];

// Half-precision numbers in base64, as the page stores them; 2^-14 is the smallest normal one.
function readHalves(base64) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  return Float32Array.from(new Uint16Array(bytes.buffer), (bits) => {
    const sign = bits >> 15 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = (bits & 1023) / 1024;
    return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction) : 2 ** -14 * fraction);
  });
}

// `values`: weights and biases in the order of the layers. Returns two functions that share their
// buffers: `forward(x)` gives the logits, `backward(slope)` the gradient at the last x. All is in
// double precision, as scripts compute: nothing is converted on the way.
function makeNetwork(values) {
  let read = 0;
  const take = (length) => Float64Array.from(values.subarray(read, (read += length)));
  const convolutions = CONVOLUTIONS.map((layer) => {
    const length = layer.outputs * ((layer.size - 4) / 2) ** 2;
    return {
      ...layer, weight: take(25 * layer.inputs * layer.outputs), bias: take(layer.outputs),
      result: new Float64Array(length), from: new Int32Array(length),
      gradient: new Float64Array(layer.inputs * layer.size ** 2),
    };
  });
  const linears = LINEARS.map((layer, i) => ({
    ...layer, weight: take(layer.inputs * layer.outputs), bias: take(layer.outputs),
    result: new Float64Array(layer.outputs), gradient: new Float64Array(layer.inputs),
    rectified: i < LINEARS.length - 1,
  }));
  const pixels = new Float64Array(PIXELS);
  return {
    forward(x) {
      pixels.set(x);
      x = pixels;
      for (const layer of convolutions) x = convolve(layer, x);
      for (const layer of linears) x = connect(layer, x);
      return x;
    },
    backward(slope) {
      for (const layer of linears.slice().reverse()) slope = connectBack(layer, slope);
      for (const layer of convolutions.slice().reverse()) slope = convolveBack(layer, slope);
      return slope;
    },
  };
}

// Convolution with 5 x 5 weights, maximum of 2 x 2 results, ReLU: the four results of a maximum are
// computed together, and those of two outputs, because they share weights and pixels. `from` is the
// corner of the window that the maximum came from, in an input plane; -1 where ReLU makes it zero.
function convolve({ weight, bias, inputs, outputs, size, result, from }, x) {
  const half = (size - 4) / 2, cells = half * half;
  const keep = (at, place, a, b, c, d) => {
    const best = Math.max(a, b, c, d, 0);
    result[at] = best;
    from[at] = best === 0 ? -1 : a === best ? place : b === best ? place + 1 : place + size + (c === best ? 0 : 1);
  };
  for (let o = 0; o < outputs; o += 2) {
    let at = o * cells;
    for (let corner = 0; corner < 2 * half * size; corner += 2 * size) {
      for (let column = corner; column < corner + 2 * half; column += 2, at++) {
        let a = bias[o], b = a, c = a, d = a, e = bias[o + 1], f = e, g = e, h = e;
        for (let i = 0, w = 25 * o * inputs, v = w + 25 * inputs; i < inputs; i++) {
          for (let k = 0, p = i * size * size + column; k < 5; k++, p += size, w += 5, v += 5) {
            const q = p + size;
            const x0 = x[p], x1 = x[p + 1], x2 = x[p + 2], x3 = x[p + 3], x4 = x[p + 4], x5 = x[p + 5];
            const y0 = x[q], y1 = x[q + 1], y2 = x[q + 2], y3 = x[q + 3], y4 = x[q + 4], y5 = x[q + 5];
            const w0 = weight[w], w1 = weight[w + 1], w2 = weight[w + 2], w3 = weight[w + 3], w4 = weight[w + 4];
            a += w0 * x0 + w1 * x1 + w2 * x2 + w3 * x3 + w4 * x4;
            b += w0 * x1 + w1 * x2 + w2 * x3 + w3 * x4 + w4 * x5;
            c += w0 * y0 + w1 * y1 + w2 * y2 + w3 * y3 + w4 * y4;
            d += w0 * y1 + w1 * y2 + w2 * y3 + w3 * y4 + w4 * y5;
            const v0 = weight[v], v1 = weight[v + 1], v2 = weight[v + 2], v3 = weight[v + 3], v4 = weight[v + 4];
            e += v0 * x0 + v1 * x1 + v2 * x2 + v3 * x3 + v4 * x4;
            f += v0 * x1 + v1 * x2 + v2 * x3 + v3 * x4 + v4 * x5;
            g += v0 * y0 + v1 * y1 + v2 * y2 + v3 * y3 + v4 * y4;
            h += v0 * y1 + v1 * y2 + v2 * y3 + v3 * y4 + v4 * y5;
          }
        }
        keep(at, column, a, b, c, d);
        keep(at + cells, column, e, f, g, h);
      }
    }
  }
  return result;
}

// A maximum hands its slope to the one window it came from.
function convolveBack({ weight, inputs, outputs, size, from, gradient }, slope) {
  gradient.fill(0);
  const cells = from.length / outputs;
  for (let at = 0; at < from.length; at++) {
    const s = slope[at];
    if (from[at] < 0 || s === 0) continue;
    let w = 25 * inputs * Math.floor(at / cells);
    for (let i = 0; i < inputs; i++) {
      for (let k = 0, p = i * size * size + from[at]; k < 5; k++, p += size, w += 5) {
        gradient[p] += s * weight[w];
        gradient[p + 1] += s * weight[w + 1];
        gradient[p + 2] += s * weight[w + 2];
        gradient[p + 3] += s * weight[w + 3];
        gradient[p + 4] += s * weight[w + 4];
      }
    }
  }
  return gradient;
}

// Four sums at once (all layers' inputs are a multiple of four): one would wait for itself.
function connect({ weight, bias, inputs, outputs, result, rectified }, x) {
  for (let o = 0, w = 0; o < outputs; o++) {
    let a = bias[o], b = 0, c = 0, d = 0;
    for (let i = 0; i < inputs; i += 4, w += 4) {
      a += weight[w] * x[i];
      b += weight[w + 1] * x[i + 1];
      c += weight[w + 2] * x[i + 2];
      d += weight[w + 3] * x[i + 3];
    }
    const sum = a + b + c + d;
    result[o] = rectified && sum < 0 ? 0 : sum;
  }
  return result;
}

function connectBack({ weight, inputs, outputs, result, rectified, gradient }, slope) {
  gradient.fill(0);
  for (let o = 0; o < outputs; o++) {
    if (rectified && result[o] === 0) continue;
    const s = slope[o], row = o * inputs;
    for (let i = 0; i < inputs; i++) gradient[i] += s * weight[row + i];
  }
  return gradient;
}

function probabilities(logits) {
  const most = Math.max(...logits), powers = Array.from(logits, (z) => Math.exp(z - most));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / sum);
}

// The first of the largest values, as PyTorch's argmax.
function argmax(values) {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[best]) best = i;
  return best;
}
