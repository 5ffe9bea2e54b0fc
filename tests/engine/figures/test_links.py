"""Lines across panels: as wide as they are strong, with a dot at the end that no other line crosses out."""

import numpy as np

from simmap.engine.figures.links import Link, draw_links


def test_stronger_links_are_wider() -> None:
    picture = np.full((200, 200, 3), 128, np.uint8)
    draw_links(
        picture, [Link((10, y), (190, y), share) for y, share in ((50, 0.0), (100, 0.5), (150, 1.0))], 4.0
    )
    widths = [int((picture[y - 20 : y + 20, 100] > 200).all(axis=-1).sum()) for y in (50, 100, 150)]
    assert widths[0] + 2 <= widths[1] and widths[1] + 2 <= widths[2]
    assert widths[0] >= 3


def test_a_link_ends_in_a_dot_that_another_link_does_not_hide() -> None:
    picture = np.full((60, 200, 3), 128, np.uint8)
    draw_links(picture, [Link((10, 30), (100, 30), 0.2), Link((10, 30), (190, 30), 1.0)], 2.0)
    dark = (picture < 60).all(axis=-1)
    # The dark edge of the nearer dot crosses the light line that runs on.
    assert dark[30, 85:100].any() and dark[30, 101:115].any()
    assert not dark[30, 20:80].any()
