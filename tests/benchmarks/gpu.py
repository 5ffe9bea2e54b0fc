"""CUDA beside other ways to run the same networks on it: ``python tests/benchmarks/gpu.py [--full]``.

From uint8 images in memory to embeddings and feature maps on the host, in wall time, batch by batch: ours
beside a plain ``session.run``, PyTorch eager and compiled, and a captured CUDA graph; what it saves to leave
feature maps on the device; TF32 and float16 arithmetic beside float32; and a stream of JPEG files. Networks:
the model that ships, and ResNet-50 with random weights. Without a GPU there is one row, which says so.
"""

import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from common import MODEL, ROOT, Row, Settings, compare, main, photos, skipped
from simmap.engine import Engine
from simmap.engine.errors import DeviceError
from simmap.engine.runtime.ort import CPU, CUDA, import_runtime
from simmap.engine.runtime.session import Session, open_session

BATCHES, ALL_BATCHES = (1, 32, 256), (1, 2, 4, 8, 16, 32, 64, 128, 256)
STREAM = 512  # images


def rows(options: Settings) -> Iterator[Row]:
    """Of the table."""
    try:
        open_session(MODEL, device="cuda")
    except DeviceError as error:
        yield skipped("CUDA", str(error))
        return
    yield from measured("cuda", ALL_BATCHES if options.full else BATCHES, options)


def measured(device: str, batches: Sequence[int], options: Settings) -> Iterator[Row]:
    """The rows on a device."""
    from simmap.export.exporter import export
    from simmap.export.recipe import load_recipe

    with tempfile.TemporaryDirectory() as folder:
        for name, path, flags in (
            ("Lite0", ROOT / "configs" / "efficientnet_lite0.yaml", {}),
            ("ResNet-50", None, {"timm": "resnet50"}),
        ):
            paths = []
            for precision in ("fp32", "fp16-cuda"):
                recipe = load_recipe(path, {**flags, "precision": precision})
                paths.append(export(recipe, Path(folder) / f"{precision}.onnx", force=True).path)
            full = open_session(paths[0], device=device)
            fast = open_session(paths[0], device=device, tf32=True)
            half = open_session(paths[1], device=device)
            for count in batches:
                images = drawn(full, count)
                yield from forms(f"{name}, batch {count}", full, fast, half, images, options)
                for kind, session in (("fp32", full), ("TF32", fast), ("fp16", half)):
                    told = f"{name} {kind}, batch {count}"
                    yield from torch_rows(told, kind, name, session, images, device, options)
            yield graph_row(f"{name} fp32, batch 1", paths[0], full, device, options)
    yield stream(device, options)


def drawn(session: Session, count: int) -> list[Any]:
    """Random images in the network's size."""
    spec = session.contract.input
    return list(np.random.default_rng(0).integers(0, 256, (count, spec.height, spec.width, 3), np.uint8))


def forms(
    name: str, full: Session, fast: Session, half: Session, images: list[Any], options: Settings
) -> Iterator[Row]:
    """Ways to use ONNX Runtime."""
    outputs = full.contract.explained
    entry = full.inference.get_inputs()[0].name
    directions = np.random.default_rng(1).normal(size=(len(images), full.contract.dimension))

    def run() -> object:
        return full.infer(images, outputs)

    def timed(what: str, call: Callable[[], object], expected: str = "") -> Row:
        return compare(f"{what}, {name}", call, run, expected, options, wall=True)

    yield timed(
        "session.run / ours", lambda: full.inference.run(list(outputs), {entry: np.stack(images)}), ">= 1"
    )
    yield timed("vectors only / with feature maps", lambda: full.infer(images, outputs[:1]), "<= 1")
    yield timed("maps on the device / feature maps", lambda: full.infer_maps(images, directions), "<= 1")
    yield timed("TF32 / fp32", lambda: fast.infer(images, outputs), "< 1")
    yield timed("fp16 / fp32", lambda: half.infer(images, outputs), "< 1")


def torch_rows(
    name: str, kind: str, network: str, session: Session, images: list[Any], device: str, options: Settings
) -> Iterator[Row]:
    """PyTorch over ours, the same architecture in the same precision; weights do not change its time."""
    try:
        import timm
        import torch
    except ImportError as error:
        yield skipped(f"PyTorch / ours, {name}", f"{error.name} not installed")
        return
    if device == "cuda" and not torch.cuda.is_available():
        yield skipped(f"PyTorch / ours, {name}", "this PyTorch has no CUDA")
        return
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = kind == "TF32"
    torch.backends.cudnn.benchmark = True
    architecture = {"Lite0": "tf_efficientnet_lite0", "ResNet-50": "resnet50"}[network]
    dtype = torch.float16 if kind == "fp16" else torch.float32
    model = timm.create_model(architecture, num_classes=0).eval().to(device, dtype)
    model = model.to(memory_format=torch.channels_last)
    spec = session.contract.input
    mean, std = (torch.tensor(v, device=device)[:, None, None] * 255 for v in (spec.mean, spec.std))

    def features(batch: Any) -> tuple[Any, Any]:
        conv = model.forward_features(((batch.permute(0, 3, 1, 2).float() - mean) / std).to(dtype))
        return conv.float().mean(dim=(2, 3)), conv.float()

    torch.compiler.reset()  # it gives up on a function that it has seen in too many forms
    compiled = torch.compile(features)

    def run(forward: Callable[[Any], tuple[Any, Any]]) -> object:
        with torch.inference_mode():
            return [value.cpu() for value in forward(torch.from_numpy(np.stack(images)).to(device))]

    for what, forward in (("PyTorch eager", features), ("torch.compile", compiled)):
        yield compare(
            f"{what} / ours, {name}",
            lambda forward=forward: run(forward),
            lambda: session.infer(images, session.contract.explained),
            "> 1",
            options,
            wall=True,
        )


def graph_row(name: str, path: Path, session: Session, device: str, options: Settings) -> Row:
    """A captured CUDA graph, which always reads and writes the same memory of the device."""
    ort = import_runtime()
    images = drawn(session, 1)
    batch, outputs = np.stack(images), session.contract.explained
    provider = (CUDA, {"enable_cuda_graph": "1", "use_tf32": "0"}) if device == "cuda" else CPU
    run = ort.InferenceSession(str(path), providers=[provider])
    given = ort.OrtValue.ortvalue_from_numpy(batch, device, 0)
    binding = run.io_binding()
    binding.bind_ortvalue_input(run.get_inputs()[0].name, given)
    found = []
    for output, value in zip(outputs, session.infer(images, outputs), strict=True):
        found.append(ort.OrtValue.ortvalue_from_shape_and_type(value.shape, np.float32, device, 0))
        binding.bind_ortvalue_output(output, found[-1])

    def replay() -> object:
        given.update_inplace(batch)
        run.run_with_iobinding(binding)
        return [value.numpy() for value in found]

    return compare(
        f"CUDA graph / ours, {name}",
        replay,
        lambda: session.infer(images, outputs),
        "",
        options,
        wall=True,
    )


def stream(device: str, options: Settings) -> Row:
    """JPEG files to embeddings, on the device and on the CPU."""
    paths = list(islice(cycle(list(photos(options))), STREAM))
    engines = [Engine(options.model, device=name) for name in (device, "cpu")]
    engines[0].warm_up(32)
    return compare(
        f"a stream of {STREAM} files on {device} / on the CPU",
        lambda: deque(engines[0].vectors(paths), maxlen=0),
        lambda: deque(engines[1].vectors(paths), maxlen=0),
        "< 1",
        options,
        wall=True,
        turns=min(options.turns, 5),
    )


if __name__ == "__main__":
    main(rows)
