"""What the parts of a class token cost: ``python tests/benchmarks/transformers.py``.

Takes networks of timm with random weights, whose time is that of trained ones, and times one run of the
artifact's graph on one thread beside the network as PyTorch exports it. The artifact computes its last block
only for the tokens that are read. ``--full`` adds the other families.
"""

from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime

from common import Row, Settings, compare, main
from simmap.engine.contract import InputSpec
from simmap.export.recipe import load_recipe
from simmap.export.sources.source import open_source
from simmap.export.surgery.exposing import expose
from simmap.export.surgery.optional import split

# The network and its grids; None is a cell for each patch.
NETWORKS: list[tuple[str, list[str | None]]] = [("vit_small_patch16_224", [None, "7x7"])]
LARGE: list[tuple[str, list[str | None]]] = [
    ("deit_small_distilled_patch16_224", [None]),
    ("vit_small_patch14_reg4_dinov2", [None]),
    ("vit_base_patch32_clip_224.openai", [None]),
    ("vit_base_patch16_224", [None, "7x7"]),
]
EXPECTED = {None: "<= 1.10", "7x7": "<= 1.05"}


def rows(options: Settings) -> Iterator[Row]:
    """Of the table."""
    for name, grids in NETWORKS + (LARGE if options.full else []):
        for grid in grids:
            yield row(name, grid, options)


def row(name: str, grid: str | None, options: Settings) -> Row:
    """Time of one run of the artifact's graph over one of the network itself."""
    source = open_source(load_recipe(None, {"timm": name, "size": 224, **({"grid": grid} if grid else {})}))
    exposure = source.exposure()
    assert exposure.tokens is not None
    artifact, _ = split(expose(source.graph, exposure, InputSpec(224, 224)))
    given = source.graph.input.name
    image = np.random.default_rng(0).integers(0, 256, size=(1, 224, 224, 3), dtype=np.uint8)
    pixels = (image.transpose(0, 3, 1, 2) / 128 - 1).astype(np.float32)
    ours, theirs = session(artifact), session(source.graph.model)
    height, width = exposure.tokens.cells
    return compare(
        f"{name}, {height} x {width} cells / the network",
        lambda: ours.run(None, {"image": image}),
        lambda: theirs.run([exposure.embedding], {given: pixels}),
        EXPECTED[grid],
        options,
        note=f"{len(exposure.tokens.blocks)} blocks of {exposure.shape[0]} features",
    )


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """On one thread, fully optimised."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )


if __name__ == "__main__":
    main(rows)
