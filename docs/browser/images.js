/**
 * Image files to the pixels that the model reads, by version 1 of the library's image recipe.
 *
 * The browser decodes a file to 8 bits a value, upright, without converting colours, and puts what is transparent on white. From there on
 * everything is computed as pyramid_tokenizer/export/reader.py computes it: values divided by 255 in float32, resized by an
 * antialiased bicubic kernel (a = -0.5), padded at the right and bottom by repeating the edge.
 *
 * An image is {planes, width, height}: planes is a Float32Array of 3 x height x width values in [0, 1], red first.
 */

export const MOST_PIXELS = 1024 * 1024;

const { fround, min, max, trunc, abs } = Math;

/**
 * The 8-bit pixels of a file: {data, width, height}, with data as red, green, blue and 255 for each pixel.
 * Throws an Error where the browser cannot read the file.
 */
export async function decodeFile(file) {
  const bitmap = await openBitmap(file);
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, bitmap.width, bitmap.height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

async function openBitmap(file) {
  try {
    return await createImageBitmap(file, { colorSpaceConversion: "none", imageOrientation: "from-image" });
  } catch {
    const got = `${file.name || "a file"} of ${file.size.toLocaleString("en")} bytes`;
    throw new Error(`expected an image that this browser can read, got ${got}: choose a whole JPEG, PNG, WebP, AVIF or GIF file`);
  }
}

/**
 * Width and height of an image whose short side is resized to `size` pixels; 0 keeps the size.
 * Throws an Error where that is more than a browser computes in seconds.
 */
export function targetSize(width, height, size) {
  const short = min(width, height);
  const target = size ? [roundHalfToEven((width * size) / short), roundHalfToEven((height * size) / short)] : [width, height];
  if (target[0] * target[1] > MOST_PIXELS) {
    const most = MOST_PIXELS.toLocaleString("en");
    throw new Error(`expected at most ${most} pixels, got ${target[0]} x ${target[1]}: choose a smaller short side`);
  }
  return target;
}

/** The nearest whole number; of two that are equally near the even one, as Python's `round`. */
export function roundHalfToEven(value) {
  const below = Math.floor(value), rest = value - below;
  return rest > 0.5 || (rest === 0.5 && below % 2 === 1) ? below + 1 : below;
}

/** 8-bit pixels {data, width, height} as an image of another size. */
export function resize(pixels, width, height) {
  const across = resizeRows(pixels, width);
  return resizeColumns(across, width, pixels.height, height);
}

/** Every row of 8-bit pixels resized to `width` places: planes of the old height. */
function resizeRows({ data, width: before, height }, width) {
  const values = Float32Array.from({ length: 256 }, (_, value) => value / 255);
  const taps = before === width ? null : kernel(before, width);
  const planes = new Float32Array(3 * height * width);
  const row = new Float32Array(before);
  for (let channel = 0, at = 0; channel < 3; channel++) {
    for (let y = 0; y < height; y++) {
      const start = 4 * y * before + channel;
      for (let x = 0; x < before; x++) row[x] = values[data[start + 4 * x]];
      if (!taps) planes.set(row, at), at += width;
      else for (let x = 0; x < width; x++) planes[at++] = weigh(row, taps[x], 0, 1);
    }
  }
  return planes;
}

/** Every column of three planes resized to `height` places, clamped to [0, 1]. */
function resizeColumns(planes, width, before, height) {
  if (before === height) return { planes: clamp(planes), width, height };
  const taps = kernel(before, height);
  const result = new Float32Array(3 * height * width);
  for (let channel = 0, at = 0; channel < 3; channel++) {
    const start = channel * before * width;
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) result[at++] = weigh(planes, taps[y], start + x, width);
    }
  }
  return { planes: clamp(result), width, height };
}

function weigh(values, { start, weights }, offset, step) {
  let sum = 0;
  for (let tap = 0, at = offset + start * step; tap < weights.length; tap++, at += step) sum += weights[tap] * values[at];
  return sum;
}

function clamp(planes) {
  for (let i = 0; i < planes.length; i++) planes[i] = min(1, max(0, planes[i]));
  return planes;
}

/**
 * What each of `count` places reads of an axis of `size` places: its first place, and the weights from there on. Places and weights are
 * rounded to float32 after each step, as numpy does it, so that no place reads another pixel than Python's.
 */
export function kernel(size, count) {
  const scale = fround(size / count), stretch = max(scale, 1);
  return Array.from({ length: count }, (_, place) => {
    const centre = fround(scale * (place + 0.5)), reach = 2 * stretch;
    const start = max(trunc(fround(fround(centre - reach) + 0.5)), 0);
    const stop = min(trunc(fround(fround(centre + reach) + 0.5)), size);
    const weights = new Float32Array(stop - start);
    for (let i = start; i < stop; i++) weights[i - start] = cubic(fround(abs(fround(fround(fround(i - centre) + 0.5) / stretch))));
    const sum = fround(weights.reduce((total, weight) => total + weight, 0));
    return { start, weights: weights.map((weight) => weight / sum) };
  });
}

function cubic(x) {
  const f = fround;
  if (x < 1) return f(f(f(f(f(1.5 * x) - 2.5) * x) * x) + 1);
  if (x < 2) return f(f(f(f(f(f(-0.5 * x) + 2.5) * x) - 4) * x) + 2);
  return 0;
}

/** The image padded at the right and bottom to whole multiples of `multiple` pixels. */
export function pad({ planes, width, height }, multiple) {
  const wide = Math.ceil(width / multiple) * multiple, high = Math.ceil(height / multiple) * multiple;
  const padded = new Float32Array(3 * high * wide);
  for (let channel = 0, at = 0; channel < 3; channel++) {
    for (let y = 0; y < high; y++) {
      const start = (channel * height + min(y, height - 1)) * width;
      for (let x = 0; x < wide; x++) padded[at++] = planes[start + min(x, width - 1)];
    }
  }
  return { planes: padded, width: wide, height: high };
}

/** The first `height` rows and `width` columns of three planes. */
export function crop({ planes, width: wide, height: high }, width, height) {
  const result = new Float32Array(3 * height * width);
  for (let row = 0; row < 3 * height; row++) {
    const start = (Math.floor(row / height) * high + (row % height)) * wide;
    result.set(planes.subarray(start, start + width), row * width);
  }
  return { planes: result, width, height };
}

/** The peak signal-to-noise ratio of an image and another of its size, in dB. */
export function psnr(image, other) {
  let sum = 0;
  for (let i = 0; i < image.planes.length; i++) sum += (image.planes[i] - other.planes[i]) ** 2;
  return -10 * Math.log10(sum / image.planes.length);
}
