// Tensors as vae/pictures/page/write.py packs them. Used by the page and by its workers.
"use strict";

// Return the values of all tensors, by their names. toc lists them as write.py packed
// them: name, shape, bits, and where they start in the bytes that base64 holds.
function readTensors(toc, base64) {
  const bytes = bytesOf(base64);
  const halves = toc.some((entry) => entry.bits === 16) ? halfTable() : null;
  const tensors = {};
  for (const { name, shape, bits, start } of toc) {
    const count = shape.reduce((product, length) => product * length, 1);
    tensors[name] = { shape, values: readValues(bytes, start, count, bits, shape[0], halves) };
  }
  return tensors;
}

function readValues(bytes, start, count, bits, rows, halves) {
  if (bits === 32) return new Float32Array(bytes.buffer, start, count);
  const values = new Float32Array(count);
  if (bits === 16) {
    const stored = new Uint16Array(bytes.buffer, start, count);
    for (let i = 0; i < count; i++) values[i] = halves[stored[i]];
    return values;
  }
  // 8 bits: a scale for each row, then the rows
  const scales = new Float32Array(bytes.buffer, start, rows);
  const stored = new Int8Array(bytes.buffer, start + 4 * rows, count);
  const length = count / rows;
  for (let i = 0; i < count; i++) values[i] = scales[Math.floor(i / length)] * stored[i];
  return values;
}

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

// Return the value of each of the 65,536 numbers of 16 bits (IEEE 754, binary16).
function halfTable() {
  const table = new Float32Array(65536);
  for (let half = 0; half < 65536; half++) {
    const exponent = (half >> 10) & 31, fraction = half & 1023;
    const size = exponent
      ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024);
    table[half] = half >> 15 ? -size : size;
  }
  return table;
}
