"""Checkpoints: loaded, or one line; no code of theirs runs."""

import io
import pickle
import random
import struct
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from fuzzing import fuzzed, trial
from mutations import INTEGERS, injured

torch = pytest.importorskip("torch")


class Code:
    """Would make a file, if it were unpickled."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("ran"),)


@cache
def seeds() -> dict[str, bytes]:
    """Checkpoints of a network by the name of their file: zip, the older format, safetensors, pickles."""
    from safetensors.torch import save

    torch.manual_seed(0)
    state = network().state_dict()
    training = {"epoch": 3, "model": {f"module.{key}": value for key, value in state.items()}, "lr": [0.1]}
    loop: dict[str, Any] = {}
    loop["model"] = loop

    def saved(content: object, **options: Any) -> bytes:
        stream = io.BytesIO()
        torch.save(content, stream, **options)
        return stream.getvalue()

    return {
        "zip.pth": saved(state),
        "training.pth": saved(training),
        "old.pth": saved(state, _use_new_zipfile_serialization=False),
        "loop.pth": saved(loop),
        "code.pth": saved({"model": state, "x": Code()}),
        "network.pth": saved(network()),
        "pickle.pkl": pickle.dumps({"a": 1, "x": Code()}),
        "plain.safetensors": save(dict(state)),
    }


def network() -> Any:
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))


def rezipped(draw: random.Random, data: bytes) -> bytes:
    """A zip archive with entries that are spoilt, dropped, doubled, renamed, compressed or a bomb."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        names = old.namelist()
        at, change = (
            draw.randrange(len(names)),
            draw.choice(("spoil", "drop", "double", "name", "deflate", "bomb")),
        )
        for number, name in enumerate(names):
            body, method = old.read(name), zipfile.ZIP_STORED
            if number == at and change == "drop":
                continue
            if number == at and change == "spoil":
                body = injured(draw, body)
            if number == at and change == "name":
                name = draw.choice((names[0], "x", "../x", "archive/data.pkl", name.upper()))
            if change == "deflate" or (number == at and change == "bomb"):
                method = zipfile.ZIP_DEFLATED
            if number == at and change == "bomb":
                body += bytes(50_000_000)
            new.writestr(name, body, method)
            if number == at and change == "double":
                new.writestr(name, injured(draw, body))
    return out.getvalue()


def retitled(draw: random.Random, data: bytes) -> bytes:
    """A safetensors file with another header, or another length of it."""
    (size,) = struct.unpack_from("<Q", data)
    head = injured(draw, data[8 : 8 + size])
    length = len(head) if draw.randrange(2) else draw.choice(INTEGERS)
    return struct.pack("<Q", length) + head + data[8 + size :]


@pytest.mark.filterwarnings("ignore")
@fuzzed(tries=250)
def test_spoilt_checkpoints(
    draw: random.Random, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    from simmap.export.sources.checkpoints import load_checkpoint

    folder = tmp_path_factory.getbasetemp() / "checkpoints"
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    name = draw.choice(sorted(seeds()))
    data = seeds()[name]
    way = draw.randrange(4)
    if way < 2 and data.startswith(b"PK"):
        data = rezipped(draw, data)
    elif way < 2 and name.endswith(".safetensors"):
        data = retitled(draw, data)
    elif way:
        data = injured(draw, data)
    path = folder / draw.choice((name, name, "other.safetensors", "other.bin"))
    path.write_bytes(data)
    with trial("checkpoints", **{path.name: data}):
        load_checkpoint(network(), path, "the network")
    assert not (folder / "ran").exists()
