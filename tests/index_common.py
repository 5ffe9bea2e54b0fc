"""What the tests of the index share."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from servers import Server

from common import ARTIFACTS
from simmap.engine import Engine
from simmap.engine.index.database import Header, reading
from simmap.engine.index.opening import make_index
from simmap.engine.index.store import Entry, VectorStore, about_of
from simmap.engine.options import Options

ENGINE = Engine(ARTIFACTS / "avg.onnx", device="cpu", options=Options(threads=1))
D = ENGINE.contract.dimension
Run = Callable[[list[dict[str, Any]]], list[list[str]]]
_numbers = count()


@dataclass(frozen=True)
class Place:
    """Where indexes of one kind are made.

    Attributes:
        kind: ``embedded``, ``postgres`` or ``milvus``.
        server: None for embedded ones.
        root: the folder of the images.
    """

    kind: str
    server: Server | None
    root: Path

    def name(self) -> str:
        """Of an index that does not exist yet."""
        name = f"photos{next(_numbers)}"
        return str(self.root / f"{name}.index") if self.server is None else self.server.url(name)

    def make(self, name: str | None = None, engine: Engine = ENGINE) -> VectorStore:
        """An index, by default a new one."""
        return make_index(name or self.name(), about_of(engine, self.root))


def entry(name: str, label: str | None = "x", size: int = 1) -> Entry:
    return Entry(name, label, 4, 6, size, 10**18)


def units(seed: int, count: int, dimension: int = D) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, dimension))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def add(target: VectorStore, seed: int, *names: str) -> None:
    target.upsert([entry(name) for name in names], units(seed, len(names)))


def content(target: VectorStore) -> dict[str, tuple[Entry, bytes]]:
    entries = target.entries()
    kept, vectors = target.get([e.id for e in entries])
    assert kept == entries and len(target) == len(entries)
    return {e.id: (e, v.tobytes()) for e, v in zip(entries, vectors, strict=True)}


def files(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in path.iterdir()}


def vectors_of(path: Path) -> bytes:
    (only,) = path.glob("*.f32")
    return only.read_bytes()


def header(path: Path) -> Header:
    with reading(path) as database:
        return database.header


def states(steps: list[list[Any]]) -> list[dict[str, tuple[Entry, bytes]]]:
    """What an index holds before the first operation and after each."""
    held: dict[str, tuple[Entry, bytes]] = {}
    found: list[dict[str, tuple[Entry, bytes]]] = [{}]
    for name, *arguments in steps:
        if name == "delete":
            held = {n: value for n, value in held.items() if n not in arguments[0]}
        elif name == "upsert":
            vectors = np.array(arguments[1], np.float32)
            new = {e[0]: (Entry(*e), v.tobytes()) for e, v in zip(arguments[0], vectors, strict=True)}
            held = {**held, **new}
        found.append(held)
    return found
