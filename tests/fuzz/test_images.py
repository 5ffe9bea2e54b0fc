"""Images: pixels of a size within the limit, or one line."""

import random

import numpy as np
from containers import restructured
from damage import whole_files
from fuzzing import fuzzed, trial
from mutations import injured

from simmap.engine.images.decode import load

LIMIT = 100_000


@fuzzed(tries=1200)
def test_spoilt_images(draw: random.Random) -> None:
    whole = whole_files()
    data = whole[draw.choice(sorted(whole))]
    for _ in range(draw.choice((1, 1, 2))):
        data = draw.choice((injured, restructured))(draw, data)
    short_side = draw.choice((None, None, 8))
    with trial("images", image=data):
        pixels = load(data, max_pixels=LIMIT, short_side=short_side).pixels
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
        assert 0 < pixels.shape[0] * pixels.shape[1] <= LIMIT
