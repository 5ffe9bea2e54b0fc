"""The file of an index's vectors."""

from pathlib import Path

import numpy as np
from index_common import D, units

from simmap.engine.index.vectors import map_rows, path_of, write_rows


def test_a_mapping_serves_until_more_rows_are_asked_for(tmp_path: Path) -> None:
    path = path_of(tmp_path, 1)
    vectors = units(0, 3)
    write_rows(path, 0, [vectors], D)
    first = map_rows(path, 2, D)
    for rows in (1, 2):
        again = map_rows(path, rows, D, first)
        assert len(again.rows) == rows and np.shares_memory(again.rows, first.rows)
    more = map_rows(path, 3, D, first)
    np.testing.assert_array_equal(more.rows, vectors)
    assert more.file == first.file
