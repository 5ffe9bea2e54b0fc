"""A folder with files of every kind that a command reads, small enough to be made again for each try."""

import json
import shutil
from pathlib import Path

import numpy as np

from common import ARTIFACTS, SAMPLES, Simmap

AVG = ARTIFACTS / "avg.onnx"
LONG = 300 * "x"


def write_files(root: Path, simmap: Simmap) -> None:
    """Write them into ``root``, which ``simmap`` runs in."""
    for label in "ab":
        (root / "photos" / label).mkdir(parents=True)
        for number in "12":
            shutil.copy(SAMPLES / "box.png", root / "photos" / label / f"{number}.png")
    assert simmap("index", "build", "photos", "-o", "ix", "--model", AVG).returncode == 0
    (root / "empty.npy").touch()
    dimension = json.loads(simmap("index", "info", "ix", "--json").stdout)["dimension"]
    np.save(root / "one.npy", np.ones((1, dimension)))
    np.save(root / "zeros.npy", np.zeros((0, 3), np.float32))
    (root / "text.csv").write_text("path,label,a,b\n1.png,x,photos/a/1.png,photos/b/1.png\n")
    (root / "options.yaml").write_text(f"model: {AVG}\nthreads: 1\n")
    (root / "bad.yaml").write_text("threads: many\n")
    shutil.copy(AVG, root / "model.onnx")
    (root / "recipe.yaml").write_text("onnx: model.onnx\nsize: [32, 32]\n")
