/** The exported model, run by onnxruntime-web on the CPU by WebAssembly, in one thread: any static host will do. */

import * as ort from "./ort/ort.js";
import { crop, pad } from "./images.js";

const RUNTIME = "ort/ort-wasm-simd-threaded.wasm";

export class Model {
  constructor(facts, sessions) {
    this.facts = facts;
    this.sessions = sessions;
  }

  /** Opens the model with `get(address)`, which gives the bytes of a file beside the page as an ArrayBuffer. */
  static async open(facts, get) {
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmBinary = await get(RUNTIME);
    const sessions = {};
    for (const part of ["encode", "decode"]) {
      sessions[part] = await ort.InferenceSession.create(new Uint8Array(await get(`model/${part}.onnx`)));
    }
    return new Model(facts, sessions);
  }

  /** The ids of an image: {levels, imageIds}, with {ids: Int32Array, width, height} for each level, coarse to fine. */
  async encode(image) {
    const { planes, width, height } = pad(image, this.facts.multiple_px);
    const images = new ort.Tensor("float32", planes, [1, 3, height, width]);
    const found = await this.sessions.encode.run({ images });
    const levels = this.facts.strides.map((_, level) => {
      const [, high, wide] = found[`ids_${level}`].dims;
      const columns = this.cells(image.width, level), rows = this.cells(image.height, level);
      const ids = new Int32Array(rows * columns);
      for (let cell = 0; cell < ids.length; cell++) {
        ids[cell] = Number(found[`ids_${level}`].data[Math.floor(cell / columns) * wide + (cell % columns)]);
      }
      return { ids, width: columns, height: rows };
    });
    return { levels, imageIds: Int32Array.from(found.image_ids?.data ?? [], Number) }; // a model may have no image tokens
  }

  /** The image of the first `count` levels, cut to its size: {planes, width, height}. */
  async decode(levels, count, { width, height }) {
    const inputs = {};
    levels.forEach((level, index) => {
      const ids = BigInt64Array.from(level.ids, (id) => BigInt(index < count ? id : -1)); // -1 stands where there is no token
      inputs[`ids_${index}`] = new ort.Tensor("int64", ids, [1, level.height, level.width]);
    });
    const { images } = await this.sessions.decode.run(inputs);
    const [, , high, wide] = images.dims;
    return crop({ planes: images.data, width: wide, height: high }, width, height);
  }

  /** How many cells of a level cover a side: whole cells of level 0. */
  cells(side, level) {
    const { strides } = this.facts;
    return Math.ceil(side / strides[0]) * (strides[0] / strides[level]);
  }
}
