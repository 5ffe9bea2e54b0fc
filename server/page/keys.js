/** The keyboard on the panels: a cell that moves, a region that grows, pinning and clearing. */

/** @import { Pair } from './types.js' */
/** @import { Place, Region, Side, View } from './scene.js' */
/** @import { Stage } from './stage.js' */
/** @import { Point } from './places.js' */

import { cellBox, rectangle } from './places.js';
import { matchesOf, otherSide, strongest } from './scene.js';

/** @type {Record<string, [number, number]>} rows and columns */
const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

/**
 * @typedef {{
 *   view: () => View, hover: (place: Place | null) => void, pin: (place: Place) => void,
 *   draw: (region: Region | null) => void, toggle: () => void, clear: () => void
 * }} Actions
 */

/**
 * @param {Stage} stage
 * @param {Actions} actions
 */
export function followKeys(stage, actions) {
  /** @type {Place | null} where a region starts */
  let anchor = null;
  for (const side of /** @type {const} */ ([0, 1])) {
    const panel = stage.panels[side];
    panel.addEventListener('focus', () => {
      if (stage.pair === null || !panel.matches(':focus-visible')) return;
      anchor = null;
      actions.hover(firstPlace(stage.pair, side, actions.view()));
    });
    panel.addEventListener('blur', () => actions.hover(null));
    panel.addEventListener('keydown', (event) => {
      const { pair } = stage;
      if (pair === null || event.target !== panel || event.ctrlKey || event.metaKey || event.altKey) return;
      const view = actions.view();
      const here = view.hover?.side === side ? view.hover : firstPlace(pair, side, view);
      if (event.key in ARROWS) {
        const next = moved(pair, here, ARROWS[event.key]);
        actions.hover(next);
        if (event.shiftKey) {
          anchor ??= here;
          actions.draw(regionBetween(stage, pair, anchor, next));
        } else anchor = null;
      } else if (event.key === 'Enter') actions.pin(here);
      else if (event.key === ' ') actions.toggle();
      else return;
      event.preventDefault();
    });
  }
  document.addEventListener('keydown', (event) => {
    if (event.key === 'Escape' && document.querySelector('dialog[open]') === null) {
      anchor = null;
      actions.clear();
    }
    if (event.key === ' ' && event.target === document.body && stage.pair !== null) {
      actions.toggle();
      event.preventDefault();
    }
  });
}

/**
 * Where the cell starts on a photo: at the best match of the other photo's pinned cell, else at the strongest.
 *
 * @param {Pair} pair
 * @param {Side} side
 * @param {View} view
 * @returns {Place}
 */
function firstPlace(pair, side, { pin }) {
  if (pin?.side === side) return pin;
  const values = pin?.side === otherSide(side) ? matchesOf(pair, pin) : pair.maps[side];
  return { side, cell: strongest(values, 1)[0] };
}

/**
 * @param {Pair} pair
 * @param {Place} place
 * @param {[number, number]} step rows, columns
 * @returns {Place}
 */
function moved({ grids }, { side, cell }, [down, across]) {
  const { rows, columns } = grids[side];
  const row = Math.min(Math.max(Math.floor(cell / columns) + down, 0), rows - 1);
  const column = Math.min(Math.max((cell % columns) + across, 0), columns - 1);
  return { side, cell: row * columns + column };
}

/**
 * The cells between two, as far as they lie on the photo.
 *
 * @param {Stage} stage
 * @param {Pair} pair
 * @param {Place} one
 * @param {Place} other
 * @returns {Region | null}
 */
function regionBetween(stage, pair, one, other) {
  const photo = stage.photos[one.side];
  if (photo === null) return null;
  const [first, second] = [one, other].map(({ cell }) => cellBox(pair.grids[one.side], cell));
  const left = Math.max(Math.min(first[0], second[0]), 0);
  const top = Math.max(Math.min(first[1], second[1]), 0);
  const right = Math.min(Math.max(first[2], second[2]), photo.width);
  const bottom = Math.min(Math.max(first[3], second[3]), photo.height);
  /** @type {Point[]} */
  const polygon = rectangle([left, top, right, bottom]);
  return left < right && top < bottom ? { side: one.side, polygon } : null;
}
