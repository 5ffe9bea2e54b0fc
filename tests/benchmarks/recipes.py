"""Which way of resizing retrieves best: ``python tests/benchmarks/recipes.py FOLDER --model M.onnx``.

Each way of resizing feeds the same network. Printed are recall@1, recall@5 and mAP@R of the folder, whose
sub-folders are classes, and how much recall@1 and mAP@R differ from the first line's, with 95 % intervals.
These are of a bootstrap over classes, paired by query: the photos of a class are of few shoots, so queries
are not independent. The input's size is the model's own.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from common import MODEL
from simmap.engine import decompose
from simmap.engine.analysis.retrieval import ranked_neighbours
from simmap.engine.contract import InputSpec
from simmap.engine.dataset import Item, find_images
from simmap.engine.images.decode import load
from simmap.engine.images.preprocess import preprocess
from simmap.engine.runtime.session import open_session
from simmap.engine.types import Array, Pixels

DRAWS = 10_000


def variants(spec: InputSpec) -> Iterator[tuple[str, InputSpec]]:
    """Names and inputs, the one to compare with first."""
    ways = [("squash", 1.0), ("letterbox", 1.0), ("crop", 1.0), ("crop", 0.875)]
    for resize, fraction in ways:
        for kernel in ("area", "cubic", "linear"):
            name = f"{resize} {fraction}" if resize == "crop" else resize
            yield (
                f"{name} {kernel}",
                replace(spec, resize=resize, kernel=kernel, crop_fraction=fraction),
            )


def embeddings(model: Path, items: list[Item]) -> dict[str, Array]:
    """Of each variant, (n, D) unit vectors; equal inputs run once."""
    session = open_session(model, device="cpu", threads=1)
    output = "pooled" if session.contract.head == "none" else "embedding"
    found: dict[str, list[Array]] = {}
    for item in items:
        pixels = load(item.path).pixels
        seen: dict[bytes, Array] = {}
        for name, spec in variants(session.contract.input):
            tensor: Pixels = preprocess(pixels, spec)[0]
            key = tensor.tobytes()
            if key not in seen:
                seen[key] = session.inference.run([output], {"image": tensor[None]})[0][0]
            found.setdefault(name, []).append(seen[key])
    return {name: decompose.unit(np.array(each)) for name, each in found.items()}


def by_query(units: Array, labels: Array) -> Array:
    """Recall@1, recall@5 and average precision at R of each query that has another photo, (queries, 3)."""
    others = (labels[:, None] == labels).sum(1) - 1
    queries = np.flatnonzero(others)
    rows = []
    for query, near in ranked_neighbours(units, queries.tolist(), max(5, int(others.max()))):
        right = labels[near] == labels[query]
        hits = right[: others[query]]
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        rows.append((right[0], right[:5].any(), (precision * hits).mean()))
    return np.array(rows, np.float64)


def interval(differences: Array, classes: Array) -> tuple[float, float]:
    """95 % of the mean difference, classes drawn with replacement."""
    members = [differences[classes == one] for one in np.unique(classes)]
    sums, counts = np.array([m.sum() for m in members]), np.array([len(m) for m in members])
    drawn = np.random.default_rng(0).integers(0, len(members), (DRAWS, len(members)))
    low, high = np.percentile(sums[drawn].sum(1) / counts[drawn].sum(1), (2.5, 97.5))
    return float(low), float(high)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Compare ways of resizing by retrieval.")
    parser.add_argument("folder", type=Path, help="photos, a sub-folder for each class")
    parser.add_argument("--model", type=Path, action="append", help="artifact, again for each further one")
    given = parser.parse_args()
    items = [item for item in find_images(given.folder) if item.label is not None]
    labels = np.unique([item.label for item in items], return_inverse=True)[1]
    queries = np.bincount(labels)[labels] > 1
    print(f"{len(items)} photos, {queries.sum()} queries, {labels.max() + 1} classes")
    first = None
    for model in given.model or [MODEL]:
        print(f"{model.stem}: recall@1, recall@5, mAP@R; recall@1 and mAP@R less those of the first line")
        for name, units in embeddings(model, items).items():
            scores = by_query(units, labels)
            first = scores if first is None else first
            line = f"  {name:<20} " + "  ".join(f"{value:.3f}" for value in scores.mean(0))
            for column in (0, 2):
                difference = scores[:, column] - first[:, column]
                low, high = interval(difference, labels[queries])
                line += f"  {difference.mean():+.3f} [{low:+.3f}, {high:+.3f}]"
            print(line, flush=True)


if __name__ == "__main__":
    main()
