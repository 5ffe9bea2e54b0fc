"""Paths and types that the tests share."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "models" / "efficientnet_lite0.onnx"
PHOTOS = ROOT / "models" / "photos"
ARTIFACTS = ROOT / "tests" / "artifacts"
SAMPLES = ROOT / "tests" / "photos"

Simmap = Callable[..., "subprocess.CompletedProcess[str]"]


def failed(done: "subprocess.CompletedProcess[str]", message: str, code: int = 1) -> None:
    """One line on stderr that says it, the right exit code, nothing on stdout."""
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert done.stderr.startswith("simmap") and done.stderr.count("\n") == 1, done.stderr
    assert done.stdout == ""


def report(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    """What ``--json`` printed, nothing else."""
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    result = json.loads(done.stdout)
    assert isinstance(result, dict)
    return result
