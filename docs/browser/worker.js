/** Computes for the page in a thread of its own: it opens the model at the first task, and does one task after the other. */

import { getJson, reader } from "./files.js";
import { decodeFile, resize, targetSize } from "./images.js";
import { Model } from "./model.js";
import { Words } from "./words.js";

let opened = null;

/** The model and the words, opened once; a failure is told, and the next task tries again. */
function open() {
  opened ??= load().catch((error) => {
    opened = null;
    throw error;
  });
  return opened;
}

async function load() {
  const facts = await getJson("model/model.json");
  const get = reader(facts.files, (arrived, total) => self.postMessage({ arrived, total }));
  const words = new Words(facts, await get("model/semantics.bin"));
  return { model: await Model.open(facts, get), words };
}

const TASKS = {
  /** A file and a short side (0 for the file's own) to an image and its ids. */
  async encode({ file, size }) {
    const pixels = await decodeFile(file);
    const image = resize(pixels, ...targetSize(pixels.width, pixels.height, size));
    const { model } = await open();
    const began = performance.now();
    const found = await model.encode(image);
    return { image, ...found, seconds: (performance.now() - began) / 1000 };
  },
  async decode({ levels, count, size }) {
    const { model } = await open();
    return model.decode(levels, count, size);
  },
  /** The image's embedding, and its cosine with every word. */
  async similarity({ levels, imageIds }) {
    const { words } = await open();
    const embedding = words.embedding(levels, imageIds);
    return { embedding, cosines: words.cosines(embedding) };
  },
  /** The score of a word in every cell. */
  async heat({ levels, word }) {
    const { words } = await open();
    return words.heat(levels, word);
  },
};

let last = Promise.resolve();
self.onmessage = ({ data: { number, task, given } }) => {
  last = last.then(async () => {
    try {
      self.postMessage({ number, result: await TASKS[task](given) });
    } catch (error) {
      self.postMessage({ number, error: error.message });
    }
  });
};
