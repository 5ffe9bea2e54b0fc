"""An artifact's sessions, and outputs whose sizes are known only once it has run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rewriting import rewritten

from common import ARTIFACTS
from simmap.engine import ArtifactError, Engine, Options
from simmap.engine.network import Network
from simmap.engine.places import SumCheck
from simmap.engine.runtime.session import Session
from simmap.engine.types import Array


def threads(session: Session) -> int:
    return int(session.inference.get_session_options().intra_op_num_threads)


@pytest.mark.parametrize(
    ("cpus", "workers", "single", "stream"),
    [(8, 4, 4, 2), (9, 2, 4, 4), (8, 1, 8, 8), (2, 8, 1, 1), (1, 1, 1, 1)],
)
def test_a_pair_shares_the_cpus_by_two_and_a_long_stream_by_its_workers(
    cpus: int, workers: int, single: int, stream: int
) -> None:
    network = Network(ARTIFACTS / "avg.onnx", Options(device="cpu", cache=False), cpus, workers)
    assert threads(network.session) == single
    assert network.session_of(workers - 1) is network.session
    assert threads(network.session_of(workers)) == stream
    assert network.session_of(workers + 1) is network.session_of(workers)
    assert (network.session_of(workers) is network.session) == (single == stream)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(grid_height=c["grid_height"] + 1),
        lambda c: c.update(grid_width=c["grid_width"] + 1),
    ],
)
def test_a_map_of_another_size_than_the_contract_says_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    path = rewritten(tmp_path, ARTIFACTS / "dynamic.onnx", change, signed=True)
    engine = Engine(path, device="cpu", options=Options(threads=1, cache=False))
    photo = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    with pytest.raises(ArtifactError, match=r"an embedding \(5,\) and a map \(8, 12, 5\), but its contract"):
        list(engine.embed([photo]))


def test_the_first_run_of_a_session_and_one_of_64_after_it_are_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checked: list[None] = []
    check = SumCheck.check

    def counted(self: SumCheck, embedding: Array, places: Array) -> None:
        checked.append(None)
        check(self, embedding, places)

    monkeypatch.setattr(SumCheck, "check", counted)
    engine = Engine(ARTIFACTS / "avg.onnx", device="cpu", options=Options(threads=1, workers=1, cache=False))
    photo = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    counts = []
    for photos in (1, 63, 1):
        list(engine.embed([photo] * photos))
        counts.append(len(checked))
    assert counts == [1, 1, 2]
