/** The artifact's network in onnxruntime-web: from the network's input to what each place adds. */

/** @import { Explained } from './decompose.js' */
/** @import { InputSpec } from './prepare.js' */

import { fault, ownRest, partsOf } from './decompose.js';

/**
 * @typedef {{
 *   name: string, input: InputSpec, pooling: string, p: number | null, eps: number | null, head: string,
 *   bias: string | null, rest: 'constant' | 'image', dimension: number, grid_height: number, grid_width: number,
 *   fingerprint: string
 * }} Contract model.json: what the page needs of the artifact's contract, and the model's name. p is null for
 *   an infinite exponent too.
 *
 * @typedef {{ data: Float32Array, dims: readonly number[] }} Output
 * @typedef {{ run(feeds: Record<string, unknown>, fetches: string[]): Promise<Record<string, Output>> }} Session
 * @typedef {{
 *   env: { logLevel: string, wasm: { numThreads: number, wasmPaths: { mjs: string }, wasmBinary: ArrayBuffer } },
 *   InferenceSession: { create(model: Uint8Array, options: object): Promise<Session> },
 *   Tensor: new (type: 'uint8', data: Uint8Array, dims: number[]) => unknown
 * }} Runtime what is used of onnxruntime-web
 */

const MOST_THREADS = 4;
const AGREEMENT = 1e-4; // of a GPU with the CPU, relative; float32 gives some 1e-6

/** @type {Record<string, string>} */
const FAULTS = {
  zero: 'has a zero embedding, so it is similar to nothing; use a photo that is not of one colour',
  infinite: 'has an embedding of NaN or infinite values, so the model is at fault; export it again',
  unequal: 'has places that do not sum to its embedding, so the model is at fault; export it again',
};

export class Network {
  /**
   * @param {Runtime} ort
   * @param {Session} session
   * @param {Contract} contract
   */
  constructor(ort, session, contract) {
    this.contract = contract;
    this.ort = ort;
    this.session = session;
    this.bias = contract.bias === null ? null : decodeBias(contract.bias);
  }

  /**
   * @param {Runtime} ort
   * @param {{ loader: string, wasm: ArrayBuffer }} files the address of its loader, and its WebAssembly
   * @param {Uint8Array} model the artifact
   * @param {Contract} contract
   * @returns {Promise<Network>}
   */
  static async open(ort, { loader, wasm }, model, contract) {
    ort.env.logLevel = 'error';
    ort.env.wasm.wasmPaths = { mjs: loader };
    ort.env.wasm.wasmBinary = wasm;
    // Without the headers that isolate a page, a browser shares no memory between threads.
    ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, MOST_THREADS) : 1;
    const session = await ort.InferenceSession.create(model, {
      executionProviders: ['wasm'],
      graphOptimizationLevel: 'all',
    });
    const network = new Network(ort, session, contract);
    // The first run is slower than others: better before there are photos.
    await network.run(new Uint8Array(contract.input.height * contract.input.width * 3));
    return network;
  }

  /**
   * The same network on the GPU; null where it does not run, or gives something else.
   *
   * @param {Uint8Array} model
   * @returns {Promise<Network | null>}
   */
  async onGpu(model) {
    try {
      const session = await this.ort.InferenceSession.create(model, { executionProviders: ['webgpu'] });
      const network = new Network(this.ort, session, this.contract);
      const { height, width } = this.contract.input;
      const noise = Uint8Array.from({ length: height * width * 3 }, (_, i) => (i * i * 31 + i * 7) % 251);
      const [here, there] = [await this.run(noise), await network.run(noise)];
      return here.every((values, i) => difference(values, there[i]) <= AGREEMENT) ? network : null;
    } catch {
      return null;
    }
  }

  /**
   * @param {Uint8Array} pixels
   * @returns {Promise<[Float32Array, Float32Array]>} the embedding, and what its parts come from
   */
  async run(pixels) {
    const { head, input } = this.contract;
    const names = head === 'none' ? ['pooled', 'conv'] : ['embedding', 'parts'];
    const image = new this.ort.Tensor('uint8', pixels, [1, input.height, input.width, 3]);
    const outputs = await this.session.run({ image }, names);
    return [outputs[names[0]].data.slice(), outputs[names[1]].data.slice()];
  }

  /**
   * @param {Uint8Array} pixels the network's input, height x width x 3
   * @returns {Promise<Explained>}
   * @throws {Error} the end of a sentence that begins with the photo's name
   */
  async explain(pixels) {
    const { contract } = this;
    const [embedding, map] = await this.run(pixels);
    const places = contract.grid_height * contract.grid_width;
    const parts = contract.head === 'none' ? partsOf(map, places, contract) : map;
    const rest = contract.rest === 'image' ? ownRest(embedding, parts) : this.bias;
    const explained = { embedding, parts, rest, places };
    const found = fault(explained);
    if (found !== null) throw new Error(FAULTS[found]);
    return explained;
  }
}

/**
 * The length of the difference of two vectors, over that of the first; NaN where one is not finite.
 *
 * @param {Float32Array} values
 * @param {Float32Array} others
 */
function difference(values, others) {
  let sum = 0;
  let size = 0;
  for (let i = 0; i < values.length; i++) {
    sum += (values[i] - others[i]) ** 2;
    size += values[i] ** 2;
  }
  return Math.sqrt(sum / size);
}

/**
 * @param {string} base64 of little-endian float32
 * @returns {Float32Array}
 */
function decodeBias(base64) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}
