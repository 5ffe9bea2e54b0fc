"""Protobuf's wire format, without a schema.

See https://protobuf.dev/programming-guides/encoding.
"""

from collections.abc import Iterator

Value = int | memoryview


def fields(message: memoryview) -> Iterator[tuple[int, Value]]:
    """The fields of a message as they lie in it: the number, and an integer or the bytes of the value.

    Raises:
        ValueError: it is no protobuf message.
    """
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        value: Value
        if wire == 0:
            value, at = _varint(message, at)
        else:
            if wire == 2:
                size, at = _varint(message, at)
            elif wire in (1, 5):
                size = 8 if wire == 1 else 4
            else:
                raise ValueError(f"wire type {wire} is unknown")
            if size > end - at:
                raise ValueError("a field ends behind its message")
            value, at = message[at : at + size], at + size
        yield number, value


def message(number: int, content: bytes) -> bytes:
    """A field that holds a message, as it lies in another one."""
    return _encoded(number << 3 | 2) + _encoded(len(content)) + content


def integers(value: Value) -> Iterator[int]:
    """The integers of one entry of a repeated integer field, which may be packed; signed, 64 bits."""
    if isinstance(value, int):
        yield _signed(value)
        return
    at = 0
    while at < len(value):
        one, at = _varint(value, at)
        yield _signed(one)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """An integer of seven bits a byte, and where it ends."""
    value = shift = 0
    while True:
        if at >= len(message) or shift > 63:
            raise ValueError("a number is cut off")
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (1 << 64) - 1, at
        shift += 7


def _encoded(value: int) -> bytes:
    """An integer of seven bits a byte."""
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])
