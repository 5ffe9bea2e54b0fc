"""Sessions: the contract is held against the graph, the device that is asked for is the one taken."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from rewriting import rewritten, with_metadata

from common import ARTIFACTS, MODEL, PHOTOS
from simmap.engine.contract import CONTRACT_KEY, SCHEMA_KEY
from simmap.engine.errors import ArtifactError, DeviceError
from simmap.engine.places import TF32_TOLERANCE, TOLERANCE
from simmap.engine.runtime import cache as graph_cache
from simmap.engine.runtime.cache import cache_folder
from simmap.engine.runtime.cpus import usable_cpus
from simmap.engine.runtime.session import Session, open_session

BUILT_WITH_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def test_an_untouched_copy_opens(tmp_path: Path) -> None:
    session = open_session(rewritten(tmp_path, ARTIFACTS / "avg.onnx", lambda c: None), device="cpu")
    assert session.device == "cpu"
    assert session.contract.pooling == "avg"


@pytest.mark.parametrize(
    ("artifact", "change", "told"),
    [
        ("avg", lambda c: "3", "schema 3, this simmap reads up to 2"),
        ("avg", lambda c: c["input"].update(height=c["input"]["height"] + 1), "its input has shape"),
        ("avg", lambda c: c.update(channels=7, dimension=7), "its output 'conv' has shape"),
        ("avg", lambda c: c.update(grid_width=99), "its output 'conv' has shape"),
        ("avg", lambda c: c.update(head="affine"), "lacks the output 'embedding'"),
        ("affine_bias", lambda c: c.update(dimension=99, bias=None), "its output 'embedding' has shape"),
        ("flatten", lambda c: c.update(pooling="avg"), "lacks the output 'pooled'"),
    ],
)
def test_a_contract_that_lies_is_refused(tmp_path: Path, artifact: str, change: Any, told: str) -> None:
    path = rewritten(tmp_path, ARTIFACTS / f"{artifact}.onnx", change)
    with pytest.raises(ArtifactError, match=told) as caught:
        open_session(path, device="cpu")
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_a_truncated_model_is_refused(tmp_path: Path) -> None:
    data = MODEL.read_bytes()
    for size in (10, len(data) // 2, len(data) - 100):
        path = tmp_path / f"{size}.onnx"
        path.write_bytes(data[:size])
        with pytest.raises(ArtifactError, match=rf"{size}\.onnx: is "):
            open_session(path, device="cpu")


@pytest.mark.parametrize("key", [CONTRACT_KEY, SCHEMA_KEY])
def test_metadata_that_is_not_utf8_is_one_line(key: str, tmp_path: Path) -> None:
    path = tmp_path / "bytes.onnx"
    path.write_bytes(with_metadata((ARTIFACTS / "avg.onnx").read_bytes(), {key: b"\xff\xfe{}"}))
    for cache in (True, False):
        with pytest.raises(ArtifactError, match="its metadata is not UTF-8; the file is damaged") as caught:
            open_session(path, device="cpu", cache=cache)
        assert str(caught.value).startswith(str(path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in files")
def test_what_is_no_file_is_named_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    (tmp_path / "loop.onnx").symlink_to(tmp_path / "loop.onnx")
    for name, reason in (
        ("pipe.onnx", "is not a regular file"),
        ("loop.onnx", "cannot be read"),
        ("", "is a folder"),
        ("none.onnx", "no such model file"),
        ("n" * 300, "cannot be read: File name too long"),
        ("a\0b.onnx", "cannot be read"),
        ("a\x1b[2J\n.onnx", "no such model file"),
    ):
        with pytest.raises(ArtifactError, match=reason) as caught:
            open_session(tmp_path / name, device="cpu")
        assert str(caught.value).isprintable()


def test_cpu_is_taken_when_asked_for_and_auto_says_what_it_took() -> None:
    assert open_session(MODEL, device="cpu").device == "cpu"
    assert open_session(MODEL).device in (("cuda:0", "cpu") if BUILT_WITH_CUDA else ("cpu",))


@pytest.mark.parametrize(
    "device",
    ["gpu", "cpu:1", "cpu:", "cuda:", "cuda:-1", "cuda:x", "cuda:²", "cuda:" + "9" * 5000, "", "auto:0"],
)
def test_unknown_devices_are_named(device: str) -> None:
    with pytest.raises(DeviceError, match="must be auto, cpu, cuda or cuda:N"):
        open_session(MODEL, device=device)


@pytest.mark.skipif(BUILT_WITH_CUDA, reason="this runtime is built with CUDA")
def test_cuda_without_cuda_is_an_error() -> None:
    for device in ("cuda", "cuda:1"):
        with pytest.raises(DeviceError, match=r"built without CUDA; run: .* 'simmap\[gpu\]'"):
            open_session(MODEL, device=device)


@pytest.mark.skipif(not BUILT_WITH_CUDA, reason="this runtime is built without CUDA")
def test_cuda_without_a_device_is_one_line_and_auto_is_quiet(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    taken = open_session(MODEL)
    assert capfd.readouterr() == ("", "")
    if taken.device == "cpu":
        with pytest.raises(DeviceError, match=r"'cuda:0' cannot be used: .*; check the driver") as caught:
            open_session(MODEL, device="cuda")
        assert "\n" not in str(caught.value)
        assert capfd.readouterr() == ("", "")
        # What is wrong with the model is not blamed on the device.
        (tmp_path / "broken.onnx").write_bytes(MODEL.read_bytes()[:5000])
        with pytest.raises(ArtifactError, match="broken"):
            open_session(tmp_path / "broken.onnx", device="cuda")


def test_the_threads_are_those_asked_for() -> None:
    assert (
        open_session(MODEL, device="cpu", threads=1).inference.get_session_options().intra_op_num_threads == 1
    )


# --- the machine ----------------------------------------------------------------------------------


def groups(folder: Path, process: str, files: dict[str, str]) -> tuple[Path, Path]:
    """Control groups as the kernel shows them, as real files."""
    for name, text in files.items():
        path = folder / "mount" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "process").write_text(process)
    return folder / "process", folder / "mount"


V1 = "9:name=systemd:/\n4:memory:/a/b\n2:cpu,cpuacct:/a/b\n"


@pytest.mark.parametrize(
    ("process", "files", "cpus"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, 64),
        ("0::/\n", {"cpu.max": "300000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "5000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "6400000 100000\n"}, 64),
        ("0::/a/b\n", {"a/cpu.max": "200000 100000\n", "a/b/cpu.max": "max 100000\n"}, 2),
        ("0::/a/b\n", {"a/cpu.max": "500000 100000\n", "a/b/cpu.max": "400000 100000\n"}, 4),
        ("0::/host/name\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "nonsense\n"}, 64),
        ("0::/\n", {"other": ""}, 64),
        (
            V1,
            {"cpu,cpuacct/a/b/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/a/b/cpu.cfs_period_us": "100000\n"},
            64,
        ),
        (V1, {"cpu,cpuacct/a/cpu.cfs_quota_us": "70000\n", "cpu,cpuacct/a/cpu.cfs_period_us": "20000\n"}, 4),
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "20000\n", "cpu,cpuacct/cpu.cfs_period_us": "10000\n"}, 2),
    ],
)
def test_the_cpus_are_those_that_control_groups_allow(
    process: str, files: dict[str, str], cpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert usable_cpus(*groups(tmp_path, process, files)) == cpus


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_the_cpus_are_those_of_the_affinity() -> None:
    one = min(os.sched_getaffinity(0))
    code = (
        "import os\n"
        f"os.sched_setaffinity(0, {{{one}}})\n"
        "from simmap.engine.runtime.cpus import usable_cpus\n"
        "print(usable_cpus())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
    assert 1 <= usable_cpus() <= len(os.sched_getaffinity(0))


def test_a_system_without_control_groups_counts_its_cpus(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path / "none", tmp_path) >= usable_cpus() >= 1


# --- the cache ------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the cache that does not exist yet."""
    folder = tmp_path / "deep" / "cache"
    monkeypatch.setenv("SIMMAP_CACHE", str(folder))
    return folder


def kept(folder: Path) -> list[Path]:
    """All that a cache holds, the oldest first."""
    return sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)


def outputs(session: Session) -> list[bytes]:
    """Every bit of what a session gives for one image."""
    spec = session.contract.input
    photo = np.random.default_rng(0).integers(0, 256, (1, spec.height, spec.width, 3), dtype=np.uint8)
    return [
        output.tobytes()
        for output in session.inference.run(None, {session.inference.get_inputs()[0].name: photo})
    ]


@pytest.mark.parametrize("artifact", [*sorted(ARTIFACTS.glob("*.onnx")), MODEL], ids=lambda path: path.stem)
def test_a_kept_graph_is_the_same_network(artifact: Path, cache: Path) -> None:
    plain = open_session(artifact, device="cpu")
    assert not cache.exists()
    first = open_session(artifact, device="cpu", cache=True)
    (graph,) = kept(cache)
    written = graph.stat().st_ctime_ns, graph.read_bytes()
    os.utime(graph, (1, 1))
    second = open_session(artifact, device="cpu", cache=True)
    # The date of its use is new, its content is not.
    assert kept(cache) == [graph] and graph.stat().st_mtime > 1 and graph.read_bytes() == written[1]
    assert outputs(plain) == outputs(first) == outputs(second)
    assert plain.contract == first.contract == second.contract
    assert [session.path for session in (plain, first, second)] == [artifact] * 3


def test_a_damaged_graph_is_made_anew(cache: Path) -> None:
    expected = outputs(open_session(MODEL, device="cpu", cache=True))
    (graph,) = kept(cache)
    data = graph.read_bytes()
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    for damaged in (b"", b"nothing", data[:-1], data[:middle], data + b"\0", flipped):
        graph.write_bytes(damaged)
        assert outputs(open_session(MODEL, device="cpu", cache=True)) == expected
        # Not the same bytes: ONNX Runtime writes a graph's tensors in any order.
        assert kept(cache) == [graph] and graph.stat().st_size == len(data)


def test_a_graph_under_the_name_of_another_is_not_taken(cache: Path) -> None:
    expected = outputs(open_session(ARTIFACTS / "avg.onnx", device="cpu", cache=True))
    (graph,) = kept(cache)
    open_session(ARTIFACTS / "max.onnx", device="cpu", cache=True)
    (other,) = (path for path in kept(cache) if path != graph)
    other.replace(graph)
    session = open_session(ARTIFACTS / "avg.onnx", device="cpu", cache=True)
    assert session.contract.pooling == "avg" and outputs(session) == expected
    assert kept(cache) == [graph]


def test_an_artifact_that_was_written_over_is_not_taken_for_the_old_one(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    shutil.copy(MODEL, path)
    before = path.stat()
    open_session(path, device="cpu", cache=True)
    # given a change of weights, of which the file's middle is full, that keeps its size and date
    data = bytearray(path.read_bytes())
    for at in range(len(data) // 2, len(data) // 2 + 64):
        data[at] ^= 0x80
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size and path.stat().st_mtime_ns == before.st_mtime_ns
    # then the kept graph is not taken, and the changed file is refused
    for cached in (True, False):
        with pytest.raises(ArtifactError, match="do not match its fingerprint"):
            open_session(path, device="cpu", cache=cached)
    assert len(kept(cache)) == 1


def test_the_graphs_used_longest_ago_make_room(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a cache that is full with the graphs of five artifacts
    artifacts = [tmp_path / f"{at}.onnx" for at in range(6)]
    graphs = []
    for at, path in enumerate(artifacts[:5]):
        shutil.copy(ARTIFACTS / "avg.onnx", path)
        open_session(path, device="cpu", cache=True)
        (graph,) = set(kept(cache)) - set(graphs)
        graphs.append(graph)
        os.utime(graph, (at + 1, at + 1))
    monkeypatch.setattr(graph_cache, "CACHE_BYTES", sum(graph.stat().st_size for graph in graphs))
    # and files that are not the cache's, or that a process left half written
    own, left = cache / "notes.onnx", cache / "left.simmap-part"
    for path in (own, left):
        path.write_bytes(bytes(10**6))
        os.utime(path, (1, 1))
    # when the oldest is used, and a sixth is made
    open_session(artifacts[0], device="cpu", cache=True)
    shutil.copy(ARTIFACTS / "avg.onnx", artifacts[5])
    open_session(artifacts[5], device="cpu", cache=True)
    # then the second has gone
    after = set(kept(cache))
    assert set(graphs) - after == {graphs[1]} and len(after) == 6
    assert own in after and left not in after


@pytest.mark.parametrize("value", ["", "0"])
def test_the_cache_can_be_switched_off(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("SIMMAP_CACHE", value)
    open_session(ARTIFACTS / "avg.onnx", device="cpu", cache=True)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.delenv("SIMMAP_CACHE")
    open_session(ARTIFACTS / "avg.onnx", device="cpu", cache=True)
    assert len(kept(tmp_path / "simmap")) == 1


def test_the_cache_lies_where_the_system_keeps_caches(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("SIMMAP_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for relative in ("", "relative/folder"):
        monkeypatch.setenv("XDG_CACHE_HOME", relative)
        assert cache_folder() == tmp_path / ".cache" / "simmap"


def test_a_cache_that_cannot_be_written_is_no_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/none")):
        monkeypatch.setenv("SIMMAP_CACHE", str(folder))
        assert open_session(ARTIFACTS / "avg.onnx", device="cpu", cache=True).contract.pooling == "avg"


def test_what_is_refused_is_not_kept(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(MODEL.read_bytes().replace(CONTRACT_KEY.encode(), b"x" * len(CONTRACT_KEY)))
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nothing")
    for refused in (path, broken):
        with pytest.raises(ArtifactError) as caught:
            open_session(refused, device="cpu", cache=True)
        assert str(caught.value).startswith(str(refused))
    assert kept(cache) == []


def test_processes_that_start_together_share_a_cache(cache: Path, photos: tuple[Path, Path]) -> None:
    code = (
        "import sys\n"
        "from simmap.engine import Engine, Options\n"
        "engine = Engine(sys.argv[1], device='cpu', options=Options(threads=1))\n"
        "print(repr(engine.compare(*sys.argv[2:]).score))\n"
    )
    arguments = [sys.executable, "-c", code, str(MODEL), *map(str, photos)]
    for _ in range(2):
        processes = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(5)]
        scores = {process.communicate(timeout=120)[0] for process in processes}
        assert len(scores) == 1 and scores != {""}
        assert [path.suffix for path in kept(cache)] == [".simmap-graph"]
    plain = subprocess.run(
        arguments, stdout=subprocess.PIPE, text=True, env={**os.environ, "SIMMAP_CACHE": ""}, check=True
    )
    assert scores == {plain.stdout}


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this system has no owners of files")
@pytest.mark.parametrize("what", ["folder", "graph"])
@pytest.mark.parametrize("owner", ["another user's", "writable by the group", "writable by all"])
def test_a_cache_that_others_can_write_is_not_taken(
    what: str, owner: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a graph of another network where that of this one is kept
    folder = tmp_path / "cache"
    monkeypatch.setenv("SIMMAP_CACHE", str(folder))
    expected = outputs(open_session(ARTIFACTS / "avg.onnx", device="cpu", cache=True))
    (graph,) = kept(folder)
    suspect = folder if what == "folder" else graph
    if owner == "another user's":
        if os.geteuid() != 0:
            pytest.skip("only root can give files away")
        os.chown(suspect, 12345, 12345)
    else:
        suspect.chmod(0o775 if owner == "writable by the group" else 0o757)
    before = graph.stat()
    os.utime(graph, (1, 1))
    # when artifacts are opened
    for _ in range(2):
        found = outputs(open_session(ARTIFACTS / "avg.onnx", device="cpu", cache=True))
        open_session(ARTIFACTS / "avg.onnx", device="cpu", cache=True)
        assert found == expected
    # then nothing was read or written there, and one line says why
    assert graph.stat().st_mtime == 1 and graph.stat().st_ino == before.st_ino and kept(folder) == [graph]
    (record,) = caplog.records
    assert record.name == "simmap" and record.levelname == "WARNING"
    message = record.getMessage()
    assert message.startswith(f"simmap: {suspect}: belongs to another user") and message.isprintable()


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this system has no owners of files")
def test_the_warning_of_a_foreign_cache_is_one_line_on_stderr(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(0o777)
    code = (
        "import sys\n"
        "from simmap.engine import Engine, Options\n"
        "with Engine(sys.argv[1], device='cpu', options=Options(threads=4)) as engine:\n"
        "    list(engine.vectors([sys.argv[2]] * 9))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(ARTIFACTS / "avg.onnx"), str(PHOTOS / "buddha_a.jpg")],
        capture_output=True,
        text=True,
        env={**os.environ, "SIMMAP_CACHE": str(folder)},
        check=True,
    )
    assert done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"simmap: {folder}: ")
    assert list(folder.iterdir()) == []


def test_only_cuda_rounds_to_tf32() -> None:
    session = open_session(ARTIFACTS / "avg.onnx", device="cpu", threads=1, tf32=True)
    assert session.sums._tolerance == TOLERANCE < TF32_TOLERANCE
