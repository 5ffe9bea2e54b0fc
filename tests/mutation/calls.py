"""Which functions each test calls, and how long it takes.

``noting`` is a source whose functions write their names down in ``current``, and the rest of the file is a
pytest plugin that asks for these names. ``MUTATION_CALLS`` names the folder of its output: a file for each
process of pytest, with a line of JSON for each test that passes (a failure tells nothing of a mutant):
[test, [seconds, ["engine/files.py:replacing", ...]]], with the qualified name of each function. Calls of
fixtures count for all tests that use them; calls in other processes are not seen.
"""

import ast
import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

current: set[str] = set()
_of_fixtures: dict[Any, set[str]] = defaultdict(set)
_failed: set[str] = set()


def noting(source: str, path: str) -> str:
    """The module at ``path`` with a first line in each function that writes its name down."""
    tree = ast.parse(source)

    def visit(node: ast.AST, scope: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef):
                visit(child, f"{scope}{child.name}.<locals>.")
                line = f"__import__('calls').current.add({path + ':' + scope + child.name!r})"
                at = 0 if ast.get_docstring(child) is None else 1
                child.body[at:at] = ast.parse(line).body
            else:
                visit(child, f"{scope}{child.name}." if isinstance(child, ast.ClassDef) else scope)

    visit(tree, "")
    return ast.unparse(ast.fix_missing_locations(tree))


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any) -> Iterator[None]:
    global current
    around, current = current, _of_fixtures[fixturedef]
    try:
        return (yield)
    finally:
        around |= current
        current = around


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: Any) -> Iterator[None]:
    global current
    current, started = set(), time.monotonic()
    try:
        return (yield)
    finally:
        seconds = time.monotonic() - started
        used = [one for name in item.fixturenames for one in item._fixtureinfo.name2fixturedefs.get(name, ())]
        called = sorted(current.union(*(_of_fixtures[fixture] for fixture in used)))
        path = Path(os.environ["MUTATION_CALLS"]) / f"{os.getpid()}.jsonl"
        if item.nodeid not in _failed:
            with path.open("a") as stream:
                stream.write(json.dumps([item.nodeid, [seconds, called]]) + "\n")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        _failed.add(report.nodeid)
