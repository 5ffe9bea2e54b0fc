"""Arguments and files that a command refuses, each by its own words; ``tests/fuzz`` tries many more."""

import json
from pathlib import Path

import numpy as np
import pytest
from every_kind import LONG, write_files

from common import Simmap, failed


@pytest.fixture
def folder(tmp_path: Path, simmap: Simmap) -> Path:
    """Files of every kind that an argument may name."""
    root = tmp_path / "cwd"
    write_files(root, simmap)
    return root


def test_empty_arrays_and_numbers_that_cannot_be_are_named(simmap: Simmap, folder: Path) -> None:
    failed(simmap("search", "ix", "--embedding", "empty.npy"), "empty.npy: is no .npy file")
    failed(simmap("search", "ix", "--embedding", "zeros.npy"), "zeros.npy: holds no embeddings")
    failed(simmap("contribution", "--folder", "photos", "-o", "c.png", "--seed", "-1"), "--seed", code=2)
    failed(simmap("contribution", "--folder", "photos", "-o", "c.png", "--pairs", "0"), "--pairs", code=2)
    failed(simmap("compare", "a.png", "b.png", "--scale", "nan"), "scale is nan")
    failed(simmap("compare", LONG, "b.png"), "File name too long")


def test_negative_numbers_are_values_not_options(simmap: Simmap, folder: Path) -> None:
    query = "photos/a/1.png"
    for region in (["--region=-5,-5,100,100"], ["--region", "-5,-5,100,100"]):
        done = simmap("search", "ix", query, *region, "--json")
        assert json.loads(done.stdout)["region"]["boxes"] == [[-5, -5, 100, 100]]


def test_rows_of_an_embedding_file_are_told_apart(simmap: Simmap, folder: Path) -> None:
    one = np.load(folder / "one.npy")
    np.save(folder / "two.npy", np.concatenate([one, one]))
    done = json.loads(simmap("search", "ix", "--embedding", "two.npy", "--json").stdout)
    assert [query["query"] for query in done] == ["two.npy row 0", "two.npy row 1"]
    assert json.loads(simmap("search", "ix", "--embedding", "one.npy", "--json").stdout)["query"] == "one.npy"


def test_one_image_is_no_class(simmap: Simmap, folder: Path) -> None:
    (folder / "photos" / "a" / "2.png").unlink()
    failed(simmap("class", "photos/a", "-o", "c.png"), "a class needs at least two images; photos/a has 1")


def test_the_old_spelling_of_models_names_the_new_one(simmap: Simmap) -> None:
    done = simmap("contrast", "--models", "a.onnx", "b.onnx", "q.jpg", "i.jpg", "-o", "c.png")
    failed(done, "--model A.onnx --model B.onnx", code=2)
