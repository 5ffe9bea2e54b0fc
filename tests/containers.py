"""Image files changed by their own structure: parts dropped, doubled, reordered or with other numbers.

Lengths and checksums fit again afterwards, so that a decoder goes on to what the numbers mean.
"""

import random
import struct
import zlib

from mutations import INTEGERS, injured

_TIFF_TAGS = (
    *(256, 257, 258, 259, 262, 273, 274, 277, 278, 279, 284, 317, 320),
    *(322, 323, 324, 325, 338, 339, 700),
)


def restructured(draw: random.Random, data: bytes) -> bytes:
    """An image file of any of our formats with one to three changes."""
    for _ in range(draw.randrange(1, 4)):
        if data.startswith(b"\x89PNG"):
            data = data[:8] + _chunks(draw, _split(data[8:], ">4x4s", before=True), _png_chunk)
        elif data.startswith(b"RIFF"):
            body = b"WEBP" + _chunks(draw, _split(data[12:], "<4s4x", before=False), _riff_chunk)
            data = b"RIFF" + struct.pack("<I", len(body)) + body
        elif data[:2] == b"\xff\xd8":
            data = _jpeg(draw, data)
        elif data[:2] in (b"II", b"MM"):
            data = _tiff(draw, data)
        elif data[:2] == b"BM":
            data = _bmp(draw, data)
    return data


def _split(data: bytes, layout: str, *, before: bool) -> list[tuple[bytes, bytes]]:
    """(kind, body) of chunks; the length stands before the kind and a checksum behind, or neither."""
    chunks, at = [], 0
    while at + 8 <= len(data):
        (kind,) = struct.unpack_from(layout, data, at)
        (size,) = struct.unpack_from(layout[0] + "I", data, at + (0 if before else 4))
        chunks.append((kind, data[at + 8 : at + 8 + size]))
        at += 8 + size + (4 if before else size % 2)
    return chunks


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _riff_chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def _chunks(draw: random.Random, chunks: list[tuple[bytes, bytes]], write: object) -> bytes:
    assert callable(write)
    if not chunks:
        return b""
    at, to = draw.randrange(len(chunks)), draw.randrange(len(chunks))
    change = draw.choice(("body", "number", "drop", "double", "swap", "kind"))
    kind, body = chunks[at]
    if change == "body" and body:
        chunks[at] = kind, injured(draw, body)
    elif change == "number" and len(body) >= 4:
        chunks[at] = kind, _numbered(draw, body, draw.choice("<>"))
    elif change == "drop" and len(chunks) > 1:
        del chunks[at]
    elif change == "double":
        chunks.insert(to, chunks[at])
    elif change == "swap":
        chunks[at], chunks[to] = chunks[to], chunks[at]
    elif change == "kind":
        chunks[at] = chunks[to][0], body
    return b"".join(write(*chunk) for chunk in chunks)


def _numbered(draw: random.Random, body: bytes, order: str, stop: int | None = None) -> bytes:
    """With an integer of 1, 2 or 4 bytes that is one of those that are often not thought of."""
    code = draw.choice("BHI")
    size = struct.calcsize(code)
    at = draw.randrange(max(1, (stop or len(body)) - size + 1))
    number = draw.choice(INTEGERS) & (1 << 8 * size) - 1
    return body[:at] + struct.pack(order + code, number) + body[at + size :]


def _jpeg(draw: random.Random, data: bytes) -> bytes:
    segments, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        size = struct.unpack_from(">H", data, at + 2)[0]
        segments.append((data[at : at + 2], data[at + 4 : at + 2 + size]))
        at += 2 + size
    if not segments:
        return injured(draw, data)

    def write(kind: bytes, body: bytes) -> bytes:
        return kind + struct.pack(">H", min(len(body) + 2, 65535)) + body

    return data[:2] + _chunks(draw, segments, write) + data[at:]


def _tiff(draw: random.Random, data: bytes) -> bytes:
    """Entries of the first directory: a tag, type, count or value that is another, doubled or exchanged."""
    order = "<" if data[:2] == b"II" else ">"
    if len(data) < 8:
        return data
    directory = struct.unpack_from(order + "I", data, 4)[0]
    if directory + 2 > len(data):
        return injured(draw, data)
    count = struct.unpack_from(order + "H", data, directory)[0]
    places = [directory + 2 + 12 * i for i in range(count) if directory + 14 + 12 * i <= len(data)]
    if not places:
        return injured(draw, data)
    out = bytearray(data)
    at, to = draw.choice(places), draw.choice(places)
    change = draw.choice(("value", "value", "near", "type", "count", "tag", "copy", "swap"))
    if change == "value":
        struct.pack_into(order + "I", out, at + 8, draw.choice(INTEGERS) & 0xFFFFFFFF)
    elif change == "near":
        value = struct.unpack_from(order + "I", out, at + 8)[0]
        step = draw.choice((-1, 1, value, 1 << 16))
        struct.pack_into(order + "I", out, at + 8, value + step & 0xFFFFFFFF)
    elif change == "type":
        struct.pack_into(order + "H", out, at + 2, draw.randrange(20))
    elif change == "count":
        struct.pack_into(order + "I", out, at + 4, draw.choice(INTEGERS) & 0xFFFFFFFF)
    elif change == "tag":
        struct.pack_into(order + "H", out, at, draw.choice(_TIFF_TAGS))
    elif change == "copy":
        out[to : to + 12] = out[at : at + 12]
    else:
        out[at : at + 12], out[to : to + 12] = out[to : to + 12], out[at : at + 12]
    return bytes(out)


def _bmp(draw: random.Random, data: bytes) -> bytes:
    return _numbered(draw, data, "<", stop=min(len(data), 70))
