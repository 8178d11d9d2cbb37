// The state of the page, and the codes of a state.
//
// A face to start from is an origin: "face-3", from the row of faces, or "new-81", a sample of the
// prior with seed 81. Codes are Float32Arrays of D latent dimensions.
"use strict";

const byId = (id) => document.getElementById(id);
const page = JSON.parse(byId("description").textContent);
const codes = readTensors(page.tensors.codes, byId("codes").textContent);
const SIZE = page.decoder.image_size, LATENT = page.decoder.latent_dim;
const STRONGEST = 3;

const rowOf = (name, row) => codes[name].values.subarray(row * LATENT, (row + 1) * LATENT);

// Return a generator of uniform numbers in [0, 1) (mulberry32, by Tommy Ettinger).
function uniforms(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

// Return standard normal numbers (Box & Muller, 1958).
function normals(count, uniform) {
  return Float32Array.from({ length: count }, () => {
    const radius = Math.sqrt(-2 * Math.log(1 - uniform()));
    return radius * Math.cos(2 * Math.PI * uniform());
  });
}

// Return the code of a new face: a sample of the mixture, as Mixture.sample draws it.
function sampleCode(seed) {
  const uniform = uniforms(seed), weights = codes.weights.values;
  let component = 0, left = uniform();
  while (left >= weights[component] && component < weights.length - 1) left -= weights[component++];
  const noise = normals(LATENT, uniform), z = rowOf("means", component).slice();
  // the rows of a lower triangle, one after the other
  let at = (component * LATENT * (LATENT + 1)) / 2;
  const factors = codes.factors.values;
  for (let row = 0; row < LATENT; row++) {
    for (let k = 0; k <= row; k++) z[row] += page.temperature * factors[at++] * noise[k];
  }
  return z;
}

function codeOf(origin) {
  const [kind, number] = origin.split("-");
  return kind === "face" ? rowOf("faces", Number(number)) : sampleCode(Number(number));
}

// Return the code of a state before and after its changes: z, and z + the sum of s_k v_k.
function codesOf({ from, to, mix, strengths }) {
  const start = codeOf(from), end = to ? codeOf(to) : start;
  const before = start.map((value, i) => value + mix * (end[i] - value)), after = before.slice();
  page.attributes.forEach((name, k) => {
    const strength = strengths[name] ?? 0, direction = rowOf("directions", k);
    if (strength) for (let i = 0; i < LATENT; i++) after[i] += strength * direction[i];
  });
  return { before, after };
}

// Return the standard score of a code among the training codes, by an attribute's linear probe.
function scoreOf(z, k) {
  const probe = rowOf("probes", k), mean = codes.mean.values;
  return z.reduce((sum, value, i) => sum + probe[i] * (value - mean[i]), 0);
}

// ---- State ----

const isOrigin = (text) => /^new-\d{1,10}$/.test(text ?? "")
  || (/^face-\d{1,6}$/.test(text ?? "") && Number(text.slice(5)) < page.labels.length);

const randomOrigin = () => `new-${crypto.getRandomValues(new Uint32Array(1))[0]}`;

const plainState = (from) => ({ from, to: null, mix: 0, strengths: Object.create(null) });

let state = plainState(page.labels.length ? "face-0" : "new-0");

// Return a state as text, and back; entries that cannot be read are left out.
function writeCode({ from, to, mix, strengths }) {
  const parts = [["from", from]];
  if (to) parts.push(["to", to], ["mix", mix]);
  for (const name of page.attributes) if (strengths[name]) parts.push([name, strengths[name]]);
  return parts.map(([key, value]) => `${encodeURIComponent(key)}=${value}`).join("&");
}

function readCode(code) {
  const parts = new URLSearchParams(code), number = (key, least, most) =>
    Math.min(most, Math.max(least, Number(parts.get(key)) || 0));
  const read = plainState(isOrigin(parts.get("from")) ? parts.get("from") : state.from);
  if (isOrigin(parts.get("to"))) {
    read.to = parts.get("to");
    read.mix = number("mix", 0, 1);
  }
  for (const name of page.attributes) {
    const strength = number(name, -STRONGEST, STRONGEST);
    if (strength) read.strengths[name] = strength;
  }
  return read;
}

// Keep the state in the address. A new face is a new entry of the history: "back" returns to the
// face before.
function keep(anew = false) {
  const code = writeCode(state), write = anew ? "pushState" : "replaceState";
  if (`#${code}` !== location.hash) history[write](null, "", `#${code}`);
  byId("code").value = code;
}
