"""How near the networks' runs come to what the CPU can multiply: ``python tests/benchmarks/arithmetic.py``.

Multiplications and additions a second of one run on one thread, over those of NumPy's product of two float32
matrices. Networks: the model that ships, and ResNet-50 with random weights, exported for the occasion.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from common import MODEL, Row, Settings, compare, main
from simmap.engine.runtime.session import open_session

SIDE = 1024  # of the matrices


def rows(options: Settings) -> Iterator[Row]:
    """Of the table."""
    from simmap.export.exporter import export
    from simmap.export.recipe import load_recipe

    with tempfile.TemporaryDirectory() as folder:
        yield row("EfficientNet-Lite0", MODEL, "", options)
        path = export(load_recipe(None, {"timm": "resnet50"}), Path(folder) / "resnet50.onnx").path
        yield row("ResNet-50", path, ">= 0.95", options)


def row(name: str, path: Path, expected: str, options: Settings) -> Row:
    """Of one artifact."""
    from threadpoolctl import threadpool_limits

    session = open_session(path, device="cpu", threads=1)
    spec = session.contract.input
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 256, (1, spec.height, spec.width, 3), np.uint8))
    one, other = rng.normal(size=(2, SIDE, SIDE)).astype(np.float32)
    share = multiplications(path) / SIDE**3
    with threadpool_limits(1):
        return compare(
            f"GFLOP/s of a run of {name} / of SGEMM",
            lambda: one @ other,
            lambda: session.infer(images, session.contract.explained),
            expected,
            options,
            note=f"{share * SIDE**3 / 1e9:.2f} G multiplications",
            scale=share,
        )


def multiplications(path: Path) -> int:
    """Of the convolutions, for one image."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(onnx.load(str(path))).graph
    values = [*graph.value_info, *graph.output]
    sides = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim[2:]] for v in values}
    weights = {w.name: w.dims for w in graph.initializer}
    # An artifact that stores float16 casts its weights.
    weights |= {node.output[0]: weights[node.input[0]] for node in graph.node if node.input[0] in weights}
    return sum(
        int(np.prod(weights[node.input[1]])) * int(np.prod(sides[node.output[0]]))
        for node in graph.node
        if node.op_type == "Conv"
    )


if __name__ == "__main__":
    main(rows)
