/** The view as the part of the address behind #, so that a link keeps it. */

/** @import { Look, Place, Quantity, View } from './scene.js' */
/** @import { Grid } from './types.js' */

import { START } from './scene.js';

const LOOKS = ['heat', 'photo', 'swipe'];
const QUANTITIES = ['contribution', 'influence'];

/** @typedef {{ side: 0 | 1, row: number, column: number }} Pin counting from 0 */
/**
 * @typedef {{
 *   view: Pick<View, 'look' | 'quantity' | 'contours' | 'opacity'>, pin: Pin | null, isExample: boolean
 * }} Link
 */

/**
 * What differs from the start of a view, for example `#example&view=influence&pin=a,3,4`.
 *
 * @param {View} view
 * @param {Pin | null} pin
 * @param {boolean} isExample
 * @returns {string}
 */
export function hashOf(view, pin, isExample) {
  const parts = [];
  if (isExample) parts.push('example');
  if (view.quantity !== START.quantity) parts.push(`view=${view.quantity}`);
  if (view.look !== START.look) parts.push(`look=${view.look}`);
  if (!view.contours) parts.push('contours=0');
  if (view.opacity !== START.opacity) parts.push(`opacity=${Math.round(100 * view.opacity)}`);
  if (pin) parts.push(`pin=${'ab'[pin.side]},${pin.row + 1},${pin.column + 1}`);
  return parts.join('&');
}

/**
 * What a hash says; what is invalid in it counts as not said.
 *
 * @param {string} hash
 * @returns {Link}
 */
export function linkOf(hash) {
  const says = new URLSearchParams(hash.replace(/^#/, ''));
  const look = says.get('look') ?? '';
  const quantity = says.get('view') ?? '';
  const opacity = Number(says.get('opacity') ?? Number.NaN) / 100;
  const pin = /^([ab]),([1-9]\d{0,3}),([1-9]\d{0,3})$/.exec(says.get('pin') ?? '');
  return {
    view: {
      look: LOOKS.includes(look) ? /** @type {Look} */ (look) : START.look,
      quantity: QUANTITIES.includes(quantity) ? /** @type {Quantity} */ (quantity) : START.quantity,
      contours: says.get('contours') !== '0',
      opacity: opacity >= 0 && opacity <= 1 ? opacity : START.opacity,
    },
    pin: pin && { side: pin[1] === 'a' ? 0 : 1, row: Number(pin[2]) - 1, column: Number(pin[3]) - 1 },
    isExample: says.has('example'),
  };
}

/**
 * @param {Pin | null} pin
 * @param {[Grid, Grid]} grids
 * @returns {Place | null} null where the map has no such cell
 */
export function placeOf(pin, grids) {
  if (pin === null) return null;
  const { rows, columns } = grids[pin.side];
  if (pin.row >= rows || pin.column >= columns) return null;
  return { side: pin.side, cell: pin.row * columns + pin.column };
}

/**
 * @param {Place | null} place
 * @param {[Grid, Grid]} grids
 * @returns {Pin | null}
 */
export function pinOf(place, grids) {
  if (place === null) return null;
  const { columns } = grids[place.side];
  return { side: place.side, row: Math.floor(place.cell / columns), column: place.cell % columns };
}
