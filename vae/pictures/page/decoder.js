// The decoder of vae/models in plain JavaScript: a code -> an image. It runs in a worker.
//
// Feature maps are Float32Arrays of channels x side x side. P positions: side * side.
// Convolutions gather their inputs into a matrix (unfold) and multiply it (multiply).
"use strict";

// ---- Layers: each maker returns a function, which returns the same array at every call ----

// Return weights (rows x inner) in groups of four rows, as multiply reads them.
function packRows(rows, inner, weight) {
  const packed = new Float32Array(4 * Math.ceil(rows / 4) * inner);
  for (let row = 0; row < rows; row++) {
    const start = 4 * (row >> 2) * inner + (row & 3);
    for (let k = 0; k < inner; k++) packed[start + 4 * k] = weight(row, k);
  }
  return packed;
}

// out (rows x n) = packed weights (rows x inner) times x (inner x n). Nearly all time is spent
// here: a block of 4 x 4 sums in registers is 1.5 times as fast as one row at a time.
function multiply(out, packed, x, rows, inner, n) {
  const whole = n - (n % 4);
  for (let row = 0; row < rows; row += 4) {
    for (let p = 0; p < whole; p += 4) {
      let a0 = 0, a1 = 0, a2 = 0, a3 = 0, b0 = 0, b1 = 0, b2 = 0, b3 = 0;
      let c0 = 0, c1 = 0, c2 = 0, c3 = 0, d0 = 0, d1 = 0, d2 = 0, d3 = 0;
      for (let k = 0, i = row * inner, j = p; k < inner; k++, i += 4, j += n) {
        const w0 = packed[i], w1 = packed[i + 1], w2 = packed[i + 2], w3 = packed[i + 3];
        const x0 = x[j], x1 = x[j + 1], x2 = x[j + 2], x3 = x[j + 3];
        a0 += w0 * x0; a1 += w0 * x1; a2 += w0 * x2; a3 += w0 * x3;
        b0 += w1 * x0; b1 += w1 * x1; b2 += w1 * x2; b3 += w1 * x3;
        c0 += w2 * x0; c1 += w2 * x1; c2 += w2 * x2; c3 += w2 * x3;
        d0 += w3 * x0; d1 += w3 * x1; d2 += w3 * x2; d3 += w3 * x3;
      }
      // writes past the end of out, of rows that only fill the group, are dropped
      let o = row * n + p;
      out[o] = a0; out[o + 1] = a1; out[o + 2] = a2; out[o + 3] = a3;
      o += n;
      out[o] = b0; out[o + 1] = b1; out[o + 2] = b2; out[o + 3] = b3;
      o += n;
      out[o] = c0; out[o + 1] = c1; out[o + 2] = c2; out[o + 3] = c3;
      o += n;
      out[o] = d0; out[o + 1] = d1; out[o + 2] = d2; out[o + 3] = d3;
    }
    for (let p = whole; p < n; p++) {
      for (let r = row; r < Math.min(row + 4, rows); r++) {
        let sum = 0;
        for (let k = 0; k < inner; k++) {
          sum += packed[row * inner + 4 * k + (r & 3)] * x[k * n + p];
        }
        out[r * n + p] = sum;
      }
    }
  }
}

// columns = the values of x at each shift (dy, dx) from each position, zero outside: a matrix of
// (channels * shifts) x P. With a stride, of every second row and column.
function unfold(columns, x, channels, side, dys, dxs, stride = 1) {
  const small = side / stride;
  let at = 0;
  for (let c = 0; c < channels; c++) {
    for (const dy of dys) {
      for (const dx of dxs) {
        for (let row = 0; row < small; row++) {
          const y = row * stride + dy, start = (c * side + y) * side;
          for (let column = 0; column < small; column++, at++) {
            const left = column * stride + dx;
            columns[at] = y < 0 || y >= side || left < 0 || left >= side ? 0 : x[start + left];
          }
        }
      }
    }
  }
}

// Linear layer. Its weights are stored one row for each input: (inputs, outputs).
function makeLinear(weight, bias) {
  const [inputs, outputs] = weight.shape, w = weight.values;
  const out = new Float32Array(outputs);
  return (z) => {
    out.set(bias.values);
    let k = 0;
    for (; k + 4 <= inputs; k += 4) {
      const z0 = z[k], z1 = z[k + 1], z2 = z[k + 2], z3 = z[k + 3];
      let i = k * outputs;
      for (let o = 0; o < outputs; o++, i++) {
        out[o] += z0 * w[i] + z1 * w[i + outputs]
          + z2 * w[i + 2 * outputs] + z3 * w[i + 3 * outputs];
      }
    }
    for (; k < inputs; k++) {
      for (let o = 0; o < outputs; o++) out[o] += z[k] * w[k * outputs + o];
    }
    return out;
  };
}

// Transposed convolution, 4 x 4, stride 2, padding 1; weights (inputs, outputs, 4, 4). Output row
// 2 y reads input rows y and y - 1, through rows 1 and 3 of the kernel; output row 2 y + 1 reads
// y and y + 1, through rows 2 and 0. So are the columns: four products of 2 x 2 taps, no zeros.
function makeTransposed(weight, bias, side) {
  const [inputs, outputs] = weight.shape, w = weight.values, positions = side * side;
  const shifts = [[0, -1], [0, 1]], taps = [[1, 3], [2, 0]];
  const parts = [0, 1, 2, 3].map((part) => {
    const odd = part >> 1, right = part & 1;
    const packed = packRows(outputs, 4 * inputs, (output, k) => {
      const row = taps[odd][(k >> 1) & 1], column = taps[right][k & 1];
      return w[(((k >> 2) * outputs + output) * 4 + row) * 4 + column];
    });
    return { odd, right, packed };
  });
  const columns = new Float32Array(4 * inputs * positions);
  const product = new Float32Array(outputs * positions);
  const out = new Float32Array(4 * outputs * positions);
  return (x) => {
    for (const { odd, right, packed } of parts) {
      unfold(columns, x, inputs, side, shifts[odd], shifts[right]);
      multiply(product, packed, columns, outputs, 4 * inputs, positions);
      for (let c = 0, i = 0; c < outputs; c++) {
        for (let y = 0; y < side; y++) {
          let o = ((c * 2 * side) + 2 * y + odd) * 2 * side + right;
          for (let column = 0; column < side; column++, i++, o += 2) {
            out[o] = product[i] + bias.values[c];
          }
        }
      }
    }
    return out;
  };
}

function leakyRelu(x) {
  for (let i = 0; i < x.length; i++) if (x[i] < 0) x[i] *= 0.01;
  return x;
}

// ---- The decoder ----

// Return the function that decodes: code -> image (3 x S x S), values in [0, 1]. arch is the
// checkpoint's: "listed" ends in a sigmoid; "skip" adds mean + B z, and is clamped.
function makeDecoder(arch, tensors) {
  const stages = arch.channels.length;
  const linear = makeLinear(tensors["fc_decode.weight"], tensors["fc_decode.bias"]);
  const layers = arch.channels.map((_, stage) => {
    const name = `decoder.${2 * stage}`, side = (arch.image_size / 2 ** stages) * 2 ** stage;
    return makeTransposed(tensors[`${name}.weight`], tensors[`${name}.bias`], side);
  });
  const skip = arch.architecture === "skip"
    ? makeLinear(tensors["skip_decode.weight"], tensors["skip_decode.bias"]) : null;
  return (z) => {
    let h = linear(z);
    layers.forEach((layer, stage) => {
      h = layer(h);
      if (stage < stages - 1) leakyRelu(h);
    });
    const image = new Float32Array(h.length);
    if (skip) {
      const straight = skip(z);
      for (let i = 0; i < h.length; i++) image[i] = Math.min(1, Math.max(0, h[i] + straight[i]));
    } else {
      for (let i = 0; i < h.length; i++) image[i] = 1 / (1 + Math.exp(-h[i]));
    }
    return image;
  };
}

// Return the pixels of an image (3 x S x S) in [0, 1], as a canvas takes them: RGBA, 8 bits.
function toPixels(image) {
  const positions = image.length / 3;
  const pixels = new Uint8ClampedArray(4 * positions);
  for (let p = 0; p < positions; p++) {
    for (let c = 0; c < 3; c++) pixels[4 * p + c] = 255 * image[c * positions + p];
    pixels[4 * p + 3] = 255;
  }
  return pixels;
}
