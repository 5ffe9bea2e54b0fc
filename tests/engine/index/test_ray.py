"""Building an index on a Ray cluster of this machine, whose processes are killed meanwhile."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import cv2
import numpy as np
import pytest
from index_common import ENGINE, content
from ray_processes import kill_worker, processes, rows, waited

from common import ARTIFACTS, MODEL, Simmap, failed
from simmap.engine import Engine, ImageError
from simmap.engine.dataset import Item, find_images
from simmap.engine.errors import ClusterError
from simmap.engine.index import cluster
from simmap.engine.index.cluster import ray_cluster
from simmap.engine.index.embedded import Index
from simmap.engine.index.store import about_of
from simmap.engine.index.update import Update, update_index
from simmap.engine.options import Options

TOKEN = uuid4().hex
# Ray reads these when it is imported.
os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN, RAY_USAGE_STATS_ENABLED="0")
ray = pytest.importorskip("ray", reason="needs Ray: pip install ray")

KILLS = int(os.environ.get("SIMMAP_KILLS", "2"))  # of a worker, and as many of a client
AVG = ARTIFACTS / "avg.onnx"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster that this process is connected to, and what others call it."""
    # Ray's sockets lie there, whose paths may not be long.
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)  # for what a killed worker leaves
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=100_000_000,
            log_to_driver=False,
            logging_level="CRITICAL",
            _temp_dir=folder,
        )
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()
    try:
        waited(lambda: not processes(TOKEN))
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos that take a second or more to embed, and two that cannot be."""
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("many") / "photos"
    for number in range(160):
        path = root / f"class{number % 3}" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    (root / "class1" / "030.jpg").write_bytes(b"no image")
    (root / "class2" / "cut.png").write_bytes((root / "class2" / "002.png").read_bytes()[:300])
    return root


@pytest.fixture(scope="module")
def model() -> Engine:
    """The network that ships: not too fast to be killed while it runs."""
    return Engine(MODEL, device="cpu", options=Options(threads=1))


@pytest.fixture(scope="module")
def alone(many: Path, model: Engine, tmp_path_factory: pytest.TempPathFactory) -> tuple[Index, Update]:
    """What this machine makes of these photos."""
    index = Index.create(tmp_path_factory.mktemp("alone") / "index", model, many)
    return index, update_index(index, model, find_images(many))


def build(path: Path, photos: Path, engine: Engine, strict: bool = False) -> tuple[Index, Update]:
    index = Index.create(path, engine, photos)
    with ray_cluster("auto") as embed:
        return index, update_index(index, engine, find_images(photos), strict=strict, embed=embed)


def test_a_cluster_gives_what_one_machine_gives(
    address: str, many: Path, model: Engine, alone: tuple[Index, Update], tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []
    index = Index.create(tmp_path / "index", model, many)
    items = find_images(many)
    with ray_cluster("auto") as embed:
        done = update_index(index, model, items, on_progress=lambda *counts: told.append(counts), embed=embed)
    assert content(index) == content(alone[0]) and done == alone[1] and len(done.skipped) == 2
    assert told == sorted(told) and told[-1] == (162, 162) and len(told) > 8
    # Again: nothing but the two that cannot be embedded, then one that has changed.
    assert build(index.path, many, model)[1] == Update(0, 160, 0, done.skipped)
    touched = Path(items[0].path)
    os.utime(touched, ns=(1, 1))
    assert build(index.path, many, model)[1].added == 1
    assert content(index)[index.id_of(touched)][1] == content(alone[0])[index.id_of(touched)][1]
    os.utime(touched, ns=(alone[0].entries()[0].mtime_ns,) * 2)


def test_names_stay_as_they_were_given(
    address: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    _, done = build(tmp_path / "index", Path("class1"), ENGINE)
    ((path, error),) = done.skipped
    assert path == "class1/30.jpg" and error.startswith("class1/30.jpg: is not a JPEG")


def test_strict_stops_at_what_cannot_be_embedded(address: str, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ImageError) as here:
        update_index(Index.create(tmp_path / "a", ENGINE, photos), ENGINE, find_images(photos), strict=True)
    with pytest.raises(ImageError) as there:
        build(tmp_path / "b", photos, ENGINE, strict=True)
    assert str(here.value) == str(there.value) and type(there.value) is ImageError
    assert build(tmp_path / "b", photos, ENGINE)[1].added < 60


def test_killed_workers_lose_nothing(
    address: str, many: Path, model: Engine, alone: tuple[Index, Update], tmp_path: Path
) -> None:
    killed: list[int] = []

    def kill() -> None:
        while len(killed) < KILLS:
            killed.append(kill_worker(TOKEN))

    killer = threading.Thread(target=kill)
    killer.start()
    for number in range(20):
        index, done = build(tmp_path / str(number), many, model)
        assert content(index) == content(alone[0]) and done == alone[1]
        if len(killed) == KILLS:
            break
    killer.join()
    assert len(set(killed)) == KILLS


def test_an_image_that_kills_its_workers_does_not_do_so_for_ever(
    address: str, many: Path, model: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "RETRIES", 0)
    thread = threading.Thread(target=kill_worker, args=(TOKEN,))
    thread.start()
    with pytest.raises(ClusterError, match=r"photos/class\d/.* to .*: Ray gave up after 1 attempts"):
        build(tmp_path / "index", many, model)
    thread.join()


def test_a_killed_client_goes_on(
    address: str, many: Path, model: Engine, alone: tuple[Index, Update], tmp_path: Path
) -> None:
    kept: list[int] = []
    indexes = [tmp_path / "0"]
    while len(kept) < KILLS:
        before = rows(indexes[-1])
        command = [sys.executable, "-m", "simmap.cli", "index", "build", str(many), "-o", str(indexes[-1])]
        with subprocess.Popen([*command, "--ray", address]) as client:
            # Killed when it has written something more.
            waited(lambda: client.poll() is not None or rows(indexes[-1]) > before)  # noqa: B023
            client.kill()
            if client.wait() == -signal.SIGKILL:
                kept.append(rows(indexes[-1]))
        if rows(indexes[-1]) == 160:
            indexes.append(tmp_path / str(len(indexes)))
    assert any(0 < count < 160 for count in kept)
    last = build(indexes[-1], many, model)[1]
    assert last.added + last.kept == 160 and last.skipped == alone[1].skipped
    for path in indexes:
        assert content(Index(path)) == content(alone[0])


def test_the_command_reports_as_on_one_machine(
    address: str, simmap: Simmap, photos: Path, tmp_path: Path
) -> None:
    arguments = ("index", "build", photos, "--model", AVG)
    here = simmap(*arguments, "-o", tmp_path / "here")
    there = simmap(*arguments, "-o", tmp_path / "there", "--ray", address)
    assert there.stdout == here.stdout.replace("here:", "there:") and there.stderr == here.stderr
    assert content(Index(tmp_path / "there")) == content(Index(tmp_path / "here"))
    (tmp_path / "list.csv").write_text("path,label\nphotos/class0/00.png,one\n")
    for source, added in ((tmp_path / "list.csv", 1), (f"{photos}/*/*0.png", 6), (f"file://{photos}", 60)):
        name = f"ix{added}"
        done = simmap("index", "build", source, "--model", AVG, "-o", name, "--ray", address, "--json")
        assert f'"added": {added},' in done.stdout and done.stderr.count("\n") == (added == 60)


def test_a_cluster_that_cannot_work_is_one_line(
    simmap: Simmap, simmap_process: Simmap, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        arguments = ("index", "build", photos, "-o", "ix", "--model", AVG, "--ray")
        failed(simmap_process(*arguments, f"127.0.0.1:{nobody.getsockname()[1]}"), "Connection refused")
        failed(simmap_process(*arguments, "nonsense"), "no connection to a Ray cluster at nonsense")
    monkeypatch.setitem(sys.modules, "ray", None)
    failed(simmap(*arguments, "local"), "Ray is not installed; run: pip install 'simmap[ray]'")


def test_images_in_the_memory_of_the_client_are_refused(address: str, tmp_path: Path) -> None:
    files = pytest.importorskip("fsspec").filesystem("memory")
    files.pipe("/unseen/a.png", b"x")
    index = Index.make(tmp_path / "index", about_of(ENGINE, "memory://unseen"))
    with (
        ray_cluster("auto") as embed,
        pytest.raises(ClusterError, match=r"memory://unseen/a\.png: is in the memory of this process"),
    ):
        update_index(index, ENGINE, [Item("memory://unseen/a.png")], embed=embed)


def test_two_paths_of_one_image_are_one(address: str, photos: Path, tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index", ENGINE, photos)
    path = photos / "class0" / "00.png"
    with ray_cluster("auto") as embed:
        done = update_index(
            index, ENGINE, [Item(str(path)), Item(f"{photos}/../photos/class0/00.png")], embed=embed
        )
    assert done.added == 1 and index.ids() == ["class0/00.png"]
