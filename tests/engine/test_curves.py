"""Contribution curves against a naive sort, faithfulness against altering the photo by hand, and drawings."""

import subprocess
import sys
from itertools import combinations, islice
from pathlib import Path

import cv2
import numpy as np
import pytest

from common import ARTIFACTS, MODEL, PHOTOS, SAMPLES
from simmap.engine import ContributionFigure, Engine, FaithfulnessFigure
from simmap.engine.analysis.contribution import contribution_curve
from simmap.engine.analysis.faithfulness import faithfulness
from simmap.engine.errors import ConfigError, OutputError

FILES = [str(p) for p in (*sorted(PHOTOS.glob("*.jpg")), *sorted(SAMPLES.glob("*.*g")))]
BUDDHAS = (FILES[0], FILES[1])


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(MODEL, device="cpu")


def test_the_curve_equals_a_naive_sort_on_ten_pairs_and_ends_at_1(engine: Engine) -> None:
    pairs = list(islice(combinations(FILES, 2), 10))
    curve = contribution_curve(engine, pairs)
    assert curve.left_out == 0 and len(curve.pairs) == 10
    vectors = {v.path: v.embedding.astype(np.float64) for v in engine.vectors(FILES)}
    shares = []
    for a, b in pairs:
        u, w = vectors[a] / np.sqrt((vectors[a] ** 2).sum()), vectors[b] / np.sqrt((vectors[b] ** 2).sum())
        terms = sorted((float(x * y) for x, y in zip(u, w, strict=True)), reverse=True)
        shares.append([sum(terms[: k + 1]) / sum(terms) for k in range(40)] + [sum(terms) / sum(terms)])
    shares_of = np.array(shares)
    np.testing.assert_allclose(curve.mean[:40], shares_of[:, :40].mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(curve.low[:40], np.percentile(shares_of[:, :40], 10, axis=0), atol=1e-5)
    np.testing.assert_allclose(curve.high[:40], np.percentile(shares_of[:, :40], 90, axis=0), atol=1e-5)
    assert curve.mean[-1] == pytest.approx(1, abs=1e-6)
    assert curve.mean.shape == (1280,)
    assert ContributionFigure(curve).data()["top_10"]["mean"] == pytest.approx(
        shares_of[:, 9].mean(), abs=1e-5
    )


def test_pairs_without_similarity_are_counted_and_left_out(engine: Engine, tmp_path: Path) -> None:
    noise = str(tmp_path / "noise.png")
    cv2.imwrite(noise, np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    pairs = [(noise, path) for path in FILES]
    scores = {pair: engine.compare(*pair).score for pair in pairs}
    curve = contribution_curve(engine, pairs)
    expected = [pair for pair in pairs if scores[pair] >= 0.05]
    assert 0 < len(expected) < len(pairs)
    assert curve.pairs == tuple(expected) and curve.left_out == len(pairs) - len(expected)
    assert len(curve.scores) == len(expected)
    unlike = [pair for pair in pairs if scores[pair] < 0.05]
    with pytest.raises(ConfigError, match="has a score above"):
        contribution_curve(engine, unlike)
    with pytest.raises(ConfigError, match="has a score above"):
        faithfulness(engine, unlike)
    assert faithfulness(engine, [*unlike, BUDDHAS], steps=1).left_out == len(unlike)


def test_deletion_and_insertion_measure_the_altered_photo(tmp_path: Path) -> None:
    """One step and two: everything blurred, and the half of the cells that the map names first."""
    engine = Engine(ARTIFACTS / "letterbox_bgr.onnx", device="cpu")
    found = faithfulness(engine, [BUDDHAS], steps=2)
    pair = engine.compare(*BUDDHAS)
    photo = cv2.imread(BUDDHAS[0])[..., ::-1]
    # No larger than twice the network's longer side on the shorter one.
    height = 2 * 48
    small = cv2.resize(photo, (round(640 * height / 360), height), interpolation=cv2.INTER_AREA)
    (image,) = engine.embed([small])
    (other,) = engine.embed([BUDDHAS[1]])
    values = image.map_against(other)
    start = float(np.sum(values))
    assert start == pytest.approx(pair.score, abs=0.05)
    blurred = cv2.GaussianBlur(small, (0, 0), 0.1 * small.shape[1])
    cells = sorted(np.ndindex(values.shape), key=lambda cell: -values[cell])[: values.size // 2]
    altered = small.copy()
    for y, x in cells:
        x0, y0, x1, y1 = image.geometry.cell_box(y, x, *values.shape)
        # Pixels whose centres lie in the cell.
        rows = slice(max(0, int(np.ceil(y0 - 0.5))), max(0, int(np.ceil(y1 - 0.5))))
        columns = slice(max(0, int(np.ceil(x0 - 0.5))), max(0, int(np.ceil(x1 - 0.5))))
        altered[rows, columns] = blurred[rows, columns]
    scores = [engine.compare(a, BUDDHAS[1]).score / start for a in (small, altered, blurred)]
    np.testing.assert_allclose(found.deletion["map"][0], scores, atol=1e-5)
    np.testing.assert_allclose(found.insertion["map"][0][[0, 2]], scores[::-2], atol=1e-5)
    for order in ("norm", "random"):
        np.testing.assert_allclose(found.deletion[order][0][[0, 2]], scores[::2], atol=1e-5)
    area = (scores[0] + 2 * scores[1] + scores[2]) / 4
    assert found.areas()["deletion"]["map"][0] == pytest.approx(area, abs=1e-5)
    assert FaithfulnessFigure(found).data()["deletion"]["map"]["area"] == pytest.approx(area, abs=1e-5)


def test_the_map_finds_what_the_score_rests_on_better_than_chance(engine: Engine, tmp_path: Path) -> None:
    """A photo pasted into a corner of another: only that corner is similar."""
    background, inset = cv2.imread(str(SAMPLES / "aero1.jpg")), cv2.imread(str(SAMPLES / "fruits.jpg"))
    pasted = background.copy()
    pasted[20:260, 340:600] = cv2.resize(inset, (260, 240), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(tmp_path / "pasted.png"), pasted)
    pairs = [(str(tmp_path / "pasted.png"), str(SAMPLES / "fruits.jpg")), BUDDHAS]
    found = faithfulness(engine, pairs, steps=7)
    areas = found.areas()
    assert (areas["deletion"]["map"] < areas["deletion"]["random"]).all()
    assert (areas["insertion"]["map"] > areas["insertion"]["random"]).all()
    assert areas["deletion"]["map"][0] < 0.8 * areas["deletion"]["random"][0]
    again = faithfulness(engine, pairs, steps=7)
    np.testing.assert_array_equal(again.deletion["random"], found.deletion["random"])
    report = FaithfulnessFigure(found).data()
    assert report["deletion"]["map_beats_random"] == 1 and report["pairs"] == 2


def test_drawings_are_written_and_refused(engine: Engine, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    curve = contribution_curve(engine, [BUDDHAS])
    ContributionFigure(curve).save(tmp_path / "curve.png")
    picture = cv2.imread(str(tmp_path / "curve.png"))
    assert picture.shape[1] > 900 and picture.std() > 10
    for name in ("curve.svg", "curve.pdf"):
        ContributionFigure(curve).save(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 4000
    with pytest.raises(OutputError, match="exists already"):
        ContributionFigure(curve).save(tmp_path / "curve.png")
    with pytest.raises(OutputError, match=r"curves are written as \.png, \.svg, \.pdf"):
        ContributionFigure(curve).save(tmp_path / "curve.jpg")
    FaithfulnessFigure(faithfulness(engine, [BUDDHAS], steps=2)).save(tmp_path / "both.png")
    assert cv2.imread(str(tmp_path / "both.png")).shape[1] > 1800
    assert sorted(p.name for p in tmp_path.iterdir()) == ["both.png", "curve.pdf", "curve.png", "curve.svg"]


def test_a_missing_matplotlib_is_told_before_any_work() -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from simmap.cli import main\n"
        "sys.exit(main(['contribution', '--folder', 'nowhere', '-o', 'c.png']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'simmap[plot]'" in done.stderr and done.stderr.count("\n") == 1
