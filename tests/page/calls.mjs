// Calls functions of the page's modules: a line of JSON in, a line of JSON out.
// {"module", "name", "given"}; a typed array is {"type", "data"} with its bytes in base64.

import { createInterface } from 'node:readline';

const folder = process.argv[2];
const TYPES = { Float32Array, Uint8Array, Uint8ClampedArray };

/** @param {any} value */
function revived(value) {
  if (Array.isArray(value)) return value.map(revived);
  if (value === null || typeof value !== 'object') return value;
  if ('type' in value && 'data' in value) {
    const bytes = Uint8Array.from(Buffer.from(value.data, 'base64'));
    return new TYPES[value.type](bytes.buffer);
  }
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, revived(inner)]));
}

/** @param {any} value */
function plain(value) {
  if (Array.isArray(value)) return value.map(plain);
  if (value === null || typeof value !== 'object') return value;
  if (ArrayBuffer.isView(value)) {
    const data = Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString('base64');
    return { type: value.constructor.name, data };
  }
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, plain(inner)]));
}

for await (const line of createInterface({ input: process.stdin })) {
  const { module, name, given } = JSON.parse(line);
  const { sourceOf } = await import(`${folder}/resize.js`);
  const loaded = await import(`${folder}/${module}`);
  const values = revived(given).map((value) =>
    value !== null && typeof value === 'object' && 'pixels' in value
      ? sourceOf(value.pixels, value.height, value.width)
      : value,
  );
  process.stdout.write(`${JSON.stringify(plain(loaded[name](...values)))}\n`);
}
