"""Protobuf's wire format: what was written is read, and numbers end at 64 bits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire import Field, entry, varint

from simmap.engine.runtime.protobuf import fields, integers, message

ANY_FIELDS = st.lists(
    st.tuples(st.integers(1, 2**29 - 1), st.one_of(st.integers(0, 2**64 - 1), st.binary(max_size=300)))
)


@given(ANY_FIELDS)
def test_fields_are_read_as_they_were_written(written: list[tuple[int, int | bytes]]) -> None:
    data = b"".join(
        Field(number, 0 if isinstance(value, int) else 2, value).encode() for number, value in written
    )
    read = [(n, value if isinstance(value, int) else bytes(value)) for n, value in fields(memoryview(data))]
    assert read == written


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_packed_integers_are_signed(values: list[int]) -> None:
    packed = b"".join(map(varint, values))
    assert list(integers(memoryview(packed))) == values
    assert [one for value in values for one in integers(value % 2**64)] == values


def test_a_number_has_ten_bytes_at_most_of_which_64_bits_count() -> None:
    assert list(fields(memoryview(b"\x08" + b"\xff" * 9 + b"\x7f"))) == [(1, 2**64 - 1)]
    for cut in (b"\x08" + b"\xff" * 10 + b"\x01", b"\x08" + b"\xff" * 9, b"\x08"):
        with pytest.raises(ValueError, match="a number is cut off"):
            list(fields(memoryview(cut)))


def test_fixed_fields_have_four_and_eight_bytes() -> None:
    data = b"\x0d" + b"abcd" + b"\x11" + b"abcdefgh" + b"\x18\x05"
    read = [(n, value if isinstance(value, int) else bytes(value)) for n, value in fields(memoryview(data))]
    assert read == [(1, b"abcd"), (2, b"abcdefgh"), (3, 5)]
    with pytest.raises(ValueError, match="a field ends behind its message"):
        list(fields(memoryview(b"\x0dabc")))
    for wire in (3, 4, 6, 7):
        with pytest.raises(ValueError, match=f"wire type {wire} is unknown"):
            list(fields(memoryview(bytes([8 | wire]) + b"abcdefgh")))


@given(st.integers(1, 2**29 - 1), st.integers(0, 20_000) | st.sampled_from([127, 128, 16_383, 16_384]))
def test_a_message_in_a_field_is_written_as_others_write_it(number: int, size: int) -> None:
    content = bytes(size)
    assert message(number, content) == entry(number, content)
