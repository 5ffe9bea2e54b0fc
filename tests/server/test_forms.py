"""Forms and JSON bodies give back what a client has put in."""

import base64
import json
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simmap.server.forms import Kind, parse
from simmap.server.problems import ProblemError

FIELDS: dict[str, Kind] = {"a": "image", "b": "image", "values": "json", "label": "text"}
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
forms = st.fixed_dictionaries(
    {},
    optional={
        "a": st.binary(max_size=300) | st.sampled_from([b"\r\n--x", b"\r\n--x--\r\n", b"--x\r\n" * 9, b"\r"]),
        "b": st.binary(max_size=30),
        "values": plain,
        "label": st.text(st.characters(codec="utf-8"), max_size=20),
    },
)


@given(forms.filter(bool))
def test_a_form_gives_back_what_was_put_in(form: dict[str, Any]) -> None:
    parts = {
        name: (name if isinstance(value, bytes) else None, _content(name, value))
        for name, value in form.items()
    }
    request = httpx.Request("POST", "http://x", files=parts)
    assert parse(request.headers["content-type"], request.read(), FIELDS) == form


def _content(name: str, value: Any) -> bytes | str:
    return value if isinstance(value, bytes) or name == "label" else json.dumps(value)


@given(forms)
def test_json_gives_back_what_was_put_in(form: dict[str, Any]) -> None:
    body = {n: base64.b64encode(v).decode() if isinstance(v, bytes) else v for n, v in form.items()}
    assert parse("application/json; charset=utf-8", json.dumps(body).encode(), FIELDS) == form


kinds = st.sampled_from(["multipart/form-data; boundary=x", "multipart/form-data", "application/json"])
pieces = [b"--x", b"\r\n", b"--", b'Content-Disposition: form-data; name="a"', b":", b"\xff", b"{", b'"a"']


@given(
    kinds | st.text(st.characters(codec="latin-1")),
    st.binary(max_size=200) | st.lists(st.sampled_from(pieces)).map(b"".join),
)
def test_no_body_is_more_than_a_problem(kind: str, body: bytes) -> None:
    statuses = {415, 422}
    try:
        assert parse(kind, body, FIELDS).keys() <= FIELDS.keys()
    except ProblemError as problem:
        statuses.remove(problem.status)


def test_a_form_cut_anywhere_is_a_problem() -> None:
    request = httpx.Request("POST", "http://x", files={"a": ("a", b"image"), "label": (None, "x")})
    body = request.read()
    for end in range(len(body) - 2):
        with pytest.raises(ProblemError):
            parse(request.headers["content-type"], body[:end], FIELDS)
