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
  // Image tokens count as they do in Python, though the pixels are made of the levels alone.
  const grids = shownLevels().map(({ ids }, level) => [ids.length, facts.codebook_sizes[level]]);
  const tokens = [...grids, ...facts.image_codebook_sizes.map((codes) => [1, codes])];
  const total = tokens.reduce((sum, [number]) => sum + number, 0);
  const bits = tokens.reduce((sum, [number, codes]) => sum + number * Math.log2(codes), 0);
  const rate = (bits / (image.width * image.height)).toFixed(3);
  $("decoded-told").textContent = `Decoded from ${whole(total)} tokens: ${rate} bits per pixel, ${psnr(image, decoded).toFixed(1)} dB`;
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
