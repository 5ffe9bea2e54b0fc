"""The process: it drains, reloads, shares a port, and survives what happens to its files."""

import resource
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from serving import (
    AVG,
    KEYS,
    A,
    B,
    Served,
    bearer,
    engine,
    figure,
    files,
    key_setting,
    make_index,
    noise,
    problem,
    serving,
    slow_photo,
)  # fmt: skip

from common import ARTIFACTS, Simmap, failed
from simmap.engine import Index
from simmap.engine.dataset import Item
from simmap.engine.files import write_bytes
from simmap.engine.index.update import update_index

MAX = ARTIFACTS / "max.onnx"


def arrived(client: httpx.Client) -> float:
    """Comparisons that are under way or answered."""
    answered = 'simmap_requests_total{method="POST",route="/v1/compare",status="200"}'
    return figure(client, "simmap_slots_taken") + figure(client, answered)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_loses_nothing_that_is_under_way(number: int) -> None:
    photo = slow_photo(height=600)
    expected = engine().compare(photo, photo).score
    with serving() as served, served.client() as watcher:
        started = threading.Barrier(9)

        def ask(_: int) -> float:
            with served.client() as client:
                client.get("/healthz")  # the connection is there
                started.wait()
                answer = client.post("/v1/compare", files=files(a=photo, b=photo))
                return float(answer.raise_for_status().json()["score"])

        with ThreadPoolExecutor(8) as threads:
            scores = threads.map(ask, range(8))
            started.wait()
            deadline = time.monotonic() + 60
            while arrived(watcher) < 8:
                assert time.monotonic() < deadline
            served.signal(number)
            done = list(scores)
        assert done == [expected] * 8
        assert served.stop() == 0
        assert served.lines[-1]["event"] == "stopped"


def test_a_server_that_drains_is_not_ready_and_still_serves() -> None:
    with serving(SIMMAP_SERVER_DRAIN_SECONDS="1.5") as served, served.client() as client:
        assert client.get("/readyz").status_code == 200
        served.signal(signal.SIGTERM)
        served.wait("draining")
        problem(client.get("/readyz"), 503)
        assert client.get("/v2/health/ready").status_code == 503
        answer = client.post("/v1/compare", files=files(a=A, b=B))
        assert answer.status_code == 200 and answer.headers["connection"] == "close"
        assert client.get("/healthz").status_code == 200
        assert served.process.wait(timeout=30) == 0
        with pytest.raises(httpx.ConnectError):
            client.get("/healthz")


def test_requests_go_on_while_another_model_takes_the_place(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    shutil.copy(AVG, model)
    scores = {name: engine(path).compare(A, B).score for name, path in (("avg", AVG), ("max", MAX))}
    prints = {name: engine(path).contract.fingerprint for name, path in (("avg", AVG), ("max", MAX))}
    with serving("--model", model) as served:
        ended, answers = threading.Event(), list[dict[str, Any]]()

        def ask() -> None:
            with served.client() as client:
                while not ended.is_set():
                    answer = client.post("/v1/compare", files=files(a=A, b=B))
                    answers.append(answer.raise_for_status().json())

        def answered_by(name: str) -> bool:
            return any(answer["model"]["fingerprint"] == prints[name] for answer in list(answers))

        with ThreadPoolExecutor(4) as threads:
            asked = [threads.submit(ask) for _ in range(4)]
            deadline = time.monotonic() + 120
            for name in ("avg", "max", "avg", "max"):
                write_bytes(model, {"avg": AVG, "max": MAX}[name].read_bytes(), force=True)
                served.lines.clear()
                answers.clear()
                served.signal(signal.SIGHUP)
                served.wait("reloaded", fingerprint=prints[name])
                while not answered_by(name):
                    assert time.monotonic() < deadline and not any(one.done() for one in asked)
                    time.sleep(0.01)
                for answer in list(answers):
                    own = next(name for name in prints if prints[name] == answer["model"]["fingerprint"])
                    assert answer["score"] == scores[own]
            ended.set()
            for one in asked:
                one.result()


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[tuple[Served, Path]]:
    """A server of an index and a copy of its model, with a key that may do all."""
    shutil.copy(AVG, tmp_path / "model.onnx")
    index = make_index(tmp_path)
    key = key_setting(KEYS["all"], "read", "search", "change", "admin")
    (tmp_path / "server.yaml").write_text(f"keys: {{all: {key}}}\n")
    with serving(
        "--index", index.path, "--model", tmp_path / "model.onnx", "--config", tmp_path / "server.yaml"
    ) as served:
        yield served, tmp_path


def test_a_reload_of_what_cannot_be_used_changes_nothing(kept: tuple[Served, Path]) -> None:
    served, folder = kept
    with served.client(headers=bearer("all")) as client:
        before = client.get("/v1/model").json()
        for content in (b"no model", MAX.read_bytes()):  # damaged; another than made the index
            write_bytes(folder / "model.onnx", content, force=True)
            assert "the old one stays" in problem(client.post("/v1/admin/reload"), 409)
            served.wait("reload refused")
            assert client.get("/v1/model").json() == before
            assert client.post("/v1/search?k=1", files=files(image=A)).status_code == 200
        write_bytes(folder / "model.onnx", AVG.read_bytes(), force=True)
        assert client.post("/v1/admin/reload").json() == {"status": "ready"}
        metrics = client.get("/metrics").text
        assert 'simmap_reloads_total{outcome="refused"} 2.0' in metrics
        assert 'simmap_reloads_total{outcome="done"} 1.0' in metrics


def test_an_index_that_grows_under_searches_gives_each_one_of_its_states(kept: tuple[Served, Path]) -> None:
    served, folder = kept
    added = [folder / "photos" / f"{number}.png" for number in range(8)]
    for number, path in enumerate(added):
        path.write_bytes(noise(500 + number))
    ended = threading.Event()
    own = engine()

    def ask() -> list[int]:
        counts = []
        with served.client(headers=bearer("all")) as client:
            while not ended.is_set() or len(counts) < 2:
                hits = client.post("/v1/search?k=50", files=files(image=A)).raise_for_status().json()["hits"]
                scores = [hit["score"] for hit in hits]
                assert scores == sorted(scores, reverse=True)
                counts.append(len({hit["id"] for hit in hits}))
                assert counts[-1] == len(hits)
        return counts

    with ThreadPoolExecutor(2) as threads:
        asked = [threads.submit(ask) for _ in range(2)]
        index = Index(folder / "index")
        for path in added:
            update_index(index, own, [Item(str(path), None)])
        ended.set()
        for one in asked:
            counts = one.result()
            assert counts == sorted(counts) and counts[0] >= 10
    ended.set()
    assert ask() == [18, 18]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the files of another process")
def test_a_full_disk_refuses_an_image_and_loses_nothing(kept: tuple[Served, Path]) -> None:
    served, folder = kept
    before = len(Index(folder / "index"))
    with served.client(headers=bearer("all")) as client:
        resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        assert "disk is full" in problem(client.post("/v1/index/images", files=files(image=noise(9))), 507)
        small = noise(9, 4, 4)  # its file fits, its row does not
        answer = client.post("/v1/index/images", files=files(image=small))
        assert answer.status_code in (503, 507)
        assert client.post("/v1/search?k=1", files=files(image=A)).status_code == 200
        uploads = folder / "photos" / "uploads"
        assert not any(uploads.iterdir()) and len(Index(folder / "index")) == before
        resource.prlimit(
            served.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        )
        assert client.post("/v1/index/images", files=files(image=small)).status_code == 201


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shares the connections of a port")
def test_two_workers_on_one_port_share_an_index_and_one_outlives_the_other(tmp_path: Path) -> None:
    index = make_index(tmp_path)
    key = key_setting(KEYS["all"], "read", "search", "change")
    config = tmp_path / "server.yaml"
    config.write_text(f"reuse_port: true\nkeys: {{all: {key}}}\n")
    options = ["--index", index.path, "--config", config]
    with serving(*options) as first, serving(*options, "--port", first.port) as second:
        names = set()
        for number in range(20):  # the kernel draws a worker for each connection
            with first.client(headers=bearer("all")) as client:
                added = client.post("/v1/index/images", files=files(image=noise(700 + number)))
                names.add(added.raise_for_status().json()["id"])
            for _ in range(3):
                with first.client(headers=bearer("all")) as client:
                    asked = client.post("/v1/search?k=1", files=files(image=noise(700 + number)))
                    assert asked.raise_for_status().json()["hits"][0]["id"] in names
        for served in (first, second):  # each has done some of it
            served.wait("request", status=201)
        second.process.kill()
        second.process.wait()
        for _ in range(10):
            with first.client(headers=bearer("all")) as client:
                assert client.post("/v1/compare", files=files(a=A, b=B)).status_code == 200
        found, vectors = Index(tmp_path / "index").get(sorted(names))
        assert len(found) == 20 and np.isfinite(vectors).all()


def test_an_address_that_cannot_be_had_is_one_line(simmap: Simmap) -> None:
    pytest.importorskip("fastapi")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        failed(simmap("serve", "--port", port, "--model", AVG), f"127.0.0.1 port {port}: ")
    failed(simmap("serve", "--host", "256.1.1.1", "--model", AVG), "cannot listen on 256.1.1.1")


def test_models_and_indexes_that_cannot_be_opened_are_one_line(simmap: Simmap, tmp_path: Path) -> None:
    failed(simmap("serve", "--port", 0, "--model", "none.onnx"), "none.onnx: no such model file")
    failed(simmap("serve", "--port", 0, "--index", "none", "--model", AVG), "none: ")
    index = make_index(tmp_path)
    failed(simmap("serve", "--port", 0, "--index", index.path, "--model", MAX), "was built by another model")


def test_a_small_answer_does_not_wait_for_an_acknowledgement(served: Served) -> None:
    seconds = []
    with served.client() as client:
        for _ in range(30):
            started = time.perf_counter()
            client.get("/healthz")
            seconds.append(time.perf_counter() - started)
    # With Nagle's algorithm all but the first few take 40 ms, on any machine.
    assert sorted(seconds)[len(seconds) // 3] < 0.03


def test_a_server_that_is_open_without_a_key_says_so() -> None:
    with serving("--host", "0.0.0.0") as served:
        assert (
            "set keys"
            in served.wait("open to the network without a key: everybody may compare and search; set keys")[
                "event"
            ]
        )
    with serving("--host", "127.0.0.1") as served:
        assert [line["level"] for line in served.lines] == ["info"]
