"""Contribution curves against a naive sort, and drawings of curves."""

import subprocess
import sys
from itertools import combinations, islice
from pathlib import Path

import cv2
import numpy as np
import pytest

from common import MODEL, PHOTOS, SAMPLES
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
    assert ContributionFigure(curve).data()["top_10"] == {
        "mean": pytest.approx(shares_of[:, 9].mean(), abs=1e-5),
        "percentile_10": pytest.approx(np.percentile(shares_of[:, 9], 10), abs=1e-5),
        "percentile_90": pytest.approx(np.percentile(shares_of[:, 9], 90), abs=1e-5),
    }


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
