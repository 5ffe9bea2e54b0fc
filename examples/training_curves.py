"""How retrieval and maps change over the checkpoints of training runs.

    python examples/training_curves.py tuned_avg tuned_max --photos test/known --photos test/new -o curves.png

Each run is a folder of artifacts ``epoch_000.onnx``, ``epoch_001.onnx`` and so on, as the guide to training
makes them; each folder of photos has one folder for each class. Printed for every artifact and folder:

- recall@1 and mAP@R;
- share: how much of a map's sum lies on the object, where chance is one half. One half of a photo stands
  beside the other half of a photo of another class, and the two are compared with a second photo of the
  first one's class; the share is that of the half which has its class. Mean over the composites, which are
  the same for every artifact;
- hotter: in how many composites that half has more than one half.

What is measured is kept beside the artifact (``epoch_000.json``), so that a longer run continues.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from simmap.engine import Engine
from simmap.engine.analysis.blocks import working_copy
from simmap.engine.analysis.composites import halves
from simmap.engine.analysis.retrieval import retrieval
from simmap.engine.dataset import Item, find_images, sample_pairs, with_distractors
from simmap.engine.figures.curve import new_plot
from simmap.engine.images.region import region_weights
from simmap.engine.types import Pixels

PANELS = {"recall_at_1": "recall@1", "map_at_r": "mAP@R", "share": "share of the score on the object"}
STYLES = ("-", "--", ":")


def measure(model: Path, folder: str, count: int) -> dict[str, float]:
    """Figures of one artifact on one folder of photos."""
    items = [item for item in find_images(folder) if item.label is not None]
    with Engine(model) as engine:
        embeddings = np.array([vector.embedding for vector in engine.vectors(item.path for item in items)])
        found = retrieval(embeddings, [item.label for item in items])
        shares = np.array(list(matching_shares(engine, items, count)))
    return {
        "recall_at_1": found.recall_at_1,
        "map_at_r": found.map_at_r,
        "share": float(shares.mean()),
        "hotter": float((shares > 0.5).mean()),
    }


def matching_shares(engine: Engine, items: Sequence[Item], count: int) -> Iterator[float]:
    """The share of a map's sum on the half of a composite that has the other photo's class."""
    triples = with_distractors(items, sample_pairs(items, count, seed=0), seed=0)
    seconds = engine.embed([second for _, second, _ in triples])

    def composites() -> Iterator[Pixels]:
        for at, (first, _, third) in enumerate(triples):
            photos = (working_copy(engine, engine.load(path)) for path in (first, third))
            yield halves(*photos, left=at % 2 == 0)

    for at, (image, second) in enumerate(zip(engine.embed(composites()), seconds, strict=True)):
        contributions = image.map_against(second)
        geometry = image.geometry
        left = (0.0, 0.0, float(geometry.photo_width // 2), float(geometry.photo_height))
        share = float((region_weights(geometry, *contributions.shape, boxes=[left]) * contributions).sum())
        share /= float(contributions.sum())
        yield share if at % 2 == 0 else 1 - share


def figures_of(run: Path, folder: str, count: int) -> dict[int, dict[str, float]]:
    """Figures of each epoch of a run, read where they were measured before."""
    found = {}
    for model in sorted(run.glob("epoch_*.onnx")):
        kept = model.with_suffix(".json")
        known: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
        key = f"{folder}, {count} composites"
        if key not in known:
            known[key] = measure(model, folder, count)
            kept.write_text(json.dumps(known, indent=1))
        epoch = int(model.stem.removeprefix("epoch_"))
        found[epoch] = known[key]
        line = "  ".join(f"{name} {value:.3f}" for name, value in found[epoch].items())
        print(f"{run.name}  epoch {epoch:>2}  {folder}  {line}", flush=True)
    return found


def main() -> None:
    """Print the figures, and draw them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders of artifacts epoch_*.onnx")
    parser.add_argument("--photos", action="append", required=True, help="labelled folder, again for each")
    parser.add_argument("--composites", type=int, default=200, help="of each folder (default: 200)")
    parser.add_argument("-o", "--output", type=Path, help="picture of the curves: PNG, SVG or PDF")
    given = parser.parse_args()
    figure, axes = new_plot(len(PANELS))
    for number, run in enumerate(given.runs):
        for folder, style in zip(given.photos, cycle(STYLES)):
            found = figures_of(run, folder, given.composites)
            for panel, name in zip(axes, PANELS, strict=True):
                label = f"{run.name}, {folder}"
                panel.plot(
                    list(found), [one[name] for one in found.values()],
                    color=f"C{number}", linestyle=style, marker=".", linewidth=2, label=label,
                )  # fmt: skip
    for panel, title in zip(axes, PANELS.values(), strict=True):
        panel.set(xlabel="epoch", ylabel=title)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper")
    if given.output is not None:
        figure.savefig(given.output, dpi=80)


if __name__ == "__main__":
    main()
