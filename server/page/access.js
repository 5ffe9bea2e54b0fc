/** The key for a server that asks for one: typed once, and kept in memory until the page is left. */

import { find } from './dom.js';

let key = '';
/** @type {Promise<boolean> | null} while the dialog is open, for all requests that wait for it */
let asking = null;

/** The key that was typed last; empty for none. */
export function lastKey() {
  return key;
}

/**
 * Ask for another key than one that was refused.
 *
 * @param {string} refused empty where none was sent
 * @returns {Promise<boolean>} whether there is one
 */
export async function askForKey(refused) {
  if (key !== refused) return true; // typed while the request was on its way
  asking ??= showDialog(refused !== '').finally(() => {
    asking = null;
  });
  return asking;
}

/** @param {boolean} isRefused */
async function showDialog(isRefused) {
  const dialog = find('#key', HTMLDialogElement);
  const input = find('input', HTMLInputElement, dialog);
  find('.error', HTMLElement, dialog).hidden = !isRefused;
  input.value = '';
  dialog.returnValue = '';
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener('close', resolve, { once: true }));
  if (dialog.returnValue !== 'send') return false;
  key = input.value.trim();
  input.value = '';
  return true;
}
