/** The work of the page, beside the thread that draws it: loading, embedding, comparing. */

/** @import { Contract } from './network.js' */
/** @import { Explained } from './decompose.js' */
/** @import { File } from './download.js' */
/** @import { Field } from './prepare.js' */

import { comparePair } from './decompose.js';
import { download } from './download.js';
import { Network } from './network.js';
import { addsNoise, sourceOfBitmap } from './pixels.js';
import { prepare } from './prepare.js';

/**
 * @typedef {{ contract: string, model: File, wasm: File, script: string, loader: string }} Files
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
   * @returns {Promise<{ contract: Contract, noisy: boolean }>}
   */
  async open(files) {
    const response = await fetch(files.contract);
    if (!response.ok) throw new Error(`${files.contract} gives ${response.status}; make the page again with: simmap site`);
    /** @type {Contract} */
    const contract = await response.json();
    const [model, wasm] = await download([files.model, files.wasm], (done, total) => reply({ done, total }));
    network = await Network.open({ ...files, wasm }, new Uint8Array(model), contract);
    return { contract, noisy: await addsNoise() };
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
