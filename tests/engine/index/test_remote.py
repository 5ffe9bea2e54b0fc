"""What the adapters of servers share, without a server."""

import math
import socket
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from index_common import D, entry, units

from simmap.engine.errors import StoreError
from simmap.engine.index import remote
from simmap.engine.index.address import shown
from simmap.engine.index.opening import open_index
from simmap.engine.index.remote import Answer, Metadata, Row, decoded, encoded, metadata_of
from simmap.engine.index.store import About, Recall
from simmap.engine.index.vectors import checksum

ANY_TEXT = st.text(st.characters(codec=None) | st.sampled_from("\ufffd\0\udcff0123abcdef"))
ABOUT = st.builds(About, ANY_TEXT, ANY_TEXT, st.integers(1, 10**5), ANY_TEXT)
RECALL = st.builds(Recall, st.floats(0, 1), st.floats(0, 1), st.integers(1, 100), st.integers(1, 10**9))


@given(ANY_TEXT, ANY_TEXT)
def test_any_text_comes_back_from_what_a_server_takes(one: str, other: str) -> None:
    assert decoded(encoded(one)) == one
    encoded(one).encode("utf-8")
    assert "\0" not in encoded(one)
    assert (encoded(one) == encoded(other)) == (one == other)
    assert encoded(one + other).startswith(encoded(one))
    assert encoded(one) != "\ufffd"


@given(ABOUT, st.none() | RECALL, st.none() | ANY_TEXT)
def test_metadata_come_back_from_ascii(about: About, recall: Recall | None, measured: str | None) -> None:
    metadata = Metadata(about, recall, measured)
    assert metadata.text().isascii()
    assert metadata_of("x", metadata.text()) == metadata


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is no index of simmap"),
        ("", "is no index of simmap"),
        ("A table of ours", "is no index of simmap"),
        ("[1]", "is no index of simmap"),
        ('{"a": 1}', "is no index of simmap"),
        ("[" * 10**5, "is no index of simmap"),
        ('{"simmap": 2}', "has schema 2, this simmap reads schema 1"),
        ('{"simmap": "a\\nb"}', "has schema 'a"),
        ('{"simmap": 1}', "is damaged"),
        ('{"simmap": 1, "model": "m", "fingerprint": "f", "dimension": "x", "root": "/"}', "is damaged"),
    ],
)
def test_other_metadata_are_refused_in_one_line(text: str | None, message: str) -> None:
    with pytest.raises(StoreError, match=message) as caught:
        metadata_of("here", text)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("here: ")


@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(0, 120), st.floats(-3, 6))
def test_a_server_that_rounds_changes_no_answer(seed: int, k: int, copies: int, magnitude: float) -> None:
    """However its float32 sums err within their bound, and in whatever order it gives what ties."""
    rng = np.random.default_rng(seed)
    vectors = np.concatenate([units(seed, 60), np.repeat(units(seed + 1, 1), copies, axis=0)])
    rows = []
    for at in rng.permutation(len(vectors)):
        one = entry(f"{at:03d}")
        rows.append(Row(one, vectors[at], checksum(one, vectors[at])))
    query = np.asarray(rng.normal(size=D) * 10.0**magnitude, np.float32)
    unit = remote.unit_query(query)
    bound = D * 2.0**-24
    products = np.array([float(row.vector.astype(np.float64) @ unit.astype(np.float64)) for row in rows])
    products += rng.uniform(-bound, bound, len(rows))
    order = np.argsort(-products)

    def ask(count: int) -> Answer:
        chosen = order[:count]
        return Answer([rows[at] for at in chosen], float(products[chosen[-1]]), complete=count > len(rows))

    found = remote.rank("x", query, k, ask(k + remote.EXTRA), ask, exact=True)
    exact = [
        (-math.fsum(float(a) * float(b) for a, b in zip(query, row.vector, strict=True)), row.entry.id)
        for row in rows
    ]
    scale = float(np.linalg.norm(query))
    # Equal vectors have equal sums; differing ones differ by more than float64 rounds.
    expected = sorted(exact, key=lambda one: (round(one[0] / scale, 12), one[1]))[:k]
    assert [name for name, _ in found] == [name for _, name in expected]
    assert all(abs(a - (-b)) <= 1e-12 * scale for (_, a), (b, _) in zip(found, expected, strict=True))


@given(
    st.sampled_from(["milvus", "postgresql"]),
    st.text("abc@:/?#&%", max_size=8),
    st.text("PQRSÜ", min_size=3, max_size=9),
    st.text("abc@:/?#&%=", max_size=8),
)
def test_no_message_has_a_password(scheme: str, before: str, password: str, after: str) -> None:
    assert password not in shown(f"{scheme}://user:{before}{password}@host/{after}")
    assert password not in shown(f"{scheme}://host/{after}?table=t&password={password}")


def test_what_is_no_kind_of_index_is_named() -> None:
    for name in ("http://host/x", "s3://bucket", "://x"):
        with pytest.raises(StoreError, match="is no kind of index; give a folder, milvus://"):
            open_index(name)


def test_a_server_that_never_answered_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg")
    tries: list[int] = []

    def pauses() -> Iterator[float]:
        for number in range(3):
            tries.append(number)
            yield 0.0

    monkeypatch.setattr(remote, "PAUSES", pauses())
    with socket.socket() as closed:  # bound, so that nobody else listens there
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(StoreError, match="the server cannot be reached"):
            open_index(f"postgresql://me@127.0.0.1:{closed.getsockname()[1]}/x?table=x")
    assert tries == [0]
