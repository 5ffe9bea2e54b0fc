"""Agreement of models with themselves and with others."""

import numpy as np
import pytest

from common import ARTIFACTS, MODEL, PHOTOS, SAMPLES
from simmap.engine import Engine
from simmap.engine.analysis.agreement import agreement, map_correlation
from simmap.engine.errors import ConfigError

FILES = [*sorted(PHOTOS.glob("*.jpg")), *sorted(SAMPLES.glob("*.*g"))]


def test_a_model_agrees_with_itself() -> None:
    engine = Engine(MODEL, device="cpu")
    found = agreement(engine, engine, FILES)
    assert found.same_nearest == found.same_nearest_5 == found.map_correlation == 1
    assert found.rank_correlation == pytest.approx(1)
    assert found.largest_score_difference == found.largest_map_difference == 0
    assert 0 < found.completeness_error == found.other_completeness_error < 1e-5
    assert (found.images, found.pairs) == (len(FILES), len(FILES))


def test_the_agreement_of_two_models_is_what_their_scores_and_maps_say() -> None:
    engine, other = Engine(ARTIFACTS / "avg.onnx", device="cpu"), Engine(ARTIFACTS / "max.onnx", device="cpu")
    found = agreement(engine, other, FILES)
    scores = [[[m.compare(a, b).score for b in FILES] for a in FILES] for m in (engine, other)]
    nearest = []
    for table in scores:
        values = np.array(table)
        np.fill_diagonal(values, -2)
        nearest.append(values.argmax(axis=1))
    assert found.same_nearest == pytest.approx(np.mean(nearest[0] == nearest[1]))
    off = ~np.eye(len(FILES), dtype=bool)
    differences = np.abs(np.array(scores[0]) - np.array(scores[1]))[off]
    assert found.score_difference == pytest.approx(differences.mean(), abs=1e-6)
    assert found.largest_score_difference == pytest.approx(differences.max(), abs=1e-6)
    correlations = []
    for i, path in enumerate(FILES):
        pairs = [model.compare(path, FILES[nearest[0][i]]) for model in (engine, other)]
        correlations += [map_correlation(a, b) for a, b in zip(pairs[0].maps, pairs[1].maps, strict=True)]
    assert found.map_correlation == pytest.approx(np.median(correlations), abs=1e-6)
    assert found.map_correlation_1st_percentile == pytest.approx(np.percentile(correlations, 1), abs=1e-6)
    assert found.rank_correlation < 0.999


def test_too_few_images_are_an_error() -> None:
    engine = Engine(ARTIFACTS / "avg.onnx", device="cpu")
    with pytest.raises(ConfigError, match="at least 3 images"):
        agreement(engine, engine, FILES[:2])
    with pytest.raises(ConfigError, match="at least 3 images and 1 pair, not 3, 0"):
        agreement(engine, engine, FILES[:3], pairs=0)
    least = agreement(engine, engine, FILES[:3], pairs=1)
    assert (least.images, least.pairs) == (3, 1)


def test_the_largest_map_difference_is_relative_to_the_largest_value_of_the_first_models_map() -> None:
    engine, other = (Engine(ARTIFACTS / f"{name}.onnx", device="cpu") for name in ("avg", "crop"))
    found = agreement(engine, other, FILES)
    scores = np.array([[engine.compare(a, b).score for b in FILES] for a in FILES])
    np.fill_diagonal(scores, -2)
    expected = 0.0
    for path, nearest in zip(FILES, scores.argmax(axis=1), strict=True):
        pairs = [model.compare(path, FILES[nearest]) for model in (engine, other)]
        for one, two in zip(pairs[0].maps, pairs[1].maps, strict=True):
            expected = max(
                expected, max(abs(a - b) for a, b in zip(one.flat, two.flat, strict=True)) / abs(one).max()
            )
    assert found.largest_map_difference == pytest.approx(expected, rel=1e-4) and expected > 0


def test_a_flat_map_correlates_with_nothing() -> None:
    flat, other = np.ones((2, 2)), np.array([[1.0, 2.0], [3.0, 5.0]])
    assert map_correlation(flat, other) == map_correlation(other, flat) == 0
    # Centred: (-1.75, -.75, .25, 2.25) and (-1, 0, 0, 1): 4 / sqrt(8.75 * 2).
    assert map_correlation(other, np.array([[0.0, 1.0], [1.0, 2.0]])) == pytest.approx(4 / np.sqrt(17.5))
