// The controls of the page: each changes the state and has it drawn.
"use strict";

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

// Mark the score of a code on each curve, from -3 to 3 standard deviations.
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
    const answer = await decoder.ask({ z: codeOf(origin) });
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

// Set every control to the state, and draw it; return the promise of the picture.
function showState() {
  page.attributes.forEach(showStrength);
  showSliders();
  showStrips();
  byId("mix").disabled = !state.to;
  byId("mix").value = 100 * state.mix;
  byId("morph").open ||= Boolean(state.to);
  showMix();
  nameFace();
  return draw();
}

function showMix() {
  const text = `${Math.round(100 * state.mix)} %`;
  byId("mix-value").textContent = text;
  byId("mix").setAttribute("aria-valuetext", text);
  fill(byId("mix"), 0);
}

function settle() {
  nameFace();
  draw();
  keep();
}

// Tell a screen reader what the picture shows.
function nameFace() {
  const changes = page.attributes.filter((name) => state.strengths[name])
    .map((name) => `${words(name)} ${signed(state.strengths[name])}`);
  const name = ["The face", ...(changes.length ? ["with", changes.join(", ")] : [])].join(" ");
  after.canvas.setAttribute("aria-label", name);
}

function start(origin) {
  state = { ...state, from: origin };
  showState();
  keep(true);
}

// Choose the other end of a morph. The same one again ends the morph.
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
  // some browsers give pages from disk no clipboard: then the older command
  const copying = navigator.clipboard?.writeText(byId("code").value);
  const copied = await copying?.then(() => true, () => false);
  say(copied || document.execCommand("copy") ? "Copied" : "Select the code and copy it");
}

function describe() {
  const { checkpoint, epoch, faces, method, real } = page.about;
  const lines = [
    "“New face” samples a face: this person does not exist.",
    `Drawn by ${checkpoint}, epoch ${epoch}, ${SIZE} × ${SIZE} pixels`
    + `, trained on ${faces.toLocaleString("en")} faces; directions: ${method}.`,
    "Nothing leaves this page: it works without a network.",
  ];
  if (real) lines.unshift("The faces to start from come from pictures.");
  byId("about").textContent = lines.join(" ");
}

function listen() {
  for (const range of document.querySelectorAll("input[type=range]")) {
    range.addEventListener("pointerdown", () => { dragging = true; });
    range.addEventListener("change", settle);
  }
  for (const end of ["pointerup", "pointercancel"]) {
    window.addEventListener(end, () => {
      if (dragging) {
        dragging = false;
        draw();
      }
    });
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
}

// The rest follows the first picture.
page.attributes.forEach(makeSlider);
listen();
describe();
byId("changes").hidden = !page.attributes.length;
byId("finder").hidden = page.attributes.length <= page.first.length;
byId("refine-label").hidden = !page.refiner;
byId("refine").checked = Boolean(page.refiner);
if (location.hash) state = readCode(location.hash.slice(1));
showState();
makeStrips();
showStrips();
keep();
