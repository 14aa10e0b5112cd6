/** Draws images, token maps and heat maps into canvases. */

import { enlarge } from "./words.js";

const HEAT = [[231, 118, 4], [246, 211, 45]]; // two colours of the palette, the second the lighter one
const DIMMED = 0.6; // how much of the photo's brightness stays under a heat map

/** The colour of an id, the same in every image and level: ids share the colours of the palette by id modulo their number. */
export function codeColour(id, { palette, absent_colour: absent }) {
  return id < 0 ? absent : palette[id % palette.length];
}

export function drawImage(canvas, { planes, width, height }) {
  paint(canvas, width, height, (pixel, rgb) => {
    for (let channel = 0; channel < 3; channel++) rgb[channel] = 255 * planes[channel * width * height + pixel];
  });
}

/** The ids of a level as cells of colour, cut to the image. */
export function drawTokens(canvas, level, stride, { width, height }, facts) {
  paint(canvas, width, height, (pixel, rgb) => {
    const row = Math.floor(Math.floor(pixel / width) / stride), column = Math.floor((pixel % width) / stride);
    const colour = codeColour(level.ids[row * level.width + column], facts);
    for (let channel = 0; channel < 3; channel++) rgb[channel] = colour[channel];
  });
}

/** The image in grey, and over it the scores of a map of cells, from the lowest (none) to the highest (light). */
export function drawHeat(canvas, { planes, width, height }, map) {
  const large = enlarge(map, map.stride), area = width * height;
  const [low, high] = range(map.values);
  paint(canvas, width, height, (pixel, rgb) => {
    const score = large.values[Math.floor(pixel / width) * large.width + (pixel % width)];
    const part = (score - low) / (high - low || 1);
    const grey = 255 * DIMMED * (0.299 * planes[pixel] + 0.587 * planes[area + pixel] + 0.114 * planes[2 * area + pixel]);
    for (let channel = 0; channel < 3; channel++) {
      const colour = HEAT[0][channel] + (HEAT[1][channel] - HEAT[0][channel]) * part;
      rgb[channel] = grey + (colour - grey) * 0.9 * part ** 2; // squared: what is high stands out
    }
  });
}

/** The smallest and the largest of some numbers. */
export function range(values) {
  return values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
}

/** A frame around one cell. */
export function frame(canvas, row, column, stride) {
  const context = canvas.getContext("2d");
  for (const [colour, width] of [["#000", 3], ["#fff", 1]]) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.strokeRect(column * stride + 0.5, row * stride + 0.5, stride - 1, stride - 1);
  }
}

function paint(canvas, width, height, colour) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d"), pixels = context.createImageData(width, height);
  const rgb = [0, 0, 0];
  for (let pixel = 0; pixel < width * height; pixel++) {
    colour(pixel, rgb);
    for (let channel = 0; channel < 3; channel++) pixels.data[4 * pixel + channel] = rgb[channel]; // rounded and clamped
    pixels.data[4 * pixel + 3] = 255;
  }
  context.putImageData(pixels, 0, 0);
}
