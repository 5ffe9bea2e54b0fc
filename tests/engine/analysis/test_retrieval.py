"""Retrieval against a double loop."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simmap.engine.analysis.retrieval import retrieval
from simmap.engine.errors import ConfigError


def naive(embeddings: np.ndarray, labels: list[str | None]) -> tuple[float, float, float] | None:
    """Every query by itself, every other image by its cosine in float64."""
    first, fifth, average = [], [], []
    for i, label in enumerate(labels):
        relevant = [j for j in range(len(labels)) if j != i and labels[j] == label]
        if label is None or not relevant:
            continue
        scores = {}
        for j, other in enumerate(embeddings):
            if j != i:
                a, b = embeddings[i].astype(np.float64), other.astype(np.float64)
                scores[j] = (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())
        ranked = sorted(scores, key=lambda j: (-round(scores[j], 6), j))
        right = [labels[j] == label for j in ranked]
        first.append(right[0])
        fifth.append(any(right[:5]))
        total = 0.0
        for place in range(len(relevant)):
            if right[place]:
                total += sum(right[: place + 1]) / (place + 1)
        average.append(total / len(relevant))
    if not first:
        return None
    return float(np.mean(first)), float(np.mean(fifth)), float(np.mean(average))


@given(
    labels=st.lists(st.sampled_from(["a", "b", "c", None]), min_size=2, max_size=30),
    seed=st.integers(0, 999),
    repeated=st.booleans(),
)
def test_retrieval_equals_the_double_loop(labels: list[str | None], seed: int, repeated: bool) -> None:
    # Few directions along the axes: equal scores are common, and exact.
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(len(labels), 6)).astype(np.float32)
    if repeated:
        embeddings = 2 * np.eye(6, dtype=np.float32)[rng.integers(0, 4, len(labels))]
    expected = naive(embeddings, labels)
    if expected is None:
        with pytest.raises(ConfigError, match="no class has two images"):
            retrieval(embeddings, labels)
        return
    found = retrieval(embeddings, labels)
    assert (found.recall_at_1, found.recall_at_5, found.map_at_r) == pytest.approx(expected, abs=1e-9)


def test_mean_average_precision_at_r_by_hand() -> None:
    # The query at angle 0 ranks b, a, b, a: with R = 2 only the second of the first two is right.
    angles = np.radians([0, 5, 10, 20, 40])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    found = retrieval(embeddings, ["a", "b", "a", "b", "a"])
    # By query: 0 -> [b a] 1/4; 5 -> [a a][b] 0; 10 -> [b a] 1/4 or by distance 5 then 0 and 20;
    expected = naive(embeddings, ["a", "b", "a", "b", "a"])
    assert found.map_at_r == pytest.approx(expected[2] if expected else -1)
    assert found.recall_at_1 == 0 and found.recall_at_5 == 1
    assert (found.queries, found.classes, found.images) == (5, 2, 5)


def test_many_images_are_ranked_in_blocks() -> None:
    rng = np.random.default_rng(3)
    labels: list[str | None] = [str(i % 40) for i in range(600)]
    embeddings = rng.normal(size=(600, 8)).astype(np.float32)
    found = retrieval(embeddings, labels)
    expected = naive(embeddings, labels)
    assert (found.recall_at_1, found.recall_at_5, found.map_at_r) == pytest.approx(expected, abs=1e-9)


def test_labels_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(ConfigError, match="1 labels for 2 images"):
        retrieval(np.eye(2), ["a"])
