"""Which share of the score the maps of a network carry, over labelled photos.

    simmap export --timm vit_base_patch16_clip_224.openai --weights clip.pth -o clip.onnx
    python examples/measure_rest.py clip.onnx photos

``photos`` has one folder for each class. For a transformer's class token, a map sums to what patch tokens
add to the score directly; the rest (the token's own path, registers, MLPs, biases) has no place. Printed,
over the pairs of one class and over as many pairs of two classes, drawn by a fixed seed:

- share: the sum of the map over the score, 10th, 50th and 90th percentile;
- correlation of the sum of the map with the score: 1 if the rest only shifts it.
"""

import argparse
from collections.abc import Sequence

import numpy as np

from simmap.engine import Engine
from simmap.engine.dataset import find_images
from simmap.engine.results import Embedded

LEAST_SCORE = 0.05  # below it a share says nothing


def main() -> None:
    """Print one line for each kind of pair."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="artifact (.onnx)")
    parser.add_argument("photos", help="folder with one folder for each class")
    parser.add_argument("--pairs", type=int, default=500, help="pairs of each kind (default: 500)")
    parser.add_argument("--images", type=int, default=400, help="photos drawn (default: 400)")
    arguments = parser.parse_args()
    items = [item for item in find_images(arguments.photos) if item.label is not None]
    if not items:
        parser.error(f"{arguments.photos} has no folders of photos; their names are the classes")
    rng = np.random.default_rng(0)
    chosen = sorted(rng.permutation(len(items))[: arguments.images].tolist())
    labels = np.array([items[i].label for i in chosen])
    images = list(Engine(arguments.model).embed([items[i].path for i in chosen]))
    same = labels[:, None] == labels[None]
    np.fill_diagonal(same, False)
    different = labels[:, None] != labels[None]
    for name, mask in (("same class", same), ("other class", different)):
        pairs = np.argwhere(mask)
        if len(pairs) == 0:
            print(f"{name}: no such pair")
            continue
        pairs = pairs[rng.permutation(len(pairs))[: arguments.pairs]]
        print(f"{name}: {summary([(images[i], images[j]) for i, j in pairs])}")


def summary(pairs: Sequence[tuple[Embedded, Embedded]]) -> str:
    """The shares of the score, and how the sums of the maps follow the scores."""
    sums = np.array([one.map_against(other).sum() for one, other in pairs])
    scores = sums + np.array([one.residual_against(other) for one, other in pairs])
    clear = np.abs(scores) >= LEAST_SCORE
    if not clear.any():
        return f"{len(pairs)} pairs, all scores are near 0"
    low, median, high = np.percentile(sums[clear] / scores[clear], [10, 50, 90])
    line = f"{len(pairs)} pairs, share of the score {median:.2f}"
    line += f" (10th to 90th percentile {low:.2f} to {high:.2f})"
    if len(pairs) < 3 or np.ptp(scores) == 0 or np.ptp(sums) == 0:
        return line
    return f"{line}, correlation of sum and score {np.corrcoef(sums, scores)[0, 1]:.2f}"


if __name__ == "__main__":
    main()
