"""One query under several models, by their indexes; ``tests/commands`` has the command."""

import shutil
from pathlib import Path

import pytest

from common import ARTIFACTS, SAMPLES
from simmap.engine import ConfigError, Engine, ImageError, Index, contrast_indexes, find_images, update_index
from simmap.engine.decompose import View

AVG = ARTIFACTS / "avg.onnx"


def test_a_query_that_is_no_file_finds_its_own_photo(tmp_path: Path) -> None:
    engine = Engine(AVG, device="cpu")
    index = Index.create(tmp_path / "ix", engine, SAMPLES)
    update_index(index, engine, find_images(SAMPLES)[:4])
    query = SAMPLES / "aero1.jpg"
    (row,) = contrast_indexes([engine], query.read_bytes(), [index], k=2).rows
    assert (row.name, row.recall_at_1, row.correlation) == ("avg", None, None)
    assert row.candidates[0].image.path == str(query)
    assert row.candidates[0].score == pytest.approx(1, abs=1e-6)
    for candidate in row.candidates:
        for values in candidate.maps:
            assert values.sum() == pytest.approx(candidate.score, abs=1e-5)
    (row,) = contrast_indexes([engine], query, [index], k=2).rows
    assert str(query) not in [one.image.path for one in row.candidates]


@pytest.mark.parametrize("view", ["contribution", "influence"])
def test_a_photo_that_is_gone_names_the_index_and_the_mend(tmp_path: Path, view: View) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("aero1.jpg", "aero3.jpg"):
        shutil.copy(SAMPLES / name, photos)
    engine = Engine(AVG, device="cpu")
    index = Index.create(tmp_path / "ix", engine, photos)
    update_index(index, engine, find_images(photos))
    gone = photos / "aero3.jpg"
    gone.unlink()
    with pytest.raises(ImageError, match=rf"ix: .*{gone.name}: .*, or bring the index up to date$"):
        contrast_indexes([engine], SAMPLES / "aero1.jpg", [index], k=2, view=view)


def test_each_model_needs_one_index_and_one_name(tmp_path: Path) -> None:
    engine = Engine(AVG, device="cpu")
    index = Index.create(tmp_path / "ix", engine, SAMPLES)
    query = SAMPLES / "aero1.jpg"
    with pytest.raises(ConfigError, match="there are 1 indexes for 2 models"):
        contrast_indexes([engine, engine], query, [index])
    with pytest.raises(ConfigError, match="there are 0 indexes for 0 models"):
        contrast_indexes([], query, [])
    with pytest.raises(ConfigError, match="there are 2 names for 1 models"):
        contrast_indexes([engine], query, [index], names=["a", "b"])
    with pytest.raises(ConfigError, match="k is 0"):
        contrast_indexes([engine], query, [index], k=0)
