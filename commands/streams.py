"""Standard output is ours alone, and what cannot be written to it is an error."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from simmap.engine.errors import OutputError


@contextmanager
def checked_streams() -> Iterator[None]:
    """Keep libraries that print from C off standard output, and flush it at the end.

    Raises:
        OutputError: standard output is closed or cannot be written.
        BrokenPipeError: its reader has gone.
    """
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    if sys.stdout is None:
        raise OutputError("standard output is closed; send it to /dev/null if it is not wanted")
    given = sys.stdout
    try:
        descriptor = given.fileno()
    except (OSError, ValueError):  # not a file: somebody captures it in memory
        yield
        return
    given.flush()
    private = os.dup(descriptor)
    sys.stdout = _Output(os.fdopen(private, "wb"), given.encoding, line_buffering=given.isatty())
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    try:
        yield
        sys.stdout.flush()
    finally:
        with suppress(OSError, OutputError):
            sys.stdout.flush()
        os.dup2(private, descriptor)
        # What is still in the buffer failed above; closing would try it again.
        os.dup2(nowhere, private)
        os.close(nowhere)
        sys.stdout.close()
        sys.stdout = given


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
