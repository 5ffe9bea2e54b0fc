"""What spoils an input: bytes, text and plain data, by a random source that a test or hypothesis gives."""

import json
import random
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

INTEGERS = (
    *(0, 1, 2, 3, 7, 127, 128, 255, 256, 4096, 65535, 65536),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1),
)
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 0.5, -0.0, 1e-300, 1e308,
    float("nan"), float("inf"), -float("inf"), 10**18, 10**400,
    "", "x", "avg", "max", "gem", "none", "affine", "²", "\x1b[31m", "\ud800", "a\nb", "x" * 300, "0",
    "1e999", [], [0], [1, 2, 3], [[1]], {}, {"x": 1}, {"absolute": "1"},
)  # fmt: skip
# Pieces of YAML and CSV that parsers treat in ways of their own.
PIECES = (
    "&a [*a]", "&a {b: *a}", "*a", "<<: {model: x}", "!!python/object:os.system x", "!!binary =",
    "!!set {a}", "2001-02-30", "2001-01-01", "1:30:00", "0x1g", "0o9", ".nan", "-.inf", "1_000", "~", "? a",
    "? {a: b}\n: c", "%YAML 9.9\n---\n", "---\n", "...\n", "|\n", ">-\n", "\t", "\0", "\x85", "\u2028",
    "\ufeff", "'", '"', "{", "[",
    "}", "- ", ": ", "#", ",", ";", "\r", "\n", "[" * 50, "{a: " * 300, "9" * 5000, "threads: 1\n",
    "size: [1, 1]\n", "path,label\n", '"a\nb",c', "yes", "null", "é", "\udcff",
)  # fmt: skip
INJURIES = ("bits", "bytes", "header", "cut", "end", "inserted", "lost", "zeros", "joined")


def injured(draw: random.Random, data: bytes, injury: str | None = None) -> bytes:
    """``data`` with one injury, of a kind of ``INJURIES``; nothing is left as it is."""
    if not data:
        return data
    spoilt = bytearray(data)
    place = draw.randrange(len(spoilt))
    injury = injury or draw.choice(INJURIES)
    if injury == "bits":
        for _ in range(draw.choice((1, 2, 5))):
            spoilt[draw.randrange(len(spoilt))] ^= 1 << draw.randrange(8)
    elif injury == "bytes":
        for _ in range(draw.choice((1, 3))):
            spoilt[draw.randrange(len(spoilt))] = draw.choice((0, 1, 127, 255, draw.randrange(256)))
    elif injury == "header":
        spoilt[draw.randrange(min(len(spoilt), 120))] = draw.randrange(256)
    elif injury == "cut":
        del spoilt[max(1, place) :]
    elif injury == "end":
        del spoilt[-draw.randrange(1, 12) :]
    elif injury == "inserted":
        spoilt[place:place] = draw.randbytes(draw.choice((1, 2, 4, 30)))
    elif injury == "lost":
        del spoilt[place : place + draw.choice((1, 2, 4, 30))]
    elif injury == "zeros":
        spoilt[place : place + 8] = bytes(len(spoilt[place : place + 8]))
    else:
        spoilt[place:] = spoilt[-draw.choice((2, 12)) :]
    return bytes(spoilt)


def garbled(draw: random.Random, text: str) -> str:
    """Text with pieces put in, lines doubled, dropped or changed places, or characters replaced."""
    for _ in range(draw.randrange(1, 4)):
        lines = text.split("\n")
        at, to = draw.randrange(len(lines)), draw.randrange(len(lines))
        change = draw.choice(("piece", "value", "double", "drop", "swap", "indent", "cut"))
        if change == "piece":
            place = draw.randrange(len(text) + 1)
            text = text[:place] + draw.choice(PIECES) + text[place:]
            continue
        if change == "cut":
            text = text[: draw.randrange(len(text) + 1)]
            continue
        if change == "value":
            lines[at] = lines[at].partition(":")[0] + ": " + draw.choice(PIECES)
        elif change == "double":
            lines.insert(to, lines[at])
        elif change == "drop":
            del lines[at]
        elif change == "swap":
            lines[at], lines[to] = lines[to], lines[at]
        else:
            lines[at] = draw.choice(("  ", "\t", "- ")) + lines[at]
        text = "\n".join(lines)
    return text


def altered(draw: random.Random, data: Any) -> Any:
    """Plain data, as JSON has it, with one to three values, keys or types that are others."""
    data = json.loads(json.dumps(data))
    for _ in range(draw.randrange(1, 4)):
        places = list(_places(data))
        holder, key = places[draw.randrange(len(places))]
        old = holder[key]
        change = draw.choice(("value", "near", "drop", "add", "rename", "nest"))
        if change == "value":
            holder[key] = deepcopy(draw.choice(VALUES))
        elif change == "near":
            holder[key] = _near(draw, old)
        elif change == "drop":
            del holder[key]
        elif change == "nest":
            holder[key] = [old] if draw.randrange(2) else {"x": old}
        elif isinstance(holder, dict):
            name = draw.choice(("x", "", "p", "bias", "rest", "\x1b[31m", "x" * 300))
            holder[name] = deepcopy(draw.choice(VALUES))
            if change == "rename" and name != key:
                del holder[key]
        else:
            holder.append(deepcopy(draw.choice(VALUES)))
        if not data:
            break
    return data


def _near(draw: random.Random, value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int):
        whole = float(value) if abs(value) < 10**300 else 1e300
        return draw.choice((value + 1, value - 1, -value, 2 * value, whole, repr(value % 10**9)))
    if isinstance(value, float):
        return draw.choice((value * (1 + 1e-6), -value, value * 1e6, 1 / value if value else 1.0, str(value)))
    if isinstance(value, str) and value:
        return draw.choice((value[:-1], value.upper(), value + " ", value[::-1], list(value)))
    return deepcopy(draw.choice(VALUES))


def _places(data: Any) -> Any:
    keys: Sequence[Any] = list(data) if isinstance(data, dict) else range(len(data))
    for key in keys:
        yield data, key
        if isinstance(data[key], dict | list):
            yield from _places(data[key])
