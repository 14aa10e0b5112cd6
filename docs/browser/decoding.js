/** The slider, and what the levels that it leaves decode to. */

import { drawImage } from "./draw.js";
import { psnr } from "./images.js";
import { $, client, complain, shownLevels, state, unchanged, whole } from "./page.js";

/** Fills the slider; `show` shows the photo with as many levels as `state.count` says. */
export function prepareLevels(show) {
  $("levels").max = state.facts.strides.length;
  $("levels").oninput = () => {
    state.count = Number($("levels").value);
    show().catch(complain);
  };
}

/** Shows what the levels decode to, and how good that is at which rate. */
export async function showLevels() {
  const then = { ...state }, { facts, image, count } = state;
  const text = count === 1 ? "level 0" : `levels 0 to ${count - 1}`;
  $("levels").value = count;
  $("levels").setAttribute("aria-valuetext", text);
  $("levels-shown").textContent = text;
  const decoded = await decode(count);
  if (!unchanged(then)) return;
  drawImage($("decoded"), decoded);
  const shown = shownLevels();
  const tokens = shown.reduce((sum, { ids }) => sum + ids.length, 0);
  const bits = shown.reduce((sum, { ids }, level) => sum + ids.length * Math.log2(facts.codebook_sizes[level]), 0);
  const rate = (bits / (image.width * image.height)).toFixed(3);
  $("decoded-told").textContent = `Decoded from ${whole(tokens)} tokens: ${rate} bits per pixel, ${psnr(image, decoded).toFixed(1)} dB`;
}

/** Decodes every number of levels, so that the slider moves at once. */
export async function decodeAll() {
  const { photos } = state;
  for (let count = 1; count <= state.levels.length && photos === state.photos; count++) await decode(count);
}

async function decode(count) {
  const { levels, decoded, image } = state;
  const size = { width: image.width, height: image.height };
  decoded[count] ??= await client.do("decode", { levels, count, size });
  return decoded[count];
}
