/** What the parts of the page share: its state, its elements, and the worker. */

import { Client } from "./client.js";

/** What the page shows. Scripts and tests read it: `const { state } = await import("./page.js")`. */
export const state = {
  facts: null, // of the model, from model/model.json
  image: null, // {planes, width, height}, as the model reads it
  levels: null, // {ids, width, height} of each level, coarse to fine
  imageIds: null, // of the image tokens; empty for a model without them
  photos: 0, // how many photos were chosen: what belongs to an earlier one is dropped
  busy: false, // whether a photo is being read, encoded or decoded
  count: 0, // how many levels are decoded
  decoded: [], // by count, an image for each that was decoded
  embedding: null, // of the image, by the levels shown
  cosines: null, // of every word with it
  word: -1, // the place in the list of the word that is shown
  heat: null, // its scores per cell, {word, values, width, height, stride}
  cell: null, // {level, row, column} that is chosen
};

export const client = new Client((arrived, total) => {
  const mega = (bytes) => (bytes / 1e6).toFixed(1);
  tell(arrived < total ? `Loading the model: ${mega(arrived)} of ${mega(total)} MB.` : "Starting the model.");
});

export const $ = (id) => document.getElementById(id);

export const whole = (number) => number.toLocaleString("en");

export function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

export function tell(text) {
  $("status").textContent = text;
}

/** Shows an error, or none. */
export function complain(error) {
  $("error").textContent = error ? error.message : "";
  $("error").hidden = !error;
}

/** The levels that are shown. */
export function shownLevels() {
  return state.levels.slice(0, state.count);
}

/** Whether the photo and the count of levels are still those of `then`, an earlier `{...state}`. */
export function unchanged(then) {
  return state.photos === then.photos && state.count === then.count;
}
