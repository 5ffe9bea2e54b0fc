/** The page: photos in, a pair from the backend, the view of it. */

/** @import { Backend, Config, Pair, Photo } from './types.js' */
/** @import { Place, Side, View } from './scene.js' */
/** @import { Pin } from './link.js' */
/** @import { Tool } from './pointer.js' */

import { takePhoto } from './camera.js';
import { Controls } from './controls.js';
import { PhotoError, readPhoto } from './decode.js';
import { find } from './dom.js';
import { jsonOf, save } from './files.js';
import { followIntake } from './intake.js';
import { followKeys } from './keys.js';
import { hashOf, linkOf, pinOf, placeOf } from './link.js';
import { drawPicture } from './picture.js';
import { followPointer } from './pointer.js';
import { Report } from './report.js';
import { savedPair } from './saved.js';
import { START, samePlace, sceneOf } from './scene.js';
import { Stage } from './stage.js';
import { standalone } from './standalone.js';
import { Strip } from './strip.js';

const LINK_DELAY = 200; // ms: browsers refuse an address that changes with every frame

class App {
  constructor() {
    this.stage = new Stage();
    this.report = new Report();
    this.strip = new Strip({
      choose: async (file, side) => {
        await this.take([file], side);
        return this.photos[side]?.blob === file ? this.photos[side] : null;
      },
    });
    this.controls = new Controls({ change: (patch) => this.look(patch), retool: (tool) => this.retool(tool) });
    /** @type {Backend | null} */
    this.backend = null;
    /** @type {Config | null} */
    this.config = null;
    /** @type {[Photo | null, Photo | null]} */
    this.photos = [null, null];
    /** @type {Pair | null} */
    this.pair = null;
    const link = linkOf(location.hash);
    /** @type {View} */
    this.view = { ...START, ...link.view };
    /** @type {Pin | null} the pin of a link, until there is a pair */
    this.pin = link.pin;
    this.isExample = link.isExample;
    /** @type {Tool} */
    this.tool = 'cell';
    this.isWaiting = false; // for the next frame
    this.linkTimer = 0;
    this.comparing = new AbortController();
  }

  async start() {
    this.listen();
    this.controls.set(this.view);
    const saved = await savedPair();
    if (saved) return this.showSaved(saved);
    const isExample = this.isExample;
    await this.open();
    if (isExample) await this.takeExample();
  }

  /** @param {import('./saved.js').SavedPair} saved */
  showSaved({ pair, photos, view }) {
    document.body.classList.add('saved');
    this.photos = photos;
    this.pin = pinOf(view.pin, pair.grids);
    this.view = view;
    this.report.where('saved');
    this.report.model(pair.model);
    this.receive(pair);
  }

  /** Load the backend. */
  async open() {
    this.report.problem('');
    try {
      const answer = await fetch('config.json');
      if (!answer.ok) throw new Error('the page has no config.json beside it; make it with `simmap site`');
      this.config = /** @type {Config} */ (await answer.json());
      const backend = await backendOf(this.config);
      this.report.where(this.config.backend);
      this.report.offerExample(this.config.examples.length === 2 && this.photos.every((photo) => photo === null));
      const model = await backend.open((done, total) => this.report.progress(done, total));
      this.report.progress(null, 0);
      if (model) this.report.model(model);
      this.backend = backend;
      this.report.isSearchable = backend.database !== undefined;
      this.report.photos(this.photos, this.pair);
      this.redraw();
      await this.compare();
    } catch (error) {
      this.report.progress(null, 0);
      this.report.problem(`The model does not load: ${messageOf(error)}.`);
    }
  }

  listen() {
    const change = { view: () => this.view, tool: () => this.tool };
    const actions = {
      ...change,
      /** @param {Place | null} hover */
      hover: (hover) => {
        if (!samePlace(hover, this.view.hover)) this.look({ hover });
      },
      /** @param {Place} place */
      pin: (place) => this.look({ pin: samePlace(place, this.view.pin) ? null : place, region: null }),
      /** @param {View['region']} region */
      draw: (region) => this.look({ region, pin: null }),
      /** @param {number} divider */
      divide: (divider) => this.look({ divider }),
      toggle: () => this.look({ look: this.view.look === 'photo' ? 'heat' : 'photo' }),
      clear: () => this.look({ pin: null, hover: null, region: null }),
    };
    followPointer(this.stage, actions);
    followKeys(this.stage, actions);
    this.report.onPin = actions.pin;
    followIntake(this.stage.panels, {
      take: (files, side) => void this.take(files, side),
      refuse: (message, side) => this.report.error(side ?? this.freeSide(), message),
    });
    for (const at of /** @type {const} */ ([0, 1])) {
      for (const button of document.querySelectorAll(`[data-camera="${'ab'[at]}"]`)) {
        button.addEventListener('click', () => void this.photograph(at));
      }
    }
    find('#example', HTMLButtonElement).addEventListener('click', () => void this.takeExample());
    find('#retry', HTMLButtonElement).addEventListener('click', () => {
      if (this.backend === null) void this.open();
      else void this.compare();
    });
    find('#save-picture', HTMLButtonElement).addEventListener('click', () => void this.savePicture());
    find('#save-json', HTMLButtonElement).addEventListener('click', () => this.saveJson());
    find('#save-page', HTMLButtonElement).addEventListener('click', () => void this.savePage());
    find('#copy-link', HTMLButtonElement).addEventListener('click', () => void this.copyLink());
    window.addEventListener('hashchange', () => this.follow(location.hash));
    new ResizeObserver(() => {
      this.stage.layOut();
      this.redraw();
    }).observe(this.stage.element);
    window.matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.redraw());
  }

  /** @param {Side} side */
  async photograph(side) {
    try {
      const photo = await takePhoto();
      if (photo) await this.take([photo], side);
    } catch (error) {
      this.report.error(side, messageOf(error));
    }
  }

  /** Where a photo goes that nobody placed: an empty side, else the second. @returns {Side} */
  freeSide() {
    return this.photos[0] === null ? 0 : 1;
  }

  async takeExample() {
    if (this.config?.examples.length !== 2) return;
    try {
      const files = await Promise.all(
        this.config.examples.map(async (path) => {
          const answer = await fetch(path);
          if (!answer.ok) throw new Error(`the example ${path} is missing beside the page`);
          return new File([await answer.blob()], path.split('/').at(-1) ?? path);
        }),
      );
      await this.take(files, null);
      this.isExample = this.photos.every((photo) => photo !== null);
      this.redraw();
    } catch (error) {
      this.report.problem(`The example does not load: ${messageOf(error)}.`);
    }
  }

  /**
   * Take one photo for a side, or two for both.
   *
   * @param {File[]} files
   * @param {Side | null} side
   */
  async take(files, side) {
    this.isExample = false;
    this.report.notice(files.length > 2 ? `${files.length} files were given; the first two are compared.` : '');
    const first = files.length > 1 ? 0 : side ?? this.freeSide();
    await Promise.all(
      files.slice(0, 2).map(async (file, at) => {
        const target = /** @type {Side} */ (files.length > 1 ? at : first);
        await this.place(file, target);
      }),
    );
    await this.compare();
  }

  /**
   * @param {File} file
   * @param {Side} side
   */
  async place(file, side) {
    this.report.error(side, '');
    try {
      const photo = await readPhoto(file, file.name || 'pasted image');
      this.photos[side]?.bitmap.close();
      this.photos[side] = photo;
      if (this.view.region?.side === side) this.view = { ...this.view, region: null };
      this.receive(null);
    } catch (error) {
      this.report.error(side, messageOf(error));
    }
  }

  /** Compare the photos, where there are two and a model. */
  async compare() {
    const [first, second] = this.photos;
    if (first === null || second === null || this.pair !== null) return;
    this.report.busy(true, this.backend !== null);
    if (this.backend === null) return;
    this.comparing.abort();
    this.comparing = new AbortController();
    const { signal } = this.comparing;
    try {
      const pair = await this.backend.compare([first, second], signal);
      if (signal.aborted) return;
      this.report.model(pair.model);
      this.report.problem('');
      this.receive(pair);
    } catch (error) {
      if (signal.aborted) return;
      this.report.busy(false, true);
      const side = error instanceof PhotoError ? error.photo : null;
      if (side === null) this.report.problem(`The photos were not compared: ${messageOf(error)}.`);
      else this.report.error(side, messageOf(error));
    }
  }

  /** @param {Pair | null} pair */
  receive(pair) {
    this.pair = pair;
    if (pair) {
      this.report.busy(false, true);
      // The region of a photo stays while the other photo changes.
      if (this.view.region) this.pin = null;
      this.view = { ...this.view, pin: placeOf(this.pin, pair.grids), hover: null };
    }
    this.report.photos(this.photos, pair);
    this.report.offerExample(this.config?.examples.length === 2 && this.photos.every((photo) => photo === null));
    this.stage.show(this.photos, pair);
    this.redraw();
  }

  /** @param {Partial<View>} patch */
  look(patch) {
    this.view = { ...this.view, ...patch };
    if (this.pair) this.pin = pinOf(this.view.pin, this.pair.grids);
    this.redraw();
  }

  /** @param {Tool} tool */
  retool(tool) {
    this.tool = tool;
    this.stage.element.classList.toggle('drawing', tool !== 'cell');
  }

  /** @param {string} hash of a link */
  follow(hash) {
    const link = linkOf(hash);
    this.pin = link.pin;
    this.look({ ...link.view, pin: this.pair && placeOf(link.pin, this.pair.grids), region: null });
  }

  /** Draw once before the next frame, however much changes until then. */
  redraw() {
    if (this.isWaiting) return;
    this.isWaiting = true;
    requestAnimationFrame(() => {
      this.isWaiting = false;
      this.draw();
    });
  }

  draw() {
    const { pair, view } = this;
    const [first, second] = this.photos;
    this.controls.set(view);
    const scene = pair && first && second ? sceneOf(pair, [first, second], view) : null;
    this.stage.draw(scene, view);
    this.strip.show(this.backend?.database ?? null, this.photos, view);
    if (pair === null || scene === null || first === null || second === null) return;
    this.report.view(pair, [first, second], scene, view);
    clearTimeout(this.linkTimer);
    this.linkTimer = setTimeout(() => this.keepLink(), LINK_DELAY);
  }

  keepLink() {
    if (document.body.classList.contains('saved')) return;
    const hash = hashOf(this.view, this.pin, this.isExample);
    if (hash !== location.hash.replace(/^#/, '')) {
      history.replaceState(null, '', hash ? `#${hash}` : location.pathname + location.search);
    }
  }

  /** @returns {{ pair: Pair, photos: [Photo, Photo], scene: import('./scene.js').Scene } | null} */
  shown() {
    const [first, second] = this.photos;
    if (this.pair === null || first === null || second === null) return null;
    const view = { ...this.view, hover: null };
    return { pair: this.pair, photos: [first, second], scene: sceneOf(this.pair, [first, second], view) };
  }

  async savePicture() {
    const shown = this.shown();
    if (shown === null) return;
    const canvas = drawPicture(shown.pair, shown.photos, shown.scene, { ...this.view, hover: null });
    /** @type {Blob | null} */
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, 'image/png'));
    if (blob) save(blob, 'similarity.png');
  }

  saveJson() {
    const shown = this.shown();
    if (shown === null) return;
    const json = jsonOf(shown.pair, shown.photos, shown.scene, this.view);
    save(new Blob([json], { type: 'application/json' }), 'similarity.json');
  }

  async savePage() {
    const shown = this.shown();
    if (shown === null) return;
    try {
      save(await standalone(shown.pair, shown.photos, { ...this.view, hover: null }), 'similarity.html');
    } catch (error) {
      this.report.kept(`The page was not saved: ${messageOf(error)}.`);
    }
  }

  async copyLink() {
    this.keepLink();
    const note = this.isExample ? '' : ' It keeps the view and the pin, not the photos.';
    try {
      await navigator.clipboard.writeText(location.href);
      this.report.kept(`The link is copied.${note}`);
    } catch {
      this.report.kept(`Copy the link by hand: ${location.href}${note}`);
    }
  }
}

/**
 * @param {Config} config
 * @returns {Promise<Backend>}
 */
async function backendOf(config) {
  if (config.backend === 'local') return (await import('./local.js')).localBackend(config);
  return (await import('./remote.js')).remoteBackend(config);
}

/** @param {unknown} error */
function messageOf(error) {
  return error instanceof Error ? error.message : String(error);
}

void new App().start();
