"""Class maps against the double loop over pairs, contrasts against single comparisons, and their pictures."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from common import ARTIFACTS, MODEL, PHOTOS, SAMPLES
from simmap.engine import ClassFigure, ContrastFigure, Engine
from simmap.engine.analysis.agreement import map_correlation
from simmap.engine.analysis.classes import class_maps
from simmap.engine.analysis.contrast import contrast
from simmap.engine.errors import ConfigError, ImageError
from simmap.engine.options import Options

NAMES = ("shipped", *sorted(path.stem for path in ARTIFACTS.glob("*.onnx") if path.stem != "fragile"))
FILES = [*sorted(PHOTOS.glob("*.jpg")), *sorted(SAMPLES.glob("*.jpg")), SAMPLES / "box.png"]


def opened(name: str) -> Engine:
    model = MODEL if name == "shipped" else ARTIFACTS / f"{name}.onnx"
    return Engine(model, device="cpu", options=Options(threads=1))


def naive_map(parts: np.ndarray, e: np.ndarray, other: np.ndarray) -> np.ndarray:
    """M[x] = parts[x] . e_j / (|e_i| |e_j|), place by place in float64."""
    e, other = e.astype(np.float64), other.astype(np.float64)
    values = [[(place.astype(np.float64) * other).sum() for place in row] for row in parts]
    return np.array(values) / np.sqrt((e * e).sum() * (other * other).sum())


@pytest.mark.parametrize("name", NAMES)
def test_class_maps_equal_the_double_loop_over_pairs(name: str) -> None:
    engine = opened(name)
    members, rest = FILES[:4], FILES[4:]
    images, others = list(engine.embed(members)), list(engine.embed(rest))
    for outside in (None, np.array([image.embedding for image in others])):
        found = class_maps(engine, members, outside=outside)
        for i, image in enumerate(images):
            pairs = [naive_map(image.parts, image.embedding, images[j].embedding) for j in range(4) if j != i]
            expected = sum(pairs) / 3
            if outside is not None:
                away = [naive_map(image.parts, image.embedding, other.embedding) for other in others]
                expected = expected - sum(away) / len(others)
            np.testing.assert_allclose(found.maps[i], expected, atol=1e-5)
            if engine.contract.bias is None and engine.contract.rest == "constant":
                assert found.cohesion[i] == pytest.approx(expected.sum(), abs=1e-5)


def test_the_most_typical_member_comes_first() -> None:
    engine = opened("shipped")
    photos = sorted(PHOTOS.glob("*.jpg"))
    found = class_maps(engine, [SAMPLES / "fruits.jpg", *photos])
    report = ClassFigure(found).data()
    assert Path(report["images"][-1]["path"]).name == "fruits.jpg"
    assert np.array(report["images"][0]["map"]).sum() == pytest.approx(
        report["images"][0]["cohesion"], abs=1e-5
    )
    picture = ClassFigure(found, "three photos").picture()
    assert picture.dtype == np.uint8 and picture.std() > 20


def test_an_outside_that_points_nowhere_takes_nothing_off() -> None:
    engine = opened("avg")
    direction = np.random.default_rng(0).normal(size=8).astype(np.float32)
    alone = class_maps(engine, FILES[:3])
    for outside in (np.stack([direction, -direction]), np.empty((0, 8), np.float32)):
        for one, other in zip(alone.maps, class_maps(engine, FILES[:3], outside=outside).maps, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-7)


def test_the_picture_of_a_large_class_stays_a_picture() -> None:
    engine = opened("avg")
    rng = np.random.default_rng(0)
    members = list(rng.integers(0, 256, (62, 8, 8, 3), dtype=np.uint8))
    large = class_maps(engine, members)
    assert len(large.maps) == len(ClassFigure(large).data()["images"]) == 62
    few = class_maps(engine, members[:60])
    assert ClassFigure(large, "noise").picture().shape == ClassFigure(few, "noise").picture().shape


def test_what_is_no_class_is_told(tmp_path: Path) -> None:
    engine = opened("avg")
    with pytest.raises(ConfigError, match="at least two images to have something in common"):
        class_maps(engine, FILES[:1])
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"bad\.jpg"):
        class_maps(engine, [*FILES[:2], tmp_path / "bad.jpg"])


def test_contrast_gives_what_each_model_says_alone() -> None:
    engines = [opened("shipped"), opened("avg"), opened("max")]
    found = contrast(engines, FILES[0], FILES[1:4], names=["a", "b", "c"])
    assert [row.name for row in found.rows] == ["a", "b", "c"]
    for engine, row in zip(engines, found.rows, strict=True):
        assert row.recall_at_1 is None
        for candidate, path in zip(row.candidates, FILES[1:4], strict=True):
            pair = engine.compare(FILES[0], path)
            assert candidate.score == pytest.approx(pair.score, abs=1e-6)
            for one, other in zip(candidate.maps, pair.maps, strict=True):
                np.testing.assert_allclose(one, other, atol=1e-6)
    assert found.rows[0].correlation is None
    expected = []
    for first, second in zip(found.rows[0].candidates, found.rows[1].candidates, strict=True):
        for a, b in zip(first.maps, second.maps, strict=True):
            # avg.onnx has 8 x 8 cells, the shipped model 7 x 7
            a = cv2.resize(a.astype(np.float64), (8, 8), interpolation=cv2.INTER_LINEAR)
            expected.append(np.corrcoef(a.ravel(), b.ravel())[0, 1])
    assert found.rows[1].correlation == pytest.approx(np.mean(expected), abs=1e-9)


def test_each_model_shows_its_own_best_but_never_the_query(tmp_path: Path) -> None:
    for path in FILES:
        shutil.copy(path, tmp_path)
    files = sorted(map(str, tmp_path.iterdir()))
    query = str(tmp_path / "aero1.jpg")
    labels = ["aerial" if "aero" in name else "statue" if "buddha" in name else None for name in files]
    engines = [opened("shipped"), opened("max")]
    found = contrast(engines, query, files, labels=labels, k=3)
    for engine, row in zip(engines, found.rows, strict=True):
        scores = {path: engine.compare(query, path).score for path in files if path != query}
        best = sorted(scores, key=lambda path: -scores[path])[:3]
        assert [candidate.image.path for candidate in row.candidates] == best
        nearest = {}
        for path, label in zip(files, labels, strict=True):
            others = {other: engine.compare(path, other).score for other in files if other != path}
            if label is not None:
                nearest[path] = labels[files.index(max(others, key=others.__getitem__))] == label
        assert row.recall_at_1 == pytest.approx(np.mean(list(nearest.values())))
    # The shipped model knows the other aerial photo.
    assert Path(found.rows[0].candidates[0].image.path).name == "aero3.jpg"
    report = ContrastFigure(found).data()
    assert report["rows"][0]["model"] == str(MODEL) and len(report["rows"][1]["candidates"]) == 3
    for row in report["rows"]:
        for one in row["candidates"]:
            assert one["label"] == labels[files.index(one["path"])]
    picture = ContrastFigure(found).picture()
    assert picture.std() > 20 and picture.shape[0] > 400


def test_rows_are_told_apart_by_their_folders_where_the_files_are_called_alike(tmp_path: Path) -> None:
    for pooling in ("avg", "max"):
        (tmp_path / pooling).mkdir()
        shutil.copy(ARTIFACTS / f"{pooling}.onnx", tmp_path / pooling / "last.onnx")
    alike = [
        Engine(tmp_path / pooling / "last.onnx", device="cpu", options=Options(threads=1))
        for pooling in ("avg", "max")
    ]
    found = contrast(alike, FILES[0], FILES[1:2])
    assert [row.name for row in found.rows] == ["avg/last", "max/last"]
    assert [row.name for row in contrast(alike[:1], FILES[0], FILES[1:2]).rows] == ["last"]


def test_contrasts_that_cannot_be_are_told() -> None:
    engine = opened("avg")
    with pytest.raises(ConfigError, match="2 names for 1 models"):
        contrast([engine], FILES[0], FILES[1:], names=["a", "b"])
    with pytest.raises(ConfigError, match="1 labels for 2 images"):
        contrast([engine], FILES[0], FILES[1:3], labels=["a"])
    with pytest.raises(ConfigError, match="at least one model and one image"):
        contrast([], FILES[0], FILES[1:])
    with pytest.raises(ConfigError, match="k is 0, must be 1 or more"):
        contrast([engine], FILES[0], FILES[1:], k=0)
    with pytest.raises(ConfigError, match=f"{FILES[0].name}: is the only image to choose from"):
        contrast([engine], FILES[0], FILES[:1], k=1)


def test_the_correlation_of_maps_is_pearsons() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 5, 6))
    assert map_correlation(a, b) == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1])
    assert map_correlation(a, 3 * a + 2) == pytest.approx(1)
    assert map_correlation(a, np.ones((5, 6))) == 0
