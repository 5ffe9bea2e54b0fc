"""The standard streams are ours alone, and what cannot be written to standard output is an error."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, TextIO

from simmap.engine.errors import OutputError


@contextmanager
def checked_streams() -> Iterator[None]:
    """Keep what libraries print from C off both standard streams, and flush our output at the end.

    libtiff prints each damaged file on descriptor 2, beside our one line; others print on descriptor 1.

    Raises:
        OutputError: standard output is closed or cannot be written.
        BrokenPipeError: its reader has gone.
    """
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    if sys.stdout is None:
        raise OutputError("standard output is closed; send it to /dev/null if it is not wanted")
    with _private_errors(), _private_output():
        yield


@contextmanager
def _private_errors() -> Iterator[None]:
    """Point ``sys.stderr`` at a descriptor of its own, and descriptor 2 at nothing."""
    given = sys.stderr
    descriptor = _descriptor(given)
    if descriptor is None:
        yield
        return
    given.flush()
    private = os.dup(descriptor)
    sys.stderr = os.fdopen(private, "w", encoding=given.encoding, errors="backslashreplace", buffering=1)
    _silence(descriptor)
    try:
        yield
    finally:
        with suppress(OSError):
            sys.stderr.flush()
        os.dup2(private, descriptor)
        with suppress(OSError):
            sys.stderr.close()
        sys.stderr = given


@contextmanager
def _private_output() -> Iterator[None]:
    """The same for ``sys.stdout`` and descriptor 1; what cannot be written is an error."""
    given = sys.stdout
    descriptor = _descriptor(given)
    if descriptor is None:
        yield
        return
    given.flush()
    private = os.dup(descriptor)
    sys.stdout = _Output(os.fdopen(private, "wb"), given.encoding, line_buffering=given.isatty())
    _silence(descriptor)
    try:
        yield
        sys.stdout.flush()
    finally:
        with suppress(OSError, OutputError):
            sys.stdout.flush()
        os.dup2(private, descriptor)
        # What is still in the buffer failed above; closing would try it again.
        _silence(private)
        sys.stdout.close()
        sys.stdout = given


def _descriptor(stream: TextIO) -> int | None:
    """None for what is not a file: somebody captures it in memory."""
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None


def _silence(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


class _Output(io.TextIOWrapper):
    """Standard output, whose failures are errors of the output.

    A path that the terminal cannot show must not cost the results, so it is printed as escapes.
    """

    def __init__(self, file: BinaryIO, encoding: str, *, line_buffering: bool) -> None:
        super().__init__(file, encoding, "backslashreplace", line_buffering=line_buffering)

    def write(self, text: str) -> int:
        with _writing():
            return super().write(text)

    def flush(self) -> None:
        with _writing():
            super().flush()


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"standard output cannot be written: {error.strerror or error}") from error
