"""What int8 and float16 cost and save: ``python tests/benchmarks/precision.py --images FOLDER``.

Exports the network that ships in each precision, times one run on one thread, and holds each against float32
on photos that int8 was not calibrated on. The folder needs 30 photos or more; names of its sub-folders are
labels.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from common import ROOT, Row, Settings, compare, main, skipped
from simmap.engine.errors import ConfigError
from simmap.engine.runtime.session import open_session
from simmap.export.exporter import Report, export
from simmap.export.precision.fidelity import fidelity
from simmap.export.recipe import load_recipe

RECIPE = ROOT / "configs" / "efficientnet_lite0.yaml"
SESSIONS = 4
EXPECTED = {"fp16": "<= 1.02", "int8": "<= 0.60"}


def rows(options: Settings) -> Iterator[Row]:
    """Of the table."""
    calibrate = {"precision": "int8", "calibrate": str(options.images)}
    try:
        recipe = load_recipe(RECIPE, calibrate)
    except ConfigError as error:
        yield skipped("int8 and fp16 over fp32", str(error))
        return
    _, held_out = recipe.split_photos()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        full = export(load_recipe(RECIPE, {"precision": "fp32"}), path / "fp32.onnx")
        half = export(load_recipe(RECIPE, {"precision": "fp16"}), path / "fp16.onnx")
        small = export(recipe, path / "int8.onnx")
        judged = fidelity(full.path, half.path, held_out)
        yield row(full, half, judged, options)
        yield row(full, small, small.contract.fidelity, options)


def row(full: Report, other: Report, judged: dict[str, float], options: Settings) -> Row:
    """Time of one run, and in the note how near it is to float32."""
    # Where a session's memory happens to lie moves its time by some percent, so each side has several.
    runs = [
        [open_session(report.path, device="cpu", threads=1).inference for _ in range(SESSIONS)]
        for report in (other, full)
    ]
    spec = full.contract.input
    # Noise reaches every range; a grey image would leave most of a network at zero.
    shape = (1, spec.height, spec.width, 3)
    feed = {"image": np.random.default_rng(0).integers(0, 256, size=shape, dtype=np.uint8)}
    precision = other.contract.precision
    told = [
        f"{other.size / 1e6:.1f} / {full.size / 1e6:.1f} MB",
        f"maps {judged['map_correlation']:.4f}",
        f"1st percentile {judged['map_correlation_1st_percentile']:.4f}",
        f"largest difference {judged['largest_map_difference']:.3f}",
        f"same nearest {judged['same_nearest']:.3f} of {judged['images']}",
    ]
    if "recall_at_1" in judged:
        told.append(f"recall@1 {judged['recall_at_1']:.3f} / {judged['recall_at_1_fp32']:.3f}")
    return compare(
        f"{precision} / fp32, {SESSIONS} runs of {full.contract.source['name']}",
        lambda: [run.run(["pooled", "conv"], feed) for run in runs[0]],
        lambda: [run.run(["pooled", "conv"], feed) for run in runs[1]],
        EXPECTED[precision],
        options,
        note="; ".join(told),
    )


if __name__ == "__main__":
    main(rows)
