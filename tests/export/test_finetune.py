"""The training example, run as its documentation says, on a small network and drawn images."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st

from common import Simmap
from simmap.engine import decompose
from simmap.export.finetune import _batches, main, pool

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
    torch.manual_seed(0)
    torch.save(timm.create_model("resnet10t").state_dict(), root / "start.pth")
    (root / "recipe.yaml").write_text(
        "timm: resnet10t\nweights: start.pth\nsize: 48\nmean: [0.5, 0.5, 0.5]\nstd: [0.25, 0.25, 0.25]\n"
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


def test_the_statistics_of_a_norm_are_learned_from_scratch_and_kept_from_weights(
    folder: Path, tmp_path: Path
) -> None:
    for name, more in {"tuned": [], "scratch": ["--scratch"]}.items():
        done = train(folder, tmp_path / name, "--epochs", "1", "--save", "0,1", *more)
        assert done.returncode == 0, done.stderr
        before, after = (torch.load(tmp_path / name / f"epoch_00{step}.pth") for step in (0, 1))
        statistics = [key for key in after if key.endswith(("running_mean", "running_var"))]
        assert statistics
        assert {torch.equal(before[key], after[key]) for key in statistics} == {name == "tuned"}
        assert not all(torch.equal(before[key], after[key]) for key in after)


def test_the_whole_folder_can_be_trained_on_at_another_size(folder: Path, tmp_path: Path) -> None:
    done = train(folder, tmp_path / "run", "--whole", "--size", "32", "--epochs", "0", "--save", "0")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "run" / "held_out").exists()
    assert "- 32\n- 32\n" in (tmp_path / "run" / "recipe.yaml").read_text()


@given(st.lists(st.integers(1, 9), min_size=2, max_size=20), st.integers(0, 2**32))
def test_an_epoch_draws_few_images_of_few_classes_and_as_many_as_there_are(
    sizes: list[int], seed: int
) -> None:
    classes = np.repeat(np.arange(len(sizes)), sizes)
    batches = list(_batches(classes, np.random.default_rng(seed)))
    assert sum(map(len, batches)) >= len(classes)
    assert {int(c) for batch in batches for c in classes[batch]} == set(range(len(sizes)))
    for batch in batches:
        assert len(set(batch.tolist())) == len(batch)
        drawn = np.unique(classes[batch], return_counts=True)[1]
        assert len(drawn) <= 8 and drawn.max() <= 4


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
