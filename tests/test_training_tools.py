"""The scripts that measure training runs and ways of resizing, on photos whose answers are known."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from common import ARTIFACTS, ROOT

pytest.importorskip("matplotlib")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of four photos of one pattern each, all but equal."""
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        pattern = rng.integers(20, 236, (40, 60, 3))
        for number in range(4):
            photo = (pattern + rng.integers(-2, 3, pattern.shape)).astype(np.uint8)
            cv2.imwrite(str(tmp_path / "photos" / label / f"{number}.png"), photo)
    return tmp_path


def run(folder: Path, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_curves_over_checkpoints_are_measured_once_and_drawn(folder: Path) -> None:
    script = ROOT / "examples" / "training_curves.py"
    (folder / "run").mkdir()
    for epoch in ("000", "002"):
        shutil.copy(ARTIFACTS / "avg.onnx", folder / "run" / f"epoch_{epoch}.onnx")
    command = (script, "run", "--photos", "photos", "-o", "curves.png")
    printed = run(folder, *command)
    lines = printed.splitlines()
    assert ["epoch  0" in lines[0], "epoch  2" in lines[1], len(lines)] == [True, True, 2]
    assert all("recall_at_1 1.000  map_at_r 1.000" in line for line in lines)
    kept = json.loads((folder / "run" / "epoch_002.json").read_text())
    (figures,) = kept.values()
    assert 0 <= figures["share"] <= 1 and (folder / "curves.png").stat().st_size > 0

    kept = {key: {**value, "share": 0.123} for key, value in kept.items()}
    (folder / "run" / "epoch_002.json").write_text(json.dumps(kept))
    assert "share 0.123" in run(folder, *command)


def test_every_way_of_resizing_retrieves_what_any_way_must(folder: Path) -> None:
    script = ROOT / "tests" / "benchmarks" / "recipes.py"
    printed = run(folder, script, "photos", "--model", ARTIFACTS / "avg.onnx")
    lines = printed.splitlines()
    assert lines[0] == "8 photos, 8 queries, 2 classes"
    assert len(lines) == 2 + 4 * 3
    assert all("1.000  1.000  1.000  +0.000 [+0.000, +0.000]" in line for line in lines[2:])
