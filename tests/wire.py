"""ONNX files changed field by field, without the onnx package: protobuf's wire format as a tree.

See https://protobuf.dev/programming-guides/encoding; field numbers are those of onnx.proto.
"""

import random
import struct
from dataclasses import dataclass, field

from mutations import INTEGERS, injured

# Which fields of which message are messages that are looked into.
_INSIDE = {
    "model": {7: "graph", 8: "opset", 14: "entry"},
    "graph": {1: "node", 5: "tensor", 11: "value", 12: "value", 13: "value"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph"},
    "value": {2: "type"},
    "type": {1: "sized"},
    "sized": {2: "shape"},
    "shape": {1: "axis"},
}


@dataclass
class Field:
    """A field of a message: an integer, bytes, or the fields inside it."""

    number: int
    wire: int
    value: int | bytes
    inside: "list[Field]" = field(default_factory=list)
    kind: str | None = None

    def encode(self) -> bytes:
        """As it lies in a file."""
        key = varint(self.number << 3 | self.wire)
        if isinstance(self.value, int):
            return key + varint(self.value)
        body = self.value if self.kind is None else b"".join(one.encode() for one in self.inside)
        return key + (varint(len(body)) if self.wire == 2 else b"") + body


def varint(value: int) -> bytes:
    """An integer, seven bits a byte."""
    out, value = b"", value & (1 << 64) - 1
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def entry(number: int, payload: bytes) -> bytes:
    """A field with bytes in it."""
    return Field(number, 2, payload).encode()


def parsed(data: bytes, kind: str = "model") -> list[Field]:
    """The fields of a message, of which those in ``_INSIDE`` are read on."""
    fields, at = [], 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            value |= (byte & 127) << shift
            at, shift = at + 1, shift + 7
            if byte < 128:
                return value

    while at < len(data):
        key = number()
        one = Field(key >> 3, key & 7, 0)
        if one.wire == 0:
            one.value = number()
        else:
            size = number() if one.wire == 2 else {1: 8, 5: 4}[one.wire]
            one.value = data[at : at + size]
            at += size
            one.kind = _INSIDE.get(kind, {}).get(one.number) if one.wire == 2 else None
            if one.kind is not None:
                one.inside = parsed(one.value, one.kind)
        fields.append(one)
    return fields


def rewired(draw: random.Random, model: bytes) -> bytes:
    """An ONNX file with one to three fields that are others, dropped, doubled or exchanged."""
    root = Field(0, 2, b"", parsed(model), "model")
    for _ in range(draw.randrange(1, 4)):
        holder = root
        while True:
            at = draw.randrange(len(holder.inside))
            if not holder.inside[at].inside or draw.randrange(6) == 0:
                break
            holder = holder.inside[at]
        _change(draw, holder.inside, at)
        if not holder.inside:
            break
    return b"".join(one.encode() for one in root.inside)


def _change(draw: random.Random, fields: list[Field], at: int) -> None:
    one, to = fields[at], draw.randrange(len(fields))
    change = draw.choice(("value", "value", "value", "drop", "double", "swap", "number"))
    if change == "drop":
        del fields[at]
    elif change == "double":
        fields.insert(to, one)
    elif change == "swap":
        fields[at], fields[to] = fields[to], one
    elif change == "number":
        fields[at] = Field(draw.randrange(1, 22), one.wire, one.value, one.inside, one.kind)
    elif isinstance(one.value, int):
        near = (one.value + 1, one.value - 1, one.value * 2)
        fields[at] = Field(one.number, 0, draw.choice((draw.choice(INTEGERS), draw.choice(near), -1)))
    elif one.wire == 5:
        number = draw.choice((0.0, -1.0, 1e30, float("nan"), float("inf")))
        fields[at] = Field(one.number, 5, struct.pack("<f", number))
    elif one.wire == 2:
        data = draw.choice((b"", b"\xff", b"conv", b"parts", one.value * 2, injured(draw, one.value or b"x")))
        fields[at] = Field(one.number, 2, data)
