"""Damaged files of every kind: pixels of the declared size or one line, and nothing printed."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from damage import damaged, whole_files
from encoded import refused

from simmap.engine.errors import ImageError
from simmap.engine.images.decode import load

LIMIT = 100_000

PROGRAM = """
from damage import damaged
from simmap.engine.errors import ImageError
from simmap.engine.images.decode import load

for what, data in damaged({count}, of={form!r}):
    try:
        load(data, max_pixels={limit})
    except ImageError:
        pass
"""


@pytest.mark.parametrize("name", whole_files())
def test_whole_files_load_and_cut_ones_do_not(name):
    data = whole_files()[name]
    pixels = load(data).pixels
    assert pixels.dtype == np.uint8 and pixels.shape[2] == 3 and pixels.flags.c_contiguous
    assert pixels.flags.writeable
    for share in (0.3, 0.6, 0.9):
        refused(data[: int(len(data) * share)], "; ")


def test_damage_gives_pixels_within_the_limit_or_one_line():
    refusals, count = [], 3000
    for what, data in damaged(count):
        try:
            pixels = load(data, max_pixels=LIMIT, name=what).pixels
        except ImageError as error:
            refusals.append((what, str(error)))
        else:
            assert pixels.dtype == np.uint8 and pixels.ndim == 3, what
            assert 0 < pixels.shape[0] * pixels.shape[1] <= LIMIT, what
    for what, line in refusals:
        assert line.startswith(f"{what}: ") and "; " in line and "\n" not in line, line
    assert 500 < len(refusals) < count - 500


# libtiff, inside Pillow, prints what it finds in compressed data, where only a process can stop it.
ASIDE = """
import os, sys
sys.stderr = os.fdopen(os.dup(2), "w")
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
"""


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WebP", "BMP", "TIFF"])
def test_a_process_that_decodes_damaged_files_prints_nothing(form):
    program = (ASIDE if form == "TIFF" else "") + PROGRAM.format(count=1500, form=form, limit=LIMIT)
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, env=environment, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
