// Browsers load no modules for a page that is opened as a file, so that this is the only script that runs there.

if (location.protocol === 'file:') document.getElementById('from-file')?.removeAttribute('hidden');
