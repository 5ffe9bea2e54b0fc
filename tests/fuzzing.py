"""One try of a fuzzer: what it may do, how long and with how much memory, and where its input is kept.

The suite makes a fixed number of tries, the same on every run. ``tests/fuzz/run.py`` makes others, for a
time. It sets two variables: ``SIMMAP_FUZZ`` is the folder where the input of a failure is left,
``SIMMAP_FUZZ_SECONDS`` the time that the tests of a process share.
"""

import faulthandler
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from simmap.engine.errors import SimmapError

HANGS = 300  # seconds after which the process ends with a traceback; a busy machine takes its time
SECONDS = 40  # of computing, for one try
MEGABYTES = 700  # by which one try may raise the peak of the process
FOLDER = os.environ.get("SIMMAP_FUZZ")
_tests = 0  # that share the time


def fuzzed(
    tries: int, **strategies: st.SearchStrategy[Any]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a test for many inputs, which it makes by its argument ``draw``, a ``random.Random``.

    Args:
        tries: how many in the suite.
        strategies: of more arguments.
    """
    count, fresh = tries, dict[str, Any]()
    if FOLDER is not None:
        count = 10**6
        # What fails is kept as it is: making it smaller would take up to five minutes.
        phases = [phase for phase in Phase if phase not in (Phase.shrink, Phase.explain)]
        fresh = {"derandomize": False, "database": None, "phases": phases}

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        timed = test if FOLDER is None else _timed(test)
        drawn = given(draw=st.randoms(use_true_random=False), **strategies)(timed)
        return settings(max_examples=count, suppress_health_check=list(HealthCheck), **fresh)(drawn)

    return decorate


def _timed(test: Callable[..., None]) -> Callable[..., None]:
    """A test that is skipped as soon as its share of the time is over."""
    global _tests
    _tests += 1
    end = 0.0

    @wraps(test)
    def timed(**arguments: Any) -> None:
        nonlocal end
        end = end or time.monotonic() + float(os.environ["SIMMAP_FUZZ_SECONDS"]) / _tests
        test(**arguments)
        # Not before: hypothesis counts on the same draws when it repeats a failure.
        if time.monotonic() > end:
            pytest.skip("its time is over")

    return timed


@contextmanager
def trial(kind: str, **inputs: bytes) -> Iterator[None]:
    """Run what is inside: it may raise SimmapError, on one line, and nothing else.

    Args:
        kind: of the fuzzer.
        inputs: what it reads, by the name of a file.
    """
    kept = None if FOLDER is None else Path(FOLDER) / kind / str(os.getpid())
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        for name, data in inputs.items():
            (kept / name).write_bytes(data)
    # pytest keeps the standard streams of a process that ends like this to itself.
    traceback = sys.__stderr__ if kept is None else (kept / "hang.txt").open("w")
    faulthandler.dump_traceback_later(HANGS, exit=True, file=traceback)
    started, peak = time.process_time(), _peak()
    try:
        with refusing():
            yield
    finally:
        faulthandler.cancel_dump_traceback_later()
    assert time.process_time() - started < SECONDS, "takes too long"
    assert _peak() - peak < MEGABYTES, f"takes {_peak() - peak:.0f} MB"
    if kept is not None and traceback is not None:
        traceback.close()
        for name in ("hang.txt", *inputs):
            (kept / name).unlink()
        with (Path(FOLDER or "") / f"{kind}.tries").open("a") as log:
            log.write(".")


@contextmanager
def refusing() -> Iterator[None]:
    """Let a SimmapError pass that is one printable line."""
    try:
        yield
    except SimmapError as error:
        line = str(error)
        assert line and line.isprintable(), repr(line)


def _peak() -> float:
    """Megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
