// The page: what is chosen (state), the code that it means, and the controls that change it.
//
// A face to start from is an origin: "face-3", from the row of faces, or "new-81", a sample of the
// prior with seed 81. Codes are Float32Arrays of D latent dimensions.
"use strict";

const byId = (id) => document.getElementById(id);
const page = JSON.parse(byId("description").textContent);
const codes = readTensors(page.tensors.codes, byId("codes").textContent);
const SIZE = page.decoder.image_size, LATENT = page.decoder.latent_dim;
const SHOWN = SIZE * Math.ceil(640 / SIZE); // side of the canvas and of saved pictures, in pixels
const STRONGEST = 3;

// ---- Codes ----

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

const plainState = (from) => ({ from, to: null, mix: 0, strengths: {} });

let state = plainState(page.labels.length ? "face-0" : "new-0");

// Return a state as text, and back; what cannot be read is left out.
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
  if (isOrigin(parts.get("to"))) Object.assign(read, { to: parts.get("to"), mix: number("mix", 0, 1) });
  for (const name of page.attributes) {
    const strength = number(name, -STRONGEST, STRONGEST);
    if (strength) read.strengths[name] = strength;
  }
  return read;
}

// Keep the state in the address: a new entry of the history for a new face, so that "back" brings
// the last one.
function keep(anew = false) {
  const code = writeCode(state);
  if (`#${code}` !== location.hash) history[anew ? "pushState" : "replaceState"](null, "", `#${code}`);
  byId("code").value = code;
}

// ---- Drawing ----

// A worker with one network; ask(task) resolves to the answer.
class Artist {
  constructor(network) {
    const parts = ["tensors.js", "decoder.js", "refiner.js", "worker.js"];
    const script = parts.map((id) => byId(id).textContent).join("\n");
    this.worker = new Worker(URL.createObjectURL(new Blob([script], { type: "text/javascript" })));
    this.waiting = new Map();
    this.asked = 0;
    this.worker.onmessage = ({ data }) => {
      this.waiting.get(data.id).answer(data);
      this.waiting.delete(data.id);
    };
    this.worker.onerror = ({ message }) => {
      say(`The face cannot be drawn here: ${message}`);
      for (const { fail } of this.waiting.values()) fail(new Error(message));
      this.waiting.clear();
    };
    const [tensors, base64] = [page.tensors[network], byId(network).textContent];
    this.ask({ load: network, arch: page[network], tensors, base64 });
  }

  ask(task) {
    const id = this.asked++;
    return new Promise((answer, fail) => {
      this.waiting.set(id, { answer, fail });
      this.worker.postMessage({ id, ...task });
    });
  }
}

// A canvas that shows images enlarged; `image` is the last one, and `pixels` its own pixels.
class Picture {
  constructor(canvas, side) {
    this.canvas = canvas;
    canvas.width = canvas.height = side;
    this.small = document.createElement("canvas");
    this.small.width = this.small.height = SIZE;
    this.pixels = this.small.getContext("2d", { willReadFrequently: true });
    this.painted = 0;
  }

  paint({ image, pixels }) {
    this.image = image;
    this.pixels.putImageData(new ImageData(pixels, SIZE, SIZE), 0, 0);
    const context = this.canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(this.small, 0, 0, this.canvas.width, this.canvas.height);
    this.painted++;
  }
}

// Return a function that does work and returns a promise of its end; called again meanwhile, it
// works once more: the newest state is drawn, and those between are left out.
function latest(work) {
  let working = null, again = false;
  const workOn = async () => {
    try {
      while (again) {
        again = false;
        await work();
      }
    } finally {
      working = null;
    }
  };
  return () => {
    again = true;
    working ??= workOn();
    return working;
  };
}

const artist = new Artist("decoder");
let refiner = null; // a second worker, made when it is first wanted: sliders stay quick
const after = new Picture(document.querySelector("#after canvas"), SHOWN);
const before = new Picture(document.querySelector("#before canvas"), SHOWN);
let dragging = false;

const say = (text) => { byId("status").textContent = text; };

const draw = latest(async () => {
  const z = codesOf(state);
  showRanks(z.after);
  after.paint(await artist.ask({ z: z.after }));
  if (byId("beside").checked) before.paint(await artist.ask({ z: z.before }));
  if (!dragging) refineSoon();
});

// Refine what is shown; if it has changed meanwhile, the answer is dropped.
const refineSoon = latest(async () => {
  if (!byId("refine").checked) return say("");
  refiner ??= new Artist("refiner");
  const { steps, strength } = page.refiner, [kind, number] = state.from.split("-");
  // a face keeps its noise while it is changed
  const noise = normals(3 * SIZE * SIZE, uniforms(Number(number) + (kind === "face" ? 1e9 : 0)));
  for (const picture of byId("beside").checked ? [after, before] : [after]) {
    const { image } = picture;
    if (!image || picture.refined === image) continue;
    say("Refining");
    const answer = await refiner.ask({ image, noise, steps, strength });
    if (picture.image !== image || !byId("refine").checked) continue;
    picture.paint(answer);
    picture.refined = picture.image;
  }
  return say("");
});

// ---- Controls ----

const words = (name) => name.replaceAll("_", " ");
const signed = (value) => (value ? `${value > 0 ? "+" : "−"}${Math.abs(value).toFixed(2)}` : "0");
const rows = new Map(); // the controls of each attribute
const touched = new Set(); // attributes whose sliders stay in view

function makeSlider(name, k) {
  const row = byId("slider").content.firstElementChild.cloneNode(true);
  const [label, range] = [row.querySelector("label"), row.querySelector("input")];
  const [value, mark] = [row.querySelector(".value"), row.querySelector("line")];
  range.id = `slider-${k}`;
  label.htmlFor = range.id;
  label.textContent = words(name);
  range.oninput = () => change(name, Number(range.value));
  value.onclick = () => {
    change(name, 0);
    settle();
    range.focus();
  };
  byId(page.first.includes(name) ? "first" : "others").append(row);
  rows.set(name, { row, range, value, mark });
}

function change(name, strength) {
  touched.add(name);
  if (strength) state.strengths[name] = strength;
  else delete state.strengths[name];
  showStrength(name);
  draw();
}

function showStrength(name) {
  const { range, value } = rows.get(name), strength = state.strengths[name] ?? 0;
  range.value = strength;
  range.setAttribute("aria-valuetext", signed(strength));
  fill(range, 0);
  value.textContent = signed(strength);
  value.disabled = !strength;
  value.setAttribute("aria-label", `${words(name)}: ${signed(strength)}, set to 0`);
  value.title = strength ? "Set to 0" : "";
}

// Colour the track between a value and the thumb.
function fill(range, origin) {
  const place = (value) => (value - range.min) / (range.max - range.min);
  const ends = [place(origin), place(Number(range.value))].sort((a, b) => a - b);
  range.style.setProperty("--from", ends[0]);
  range.style.setProperty("--to", ends[1]);
}

// Mark where a code lies among the training faces, from 3 standard deviations below to 3 above.
function showRanks(z) {
  page.attributes.forEach((name, k) => {
    const { row, mark } = rows.get(name);
    if (row.hidden) return;
    const x = 30 + 10 * Math.min(2.9, Math.max(-2.9, scoreOf(z, k)));
    mark.setAttribute("x1", x);
    mark.setAttribute("x2", x);
  });
}

// Show the sliders that are in use, and those that fit what is typed.
function showSliders() {
  const query = byId("find").value.toLowerCase().split(/\s+/).filter(Boolean);
  const all = byId("all").getAttribute("aria-expanded") === "true";
  const fits = page.attributes.filter((name) => query.length
    && query.every((word) => words(name).toLowerCase().includes(word)));
  const used = new Set([...page.first, ...touched, ...Object.keys(state.strengths)]);
  for (const name of page.attributes) {
    rows.get(name).row.hidden = !(all || used.has(name) || fits.includes(name));
  }
  byId("found").textContent = query.length
    ? `${fits.length || "No"} attribute${fits.length === 1 ? "" : "s"} found` : "";
  byId("all").textContent = all ? "Show fewer" : `Show all ${page.attributes.length}`;
  showRanks(codesOf(state).after);
  return fits;
}

// Fill the two rows of faces: to start from, and to morph into.
function makeStrips() {
  const strips = [[byId("start"), start], [byId("target"), morphInto]];
  page.labels.forEach(async (label, number) => {
    const origin = `face-${number}`;
    const pictures = strips.map(([strip, choose]) => {
      const button = addTile(strip, `Face ${label}`, () => choose(origin));
      button.dataset.origin = origin;
      return new Picture(button.appendChild(document.createElement("canvas")), 2 * SIZE);
    });
    const answer = await artist.ask({ z: codeOf(origin) });
    for (const picture of pictures) picture.paint(answer);
  });
  const another = addTile(byId("target"), "A new face", () => morphInto(randomOrigin()));
  another.textContent = "New";
}

function addTile(strip, name, choose) {
  const button = document.createElement("button");
  button.setAttribute("aria-label", name);
  button.onclick = choose;
  strip.append(button);
  return button;
}

function showStrips() {
  for (const [id, chosen] of [["start", state.from], ["target", state.to]]) {
    for (const button of byId(id).children) {
      // the last tile stands for all new faces
      const pressed = button.dataset.origin ? button.dataset.origin === chosen
        : Boolean(chosen?.startsWith("new-"));
      button.setAttribute("aria-pressed", String(pressed));
    }
  }
}

// Bring every control to the state, and draw it; return the promise of the picture.
function showState() {
  page.attributes.forEach(showStrength);
  showSliders();
  showStrips();
  byId("mix").disabled = !state.to;
  byId("mix").value = 100 * state.mix;
  byId("morph").open ||= Boolean(state.to);
  showMix();
  return draw();
}

function showMix() {
  const text = `${Math.round(100 * state.mix)} %`;
  byId("mix-value").textContent = text;
  byId("mix").setAttribute("aria-valuetext", text);
  fill(byId("mix"), 0);
}

function settle() {
  dragging = false;
  draw();
  keep();
}

function start(origin) {
  state = { ...state, from: origin };
  showState();
  keep(true);
}

// Choose the other end of a morph; the chosen one again gives it up.
function morphInto(origin) {
  if (origin === state.to) state = { ...state, to: null, mix: 0 };
  else state = { ...state, to: origin, mix: state.mix || 0.5 };
  showState();
  keep(true);
}

function restore(code) {
  state = readCode(code);
  byId("code").value = writeCode(state);
  return showState();
}

function savePicture() {
  const link = document.createElement("a");
  // toBlob waits until the browser is idle: seconds, at times
  link.href = after.canvas.toDataURL();
  link.download = `${state.from}.png`;
  link.click();
}

async function copyCode() {
  byId("code").select();
  // the clipboard is closed to pages from some places: then the older way
  const copied = await navigator.clipboard?.writeText(byId("code").value).then(() => true, () => false);
  say(copied || document.execCommand("copy") ? "Copied" : "Select the code and copy it");
}

function describe() {
  const { checkpoint, epoch, faces, method, real } = page.about;
  const lines = [
    "Faces that “New face” draws are invented: they are nobody's.",
    `Drawn by ${checkpoint}, epoch ${epoch}, ${SIZE} × ${SIZE} pixels`
    + `, trained on ${faces.toLocaleString("en")} faces; directions: ${method}.`,
    "Nothing leaves this page: it works without a network.",
  ];
  if (real) lines.unshift("The faces to start from come from pictures.");
  byId("about").textContent = lines.join(" ");
}

function listen() {
  for (const range of document.querySelectorAll("input[type=range]")) {
    range.addEventListener("input", () => { dragging = true; });
    range.addEventListener("change", settle);
  }
  byId("mix").oninput = () => {
    state.mix = Number(byId("mix").value) / 100;
    showMix();
    draw();
  };
  byId("new").onclick = () => start(randomOrigin());
  byId("reset").onclick = () => {
    touched.clear();
    state = plainState(state.from);
    showState();
    keep(true);
  };
  byId("save").onclick = savePicture;
  byId("copy").onclick = copyCode;
  byId("code").onchange = () => { location.hash = byId("code").value; };
  byId("find").oninput = showSliders;
  byId("find").onkeydown = ({ key }) => {
    if (key === "Enter") rows.get(showSliders()[0])?.range.focus();
  };
  byId("all").onclick = () => {
    const all = byId("all").getAttribute("aria-expanded") === "true";
    byId("all").setAttribute("aria-expanded", String(!all));
    showSliders();
  };
  byId("beside").onchange = () => {
    byId("before").hidden = !byId("beside").checked;
    draw();
  };
  byId("refine").onchange = () => {
    for (const picture of [after, before]) picture.refined = null;
    draw();
  };
  window.onhashchange = () => restore(location.hash.slice(1));
  window.onpopstate = () => restore(location.hash.slice(1));
}

// The rest follows the first picture.
page.attributes.forEach(makeSlider);
listen();
describe();
byId("changes").hidden = !page.attributes.length;
byId("finder").hidden = page.attributes.length <= page.first.length;
byId("refine-label").hidden = !page.refiner;
if (location.hash) state = readCode(location.hash.slice(1));
showState();
makeStrips();
showStrips();
byId("code").value = writeCode(state);
