"""What the parts of a class token cost: ``python tests/benchmarks/transformers.py``.

Exports networks of timm with random weights, whose time is that of trained ones, and times one run on one
thread beside the same graph without its parts. ``--full`` adds larger networks.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from common import Row, Settings, compare, main
from simmap.export.exporter import export
from simmap.export.recipe import load_recipe

# The network and its grids; None is a cell for each patch.
NETWORKS: list[tuple[str, list[str | None]]] = [("vit_small_patch16_224", [None, "7x7"])]
LARGE: list[tuple[str, list[str | None]]] = [
    ("vit_base_patch16_224", [None, "7x7"]),
    ("vit_base_patch32_clip_224.openai", [None]),
    ("vit_small_patch14_reg4_dinov2", [None]),
    ("deit_small_distilled_patch16_224", [None]),
]
EXPECTED = {None: "<= 1.10", "7x7": "<= 1.05"}


def rows(options: Settings) -> Iterator[Row]:
    """Of the table."""
    for name, grids in NETWORKS + (LARGE if options.full else []):
        for grid in grids:
            yield row(name, grid, options)


def row(name: str, grid: str | None, options: Settings) -> Row:
    """Time of one run with parts over one without."""
    with tempfile.TemporaryDirectory() as folder:
        size = {"size": 224, "grid": grid} if grid else {"size": 224}
        report = export(load_recipe(None, {"timm": name, **size}), Path(folder) / "with.onnx")
        model = onnx.load(str(report.path))
    spec = report.contract.input
    image = np.random.default_rng(0).integers(0, 256, size=(1, spec.height, spec.width, 3), dtype=np.uint8)
    runs = [session(model).run, session(without_parts(model)).run]
    return compare(
        f"{name}, parts of {report.contract.grid_height} x {report.contract.grid_width} cells / without",
        lambda: runs[0](None, {"image": image}),
        lambda: runs[1](None, {"image": image}),
        EXPECTED[grid],
        options,
        note=f"{report.size / 1e6:.0f} MB",
    )


def without_parts(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with the output ``embedding`` alone, and what that needs."""
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    needed, nodes = {"embedding"}, []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(node.input)
    outputs = [output for output in model.graph.output if output.name == "embedding"]
    weights = [weight for weight in model.graph.initializer if weight.name in needed]
    del plain.graph.node[:], plain.graph.output[:], plain.graph.initializer[:]
    plain.graph.node.extend(nodes[::-1])
    plain.graph.output.extend(outputs)
    plain.graph.initializer.extend(weights)
    return plain


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """On one thread, fully optimised."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )


if __name__ == "__main__":
    main(rows)
