"""Paths and types that the tests share."""

import subprocess
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "models" / "efficientnet_lite0.onnx"
PHOTOS = ROOT / "models" / "photos"
ARTIFACTS = ROOT / "tests" / "artifacts"
SAMPLES = ROOT / "tests" / "photos"

Simmap = Callable[..., "subprocess.CompletedProcess[str]"]
