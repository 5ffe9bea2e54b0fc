"""What storing weights as float16 does to the maps: ``python tests/benchmarks/storage.py FOLDER``.

Exports the model that ships once with float32 and compares it with the committed float16 artifact on
the photos of a folder (labels are its sub-folders' names): nearest neighbours, and the maps of random
pairs.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from simmap.engine import Engine
from simmap.engine.decompose import unit
from simmap.engine.pipeline import Embedded
from simmap.export.exporter import export
from simmap.export.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", type=int, default=2000)
    arguments = parser.parse_args()
    files = sorted(p for p in arguments.folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    labels = np.array([p.parent.name for p in files])
    with tempfile.TemporaryDirectory() as folder:
        recipe = load_recipe(ROOT / "configs" / "efficientnet_lite0.yaml", {"precision": "fp32"})
        full = export(recipe, Path(folder) / "fp32.onnx").path
        images = [list(Engine(model).embed(files)) for model in (full, None)]
    neighbours = [nearest(found) for found in images]
    rng = np.random.default_rng(0)
    correlations, deviations = [], []
    for _ in range(arguments.pairs):
        i, j = rng.choice(len(files), 2, replace=False)
        a, b = (found[i].map_against(found[j]) for found in images)
        correlations.append(np.corrcoef(a.ravel(), b.ravel())[0, 1])
        deviations.append(np.abs(a - b).max() / np.abs(a).max())
    print(f"photos                           {len(files)}")
    for name, found in zip(("float32", "float16"), neighbours, strict=True):
        print(f"recall@1, {name}                {(labels[found] == labels).mean():.3f}")
    print(f"same nearest neighbour           {(neighbours[0] == neighbours[1]).mean():.3f}")
    print(f"maps: correlation, median        {np.median(correlations):.6f}")
    print(f"maps: correlation, 1st percentile {np.percentile(correlations, 1):.6f}")
    print(f"maps: largest deviation / maximum {max(deviations):.5f}")


def nearest(images: list[Embedded]) -> np.ndarray:
    """Index of each image's most similar other image."""
    units = unit(np.array([image.embedding for image in images]))
    scores = units @ units.T
    np.fill_diagonal(scores, -np.inf)
    return scores.argmax(axis=1)


if __name__ == "__main__":
    main()
