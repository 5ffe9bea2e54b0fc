"""Pillow's warnings are silenced in the thread that decodes, and nowhere else."""

import logging
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
from damage import damaged
from encoded import encode, exif, smooth, with_segment

from simmap.engine.errors import ImageError
from simmap.engine.images.decode import load
from simmap.engine.images.quiet import quiet

DAMAGED = with_segment(encode(smooth(), ".jpg"), b"Exif\0\0" + exif(6)[:12])


@pytest.mark.parametrize("action", ["error", "always", "default"])
def test_a_damaged_exif_block_warns_of_nothing(action):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter(action)
        load(DAMAGED)
        assert not caught
        if action != "error":
            warnings.warn("ours", stacklevel=1)
            assert len(caught) == 1


def test_other_threads_hear_their_warnings():
    heard = []

    def other():
        with pytest.warns(UserWarning, match="theirs"):
            warnings.warn("theirs", stacklevel=1)
        heard.append(True)

    with quiet():
        warnings.warn("ours", stacklevel=1)
        with quiet():
            warnings.warn("ours", stacklevel=1)
        warnings.warn("still ours", stacklevel=1)
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert heard == [True]
    with pytest.warns(UserWarning, match="again"):
        warnings.warn("again", stacklevel=1)


def test_the_filters_do_not_grow():
    load(DAMAGED)
    before = list(warnings.filters)
    for _ in range(50):
        load(DAMAGED)
    assert list(warnings.filters) == before


def test_pillows_log_is_silent_only_while_it_decodes(caplog):
    logger = logging.getLogger("PIL.TiffImagePlugin")
    with quiet():
        logger.error("ours")
    logger.error("theirs")
    assert [record.message for record in caplog.records] == ["theirs"]


def test_many_threads_decode_alike_and_in_silence():
    files = [data for _, data in damaged(300)]

    def outcome(data):
        try:
            return load(data, max_pixels=100_000).pixels.tobytes()
        except ImageError as error:
            return str(error)

    alone = [outcome(data) for data in files]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ThreadPoolExecutor(8) as pool:
            for together in pool.map(lambda _: [outcome(data) for data in files], range(8)):
                assert together == alone
