/** What the page says: the score, the photos' names and errors, the marked cell, legends and tables. */

/** @import { Model, Pair, Photo } from './types.js' */
/** @import { Place, Scene, Side, View } from './scene.js' */

import { contextOf, find } from './dom.js';
import { LEGEND_WIDTH, drawLegend, legendHeight, legendText } from './legend.js';
import { legendsOf } from './legends.js';
import { numberText, tickText } from './scale.js';
import { fillTables, markPin } from './table.js';
import { captionText, detailText, panelName, sumText } from './words.js';

const MEGABYTE = 1e6;
const WHERE = {
  local: 'Nothing is uploaded: photos stay in this browser.',
  remote: 'Photos are sent to this server only.',
  saved: 'A saved result, complete in this file.',
};

export class Report {
  constructor() {
    this.score = find('#score', HTMLElement);
    this.about = find('#about', HTMLElement);
    this.feet = [find('#foot-a', HTMLElement), find('#foot-b', HTMLElement)];
    this.panels = [find('#panel-a', HTMLElement), find('#panel-b', HTMLElement)];
    this.tables = find('#tables .pair', HTMLElement);
    this.legends = Array.from(document.querySelectorAll('#legends canvas'), (canvas) => {
      return /** @type {HTMLCanvasElement} */ (canvas);
    });
    /** @type {(place: Place) => void} */
    this.onPin = () => undefined;
    /** @type {{ pair: Pair, quantity: string } | null} */
    this.tabled = null;
    this.isSearchable = false; // a region of a single photo serves a search
  }

  /**
   * @param {number | null} done bytes, null where nothing loads
   * @param {number} total bytes, 0 where unknown
   */
  progress(done, total) {
    find('#loading', HTMLElement).hidden = done === null;
    if (done === null) return;
    const bar = find('#progress', HTMLProgressElement);
    if (total > 0) {
      bar.max = total;
      bar.value = Math.min(done, total);
    } else bar.removeAttribute('value');
    const of = total > 0 ? ` of ${(total / MEGABYTE).toFixed(1)}` : '';
    find('#loading-text', HTMLElement).textContent =
      `Loading the model once: ${(done / MEGABYTE).toFixed(1)}${of} MB`;
  }

  /** @param {keyof typeof WHERE} place where photos go */
  where(place) {
    find('#privacy', HTMLElement).textContent = WHERE[place];
  }

  /** @param {Model} model */
  model({ name, pooling, dimension, warnings }) {
    this.about.textContent = `${name}, ${pooling} pooling, ${dimension} features`;
    if (warnings?.length) show('#warning', warnings.join(' '));
  }

  /** @param {string} message empty for none */
  problem(message) {
    const element = find('#problem', HTMLElement);
    find('p', HTMLElement, element).textContent = message;
    element.hidden = message === '';
  }

  /** @param {string} message empty for none */
  notice(message) {
    show('#notice', message);
  }

  /**
   * @param {Side} side
   * @param {string} message empty for none
   */
  error(side, message) {
    const element = find('.error', HTMLElement, this.feet[side]);
    element.hidden = message === '';
    element.textContent = message;
  }

  /** @param {string} message what became of a file or link */
  kept(message) {
    find('#kept', HTMLElement).textContent = message;
  }

  /** @param {boolean} isOffered */
  offerExample(isOffered) {
    find('#example', HTMLElement).hidden = !isOffered;
  }

  /**
   * @param {boolean} isBusy
   * @param {boolean} hasModel
   */
  busy(isBusy, hasModel) {
    find('#stage', HTMLElement).setAttribute('aria-busy', String(isBusy));
    if (!isBusy) return this.say('', '');
    this.say('', hasModel ? 'Comparing …' : 'The photos are compared as soon as the model is loaded.');
  }

  /**
   * @param {string} number
   * @param {string} words
   */
  say(number, words) {
    const before = this.score.textContent;
    if (before === number + words) return;
    find('.number', HTMLElement, this.score).textContent = number;
    find('.words', HTMLElement, this.score).textContent = words;
  }

  /**
   * @param {[Photo | null, Photo | null]} photos
   * @param {Pair | null} pair
   */
  photos(photos, pair) {
    photos.forEach((photo, at) => {
      const panel = this.panels[at];
      const foot = this.feet[at];
      panel.classList.toggle('filled', photo !== null);
      find('.title', HTMLElement, foot).hidden = photo === null;
      find('.change', HTMLElement, foot).hidden = photo === null;
      if (photo === null) return;
      find('.title span', HTMLElement, foot).textContent = photo.name;
      find('.title', HTMLElement, foot).title = `${photo.name}, ${photo.width} × ${photo.height} pixels`;
      panel.setAttribute('role', pair ? 'application' : 'img');
      panel.setAttribute('aria-label', panelName(/** @type {Side} */ (at), photo, pair !== null));
      if (pair) panel.tabIndex = 0;
      else panel.removeAttribute('tabindex');
      if (pair === null) find('.caption', HTMLElement, foot).textContent = '';
    });
    const isSingle = pair === null && photos.some((photo) => photo !== null);
    const controls = find('#controls', HTMLElement);
    controls.hidden = pair === null && !(isSingle && this.isSearchable);
    controls.classList.toggle('single', isSingle);
    find('#below', HTMLElement).hidden = pair === null;
    this.kept('');
    if (pair) this.say(numberText(pair.score, 3), `cosine similarity. ${sumText(pair)}`);
    else if (photos.every((photo) => photo === null)) this.say('', '');
  }

  /**
   * @param {Pair} pair
   * @param {[Photo, Photo]} photos
   * @param {Scene} scene
   * @param {View} view
   */
  view(pair, photos, scene, view) {
    for (const side of /** @type {const} */ ([0, 1])) {
      setText(find('.caption', HTMLElement, this.feet[side]), captionText(pair, scene, view, side));
    }
    setText(find('#marked', HTMLElement), detailText(pair, scene, view) || 'Nothing is marked.');
    this.drawLegends(pair, scene, view);
    if (this.tabled?.pair !== pair || this.tabled.quantity !== view.quantity) {
      this.tabled = { pair, quantity: view.quantity };
      fillTables(this.tables, pair, photos, view, (place) => this.onPin(place));
    }
    markPin(this.tables, view.pin);
  }

  /**
   * @param {Pair} pair
   * @param {Scene} scene
   * @param {View} view
   */
  drawLegends(pair, scene, view) {
    const style = getComputedStyle(document.body);
    const faint = getComputedStyle(this.about).color;
    const ink = { ink: style.color, faint, font: style.fontFamily };
    const unit = Math.max(window.devicePixelRatio, 1);
    const legends = legendsOf(pair, scene, view);
    this.legends.forEach((canvas, at) => {
      const legend = legends[at];
      canvas.classList.toggle('unused', legend.kind === 'matches' && scene.source === null);
      const key = JSON.stringify([legend, ink, unit]);
      if (canvas.dataset.drawn === key) return;
      canvas.dataset.drawn = key;
      const height = legendHeight(legend);
      canvas.width = Math.round(LEGEND_WIDTH * unit);
      canvas.height = Math.round(height * unit);
      canvas.style.width = `${LEGEND_WIDTH}px`;
      canvas.style.height = `${height}px`;
      drawLegend(contextOf(canvas), 0, 0, legend, ink, unit);
      const low = tickText(legend.negative ? -legend.scale : 0, legend.negative);
      canvas.ariaLabel = `${legendText(legend).join(', ')}: ${low} to ${tickText(legend.scale, legend.negative)}`;
    });
  }
}

/**
 * @param {string} selector
 * @param {string} message empty for none
 */
function show(selector, message) {
  const element = find(selector, HTMLElement);
  element.textContent = message;
  element.hidden = message === '';
}

/**
 * @param {HTMLElement} element
 * @param {string} text
 */
function setText(element, text) {
  // A live region is read again where its text is set again.
  if (element.textContent !== text) element.textContent = text;
}
