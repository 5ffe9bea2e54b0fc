"""What a request's body says: a form (``multipart/form-data``) or a JSON object with images in base64."""

import base64
import binascii
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NoReturn

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from .problems import ProblemError

Kind = Literal["image", "json", "text"]


def parse(content_type: str, body: bytes, fields: Mapping[str, Kind]) -> dict[str, Any]:
    """The fields of a body.

    Args:
        content_type: of the request.
        body: all of it.
        fields: those that may be there. An ``image`` gives bytes, ``json`` any plain value (JSON text in a
            form), ``text`` a string.

    Raises:
        ProblemError: 415 another type, 422 a body that cannot be read, an unknown field, or one that is there
            twice or of another type.
    """
    media, options = parse_options_header(content_type)
    if media == b"application/json":
        return _from_json(body, fields)
    if media == b"multipart/form-data":
        return _from_form(options.get(b"boundary", b""), body, fields)
    raise ProblemError(415, "type", "send multipart/form-data, or application/json with images in base64")


def required(form: Mapping[str, Any], name: str) -> Any:
    """A field that must be there.

    Raises:
        ProblemError: 422, it is not.
    """
    if name not in form:
        raise invalid(name, "is missing")
    return form[name]


def invalid(name: str, why: str) -> ProblemError:
    """The problem of a field."""
    return ProblemError(422, "field", f"{name} {why}", name)


def read_json(data: bytes | str) -> Any:
    """Strict JSON: numbers are finite.

    Raises:
        ValueError: it is not.
    """

    def refuse(word: str) -> NoReturn:
        raise ValueError(f"{word} is no JSON")

    def number(text: str) -> float:
        value = float(text)
        return value if math.isfinite(value) else refuse(text[:20])

    try:
        return json.loads(data, parse_constant=refuse, parse_float=number)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _from_json(body: bytes, fields: Mapping[str, Kind]) -> dict[str, Any]:
    try:
        data = read_json(body)
    except ValueError as error:
        raise ProblemError(422, "body", f"the body is no JSON: {error}") from error
    if not isinstance(data, dict):
        raise ProblemError(422, "body", "the body must be a JSON object")
    form: dict[str, Any] = {}
    for name, value in data.items():
        kind = _kind(name, fields)
        if kind != "json" and not isinstance(value, str):
            raise invalid(name, "must be text" if kind == "text" else "must be text, an image in base64")
        form[name] = _decoded(name, value) if kind == "image" else value
    return form


def _decoded(name: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid(name, "is no base64") from error


def _from_form(boundary: bytes, body: bytes, fields: Mapping[str, Kind]) -> dict[str, Any]:
    parts = _parts(boundary, body)
    form: dict[str, Any] = {}
    for headers, data in parts:
        _, options = parse_options_header(headers.get("content-disposition", ""))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        kind = _kind(name, fields)
        if name in form:
            raise invalid(name, "is there twice")
        form[name] = data if kind == "image" else _text(name, data, _PARSERS[kind])
    return form


def _text(name: str, data: bytes, parser: Callable[[str], Any]) -> Any:
    try:
        return parser(data.decode("utf-8"))
    except ValueError as error:  # UnicodeDecodeError among them
        raise invalid(name, "is no JSON" if parser is read_json else "is not UTF-8") from error


_PARSERS: dict[str, Callable[[str], Any]] = {"json": read_json, "text": str}


def _kind(name: str, fields: Mapping[str, Kind]) -> Kind:
    if name not in fields:
        shown = name[:40] if name.isprintable() else ascii(name[:40])
        raise ProblemError(
            422, "field", f"there is no field {shown!r}; fields are {', '.join(fields)}", "body"
        )
    return fields[name]


def _parts(boundary: bytes, body: bytes) -> list[tuple[dict[str, str], bytes]]:
    """Headers, by lower-case name, and content of each part; all in memory, since a body is limited."""
    parts: list[tuple[dict[str, str], bytes]] = []
    headers: dict[str, str] = {}
    name, value, content = bytearray(), bytearray(), bytearray()
    ended = False

    def begin() -> None:
        headers.clear()
        content.clear()

    def header_end() -> None:
        headers[name.decode("latin-1").lower()] = value.decode("latin-1")
        name.clear()
        value.clear()

    def part_end() -> None:
        parts.append((dict(headers), bytes(content)))

    def end() -> None:
        nonlocal ended
        ended = True

    def adds(to: bytearray) -> Callable[[bytes, int, int], None]:
        return lambda data, start, stop: to.extend(memoryview(data)[start:stop])

    try:
        if not boundary:
            raise FormParserError("Content-Type names no boundary")
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": begin,
                "on_header_field": adds(name),
                "on_header_value": adds(value),
                "on_header_end": header_end,
                "on_part_data": adds(content),
                "on_part_end": part_end,
                "on_end": end,
            },
        )
        parser.write(body)
        parser.finalize()
        if not ended:
            raise FormParserError("it is cut off")
    except FormParserError as error:
        raise ProblemError(422, "body", f"the body is no form: {error}") from error
    return parts
