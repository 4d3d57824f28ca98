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
// buffers: `forward(x)` gives the logits, `backward(slope)` the gradient at the last x.
function makeNetwork(values) {
  let read = 0;
  const take = (length) => values.subarray(read, (read += length));
  const convolutions = CONVOLUTIONS.map((layer) => {
    const length = layer.outputs * ((layer.size - 4) / 2) ** 2;
    return {
      ...layer, weight: take(25 * layer.inputs * layer.outputs), bias: take(layer.outputs),
      result: new Float32Array(length), from: new Int32Array(length),
      gradient: new Float32Array(layer.inputs * layer.size ** 2),
    };
  });
  const linears = LINEARS.map((layer, i) => ({
    ...layer, weight: take(layer.inputs * layer.outputs), bias: take(layer.outputs),
    result: new Float32Array(layer.outputs), gradient: new Float32Array(layer.inputs),
    rectified: i < LINEARS.length - 1,
  }));
  return {
    forward(x) {
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
// computed together, because they share weights and pixels. `from` is the corner of the window
// that the maximum came from, in an input plane; -1 where ReLU makes it zero.
function convolve({ weight, bias, inputs, outputs, size, result, from }, x) {
  const half = (size - 4) / 2;
  for (let o = 0, at = 0; o < outputs; o++) {
    for (let corner = 0; corner < 2 * half * size; corner += 2 * size) {
      for (let column = corner; column < corner + 2 * half; column += 2, at++) {
        let a = bias[o], b = a, c = a, d = a;
        for (let i = 0, w = 25 * o * inputs; i < inputs; i++) {
          for (let k = 0, p = i * size * size + column; k < 5; k++, p += size, w += 5) {
            const q = p + size;
            const w0 = weight[w], w1 = weight[w + 1], w2 = weight[w + 2], w3 = weight[w + 3], w4 = weight[w + 4];
            const x1 = x[p + 1], x2 = x[p + 2], x3 = x[p + 3], x4 = x[p + 4];
            const y1 = x[q + 1], y2 = x[q + 2], y3 = x[q + 3], y4 = x[q + 4];
            a += w0 * x[p] + w1 * x1 + w2 * x2 + w3 * x3 + w4 * x4;
            b += w0 * x1 + w1 * x2 + w2 * x3 + w3 * x4 + w4 * x[p + 5];
            c += w0 * x[q] + w1 * y1 + w2 * y2 + w3 * y3 + w4 * y4;
            d += w0 * y1 + w1 * y2 + w2 * y3 + w3 * y4 + w4 * x[q + 5];
          }
        }
        let best = a, place = column;
        if (b > best) { best = b; place = column + 1; }
        if (c > best) { best = c; place = column + size; }
        if (d > best) { best = d; place = column + size + 1; }
        result[at] = best > 0 ? best : 0;
        from[at] = best > 0 ? place : -1;
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

function connect({ weight, bias, inputs, outputs, result, rectified }, x) {
  for (let o = 0, w = 0; o < outputs; o++) {
    let sum = bias[o];
    for (let i = 0; i < inputs; i++) sum += weight[w++] * x[i];
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
