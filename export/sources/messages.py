"""Libraries kept quiet, and words for errors."""

import contextlib
import difflib
import io
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence

import torch

from simmap.engine.errors import printable


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No warnings, prints or log lines: libraries report on themselves, and errors are raised anyway."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            with contextlib.redirect_stderr(io.StringIO()):
                yield
    finally:
        logging.disable(level)


def suggest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, [k for k in known if not k.startswith("_")], n=3, cutoff=0.5)
    return f"; close to it: {', '.join(close)}" if close else ""


def first_few(items: Sequence[str]) -> str:
    return ", ".join(map(printable, items[:3])) + (", ..." if len(items) > 3 else "")


def shape_text(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return printable((lines[0] if lines else type(error).__name__)[:200])
