"""What an int8 artifact must reach: each figure at its bound, and a hair beyond it."""

from dataclasses import fields

import pytest

from simmap.export.precision.fidelity import shortfalls
from simmap.export.recipe import Fidelity

REQUIRED = Fidelity()
AT_MOST = ("largest_map_difference", "recall_at_1_loss")


def figures(**changed: float) -> dict[str, float]:
    """Every figure just as it must be; recall@1 falls from 1."""
    reached = {item.name: getattr(REQUIRED, item.name) for item in fields(REQUIRED)}
    loss = changed.pop("recall_at_1_loss", 0.0)
    del reached["recall_at_1_loss"]
    return {
        **reached, "other_completeness_error": 1e-5, "recall_at_1_fp32": 1.0, "recall_at_1": 1 - loss,
        **changed,
    }  # fmt: skip


def test_what_is_just_reached_is_enough() -> None:
    assert shortfalls(figures(), REQUIRED) == []
    assert shortfalls(figures(recall_at_1=1.0, recall_at_1_fp32=0.2), REQUIRED) == []  # better than float32
    unlabelled = {name: value for name, value in figures().items() if "recall" not in name}
    assert shortfalls(unlabelled, Fidelity(recall_at_1_loss=0.0)) == []


@pytest.mark.parametrize("name", [item.name for item in fields(REQUIRED)])
def test_each_figure_is_held_against_its_own_bound(name: str) -> None:
    bound = getattr(REQUIRED, name)
    beyond = 0.001 if name in AT_MOST else -0.001
    side = "most" if name in AT_MOST else "least"
    assert shortfalls(figures(**{name: bound + beyond}), REQUIRED) == [
        f"{name} {bound + beyond:.4f} (at {side} {bound:g})"
    ]
    assert shortfalls(figures(**{name: bound - beyond}), REQUIRED) == []
    assert len(shortfalls(figures(**{name: float("nan")}), REQUIRED)) == 1


@pytest.mark.parametrize("error", [1.1e-5, float("nan")])
def test_maps_that_miss_their_score_are_told_whatever_is_required(error: float) -> None:
    lenient = Fidelity(0, 0, 0, 0, 1, 1)
    assert shortfalls(figures(other_completeness_error=error), lenient) == [
        f"maps miss their score by {error:.1e}"
    ]
