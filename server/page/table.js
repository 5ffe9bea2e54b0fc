/** The strongest cells of both photos as tables. */

/** @import { Pair, Photo } from './types.js' */
/** @import { Place, View } from './scene.js' */

import { make } from './dom.js';
import { cellName } from './places.js';
import { samePlace, strongest } from './scene.js';
import { numberText, shareText, signedText } from './scale.js';
import { SIDES } from './words.js';

const ROWS = 8;

/**
 * @param {Element} into
 * @param {Pair} pair
 * @param {[Photo, Photo]} photos
 * @param {View} view
 * @param {(place: Place) => void} onPin
 */
export function fillTables(into, pair, photos, view, onPin) {
  const tables = ([0, 1]).map((at) => {
    const side = /** @type {0 | 1} */ (at);
    const values = view.quantity === 'contribution' ? pair.maps[side] : pair.influence[side].map(Math.abs);
    const table = document.createElement('table');
    table.append(make('caption', `${SIDES[side]}, ${photos[side].name}`));
    const head = table.createTHead().insertRow();
    for (const word of ['cell', 'contribution', 'share', 'influence']) {
      const cell = make('th', word);
      cell.scope = 'col';
      head.append(cell);
    }
    const body = table.createTBody();
    for (const cell of strongest(values, ROWS)) {
      const row = body.insertRow();
      const name = make('th', '');
      name.scope = 'row';
      const button = make('button', cellName(pair.grids[side], cell));
      button.type = 'button';
      button.addEventListener('click', () => onPin({ side, cell }));
      button.dataset.place = `${side},${cell}`;
      name.append(button);
      row.append(
        name,
        make('td', numberText(pair.maps[side][cell])),
        make('td', shareText(pair.maps[side][cell], pair.score) || '–'),
        make('td', signedText(pair.influence[side][cell])),
      );
    }
    return table;
  });
  into.replaceChildren(...tables);
}

/**
 * Tell which of the cells is pinned.
 *
 * @param {Element} tables
 * @param {Place | null} pin
 */
export function markPin(tables, pin) {
  for (const button of tables.querySelectorAll('button')) {
    const [side, cell] = (button.dataset.place ?? '').split(',').map(Number);
    button.setAttribute('aria-pressed', String(samePlace(pin, { side: side === 0 ? 0 : 1, cell })));
  }
}
