/** The page: a photo is chosen, encoded and shown. */

import { prepareWords, showWords } from "./asking.js";
import { decodeAll, prepareLevels, showLevels } from "./decoding.js";
import { getJson } from "./files.js";
import { prepareDownload, prepareMaps, showMaps } from "./maps.js";
import { $, client, complain, make, state, tell } from "./page.js";

/** Reads the facts of the model, fills what depends on them, and waits for a photo. */
async function start() {
  try {
    state.facts = await getJson("model/model.json");
  } catch (error) {
    tell("");
    complain(error);
    return;
  }
  const { facts } = state;
  prepareLevels(show);
  prepareWords();
  prepareMaps();
  $("samples").append(...facts.samples.map(sampleButton));
  acceptFiles();
  const made = `made with ${facts.made_with}, run by onnxruntime-web ${facts.runtime}`;
  $("model-told").textContent = `The model is ${facts.fingerprint.slice(0, 12)}, ${made}.`;
  const bytes = Object.values(facts.files).reduce((sum, size) => sum + size, 0);
  tell(`The model, ${(bytes / 1e6).toFixed(0)} MB, is loaded when you choose a photo.`);
}

function sampleButton({ file, name }) {
  const address = `samples/${file}`;
  const get = async () => new File([await (await fetch(address)).blob()], file);
  return make("button", { type: "button", onclick: () => choose(get) }, make("img", { src: address, alt: "" }), name);
}

function acceptFiles() {
  const take = (files) => files.length && choose(() => files[0]);
  $("file").onchange = () => {
    take([...$("file").files]);
    $("file").value = ""; // so that the same file may be chosen again
  };
  $("size").onchange = () => last && choose(last);
  for (const [name, over] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      $("drop").classList.toggle("over", over);
      if (name === "drop") take(event.dataTransfer.files);
    });
  }
  document.addEventListener("paste", (event) => take(event.clipboardData.files));
}

let last = null; // gives the file that was chosen last, for another size

/** Encodes the file that `get` gives, and shows it. */
async function choose(get) {
  last = get;
  const photo = ++state.photos;
  state.busy = true;
  complain(null);
  tell("Reading and encoding the photo.");
  try {
    const file = await get();
    const { seconds, ...found } = await client.do("encode", { file, size: Number($("size").value) });
    if (photo !== state.photos) return;
    Object.assign(state, found, { decoded: [], heat: null, cell: null, count: state.count || state.facts.base_levels });
    $("results").hidden = false;
    prepareDownload();
    const encoded = `${file.name}: encoded in ${seconds.toFixed(2)} s`;
    tell(`${encoded}. Decoding.`);
    await show();
    await decodeAll();
    if (photo === state.photos) tell(`${encoded}, and decoded.`);
  } catch (error) {
    if (photo !== state.photos) return;
    tell("");
    complain(error);
  } finally {
    if (photo === state.photos) state.busy = false;
  }
}

/** Shows the chosen photo with the chosen number of levels. */
async function show() {
  showMaps();
  await Promise.all([showLevels(), showWords()]);
}

start();
