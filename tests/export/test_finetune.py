"""The training example, run as its documentation says, on a small network and drawn images."""

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st

from common import Simmap
from simmap.engine import decompose
from simmap.engine.dataset import Item
from simmap.engine.errors import ConfigError
from simmap.export.finetune import _batches, _varied, finetune, main, pool, split
from simmap.export.recipe import load_recipe

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
    """The example's command line, in this process."""
    command = ["finetune", str(folder), str(folder / "recipe.yaml"), "-o", str(output), *more]
    out, err = io.StringIO(), io.StringIO()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small layers: threads would only wait for each other
    try:
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setattr(sys, "argv", command)
            code = main()
    finally:
        torch.set_num_threads(threads)
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())


def test_checkpoints_learn_export_and_contrast(folder: Path, simmap: Simmap, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = train(folder, run, "--epochs", "12", "--save", "0,12", "--learning-rate", "1e-3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(run / "epoch_000.pth"), str(run / "epoch_012.pth")]
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == [f"epoch {e}" for e in range(1, 13)]
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


def test_the_same_seed_gives_the_same_weights_in_a_process_of_its_own(folder: Path, tmp_path: Path) -> None:
    more = ["--epochs", "1", "--save", "1"]
    command = [sys.executable, "-m", "simmap.export.finetune", folder, folder / "recipe.yaml"]
    command += ["-o", tmp_path / "a", *more]
    # One thread, as in ``train``: sums in another order give other numbers.
    told = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    done = train(folder, tmp_path / "b", *more)
    assert done.stderr == told.stderr
    first, second = (torch.load(tmp_path / name / "epoch_001.pth") for name in ("a", "b"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = train(folder, tmp_path / "c", *more, "--seed", "1")
    assert other.returncode == 0 and other.stderr != told.stderr


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
        # Adam takes steps of about the learning rate, which is 1e-4.
        moved = max(float((after[key] - before[key]).abs().max()) for key in after if key.endswith("weight"))
        assert 1e-5 < moved < 1e-2


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


def items(**sizes: int) -> list[Item]:
    """So many images of each label; those of ``none`` have no label."""
    return [
        Item(f"{label}/{at}.png", None if label == "none" else label)
        for label, count in sizes.items()
        for at in range(count)
    ]


def test_half_of_each_class_of_four_or_more_is_held_out() -> None:
    given = items(b=5, a=4, few=3, none=6)
    training, held_out = split(given, np.random.default_rng(0), whole=False)
    assert [item.label for item in training] == ["a", "a", "b", "b"]
    assert [item.label for item in held_out] == ["a", "a", "b", "b", "b"]
    assert {item.path for item in [*training, *held_out]} == {i.path for i in given if i.label in ("a", "b")}
    training, held_out = split(given, np.random.default_rng(0), whole=True)
    assert [item.label for item in training] == ["a"] * 4 + ["b"] * 5 and held_out == []
    for one in (items(a=4, few=3), items(none=8), []):
        with pytest.raises(ConfigError, match="at least two sub-folders"):
            split(one, np.random.default_rng(0), whole=False)


def test_a_varied_image_is_a_large_part_of_it_scaled_back_and_flipped_every_other_time() -> None:
    # given an image whose columns say where they come from
    columns = np.arange(0, 240, dtype=np.uint8)
    image = np.repeat(np.tile(columns, (60, 1))[..., None], 3, axis=2)
    rng = np.random.default_rng(0)
    flipped, spans, starts, rows = 0, [], [], []
    for _ in range(200):
        varied = _varied(image, rng)
        assert varied.shape == image.shape and varied.dtype == np.uint8
        line = varied[0, :, 0].astype(int)
        flipped += int(line[0] > line[-1])
        spans.append(abs(line[-1] - line[0]) + 1)
        starts.append(line.min())
    assert 70 < flipped < 130
    # then at least three quarters of the side are there, wherever they lie
    assert 0.73 * 240 <= min(spans) < 0.8 * 240 and 0.95 * 240 < max(spans) <= 240
    assert min(starts) <= 2 and max(starts) > 40
    tall = np.repeat(np.arange(0, 240, dtype=np.uint8)[:, None, None], 60, axis=1).repeat(3, axis=2)
    rows = [_varied(tall, rng)[:, 0, 0].astype(int) for _ in range(50)]
    assert all(row[0] < row[-1] for row in rows)  # never upside down
    assert min(row[0] for row in rows) <= 2 and max(row[-1] for row in rows) >= 237


@pytest.mark.parametrize(
    ("flags", "given", "told"),
    [
        ({"timm": None, "torchvision": "resnet18"}, {}, "give a recipe with the key 'timm'"),
        ({"conv_layer": "layer1"}, {}, "leave conv_layer out of the recipe"),
        ({}, {"save": []}, r"the epochs to save are \[\], must lie between 0 and 2"),
        ({}, {"save": [-1]}, "must lie between 0 and 2"),
        ({}, {"save": [0, 3]}, "must lie between 0 and 2"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    flags: dict[str, Any], given: dict[str, Any], told: str, folder: Path, tmp_path: Path
) -> None:
    recipe = load_recipe(None, {"timm": "resnet10t", "size": 32, **flags})
    with pytest.raises(ConfigError, match=told):
        finetune(folder, recipe, tmp_path / "run", epochs=2, **given)
    assert not (tmp_path / "run").exists()


def test_the_recipe_that_is_written_has_what_the_architecture_says(folder: Path, tmp_path: Path) -> None:
    recipe = load_recipe(None, {"timm": "resnet10t", "pool": "max", "size": [32, 64], "dynamic": True})
    (tmp_path / "run").mkdir()  # an empty folder will do
    first, second = finetune(folder, recipe, tmp_path / "run", epochs=1, save=[0, 1], whole=True)
    assert (first.name, second.name) == ("epoch_000.pth", "epoch_001.pth")
    # Adam takes steps of about the learning rate, which is 1e-4.
    before, after = torch.load(first), torch.load(second)
    assert 1e-5 < float((after["conv1.0.weight"] - before["conv1.0.weight"]).abs().max()) < 1e-2
    written = load_recipe(tmp_path / "run" / "recipe.yaml", {})
    config = timm.create_model("resnet10t").pretrained_cfg
    assert (written.timm, written.pool, written.size, written.weights) == ("resnet10t", "max", (32, 64), None)
    assert written.dynamic
    assert written.mean == tuple(config["mean"]) and written.std == tuple(config["std"])
    assert written.crop_fraction == config["crop_pct"]


def test_without_the_library_the_command_that_installs_it_is_told(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning.losses", None)
    done = train(folder, tmp_path / "run")
    assert done.returncode == 1 and "run: pip install 'simmap[train]'" in done.stderr


def test_epochs_that_are_no_numbers_are_wrong_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["finetune", "photos", "recipe.yaml", "-o", "run", "--save", "1,x"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and "--save is '1,x', must be numbers" in capsys.readouterr().err


def test_the_training_pools_as_the_artifact_does() -> None:
    conv = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    for kind in decompose.POOLINGS:
        trained = pool(torch.from_numpy(conv), kind, 2.5).numpy()
        np.testing.assert_allclose(trained, decompose.pool(conv, kind, p=2.5), rtol=1e-4, atol=1e-6)
