"""Outputs: whole or not at all, and nothing is lost on the way."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from simmap.engine.errors import OutputError
from simmap.engine.files import check_output, replacing, write_bytes


def test_a_file_is_written_whole_with_the_usual_mode(tmp_path: Path) -> None:
    path = tmp_path / "out.bin"
    write_bytes(path, b"new", force=False)
    (tmp_path / "usual").write_bytes(b"")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_an_old_file_is_kept_without_force_and_replaced_with_it(tmp_path: Path) -> None:
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")
    with pytest.raises(OutputError, match="exists already; add --force"):
        write_bytes(path, b"new", force=False)
    assert path.read_bytes() == b"old"
    write_bytes(path, b"new", force=True)
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("name", ["n" * 300, "a\x1b[2J\n/out.bin"])
def test_a_name_that_cannot_be_is_one_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"File name too long|does not exist; create it first") as caught:
        check_output(tmp_path / name, force=True)
    assert str(caught.value).isprintable()


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")

    def fail_half_way() -> None:
        with replacing(path, force=True) as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail_half_way()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.bin"]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    # A limit on file sizes fails a write half way, as a full disk does, without filling one.
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "from simmap.engine.errors import OutputError\n"
        "from simmap.engine.files import write_bytes\n"
        "try: write_bytes(sys.argv[1], bytes(5000), force=True)\n"
        "except OutputError as error: print(error)\n"
    )
    assert resource.RLIMIT_FSIZE is not None
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{path}: cannot be written: ")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.bin"]


def test_impossible_outputs_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a folder"):
        check_output(tmp_path, force=True)
    with pytest.raises(OutputError, match="does not exist; create it first"):
        check_output(tmp_path / "none" / "out.png", force=True)
    if os.geteuid() != 0:
        tmp_path.chmod(0o500)
        with pytest.raises(OutputError, match="is not writable"):
            check_output(tmp_path / "out.png", force=True)
        tmp_path.chmod(0o700)


def test_long_names_still_get_a_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 110 + ".png")
    write_bytes(path, b"x", force=False)
    assert path.read_bytes() == b"x"
