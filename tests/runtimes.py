"""Runtimes other than ONNX Runtime for Python, and how each runs a pair graph."""

import importlib.util
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Feed = dict[str, npt.NDArray[np.uint8]]
ROOT = Path(__file__).resolve().parents[1]
NODE_MODULES = ROOT / "build" / "node" / "node_modules"


@dataclass(frozen=True)
class Runtime:
    """A runtime.

    Attributes:
        name: of it.
        install: what installs it.
        is_there: whether it can be used here.
        run: a pair graph's outputs by name, in the order of the names given, for ``a`` and ``b``.
    """

    name: str
    install: str
    is_there: Callable[[], bool]
    run: Callable[[Path, Feed, list[str]], dict[str, Array]]


def _openvino(graph: Path, feed: Feed, names: list[str]) -> dict[str, Array]:
    import openvino

    # Its default on some CPUs is bfloat16.
    compiled = openvino.Core().compile_model(str(graph), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results = compiled(dict(feed))
    return {name: np.array(results[name]) for name in names}


def _tract(graph: Path, feed: Feed, names: list[str]) -> dict[str, Array]:
    import tract

    model = tract.onnx().load(str(graph))
    for at, photos in enumerate(feed.values()):
        model.set_input_fact(at, ",".join([*map(str, photos.shape), "u8"]))
    results = model.into_model().into_runnable().run(list(feed.values()))
    return {name: value.to_numpy() for name, value in zip(names, results, strict=True)}


def _opencv(graph: Path, feed: Feed, names: list[str]) -> dict[str, Array]:
    network = cv2.dnn.readNetFromONNX(str(graph))
    for name, photos in feed.items():
        network.setInput(photos, name)
    return dict(zip(names, network.forward(names), strict=True))


def _web(graph: Path, feed: Feed, names: list[str]) -> dict[str, Array]:
    """In a process of Node, by files of raw numbers."""
    with tempfile.TemporaryDirectory() as folder:
        for name, photos in feed.items():
            (Path(folder) / name).write_bytes(photos.tobytes())
        shapes = json.dumps({name: photos.shape for name, photos in feed.items()})
        runner = ROOT / "tests" / "edge" / "run.mjs"
        module = NODE_MODULES / "onnxruntime-web" / "dist" / "ort.node.min.mjs"
        done = subprocess.run(
            ["node", runner, module, graph, folder, shapes], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(done.stderr.strip())
        sizes = json.loads(done.stdout)
        return {name: np.fromfile(Path(folder) / name, np.float32).reshape(sizes[name]) for name in names}


def _has(package: str) -> Callable[[], bool]:
    return lambda: importlib.util.find_spec(package) is not None


def _has_web() -> bool:
    return shutil.which("node") is not None and (NODE_MODULES / "onnxruntime-web").is_dir()


RUNTIMES = [
    Runtime("OpenVINO", "pip install openvino", _has("openvino"), _openvino),
    Runtime("tract", "pip install tract", _has("tract"), _tract),
    Runtime(
        "OpenCV dnn",
        "pip install 'opencv-python-headless>=5'",
        lambda: int(cv2.__version__.split(".")[0]) >= 5,
        _opencv,
    ),
    Runtime(
        "onnxruntime-web",
        "Node 20, and npm install --prefix build/node onnxruntime-web@1.30.0",
        _has_web,
        _web,
    ),
]
