"""The training example, run as its documentation says, on a small network and drawn images."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from common import Simmap
from simmap.engine import decompose
from simmap.export.finetune import main, pool

pytest.importorskip("pytorch_metric_learning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of stripes, told apart by their direction whatever their colours."""
    root = tmp_path_factory.mktemp("stripes")
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:48, :48]
    for label, wave in {"flat": y, "upright": x, "slanted": x + y}.items():
        (root / label).mkdir()
        for i in range(12):
            light = 0.5 + 0.5 * np.sin(wave * rng.uniform(0.7, 1.1) + rng.uniform(0, 6))
            colours = rng.integers(0, 256, (2, 3))
            picture = light[..., None] * colours[0] + (1 - light[..., None]) * colours[1]
            cv2.imwrite(str(root / label / f"{i:02}.png"), np.clip(picture, 0, 255).astype(np.uint8))
    (root / "recipe.yaml").write_text(
        "timm: resnet10t\nsize: 48\nmean: [0.5, 0.5, 0.5]\nstd: [0.25, 0.25, 0.25]\n"
    )
    return root


def train(folder: Path, output: Path, *more: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "simmap.export.finetune", folder, folder / "recipe.yaml", "-o", output]
    return subprocess.run(
        [*map(str, command), *more], capture_output=True, text=True, check=False,
        # Small layers: threads would only wait for each other.
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_checkpoints_learn_export_and_contrast(folder: Path, simmap: Simmap, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = train(folder, run, "--epochs", "12", "--save", "0,12", "--learning-rate", "1e-3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(run / "epoch_000.pth"), str(run / "epoch_012.pth")]
    links = sorted(run.glob("held_out/*/*.png"))
    assert len(links) == 18 and all(link.resolve().parent.parent == folder for link in links)

    recalls = []
    for step in ("000", "012"):
        model = run / f"epoch_{step}.onnx"
        made = simmap("export", run / "recipe.yaml", "--weights", run / f"epoch_{step}.pth", "-o", model)
        assert made.returncode == 0, made.stderr
        told = simmap("evaluate", run / "held_out", "--model", model, "--json")
        recalls.append(json.loads(told.stdout)["models"][0]["map_at_r"])
    # Images that were not trained on are told apart better than by random weights.
    assert recalls[1] > recalls[0] + 0.2, recalls

    made = simmap(
        "contrast", "--model", run / "epoch_000.onnx", "--model", run / "epoch_012.onnx", links[0],
        "--steps", "0,12", "--index-folder", run / "held_out", "-k", "2", "-o", "steps.png",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert "step 12" in made.stdout


def test_the_same_seed_gives_the_same_weights(folder: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        done = train(folder, tmp_path / name, "--epochs", "1", "--save", "1")
        assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / name / "epoch_001.pth") for name in ("a", "b"))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("photos", "arguments", "message"),
    [
        (".", ["--save", "3", "--epochs", "2"], "must lie between 0 and 2"),
        (".", ["-o", "FOLDER"], "exists already; give a new folder"),
        ("flat", [], "at least two sub-folders with at least four images"),
    ],
)
def test_mistakes_are_one_line(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    photos: str,
    arguments: list[str],
    message: str,
) -> None:
    given = [str(folder) if argument == "FOLDER" else argument for argument in arguments]
    command = [
        "finetune",
        str(folder / photos),
        str(folder / "recipe.yaml"),
        "-o",
        str(tmp_path / "run"),
        *given,
    ]
    monkeypatch.setattr(sys, "argv", command)
    assert main() == 1
    printed = capfd.readouterr()
    assert printed.err.startswith("simmap: ") and printed.err.count("\n") == 1
    assert message in printed.err and printed.out == ""
    assert not (tmp_path / "run").exists()


def test_the_training_pools_as_the_artifact_does() -> None:
    conv = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    for kind in decompose.POOLINGS:
        trained = pool(torch.from_numpy(conv), kind, 2.5).numpy()
        np.testing.assert_allclose(trained, decompose.pool(conv, kind, p=2.5), rtol=1e-4, atol=1e-6)
