/** The search strip: the images of the server's index that are most similar to a photo or a region of it. */

/** @import { Database, Hit, Photo } from './types.js' */
/** @import { Side, View } from './scene.js' */

import { contextOf, find, make, makeCanvas } from './dom.js';
import { canvasOf, fitted } from './frame.js';
import { Raster } from './raster.js';
import { numberText, sharedScale, tickText } from './scale.js';
import { otherSide } from './scene.js';
import { SIDES } from './words.js';

const WIDEST = 200; // pixels of the screen
const HEIGHT = 132;

/** @typedef {{ side: Side, photo: Photo }} Query */
/** @typedef {{ hit: Hit, button: HTMLButtonElement, canvas: HTMLCanvasElement, raster: Raster | null }} Item */
/** @typedef {{ choose: (file: File, side: Side) => Promise<Photo | null> }} Actions choose: takes the photo for a side */

export class Strip {
  /** @param {Actions} actions */
  constructor(actions) {
    this.actions = actions;
    this.element = find('#search', HTMLElement);
    this.button = find('#search-button', HTMLButtonElement);
    this.list = find('#hits', HTMLElement);
    /** @type {Database | null} */
    this.database = null;
    /** @type {[Photo | null, Photo | null]} */
    this.photos = [null, null];
    /** @type {View | null} */
    this.view = null;
    /** @type {Query | null} whose hits are shown or under way */
    this.query = null;
    /** @type {Item[]} */
    this.items = [];
    this.scale = 1; // of all maps
    /** @type {{ item: Item, photo: Photo } | null} the hit that is a photo now */
    this.chosen = null;
    this.painted = '';
    this.searching = new AbortController();
    this.choosing = 0; // counts the choices, of which the last one counts
    this.button.addEventListener('click', () => void this.search());
  }

  /**
   * Show what can be searched for.
   *
   * @param {Database | null} database
   * @param {[Photo | null, Photo | null]} photos
   * @param {View} view
   */
  show(database, photos, view) {
    this.database = database;
    this.photos = photos;
    this.view = view;
    const next = this.next();
    this.element.hidden = database === null || next === null;
    if (this.query && photos[this.query.side] !== this.query.photo) this.clear();
    if (next === null) return;
    const what = view.region?.side === next.side ? 'Search this region of' : 'Search with';
    const label = `${what} ${SIDES[next.side]}`;
    if (this.button.textContent !== label) this.button.textContent = label;
    for (const item of this.items) {
      const isChosen = this.chosen?.item === item && photos.includes(this.chosen.photo);
      item.button.setAttribute('aria-pressed', String(isChosen));
    }
    const look = `${view.look === 'photo'} ${view.opacity}`;
    if (look === this.painted) return;
    this.painted = look;
    for (const item of this.items) this.paint(item);
  }

  /** The photo that has the region, else the first one. @returns {Query | null} */
  next() {
    const side = this.view?.region?.side ?? (this.photos[0] ? 0 : 1);
    const photo = this.photos[side];
    return photo && { side, photo };
  }

  clear() {
    this.searching.abort();
    this.choosing++;
    this.query = null;
    this.chosen = null;
    this.items = [];
    this.list.replaceChildren();
    this.say('');
    this.fail('');
  }

  async search() {
    const query = this.next();
    if (query === null || this.database === null) return;
    this.clear();
    this.query = query;
    this.searching = new AbortController();
    const { signal } = this.searching;
    const region = this.view?.region?.side === query.side ? this.view.region.polygon : null;
    this.say('Searching …');
    try {
      const hits = await this.database.search(query.photo, region, signal);
      if (signal.aborted) return;
      this.receive(hits, query, this.database, signal);
    } catch (error) {
      if (signal.aborted) return;
      this.say('');
      this.fail(`Nothing was searched: ${sentence(error)}`);
    }
  }

  /**
   * @param {Hit[]} hits
   * @param {Query} query
   * @param {Database} database
   * @param {AbortSignal} signal
   */
  receive(hits, query, database, signal) {
    this.scale = sharedScale(hits.map(({ map }) => map?.flat() ?? []));
    this.items = hits.map((hit) => itemOf(hit));
    this.list.replaceChildren(
      ...this.items.map(({ button }) => {
        const place = document.createElement('li');
        place.append(button);
        return place;
      }),
    );
    this.say(foundText(hits, query.side, this.scale));
    for (const item of this.items) {
      item.button.addEventListener('click', () => void this.choose(item, otherSide(query.side), database));
      void this.load(item, database, signal);
    }
  }

  /**
   * @param {Item} item
   * @param {Database} database
   * @param {AbortSignal} signal
   */
  async load(item, database, signal) {
    const { hit, canvas, button } = item;
    try {
      const bitmap = await database.thumbnail(hit.id, signal);
      const size = hit.image ?? bitmap;
      const photo = { name: hit.id, blob: new Blob(), width: size.width, height: size.height, bitmap };
      const [width, height] = fitted(canvasOf(photo, hit.grid), WIDEST, HEIGHT);
      const density = Math.max(window.devicePixelRatio, 1);
      canvas.style.width = `${width}px`;
      canvas.width = Math.round(width * density);
      canvas.height = Math.round(height * density);
      item.raster = new Raster(photo, hit.grid, canvas.width, canvas.height, density);
      this.paint(item);
    } catch (error) {
      if (signal.aborted) return;
      canvas.replaceWith(make('span', `No picture: ${sentence(error)}`, 'gone'));
      button.disabled = true;
    }
  }

  /** @param {Item} item */
  paint({ hit: { map }, canvas, raster }) {
    if (raster === null || this.view === null) return;
    const isHeated = map !== null && this.view.look !== 'photo';
    if (isHeated) {
      const cells = { values: map.flat(), rows: map.length, columns: map[0].length };
      raster.paint(cells, this.scale, this.view.opacity);
    }
    contextOf(canvas).drawImage(isHeated ? raster.heated : raster.plain, 0, 0);
  }

  /**
   * Make a hit the photo beside the query.
   *
   * @param {Item} item
   * @param {Side} side
   * @param {Database} database
   */
  async choose(item, side, database) {
    const choice = ++this.choosing;
    this.fail('');
    item.button.setAttribute('aria-busy', 'true');
    try {
      const file = await database.file(item.hit.id);
      if (choice !== this.choosing) return;
      const photo = await this.actions.choose(file, side);
      if (choice === this.choosing) this.chosen = photo && { item, photo };
      if (this.view) this.show(this.database, this.photos, this.view);
    } catch (error) {
      if (choice === this.choosing) this.fail(`Hit ${this.items.indexOf(item) + 1} was not opened: ${sentence(error)}`);
    } finally {
      item.button.removeAttribute('aria-busy');
    }
  }

  /** @param {string} message */
  say(message) {
    find('#found', HTMLElement).textContent = message;
  }

  /** @param {string} message empty for none */
  fail(message) {
    const element = find('.error', HTMLElement, this.element);
    element.textContent = message;
    element.hidden = message === '';
  }
}

/**
 * @param {Hit} hit
 * @returns {Item}
 */
function itemOf(hit) {
  const [canvas] = makeCanvas(HEIGHT, HEIGHT);
  canvas.ariaHidden = 'true';
  const button = make('button', '', 'hit');
  button.type = 'button';
  const name = make('bdi', hit.id, 'id');
  name.title = hit.id;
  const score = `score ${numberText(hit.score, 3)}`;
  const numbers =
    hit.region_score === null
      ? [make('b', score)]
      : [make('b', `region ${numberText(hit.region_score, 3)}`), make('span', score)];
  const labels = hit.label === null ? [] : [make('bdi', hit.label, 'label')];
  const parts = [...numbers, ...labels, name];
  // Spaces keep the words apart for those who hear them.
  const frame = make('span', '', 'frame');
  frame.append(canvas);
  button.append(frame, ...parts.flatMap((part) => [part, ' ']));
  return { hit, button, canvas, raster: null };
}

/**
 * @param {Hit[]} hits
 * @param {Side} side of the query
 * @param {number} scale
 */
function foundText(hits, side, scale) {
  if (hits.length === 0) return 'The index has no images.';
  const [one, order] =
    hits[0].region_score === null ? [SIDES[side], ''] : [`the region of ${SIDES[side]}`, ' by the score inside the region'];
  const count = hits.length === 1 ? '1 image' : `${hits.length} images`;
  return (
    `${count} most similar to ${one}, best first${order}. Heat: what each place of the image contributes, on one ` +
    `scale up to ${tickText(scale, false)}. Choose an image to make it photo ${SIDES[otherSide(side)]}.`
  );
}

/** @param {unknown} error */
function sentence(error) {
  const message = error instanceof Error ? error.message : String(error);
  return message.endsWith('.') ? message : `${message}.`;
}
