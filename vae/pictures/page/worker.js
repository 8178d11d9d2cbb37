// What a worker of the page does. Its script is tensors.js, decoder.js, refiner.js and this.
"use strict";

// Each message is a task, and is answered once, in order: {load} takes arch, tensors and base64;
// {z} gives an image and its pixels; {image, noise, steps, strength} gives the refined image.
let decode = null, refine = null;

onmessage = ({ data }) => {
  if (data.load) {
    const tensors = readTensors(data.tensors, data.base64);
    if (data.load === "decoder") decode = makeDecoder(data.arch, tensors);
    else refine = makeRefiner(data.arch, tensors);
    postMessage({ id: data.id });
    return;
  }
  const image = data.z ? decode(data.z)
    : refine(data.image, data.noise, data.steps, data.strength);
  const pixels = toPixels(image);
  postMessage({ id: data.id, image, pixels }, [image.buffer, pixels.buffer]);
};
