"""Tables: labels, pairs and embeddings from CSV and NumPy files, or one line."""

import io
import random
from pathlib import Path

import numpy as np
import pytest
from fuzzing import fuzzed, refusing, trial
from mutations import PIECES, garbled, injured

from simmap.engine.dataset import find_images, read_pairs
from simmap.engine.index.search import read_embeddings

TEXTS = (
    "path,label\na.png,x\nb/c.png,y\n",
    "a,b\na.png,b/c.png\nb/c.png,a.png\n",
    '"path","label"\r\n"a.png","é"\r\n',
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "photos" / "b").mkdir(parents=True)
    for name in ("a.png", "b/c.png"):
        (folder / "photos" / name).touch()
    return folder


@fuzzed(tries=400)
def test_spoilt_csv(draw: random.Random, folder: Path) -> None:
    text = garbled(draw, draw.choice(TEXTS)).replace("\udcff", draw.choice(PIECES))
    data = text.encode("utf-8", "surrogateescape" if draw.randrange(2) else "surrogatepass")
    data = data if draw.randrange(3) else injured(draw, data)
    (folder / "table.csv").write_bytes(data)
    with trial("tables", **{"table.csv": data}):
        with refusing():
            find_images(folder / "photos", folder / "table.csv")
        read_pairs(folder / "table.csv")


def _saved(array: object) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.asarray(array))
    return stream.getvalue()


@fuzzed(tries=300)
def test_spoilt_npy(draw: random.Random, folder: Path) -> None:
    shape = draw.choice(((8,), (2, 8), (0, 8), (1, 2, 3), ()))
    kind = draw.choice(("f4", ">f8", "f2", "i4", "c8", "U3", "O", "M8[s]"))
    data = injured(draw, _saved(np.zeros(shape, kind)) if kind != "O" else _saved(np.array(["x"], object)))
    if draw.randrange(3) == 0:
        head = (
            draw.choice((b"(2, 8)", b"(8,), ", b"(0, 8)")),
            draw.choice((b"(9**9,)", b"(2**60,)", b"(-1, 8)", b"[8]")),
        )
        data = _saved(np.zeros(shape, "f4")).replace(*head)
    (folder / "one.npy").write_bytes(data)
    with trial("tables", **{"one.npy": data}):
        assert read_embeddings(folder / "one.npy").ndim == 2
