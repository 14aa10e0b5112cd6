/** The map of every level, in which a cell can be chosen, and the ids as a file. */

import { showPhoto } from "./asking.js";
import { drawTokens, frame } from "./draw.js";
import { $, make, state, whole } from "./page.js";

const MOVES = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

/** Makes the maps, empty. */
export function prepareMaps() {
  $("maps").append(...state.facts.strides.map((_, level) => {
    const canvas = make("canvas", { tabIndex: 0 });
    canvas.setAttribute("role", "img");
    canvas.onpointermove = canvas.onpointerdown = (event) => point(level, event);
    canvas.onkeydown = (event) => move(level, event);
    canvas.onfocus = () => state.cell?.level === level || choose(level, 0, 0);
    return make("figure", {}, canvas, make("figcaption"));
  }));
}

/** Draws the maps of the chosen photo; levels that are not shown are paler. */
export function showMaps() {
  const { levels, facts, count } = state;
  for (const [level, figure] of [...$("maps").children].entries()) {
    const [canvas, caption] = figure.children, { width, height } = levels[level];
    const detail = level < facts.base_levels ? "" : ", detail: pixels alone";
    caption.textContent = `Level ${level}: ${height} x ${width} tokens of ${facts.strides[level]} px${detail}`;
    canvas.setAttribute("aria-label", `${caption.textContent}. Arrow keys choose a cell.`);
    figure.classList.toggle("unused", level >= count);
    draw(level);
  }
  showCell();
}

function draw(level) {
  const { levels, facts, image } = state;
  drawTokens($("maps").children[level].firstChild, levels[level], facts.strides[level], image, facts);
}

function point(level, event) {
  const box = event.target.getBoundingClientRect(), { image, facts } = state;
  const across = (event.clientX - box.left) / box.width, down = (event.clientY - box.top) / box.height;
  choose(level, Math.floor((down * image.height) / facts.strides[level]), Math.floor((across * image.width) / facts.strides[level]));
}

function move(level, event) {
  const step = MOVES[event.key];
  if (!step || !state.cell) return;
  event.preventDefault();
  choose(level, state.cell.row + step[0], state.cell.column + step[1]);
}

/** Chooses the cell, or the nearest one in the image. */
function choose(level, row, column) {
  const stride = state.facts.strides[level], { image, cell } = state;
  const inside = (place, side) => Math.max(0, Math.min(place, Math.ceil(side / stride) - 1));
  const now = { level, row: inside(row, image.height), column: inside(column, image.width) };
  if (cell && cell.level === level && cell.row === now.row && cell.column === now.column) return;
  if (cell) draw(cell.level); // without the old frame
  state.cell = now;
  showCell();
  showPhoto();
}

function showCell() {
  const { cell, levels, facts } = state;
  if (!cell) {
    $("cell-told").textContent = "No cell is chosen.";
    return;
  }
  const { level, row, column } = cell, { ids, width } = levels[level], id = ids[row * width + column];
  const times = ids.filter((other) => other === id).length;
  const where = `Level ${level}, row ${row}, column ${column}`;
  $("cell-told").textContent = `${where}: token ${whole(id)}, ${times === 1 ? "once" : `${whole(times)} times`} in this photo`;
  frame($("maps").children[level].firstChild, row, column, facts.strides[level]);
}

/** The ids as JSON, which Python reads as tokens. */
export function prepareDownload() {
  const { levels, imageIds, image, facts } = state;
  const ids = levels.map(({ ids, width, height }) =>
    [Array.from({ length: height }, (_, row) => Array.from(ids.subarray(row * width, (row + 1) * width)))]); // (1, h, w)
  const saved = { fingerprint: facts.fingerprint, image_size: [image.height, image.width], ids };
  saved.image_ids = imageIds.length ? [Array.from(imageIds)] : null; // (1, M), or none
  const text = JSON.stringify(saved);
  URL.revokeObjectURL($("download").href);
  $("download").href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
}
