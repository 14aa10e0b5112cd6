/**
 * Words and tokens: the embedding of an image, its similarity with words, and where in the image a word fits, as the library's
 * `PyramidTokenizer.similarity` and `Segmenter(mode="lookup")` compute them.
 *
 * Every code has a text embedding, which is a linear map of it. An image's embedding is another linear map of the mean of its tokens' text
 * embeddings, plus the entries of its image tokens where a model has such; the score of a word at a cell is the product of the word's embedding with the sum over levels of the cell's text embeddings.
 *
 * Ids are one {ids: Int32Array, width, height} per level, coarse to fine.
 */

export class Words {
  /** Of the facts in model.json and the float32 numbers of semantics.bin. */
  constructor(facts, buffer) {
    this.words = facts.words;
    this.dim = facts.embedding_dim;
    this.strides = facts.strides;
    const read = (name) => new Float32Array(buffer, facts.arrays[name].offset, facts.arrays[name].shape.reduce((a, b) => a * b, 1));
    this.wordEmbeddings = read("words");
    this.toEmbedding = { weight: read("to_embedding.weight"), bias: read("to_embedding.bias") };
    this.imageCodes = facts.image_codebook_sizes.map((_, number) => read(`image.${number}`));
    this.rows = Array.from({ length: facts.base_levels }, (_, level) =>
      linear(read(`codes.${level}`), read(`text.${level}.weight`), read(`text.${level}.bias`), this.dim));
  }

  /** The image embedding of unit norm of the given levels and of the image tokens; detail levels add nothing. */
  embedding(levels, imageIds) {
    const mean = new Float64Array(this.dim);
    this.semantic(levels).forEach(({ ids }, level) => {
      for (const id of ids) for (let d = 0; d < this.dim; d++) mean[d] += this.rows[level][id * this.dim + d] / ids.length;
    });
    const found = linear(mean, this.toEmbedding.weight, this.toEmbedding.bias, this.dim);
    this.imageCodes.forEach((codes, number) => {
      for (let d = 0; d < this.dim; d++) found[d] += codes[imageIds[number] * this.dim + d];
    });
    const norm = Math.hypot(...found);
    return found.map((value) => value / norm);
  }

  /** The cosine of an embedding of unit norm with every word. */
  cosines(embedding) {
    return Float32Array.from(this.words, (_, word) => dot(embedding, this.wordEmbeddings, word * this.dim));
  }

  /** The score of a word, by its place in the list, in every cell of the finest of the given levels: {values, width, height, stride}. */
  heat(levels, word) {
    const embedding = this.wordEmbeddings.subarray(word * this.dim, (word + 1) * this.dim);
    let map = null;
    this.semantic(levels).forEach(({ ids, width, height }, level) => {
      const scores = Float32Array.from(ids, (id) => dot(embedding, this.rows[level], id * this.dim));
      if (map) enlarge(map, width / map.width).values.forEach((value, i) => (scores[i] += value));
      map = { values: scores, width, height, stride: this.strides[level] };
    });
    return map;
  }

  /** The levels that hold more than pixels. */
  semantic(levels) {
    return levels.slice(0, this.rows.length);
  }
}

/** N rows of d numbers times a (D, d) matrix plus a bias: N rows of D numbers. */
function linear(rows, weight, bias, dim) {
  const width = weight.length / dim;
  const result = new Float32Array((rows.length / width) * dim);
  for (let row = 0, at = 0; row < rows.length; row += width) {
    for (let d = 0; d < dim; d++) {
      let sum = bias[d];
      for (let i = 0, w = d * width; i < width; i++) sum += rows[row + i] * weight[w + i];
      result[at++] = sum;
    }
  }
  return result;
}

function dot(vector, rows, start) {
  let sum = 0;
  for (let i = 0; i < vector.length; i++) sum += vector[i] * rows[start + i];
  return sum;
}

/** A map {values, width, height} enlarged bilinearly by a whole ratio, centres of cells aligned. */
export function enlarge({ values, width, height }, ratio) {
  const wide = width * ratio, high = height * ratio;
  const result = new Float32Array(wide * high);
  const across = blend(width, ratio), down = blend(height, ratio);
  for (let y = 0, at = 0; y < high; y++) {
    const { from: top, to: bottom, part: v } = down[y];
    for (let x = 0; x < wide; x++) {
      const { from: left, to: right, part: u } = across[x];
      const upper = values[top * width + left] * (1 - u) + values[top * width + right] * u;
      const lower = values[bottom * width + left] * (1 - u) + values[bottom * width + right] * u;
      result[at++] = upper * (1 - v) + lower * v;
    }
  }
  return { values: result, width: wide, height: high };
}

/** For each place of an enlarged axis the two places it lies between, and the part of the second. */
function blend(size, ratio) {
  return Array.from({ length: size * ratio }, (_, place) => {
    const at = Math.max(0, (place + 0.5) / ratio - 0.5), from = Math.floor(at);
    return { from, to: Math.min(from + 1, size - 1), part: at - from };
  });
}
