"""The benchmarks run and print what they say; how fast anything is, is no test's business."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from common import ROOT

pytest.importorskip("threadpoolctl")
BENCH = ROOT / "tests" / "benchmarks" / "bench.py"


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(BENCH), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_one_command_prints_a_table_and_writes_it(tmp_path: Path) -> None:
    done = run("--only", "decomposition", "--turns", 1, "--json", tmp_path / "bench.json")
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "bench.json").read_text())
    assert written["machine"]["numpy"] in done.stdout
    names = [row["name"] for row in written["rows"]]
    assert len(set(names)) == len(names) > 5
    for row in written["rows"]:
        assert 0 < row["low"] <= row["median"] <= row["high"]
        assert any(line.startswith(row["name"]) and row["note"] in line for line in done.stdout.splitlines())


def test_an_unknown_benchmark_is_wrong_usage() -> None:
    done = run("--only", "everything")
    assert done.returncode == 2
    assert "decomposition" in done.stderr
