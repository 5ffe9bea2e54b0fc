"""Pillow's warnings and log, which would stand beside the one line of our error."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast


class _ThisThread(threading.local):
    """Whether this thread decodes, in the forms in which ``warnings`` and ``logging`` ask."""

    decoding = False

    def match(self, _module: str) -> bool:
        return self.decoding

    def filter(self, _record: logging.LogRecord) -> bool:
        return not self.decoding


_this_thread = _ThisThread()
_entry = ("ignore", None, Warning, _this_thread, 0)
_lock = threading.Lock()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings and the log of Pillow in this thread alone.

    ``warnings.catch_warnings`` would change the filters of all threads. Here one entry stays among them,
    which matches nothing but what a thread inside this context says.
    """
    filters = cast(list[Any], warnings.filters)
    with _lock:
        # First, and again where the process has since put others before it or thrown all away.
        if not filters or filters[0] is not _entry:
            filters[:] = [_entry, *(entry for entry in filters if entry is not _entry)]
        logging.getLogger("PIL.TiffImagePlugin").addFilter(_this_thread)
    before = _this_thread.decoding
    _this_thread.decoding = True
    try:
        yield
    finally:
        _this_thread.decoding = before
