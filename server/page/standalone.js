/**
 * The page with one pair in it, as a file that needs nothing else.
 *
 * The file holds the page's own modules as data: an import map gives each a name that the others import.
 */

/** @import { Pair, Photo } from './types.js' */
/** @import { View } from './scene.js' */

import { makeCanvas } from './dom.js';
import { pairToJson } from './wire.js';

const ENTRY = 'app.js';
const IMPORT = /^((?:import|export)\b[^;]*?\bfrom\s+)'\.\/([\w.-]+)'/gm;
const LONGEST_SIDE = 1600; // pixels of a photo in the file
const QUALITY = 0.9;
const POLICY =
  "default-src 'none'; script-src 'unsafe-inline' data:; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'";

/** @typedef {{ name: string, width: number, height: number, data: string }} SavedPhoto data: base64 */
/** @typedef {{ pair: import('./wire.js').PairJson, photos: [SavedPhoto, SavedPhoto], view: View }} Saved */

/**
 * @param {Pair} pair
 * @param {[Photo, Photo]} photos
 * @param {View} view
 * @returns {Promise<Blob>}
 */
export async function standalone(pair, photos, view) {
  const [page, style, modules] = await Promise.all([text('index.html'), text('style.css'), collect(ENTRY)]);
  /** @type {Saved} */
  const saved = {
    pair: pairToJson(pair),
    photos: [await savedPhoto(photos[0]), await savedPhoto(photos[1])],
    view,
  };
  const imports = Object.fromEntries(
    Array.from(modules, ([name, source]) => [
      `simmap/${name}`,
      `data:text/javascript;base64,${base64(new TextEncoder().encode(source))}`,
    ]),
  );
  const head = [
    `<meta http-equiv="Content-Security-Policy" content="${POLICY}">`,
    `<style>${style}</style>`,
    `<script type="application/json" id="saved">${inScript(saved)}</script>`,
    `<script type="importmap">${inScript({ imports })}</script>`,
    `<script type="module">import 'simmap/${ENTRY}';</script>`,
  ].join('\n');
  const own = page.replace(/<(link|script)\b[^>]*\b(href|src)="[^"]*"[^>]*>(<\/script>)?\n?/g, '');
  return new Blob([own.replace('</head>', () => `${head}\n</head>`)], { type: 'text/html' });
}

/**
 * The sources of a module and of all that it imports, by name, importing one another by the names in the map.
 *
 * @param {string} entry
 * @returns {Promise<Map<string, string>>}
 */
async function collect(entry) {
  const sources = new Map();
  const waiting = [entry];
  for (let name = waiting.pop(); name !== undefined; name = waiting.pop()) {
    if (sources.has(name)) continue;
    const source = await text(name);
    sources.set(name, source.replace(IMPORT, (_, start, imported) => `${start}'simmap/${imported}'`));
    waiting.push(...Array.from(source.matchAll(IMPORT), ([, , imported]) => imported));
  }
  return sources;
}

/** @param {string} name of a file of the page */
async function text(name) {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`the page's own ${name} cannot be loaded; load the page again`);
  return answer.text();
}

/**
 * @param {Photo} photo
 * @returns {Promise<SavedPhoto>}
 */
async function savedPhoto({ name, width, height, bitmap }) {
  const scale = Math.min(1, LONGEST_SIDE / Math.max(width, height));
  const [canvas, context] = makeCanvas(Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale)));
  context.fillStyle = 'white';
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = 'high';
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const data = canvas.toDataURL('image/jpeg', QUALITY).split(',')[1];
  return { name, width, height, data };
}

/** @param {Uint8Array} bytes */
function base64(bytes) {
  let binary = '';
  for (let at = 0; at < bytes.length; at += 0x8000) {
    binary += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  }
  return btoa(binary);
}

/** @param {unknown} value */
function inScript(value) {
  return JSON.stringify(value).replaceAll('<', '\\u003c');
}
