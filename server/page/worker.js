/** The work of the page, beside the thread that draws it: loading, embedding, comparing. */

/** @import { Contract } from './network.js' */
/** @import { Explained } from './decompose.js' */
/** @import { File } from './download.js' */
/** @import { Field } from './prepare.js' */

import { comparePair } from './decompose.js';
import { download, get } from './download.js';
import { Network } from './network.js';
import { addsNoise, sourceOfBitmap } from './pixels.js';
import { prepare } from './prepare.js';

/**
 * @typedef {{ script: string, loader: string, wasm: File }} Build a build of onnxruntime-web
 * @typedef {{ contract: string, model: File, runtime: Build, webgpu: Build | null }} Files
 * @typedef {{ contract: Contract, device: 'WebAssembly' | 'WebGPU', noisy: boolean }} Opened
 * @typedef {{ explained: Explained, field: Field }} Embedded
 * @typedef {{ id: number, name: string, value: any }} Request
 * @typedef {{ id: number, result: unknown } | { id: number, error: string } | { done: number, total: number }} Reply
 */

/** @type {Network | null} */
let network = null;

/** @type {Record<string, (value: any) => unknown>} */
const tasks = {
  /**
   * @param {Files} files
   * @returns {Promise<Opened>}
   */
  async open(files) {
    const gpu = files.webgpu !== null && (await hasGpu()) ? files.webgpu : null;
    const { script, loader, wasm } = gpu ?? files.runtime;
    const [contract, [model, binary], ort] = await Promise.all([
      get(files.contract).then((response) => response.json()),
      download([files.model, wasm], (done, total) => reply({ done, total })),
      import(script),
    ]);
    const artifact = new Uint8Array(model);
    const onCpu = await Network.open(ort, { loader, wasm: binary }, artifact, contract);
    const onGpu = gpu === null ? null : await onCpu.onGpu(artifact);
    network = onGpu ?? onCpu;
    return { contract, device: onGpu === null ? 'WebAssembly' : 'WebGPU', noisy: await addsNoise() };
  },

  /**
   * @param {ImageBitmap} bitmap
   * @returns {Promise<Embedded>}
   */
  async embed(bitmap) {
    if (network === null) throw new Error('the model is not loaded yet; wait for it');
    const { pixels, field } = prepare(sourceOfBitmap(bitmap), network.contract.input);
    bitmap.close();
    return { explained: await network.explain(pixels), field };
  },

  /** @param {[Explained, Explained]} images */
  compare: ([first, second]) => comparePair(first, second),
};

/** Whether this browser gives a GPU; one that is computed on the CPU is slower than WebAssembly. */
async function hasGpu() {
  // TypeScript does not know WebGPU.
  const { gpu } = /** @type {any} */ (navigator);
  const adapter = await gpu?.requestAdapter().catch(() => null);
  return adapter?.info?.isFallbackAdapter === false;
}

/** @param {Reply} message */
function reply(message) {
  self.postMessage(message);
}

// One run at a time: the network is not to be entered twice.
let last = Promise.resolve();
self.addEventListener('message', (/** @type {MessageEvent<Request>} */ { data: { id, name, value } }) => {
  last = last.then(async () => {
    try {
      reply({ id, result: await tasks[name](value) });
    } catch (error) {
      reply({ id, error: error instanceof Error ? error.message : String(error) });
    }
  });
});
