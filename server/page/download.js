/** Large files of the page, kept by the browser once they are loaded. */

/** @import { OnProgress } from './types.js' */

const CACHE = 'simmap';

/**
 * @typedef {{ url: string, bytes: number }} File an address that changes with the content, and the size
 */

/**
 * @param {string} url
 * @returns {Promise<Response>}
 * @throws {Error} a sentence that names the address and the mend
 */
export async function get(url) {
  const response = await fetch(url).catch(() => {
    throw new Error(`${url} cannot be loaded; check the connection and try again`);
  });
  if (!response.ok) throw new Error(`${url} gives ${response.status}; make the page again with: simmap site`);
  return response;
}

/**
 * Load files, from the browser's cache where they are in it.
 *
 * @param {File[]} files
 * @param {OnProgress} onProgress
 * @returns {Promise<ArrayBuffer[]>}
 */
export async function download(files, onProgress) {
  const cache = await openCache();
  const total = files.reduce((sum, file) => sum + file.bytes, 0);
  let done = 0;
  const buffers = await Promise.all(
    files.map(({ url }) =>
      load(url, cache, (bytes) => {
        done += bytes;
        onProgress(Math.min(done, total), total);
      }),
    ),
  );
  if (cache !== null) await forgetOthers(cache, files);
  return buffers;
}

/**
 * The cache, or null where there is none: on a page without https, or in a private window.
 *
 * @returns {Promise<Cache | null>}
 */
async function openCache() {
  try {
    return await self.caches.open(CACHE);
  } catch {
    return null;
  }
}

/**
 * @param {string} url
 * @param {Cache | null} cache
 * @param {(bytes: number) => void} onBytes
 * @returns {Promise<ArrayBuffer>}
 */
async function load(url, cache, onBytes) {
  const kept = await cache?.match(url);
  if (kept !== undefined) {
    const buffer = await kept.arrayBuffer();
    onBytes(buffer.byteLength);
    return buffer;
  }
  const { body } = await get(url);
  if (body === null) throw new Error(`${url} is empty; make the page again with: simmap site`);
  /** @type {Uint8Array[]} */
  const chunks = [];
  for await (const chunk of body) {
    chunks.push(chunk);
    onBytes(chunk.length);
  }
  const buffer = await new Blob(/** @type {BlobPart[]} */ (chunks)).arrayBuffer();
  // A full disk costs speed next time, nothing more.
  await cache?.put(url, new Response(buffer.slice(0))).catch(() => undefined);
  return buffer;
}

/**
 * Forget what an older page at this place has kept; pages at other places of the same origin keep theirs.
 *
 * @param {Cache} cache
 * @param {File[]} files
 */
async function forgetOthers(cache, files) {
  const wanted = new Set(files.map(({ url }) => url));
  const here = new URL('.', import.meta.url).href;
  for (const request of await cache.keys()) {
    if (request.url.startsWith(here) && !wanted.has(request.url)) await cache.delete(request);
  }
}
