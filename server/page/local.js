/** Comparing photos in this browser, with onnxruntime-web in a worker: nothing is uploaded. */

/** @import { Backend, Grid, LocalConfig, Model, OnProgress, Pair, Photo, Runtime } from './types.js' */
/** @import { Contract } from './network.js' */
/** @import { Build, Embedded, Files, Opened, Reply } from './worker.js' */

import { PhotoError } from './decode.js';

const NOISE =
  'This browser changes the pixels that a page reads, so scores and maps differ a little from the exact ones; ' +
  'turn its protection against fingerprinting off for this page, or use another browser.';

/**
 * @param {LocalConfig} config
 * @returns {Backend}
 */
export function localBackend(config) {
  return new Local(config);
}

/** @implements {Backend} */
class Local {
  /** @param {LocalConfig} config */
  constructor(config) {
    this.config = config;
    this.worker = new Worker(new URL('./worker.js', import.meta.url), { type: 'module' });
    /** @type {Map<number, { resolve: (result: any) => void, reject: (error: Error) => void }>} */
    this.waiting = new Map();
    /** @type {OnProgress} */
    this.onProgress = () => undefined;
    /** @type {WeakMap<Photo, Promise<Embedded>>} */
    this.embedded = new WeakMap();
    /** @type {Contract | null} */
    this.contract = null;
    /** @type {Model | null} */
    this.model = null;
    this.asked = 0;
    this.worker.addEventListener('message', ({ data }) => this.receive(data));
    this.worker.addEventListener('error', ({ message }) => this.fail(message || 'it does not start'));
  }

  /**
   * Load the model and the runtime.
   *
   * @param {OnProgress} onProgress
   * @returns {Promise<Model>}
   */
  async open(onProgress) {
    this.onProgress = onProgress;
    const { model, runtime, webgpu, contract } = this.config;
    /** @type {Files} */
    const files = {
      contract: absolute(contract),
      model: { url: absolute(model.path), bytes: model.bytes },
      runtime: built(runtime),
      webgpu: webgpu === undefined ? null : built(webgpu),
    };
    /** @type {Opened} */
    const { contract: opened, device, noisy } = await this.ask('open', files);
    const { name, fingerprint, pooling, head, dimension } = opened;
    this.contract = opened;
    this.model = { name, fingerprint, pooling, head, dimension, device, warnings: noisy ? [NOISE] : [] };
    return this.model;
  }

  /**
   * @param {[Photo, Photo]} photos
   * @param {AbortSignal} [signal]
   * @returns {Promise<Pair>}
   */
  async compare(photos, signal) {
    signal?.throwIfAborted();
    const compared = this.compareAll(photos);
    if (signal === undefined) return compared;
    return Promise.race([
      compared,
      new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason), { once: true })),
    ]);
  }

  /**
   * @param {[Photo, Photo]} photos
   * @returns {Promise<Pair>}
   */
  async compareAll([one, other]) {
    const { contract, model } = this;
    if (contract === null || model === null) throw new Error('the model is not loaded yet; wait for it');
    const [first, second] = await Promise.all([this.embed(one, 0), this.embed(other, 1)]);
    const compared = await this.ask('compare', [first.explained, second.explained]);
    const { grid_height: rows, grid_width: columns } = contract;
    /** @type {[Grid, Grid]} */
    const grids = [{ rows, columns, ...first.field }, { rows, columns, ...second.field }];
    return { ...compared, grids, model };
  }

  /**
   * A photo is embedded once, so that another partner costs one run.
   *
   * @param {Photo} photo
   * @param {0 | 1} at
   * @returns {Promise<Embedded>}
   */
  async embed(photo, at) {
    let embedded = this.embedded.get(photo);
    if (embedded === undefined) {
      embedded = this.ask('embed', photo.bitmap);
      this.embedded.set(photo, embedded);
    }
    try {
      return await embedded;
    } catch (error) {
      this.embedded.delete(photo);
      throw new PhotoError(`${photo.name} ${/** @type {Error} */ (error).message}.`, at);
    }
  }

  /**
   * @param {string} name of a task of the worker
   * @param {unknown} value
   * @returns {Promise<any>}
   */
  ask(name, value) {
    return new Promise((resolve, reject) => {
      const id = this.asked++;
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ id, name, value });
    });
  }

  /** @param {Reply} message */
  receive(message) {
    if (!('id' in message)) return this.onProgress(message.done, message.total);
    const asked = this.waiting.get(message.id);
    this.waiting.delete(message.id);
    if ('error' in message) asked?.reject(new Error(message.error));
    else asked?.resolve(message.result);
  }

  /** @param {string} reason */
  fail(reason) {
    const error = new Error(`the page's worker has failed (${reason}); load the page again`);
    for (const { reject } of this.waiting.values()) reject(error);
    this.waiting.clear();
  }
}

/** @param {string} path relative to the page */
function absolute(path) {
  return new URL(path, document.baseURI).href;
}

/**
 * @param {Runtime} runtime
 * @returns {Build}
 */
function built({ script, loader, wasm }) {
  return {
    script: absolute(script),
    loader: absolute(loader),
    wasm: { url: absolute(wasm.path), bytes: wasm.bytes },
  };
}
