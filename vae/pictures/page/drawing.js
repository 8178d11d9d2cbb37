// From the state to pixels: workers compute images, canvases show them.
"use strict";

// side of the canvas and of saved pictures, in pixels
const SHOWN = SIZE * Math.ceil(640 / SIZE);

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
