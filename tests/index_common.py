"""What the tests of the index share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from common import ARTIFACTS
from simmap.engine import Engine
from simmap.engine.index.database import Header, reading
from simmap.engine.index.embedded import Index
from simmap.engine.index.store import Entry
from simmap.engine.options import Options

ENGINE = Engine(ARTIFACTS / "avg.onnx", device="cpu", options=Options(threads=1))
D = ENGINE.contract.dimension
Run = Callable[[list[dict[str, Any]]], list[list[str]]]


def entry(name: str, label: str | None = "x", size: int = 1) -> Entry:
    return Entry(name, label, 4, 6, size, 10**18)


def units(seed: int, count: int, dimension: int = D) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, dimension))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def add(target: Index, seed: int, *names: str) -> None:
    target.upsert([entry(name) for name in names], units(seed, len(names)))


def content(target: Index) -> dict[str, tuple[Entry, bytes]]:
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
