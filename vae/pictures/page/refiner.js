// The refiner of vae/models/refiner.py in plain JavaScript; it uses the layers of decoder.js.
"use strict";

// Convolution of an odd kernel with padding: 1 x 1 or 3 x 3; weights (outputs, inputs, k, k).
function makeConvolution(weight, bias, side, stride = 1) {
  const [outputs, inputs, kernel] = weight.shape, positions = (side / stride) ** 2;
  const inner = inputs * kernel * kernel, shifts = kernel === 1 ? [0] : [-1, 0, 1];
  const packed = packRows(outputs, inner, (row, k) => weight.values[row * inner + k]);
  const columns = new Float32Array(inner * positions);
  const out = new Float32Array(outputs * positions);
  return (x) => {
    unfold(columns, x, inputs, side, shifts, shifts, stride);
    multiply(out, packed, columns, outputs, inner, positions);
    for (let i = 0; i < out.length; i++) out[i] += bias.values[Math.floor(i / positions)];
    return out;
  };
}

// Group normalisation in 8 groups (Wu & He, 2018).
function makeNorm(weight, bias) {
  const channels = weight.shape[0], group = channels / 8;
  return (x) => {
    const out = new Float32Array(x.length), positions = x.length / channels;
    for (let first = 0; first < channels; first += group) {
      const start = first * positions, end = (first + group) * positions;
      let sum = 0, squares = 0;
      for (let i = start; i < end; i++) sum += x[i];
      const mean = sum / (end - start);
      for (let i = start; i < end; i++) squares += (x[i] - mean) ** 2;
      const unit = 1 / Math.sqrt(squares / (end - start) + 1e-5);
      for (let i = start; i < end; i++) {
        const c = Math.floor(i / positions);
        out[i] = (x[i] - mean) * unit * weight.values[c] + bias.values[c];
      }
    }
    return out;
  };
}

function silu(x) {
  for (let i = 0; i < x.length; i++) x[i] /= 1 + Math.exp(-x[i]);
  return x;
}

function add(x, y) {
  const sum = new Float32Array(x.length);
  for (let i = 0; i < x.length; i++) sum[i] = x[i] + y[i];
  return sum;
}

function concatenate(x, y) {
  const both = new Float32Array(x.length + y.length);
  both.set(x);
  both.set(y, x.length);
  return both;
}

// Each value four times: nearest neighbours.
function upsample(x, side) {
  const out = new Float32Array(4 * x.length);
  for (let i = 0; i < out.length; i++) {
    const row = Math.floor(i / (2 * side)), column = i % (2 * side);
    out[i] = x[(row >> 1) * side + (column >> 1)];
  }
  return out;
}

// 2 x 2 pixels of a channel as four channels of half the side; back again with `shuffle`.
function unshuffle(x, channels, side) {
  const out = new Float32Array(x.length);
  eachPair(channels, side, (whole, part) => { out[part] = x[whole]; });
  return out;
}

function shuffle(x, channels, side) {
  const out = new Float32Array(x.length);
  eachPair(channels, side, (whole, part) => { out[whole] = x[part]; });
  return out;
}

function eachPair(channels, side, visit) {
  const half = side / 2;
  for (let c = 0, whole = 0; c < channels; c++) {
    for (let y = 0; y < side; y++) {
      for (let x = 0; x < side; x++, whole++) {
        const channel = 4 * c + 2 * (y & 1) + (x & 1);
        visit(whole, (channel * half + (y >> 1)) * half + (x >> 1));
      }
    }
  }
}

// Residual block of two convolutions, which time scales and shifts.
function makeBlock(layer, name, side) {
  const norm1 = layer(makeNorm, `${name}.norm1`), norm2 = layer(makeNorm, `${name}.norm2`);
  const convolution1 = layer(makeConvolution, `${name}.convolution1`, side);
  const convolution2 = layer(makeConvolution, `${name}.convolution2`, side);
  const time = layer(makeLinear, `${name}.time`);
  const skip = layer(makeConvolution, `${name}.skip`, side) ?? ((h) => h);
  return (h, hTime) => {
    const factors = time(hTime), width = factors.length / 2, positions = side * side;
    const inner = norm2(convolution1(silu(norm1(h))));
    for (let i = 0; i < inner.length; i++) {
      const c = Math.floor(i / positions);
      inner[i] = inner[i] * (1 + factors[c]) + factors[width + c];
    }
    return add(skip(h), convolution2(silu(inner)));
  };
}

// Return the function that refines: (image, noise, steps, strength) -> image, all 3 x S x S.
function makeRefiner(arch, tensors) {
  const side = arch.image_size, half = side / 2, levels = arch.channels.length;
  // a layer of this name; undefined where it has no weights
  const layer = (make, name, ...rest) => tensors[`${name}.weight`]
    && make(tensors[`${name}.weight`], tensors[`${name}.bias`], ...rest);
  const sides = arch.channels.map((_, level) => half / 2 ** level);
  const time0 = layer(makeLinear, "time.0"), time2 = layer(makeLinear, "time.2");
  const first = layer(makeConvolution, "first", half);
  const position = tensors.position.values;
  const inner = sides.slice(0, -1);
  const down = inner.map((s, i) => makeBlock(layer, `down.${i}`, s));
  const downsample = inner.map((s, i) => layer(makeConvolution, `downsample.${i}`, s, 2));
  const middle = [0, 1].map((i) => makeBlock(layer, `middle.${i}`, sides[levels - 1]));
  const upsamples = inner.map((s, i) => layer(makeConvolution, `upsample.${i}`, s));
  const up = inner.map((s, i) => makeBlock(layer, `up.${i}`, s));
  const lastNorm = layer(makeNorm, "last.0"), last = layer(makeConvolution, "last.2", half);

  const velocity = (y, image, time) => {
    const noise = arch.noise ** 2, residual = arch.residual ** 2;
    const unit = 1 / Math.sqrt(noise * (1 - time) ** 2 + residual * time ** 2);
    const linear = (residual * time - noise * (1 - time)) * unit ** 2;
    const scale = arch.noise * arch.residual * unit;
    const moved = y.map((value, i) => value - image[i]);
    const hTime = silu(time2(silu(time0(embedTime(time, arch.channels[0])))));
    const inputs = concatenate(moved.map((v) => unit * v), image.map((v) => 2 * v - 1));
    let h = add(first(unshuffle(inputs, 6, side)), position);
    const kept = [];
    inner.forEach((_, i) => {
      h = down[i](h, hTime);
      kept.push(h);
      h = downsample[i](h);
    });
    for (const block of middle) h = block(h, hTime);
    for (let i = inner.length - 1; i >= 0; i--) {
      h = upsamples[i](upsample(h, sides[i + 1]));
      h = up[i](concatenate(h, kept[i]), hTime);
    }
    const correction = shuffle(last(silu(lastNorm(h))), 3, side);
    return moved.map((value, i) => linear * value + scale * correction[i]);
  };

  return (image, noise, steps, strength) => {
    let y = image.map((value, i) => value + arch.noise * noise[i]);
    for (let step = 0; step < steps; step++) {
      const v = velocity(y, image, step / steps);
      y = y.map((value, i) => value + v[i] / steps);
    }
    return image.map((x, i) => Math.min(1, Math.max(0, x + strength * (y[i] - x))));
  };
}

function embedTime(time, width) {
  const half = width >> 1;
  return Float32Array.from({ length: 2 * half }, (_, i) => {
    const angle = time * 10 ** ((3 * (i % half)) / Math.max(1, half - 1));
    return i < half ? Math.sin(angle) : Math.cos(angle);
  });
}
