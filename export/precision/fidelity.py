"""How far a lower precision ranks and explains as float32 does."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import numpy as np

from simmap.engine.analysis.agreement import agreement
from simmap.engine.analysis.retrieval import retrieval
from simmap.engine.dataset import Item
from simmap.engine.engine import Engine
from simmap.engine.errors import ConfigError

from ..recipe import Fidelity

# A map must sum to its score whatever the precision: it explains the network that runs.
COMPLETENESS = 1e-5


def fidelity(full: Path, small: Path, items: Sequence[Item]) -> dict[str, float]:
    """Hold an artifact of lower precision against the one of float32 that it came from.

    Args:
        full, small: the two artifacts.
        items: photos that the lower precision was not fitted to.

    Returns:
        The figures of ``engine.evaluate.Agreement``; where labels give queries, ``recall_at_1`` and
        ``recall_at_1_fp32``.

    Raises:
        ImageError: a photo cannot be read.
    """
    engines = [Engine(path, device="cpu") for path in (full, small)]
    sources = [item.path for item in items]
    embeddings = [np.array([v.embedding for v in engine.vectors(sources)]) for engine in engines]
    figures: dict[str, float] = agreement(engines[0], engines[1], sources, embeddings=embeddings).data()
    labels = [item.label for item in items]
    with suppress(ConfigError):  # no labels, or each alone with its own
        recalls = [float(retrieval(each, labels).recall_at_1) for each in embeddings]
        figures |= {"recall_at_1_fp32": recalls[0], "recall_at_1": recalls[1]}
    return figures


def shortfalls(figures: dict[str, float], required: Fidelity) -> list[str]:
    """What of ``fidelity`` is not as required, with the figures."""
    reached = dict(figures)
    if "recall_at_1" in figures:
        reached["recall_at_1_loss"] = figures["recall_at_1_fp32"] - figures["recall_at_1"]
    missed = []
    for item in fields(required):
        bound, value = getattr(required, item.name), reached.get(item.name)
        if value is None:
            continue
        # Written so that NaN fails.
        is_most = item.name in ("largest_map_difference", "recall_at_1_loss")
        if not (value <= bound if is_most else value >= bound):
            missed.append(f"{item.name} {value:.4f} (at {'most' if is_most else 'least'} {bound:g})")
    if not figures["other_completeness_error"] <= COMPLETENESS:
        missed.append(f"maps miss their score by {figures['other_completeness_error']:.1e}")
    return missed
