"""Make the small artifacts of this folder: ``python tests/artifacts/make.py``.

The engine's tests open them where neither torch nor onnx is installed.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "export"))

import onnx  # noqa: E402

import networks  # noqa: E402
from simmap.engine.contract import CONTRACT_KEY, GRAPH_KEY, Contract  # noqa: E402
from simmap.engine.runtime.fingerprint import fingerprint, graph_digest, read_stored  # noqa: E402
from simmap.export.exporter import export  # noqa: E402
from simmap.export.pair import export_pair  # noqa: E402
from simmap.export.recipe import load_recipe  # noqa: E402

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
Build = Callable[[], networks.Network]
ARTIFACTS: dict[str, tuple[Build, dict[str, Any]]] = {
    "avg": (lambda: networks.pooled_only(size=(32, 32), stride=4), {}),
    "max": (lambda: networks.pooled_only("GlobalMaxPool", size=(32, 48), stride=4), {}),
    "gem": (lambda: networks.gem(2.5, size=(16, 24)), {}),
    "catavgmax": (networks.catavgmax, {}),
    "affine_bias": (lambda: networks.tail("Flatten", "Gemm"), {}),
    "max_affine": (lambda: networks.classifier(scores=None, pool="GlobalMaxPool"), {}),
    "flatten": (networks.arc_face, {}),
    "weights": (networks.mobile_face, {}),
    "weights_zero": (networks.mobile_face, {"reference": "zero"}),
    "letterbox_bgr": (
        lambda: networks.pooled_only(size=(32, 48), stride=4),
        {"colour": "bgr", "resize": "letterbox"},
    ),
    "crop": (
        lambda: networks.pooled_only(size=(32, 32), stride=4),
        {"resize": "crop", "crop_fraction": 0.8, "kernel": "cubic"},
    ),
    "gated": (networks.gated, {}),
    "attention": (networks.attended, {}),
    "token": (networks.class_token, {}),
    "dynamic": (networks.dynamic, {}),
    "fragile": (networks.fragile, {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}),
}


def make(name: str, folder: Path) -> Path:
    """Write one artifact into ``folder``."""
    build, flags = ARTIFACTS[name]
    network = build()
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / f"{name}_source.onnx"
        onnx.save(network.model, str(source))
        recipe = {"onnx": str(source), "mean": MEAN, "std": STD, **network.flags, **flags}
        return export(load_recipe(None, recipe), folder / f"{name}.onnx", force=True).path


def make_endless(folder: Path) -> Path:
    """``avg`` whose feature map goes 2^62 times round a loop; no gate would let it through."""
    model = onnx.load(str(HERE / "avg.onnx"))
    graph = model.graph
    (producer,) = (node for node in graph.node if "conv" in node.output)
    producer.output[list(producer.output).index("conv")] = "looped"
    value = onnx.helper.make_tensor_value_info
    body = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Identity", ["go_on"], ["still_on"]),
            onnx.helper.make_node("Neg", ["map"], ["next_map"]),
        ],
        "body",
        [
            value("turn", onnx.TensorProto.INT64, []),
            value("go_on", onnx.TensorProto.BOOL, []),
            value("map", onnx.TensorProto.FLOAT, None),
        ],
        [value("still_on", onnx.TensorProto.BOOL, []), value("next_map", onnx.TensorProto.FLOAT, None)],
    )
    loop = onnx.helper.make_node("Loop", ["turns", "true", "looped"], ["conv"], body=body)
    graph.node.insert(list(graph.node).index(producer) + 1, loop)
    graph.initializer.append(onnx.helper.make_tensor("turns", onnx.TensorProto.INT64, [], [2**62]))
    graph.initializer.append(onnx.helper.make_tensor("true", onnx.TensorProto.BOOL, [], [True]))
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    contract = json.loads(metadata[CONTRACT_KEY])
    contract["fingerprint"] = fingerprint(read_stored(model.SerializeToString()), contract)
    metadata[CONTRACT_KEY] = json.dumps(contract, sort_keys=True)
    metadata[GRAPH_KEY] = graph_digest(model.SerializeToString())
    Contract.from_metadata(metadata, name="endless")
    onnx.helper.set_model_props(model, metadata)
    path = folder / "endless.onnx"
    onnx.save(model, str(path))
    return path


def make_pair(folder: Path) -> Path:
    """The pair graph of ``affine_bias``, with points."""
    return export_pair(HERE / "affine_bias.onnx", folder / "affine_bias.onnx", points=True, force=True).path


if __name__ == "__main__":
    for artifact in ARTIFACTS:
        print(make(artifact, HERE))
    print(make_endless(HERE / "hostile"))
    print(make_pair(HERE / "pair"))
