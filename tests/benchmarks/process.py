"""A cold start and its cost, with this engine and with PyTorch: ``python tests/benchmarks/process.py``.

Each side is a new process that goes from two JPEG files to one picture file with the same weights, the same
decoding, resizing, decomposition and drawing, on one thread; only the network runs in ONNX Runtime here and
in PyTorch with a forward hook there. CPU time and peak memory of the processes in turns, and what the
packages of each side take on the disk. Without PyTorch, timm and the package with the weights there are no
rows.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np
from packaging.requirements import Requirement

from common import PHOTOS, ROOT, Row, Settings, main, quartiles, skipped
from peers import absent, weights_file

PAIR = (PHOTOS / "buddha_a.jpg", PHOTOS / "buddha_b.jpg")
TURNS = 5

# What a process used, told by itself: the peak that a parent reads (ru_maxrss) counts the parent's memory
# too, since a child starts as a copy of it.
COST = """
import json, resource
used = resource.getrusage(resource.RUSAGE_SELF)
(peak,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(json.dumps({"seconds": used.ru_utime + used.ru_stime, "bytes": int(peak.split()[1]) * 1024}))
"""

OURS = """
import sys
from simmap.engine import Engine, PairFigure
from simmap.engine.options import Options

first, second, picture = sys.argv[1:]
pair = Engine(device="cpu", options=Options(threads=1)).compare(first, second)
PairFigure(pair).save(picture, force=True)
"""

TORCH = """
import sys
import timm
import torch
from simmap.engine import decompose
from simmap.engine.contract import InputSpec
from simmap.engine.figures.pair import PairFigure
from simmap.engine.images.decode import load
from simmap.engine.images.preprocess import preprocess
from simmap.engine.results import Embedded, Pair

*sources, picture, weights = sys.argv[1:]
torch.set_num_threads(1)
network = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
state = torch.load(weights, weights_only=True)
network.load_state_dict(dict(zip(network.state_dict(), state.values())))
seen = []
network.bn2.register_forward_hook(lambda module, inputs, output: seen.append(output))
photos, images = [], []
for source in sources:
    photos.append(load(source))
    pixels, geometry = preprocess(photos[-1].pixels, InputSpec(224, 224))
    with torch.inference_mode():
        batch = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
        embedding = network(batch)[0].numpy()
    parts = decompose.alpha_hat(seen[-1][0].numpy(), "avg")
    images.append(Embedded(source, embedding, geometry, parts, None))
PairFigure(Pair(tuple(images), tuple(photos))).save(picture, force=True)
"""


def rows(options: Settings) -> Iterator[Row]:
    """Of the table."""
    if missing := absent():
        yield skipped("torch / ours, cold process", f"{missing} not installed")
        return
    turns = min(options.turns, TURNS)
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "torch.png", Path(folder) / "ours.png"
        used = np.empty((turns + 1, 3, 2))  # (turn, side, CPU seconds and peak bytes)
        for turn in range(turns + 1):
            used[turn, 0] = run(TORCH, folder, "", *PAIR, pictures[0], weights_file())
            used[turn, 1] = run(OURS, folder, "", *PAIR, pictures[1])
            used[turn, 2] = run(OURS, folder, f"{folder}/cache", *PAIR, pictures[1])
        check_alike(*pictures)
    # The first turn filled the system's cache of files and Python's of modules, and kept the graph.
    seconds, peaks = np.moveaxis(used[1:], -1, 0)
    for side, kept, least in ((1, "", (">= 4", ">= 2")), (2, ", graph cached", ("", ""))):
        middle = np.median(seconds, axis=0)
        yield Row(
            f"torch / ours, cold process{kept}",
            *quartiles(seconds[:, 0] / seconds[:, side]),
            least[0],
            f"two JPEG files to a picture, CPU time {middle[0]:.2f} s / {middle[side]:.2f} s",
        )
        middle = np.median(peaks, axis=0) / 2**20
        yield Row(
            f"torch / ours, peak memory of a process{kept}",
            *quartiles(peaks[:, 0] / peaks[:, side]),
            least[1],
            f"{middle[0]:.0f} MiB / {middle[side]:.0f} MiB",
        )
    runtime = installed_bytes("numpy", "opencv-python-headless", "pyyaml", "onnxruntime") + own_bytes()
    rest = ("torch", "torchvision", "timm", "numpy", "opencv-python-headless")
    whole = installed_bytes(*rest)
    without = installed_bytes(*rest, leave_out=("nvidia", "cuda", "triton"))
    yield Row(
        "torch / ours, installed packages",
        *[whole / runtime] * 3,
        note=f"{whole / 2**20:.0f} MiB / {runtime / 2**20:.0f} MiB; {without / 2**20:.0f} MiB without the "
        "CUDA packages that torch requires",
    )


def run(code: str, folder: str, cache: str, *arguments: object) -> tuple[float, float]:
    """CPU seconds and peak bytes of a new Python process on one thread.

    Args:
        code: of the process.
        folder: it runs in.
        cache: folder of the optimised graphs; empty for none.
        arguments: of the process.
    """
    done = subprocess.run(
        [sys.executable, "-c", code + COST, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "SIMMAP_CACHE": cache},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    cost = json.loads(done.stdout)
    return cost["seconds"], cost["bytes"]


def check_alike(*paths: Path) -> None:
    """Both sides must draw the same; the weights that ship are rounded to float16."""
    first, second = (cv2.imread(str(path)).astype(np.int16) for path in paths)
    np.testing.assert_allclose(first, second, atol=16)


def installed_bytes(*names: str, leave_out: tuple[str, ...] = ()) -> int:
    """What distributions and all that they require take on the disk, by the lists of their files.

    Args:
        names: of the distributions.
        leave_out: beginnings of names that are not counted, nor what only they require.
    """
    waiting, seen, total = list(names), set(), 0
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in seen or name.startswith(leave_out):
            continue
        seen.add(name)
        distribution = metadata.distribution(name)
        for file in distribution.files or ():
            path = Path(str(file.locate()))
            if path.suffix != ".pyc" and path.is_file():
                total += path.stat().st_size
        for line in distribution.requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return total


def own_bytes() -> int:
    """What this package's wheel holds."""
    files = [ROOT / "cli.py"]
    for name in ("commands", "engine", "export", "configs", "models"):
        files += [path for path in (ROOT / name).rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return sum(path.stat().st_size for path in files)


if __name__ == "__main__":
    main(rows)
