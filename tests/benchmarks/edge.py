"""What a pair graph gives, weighs and costs elsewhere: ``python tests/benchmarks/edge.py``.

Exports the network that ships in three precisions and makes the pair graph of each. Printed, as Markdown:

- for each runtime that is installed (see ``tests/runtimes.py``), the largest difference of scores and of map
  values from the engine, over real photos;
- the size of the file, and the CPU time of one pair on one thread, over that of the artifact on two photos.

int8 needs photos to calibrate on; with ``--images FOLDER`` those of a folder, otherwise crops of the photos
here, which are enough to compare runtimes and too few to judge int8 by.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from runtimes import RUNTIMES, Array, Feed

from simmap.engine import Engine
from simmap.engine.images.decode import load
from simmap.engine.images.preprocess import preprocess
from simmap.engine.options import Options
from simmap.engine.runtime.ort import cpu_session
from simmap.engine.runtime.session import open_session
from simmap.export.exporter import export
from simmap.export.pair import export_pair
from simmap.export.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "configs" / "efficientnet_lite0.yaml"
PHOTOS = [
    *sorted((ROOT / "models" / "photos").glob("*.jpg")),
    *sorted((ROOT / "tests" / "photos").glob("*.jpg")),
]
Run = Callable[[Path, Feed, list[str]], dict[str, Array]]
SIDES = ("score", "map_a", "map_b", "influence_a", "influence_b")
TURNS = 15
# Crops of few photos resemble one another more than photos do.
LOOSE = {"map_correlation_1st_percentile": 0.0, "same_nearest": 0.0, "rank_correlation": 0.0}


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="photos to calibrate int8 on")
    images = parser.parse_args().images
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        graphs = {kind: _made(kind, folder, images) for kind in ("fp32", "fp16", "int8")}
        photo = export_pair(graphs["fp16"][0], folder / "photo.onnx", photo=True).path
        _print_differences(graphs, photo)
        _print_costs(graphs, photo)


def _made(kind: str, folder: Path, images: Path | None) -> tuple[Path, Path]:
    """The artifact of a precision and its pair graph."""
    flags: dict[str, object] = {"precision": kind}
    if kind == "int8":
        flags |= {"calibrate": str(images or _crops(folder)), "fidelity": LOOSE}
    artifact = export(load_recipe(RECIPE, flags), folder / f"{kind}.onnx").path
    return artifact, export_pair(artifact, folder / f"{kind}.pair.onnx").path


def _crops(folder: Path) -> Path:
    """36 crops of the photos here."""
    rng = np.random.default_rng(0)
    crops = folder / "crops"
    crops.mkdir()
    for at in range(36):
        photo = cv2.imread(str(PHOTOS[at % len(PHOTOS)]))
        height, width = (side * 3 // 5 for side in photo.shape[:2])
        y, x = (int(rng.integers(most)) for most in (photo.shape[0] - height, photo.shape[1] - width))
        cv2.imwrite(str(crops / f"{at:02}.png"), photo[y : y + height, x : x + width])
    return crops


def _print_differences(graphs: dict[str, tuple[Path, Path]], photo: Path) -> None:
    """Each runtime against the engine."""
    runs: dict[str, Run] = {
        f"ONNX Runtime {onnxruntime.__version__}": lambda graph, feed, names: dict(
            zip(names, cpu_session(graph).run(names, feed), strict=True)
        )
    }
    for runtime in RUNTIMES:
        if runtime.is_there():
            runs[runtime.name] = runtime.run
        else:
            print(f"{runtime.name} is not installed: {runtime.install}", file=sys.stderr)
    cases = [(graph, _prepared(artifact), _by_the_engine(artifact)) for artifact, graph in graphs.values()]
    # Photos of one size go into one run; here two.
    whole = {name: load(path).pixels[None] for name, path in zip("ab", PHOTOS[:2], strict=True)}
    cases.append((photo, whole, {name: v[:1] for name, v in _by_the_engine(graphs["fp16"][0]).items()}))
    print("| runtime | " + " | ".join(f"{kind}: score, map" for kind in [*graphs, "fp16 `--photo`"]) + " |")
    print("| --- |" + " --- |" * len(cases))
    for name, run in runs.items():
        cells = [", ".join(f"{figure:.1e}" for figure in _largest(run, *case)) for case in cases]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def _prepared(artifact: Path) -> Feed:
    """Every photo with the next one, in the network's size."""
    spec = open_session(artifact, device="cpu").contract.input
    photos = np.stack([preprocess(load(path).pixels, spec)[0] for path in PHOTOS])
    return {"a": photos[:-1], "b": photos[1:]}


def _by_the_engine(artifact: Path) -> dict[str, Array]:
    with Engine(artifact, device="cpu", options=Options(cache=False)) as engine:
        pairs = [engine.compare(a, b) for a, b in pairwise(PHOTOS)]
    rows = [dict(zip(SIDES, (np.asarray(p.score), *p.maps, *p.influence), strict=True)) for p in pairs]
    return {name: np.stack([row[name] for row in rows]) for name in SIDES}


def _largest(run: Run, graph: Path, feed: Feed, expected: dict[str, Array]) -> tuple[float, float]:
    """The largest difference of a score, and of a value of a map or of influence."""
    names = [output.name for output in cpu_session(graph).get_outputs()]
    values = run(graph, feed, names)
    differences = {n: float(np.abs(values[n].reshape(v.shape) - v).max()) for n, v in expected.items()}
    return differences.pop("score"), max(differences.values())


def _print_costs(graphs: dict[str, tuple[Path, Path]], photo: Path) -> None:
    """Size, opset and time of a pair on one thread."""
    print("\n| file | MB | opset | CPU ms a pair, one thread | over the artifact on two photos |")
    print("| --- | --- | --- | --- | --- |")
    for kind, (artifact, graph) in graphs.items():
        feed = {name: photos[:1] for name, photos in _prepared(artifact).items()}
        plain = partial(
            cpu_session(artifact, threads=1).run,
            ["pooled", "conv"],
            {"image": np.concatenate([*feed.values()])},
        )
        _print_cost(kind, graph, feed, plain)
    feed = {name: np.zeros((1, 1200, 1600, 3), np.uint8) for name in "ab"}
    _print_cost("fp16 `--photo`, two photos of 2 MP", photo, feed, None)


def _print_cost(name: str, graph: Path, feed: Feed, plain: Callable[[], object] | None) -> None:
    session = cpu_session(graph, threads=1)
    times: list[list[float]] = [[], []]
    for _ in range(TURNS + 1):
        for side, call in enumerate((lambda: session.run(None, feed), plain)):
            if call is not None:
                start = time.process_time()
                call()
                times[side].append(time.process_time() - start)
    took = float(np.median(times[0][1:]))
    ratio = "" if plain is None else f"{np.median(np.array(times[0][1:]) / np.array(times[1][1:])):.2f}"
    opset = next(o.version for o in onnx.load(str(graph)).opset_import if o.domain in ("", "ai.onnx"))
    print(
        f"| {name} | {graph.stat().st_size / 1e6:.2f} | {opset} | {1000 * took:.0f} | {ratio} |", flush=True
    )


if __name__ == "__main__":
    main()
