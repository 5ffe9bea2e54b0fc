"""A pytest plugin that writes down which functions each test calls, and how long it takes.

``MUTATION_CALLS`` names the folder of its output: a JSON object for each process of pytest, from a test to
[seconds, ["engine/files.py:replacing", ...]], with the qualified name of each function. Calls of fixtures
count for all tests that use them; calls in other processes are not seen.
"""

import json
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

ROOT = Path.cwd()
_calls: dict[Any, set[CodeType]] = defaultdict(set)  # of a test or fixture
_current: set[CodeType] = set()
_tests: dict[str, tuple[float, list[str]]] = {}
_failed: set[str] = set()


def _profile(frame: FrameType, event: str, _: object) -> None:
    if event == "call":
        _current.add(frame.f_code)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any) -> Iterator[None]:
    global _current
    around, _current = _current, _calls[fixturedef]
    try:
        return (yield)
    finally:
        around |= _current
        _current = around


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: Any) -> Iterator[None]:
    global _current
    _current, started = set(), time.monotonic()
    threading.setprofile(_profile)
    sys.setprofile(_profile)
    try:
        return (yield)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        seconds = time.monotonic() - started
        used = [one for name in item.fixturenames for one in item._fixtureinfo.name2fixturedefs.get(name, ())]
        codes = _current.union(*(_calls[fixture] for fixture in used))
        _tests[item.nodeid] = seconds, sorted({place for code in codes if (place := _place(code))})


def _place(code: CodeType) -> str | None:
    path = Path(code.co_filename)
    if not path.is_absolute() or "simmap" not in path.parts:
        return None
    path = path.resolve()
    return f"{path.relative_to(ROOT)}:{code.co_qualname}" if path.is_relative_to(ROOT) else None


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:  # it tells nothing of a mutant
        _failed.add(report.nodeid)


def pytest_sessionfinish() -> None:
    passed = {name: test for name, test in _tests.items() if name not in _failed}
    path = Path(os.environ["MUTATION_CALLS"]) / f"{os.getpid()}.json"
    path.write_text(json.dumps(passed))
