"""A bar on stderr, on a terminal only."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Give a function that draws how many of how many ``what`` are done; the bar goes at the end."""
    on_terminal = sys.stderr.isatty()

    def draw(done: int, total: int) -> None:
        if on_terminal:
            bar = "#" * (30 * done // max(total, 1))
            print(f"\r[{bar:30}] {done} of {total} {what}", end="", file=sys.stderr, flush=True)

    try:
        yield draw
    finally:
        if on_terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
