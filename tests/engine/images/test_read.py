"""Files: what is opened, and in which words the rest is refused."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import pytest
from encoded import encode, refused, smooth

from simmap.engine.images.decode import load


def test_missing_file(tmp_path):
    refused(tmp_path / "no.jpg", "no.jpg", "no such file")


def test_folder(tmp_path):
    refused(tmp_path, str(tmp_path), "is a folder")


def test_empty_file(tmp_path):
    (tmp_path / "empty.jpg").touch()
    refused(tmp_path / "empty.jpg", "empty.jpg", "is empty")
    refused(b"", "<bytes>", "is empty")


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_permission(tmp_path):
    path = tmp_path / "mine.png"
    path.write_bytes(encode(smooth(), ".png"))
    path.chmod(0)
    superuser = os.geteuid() == 0
    if superuser:
        os.seteuid(65534)
    try:
        refused(path, "mine.png", "permission")
    finally:
        if superuser:
            os.seteuid(0)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_pipes_sockets_and_devices_are_refused_without_being_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "s.jpg"))
    # In a process of its own: a pipe without a writer would block it for ever.
    for path in (tmp_path / "pipe.jpg", tmp_path / "s.jpg", Path("/dev/zero")):
        program = f"from simmap.engine.images.decode import load; load({str(path)!r})"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
        assert f"{path}: is not a regular file" in done.stderr.splitlines()[-1]
    listening.close()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_that_takes_the_place_of_a_file_does_not_block(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    path.write_bytes(encode(smooth(), ".jpg"))
    status = path.stat()
    path.unlink()
    os.mkfifo(path)
    monkeypatch.setattr(os, "stat", lambda _path: status)
    worker = threading.Thread(target=lambda: refused(path, "not a regular file"), daemon=True)
    worker.start()
    worker.join(20)
    assert not worker.is_alive()


def test_links_are_followed_but_not_in_a_circle(tmp_path):
    (tmp_path / "a.png").write_bytes(encode(smooth(), ".png"))
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    assert load(tmp_path / "link.png").pixels.shape == (40, 56, 3)
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    refused(tmp_path / "loop.png", "loop.png: cannot be read")
    (tmp_path / "gone.png").symlink_to(tmp_path / "no.png")
    refused(tmp_path / "gone.png", "gone.png: there is no such file")


@pytest.mark.skipif(os.name == "nt", reason="Windows knows no such names")
def test_names_that_are_not_utf8(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff\xfe.png"
    with open(path, "wb") as stream:  # noqa: PTH123
        stream.write(encode(smooth(), ".png"))
    assert load(os.fsdecode(path)).pixels.shape == (40, 56, 3)


def test_other_failures_of_the_system(tmp_path):
    refused(str(tmp_path / ("x" * 5000)), "cannot be read")
    refused("nul\0.png", "cannot be read")


@pytest.mark.skipif(os.name == "nt", reason="Windows knows no such names")
def test_a_line_break_in_a_name_does_not_break_the_line(tmp_path):
    refused(tmp_path / "two\nlines.jpg", "two\\nlines.jpg")
    refused(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg"), "\\udcff.jpg").encode()


@pytest.mark.parametrize(
    "data",
    [
        b"hello",
        b"BMW is a maker of cars, and this is a text.",
        b"BM a text with(brackets) in it",
        b"GIF89a" + bytes(50),
        b"RIFF\x10\0\0\0WAVEfmt " + bytes(20),
        b"%PDF-1.7 " + bytes(50),
        bytes(1000),
    ],
)
def test_not_an_image(tmp_path, data):
    (tmp_path / "thing").write_bytes(data)
    refused(tmp_path / "thing", "thing: is not a JPEG, PNG, WebP, TIFF or BMP image")
    refused(data, "is not a JPEG, PNG, WebP, TIFF or BMP image")


def test_other_formats_of_opencv_are_refused():
    refused(cv2.imencode(".ppm", smooth())[1].tobytes(), "is not a JPEG")
