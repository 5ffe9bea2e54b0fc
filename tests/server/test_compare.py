"""Comparing over HTTP gives what the engine gives."""

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from serving import AVG, A, B, Served, engine, files, noise, problem, serving

from common import ARTIFACTS, SAMPLES
from simmap.engine import PairFigure
from simmap.engine.images.decode import load
from simmap.engine.results import Pair


def equals(answer: httpx.Response, pair: Pair) -> None:
    """Bit for bit: JSON carries each float as it is."""
    assert answer.status_code == 200, answer.text
    data = answer.json()
    assert data["score"] == pair.score and data["residuals"] == list(pair.residuals)
    for name in ("maps", "influence"):
        assert data[name] == [values.tolist() for values in getattr(pair, name)]
    for grid, size, image in zip(data["grids"], data["images"], pair.images, strict=True):
        x0, y0, x1, y1 = image.geometry.field
        rows, columns = image.parts.shape[:2]
        assert grid == {
            "rows": rows, "columns": columns, "x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0,
        }  # fmt: skip
        assert size == {"height": image.geometry.photo_height, "width": image.geometry.photo_width}


def test_a_form_and_json_give_the_engines_own_numbers(client: httpx.Client) -> None:
    own = engine()
    pair = own.compare(A, B)
    equals(client.post("/v1/compare", files=files(a=A, b=B)), pair)
    texts = {name: base64.b64encode(path.read_bytes()).decode() for name, path in (("a", A), ("b", B))}
    answer = client.post("/v1/compare", json=texts)
    equals(answer, pair)
    assert answer.json()["model"] == {
        "name": "avg",
        "fingerprint": own.contract.fingerprint,
        "pooling": "avg",
        "head": "none",
        "dimension": own.contract.dimension,
    }
    assert "points" not in answer.json()


@pytest.fixture(scope="module", params=["affine_bias", "crop", "letterbox_bgr", "gated"])
def other(request: pytest.FixtureRequest) -> Iterator[tuple[Served, Path]]:
    """Servers of models with a head, a rest, a crop and padding."""
    model = ARTIFACTS / f"{request.param}.onnx"
    with serving("--model", model) as served:
        yield served, model


def test_points_sum_to_the_maps_of_both_images(other: tuple[Served, Path]) -> None:
    served, model = other
    pair = engine(model).compare(A, SAMPLES / "home.jpg")
    with served.client() as client:
        answer = client.post("/v1/compare?points=1", files=files(a=A, b=SAMPLES / "home.jpg"))
    equals(answer, pair)
    points = np.array(answer.json()["points"])
    first, second = pair.images
    units = [image.embedding / np.linalg.norm(image.embedding) for image in pair.images]
    for axis, here, there, unit in ((1, first, second, units[0]), (0, second, first, units[1])):
        parts = here.parts / np.linalg.norm(here.embedding)
        rest = 0 if there.rest is None else there.rest / np.linalg.norm(there.embedding)
        expected = pair.maps[1 - axis].reshape(-1) - (parts @ (rest + 0 * unit)).reshape(-1)
        np.testing.assert_allclose(points.sum(axis=axis), expected, atol=1e-5)
    for at in (0, points.shape[0] - 1):
        y, x = divmod(at, first.parts.shape[1])
        np.testing.assert_allclose(points[at], pair.point(0, y, x).reshape(-1), atol=1e-6)


def test_the_picture_is_that_of_the_command_line(client: httpx.Client) -> None:
    for view in ("contribution", "influence"):
        answer = client.post(
            f"/v1/compare?view={view}", files=files(a=A, b=B), headers={"Accept": "image/png, */*;q=0.1"}
        )
        assert answer.headers["content-type"] == "image/png"
        own = engine()
        pair = own.compare(load(A, name="a"), load(B, name="b"))
        expected = PairFigure(pair, options=own.options, view=view).picture()  # type: ignore[arg-type]
        got = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)
        np.testing.assert_array_equal(cv2.cvtColor(got, cv2.COLOR_BGR2RGB), expected)


def test_many_clients_at_once_get_each_its_own_answer(client: httpx.Client) -> None:
    own = engine()
    expected = {seed: own.compare(noise(seed), B) for seed in range(12)}

    def ask(seed: int) -> None:
        equals(client.post("/v1/compare", files=files(a=noise(seed), b=B)), expected[seed])

    with ThreadPoolExecutor(12) as threads:
        list(threads.map(ask, list(expected) * 2))


def test_an_image_that_cannot_be_read_is_named_by_its_field(client: httpx.Client) -> None:
    whole = A.read_bytes()
    cut = client.post("/v1/compare", files=files(a=whole, b=whole[: len(whole) // 2]))
    assert problem(cut, 422, "b") == "b: is cut off; copy or download it again"
    assert "not a JPEG" in problem(client.post("/v1/compare", files=files(a=b"text", b=B)), 422, "a")
    assert "is missing" in problem(client.post("/v1/compare", files=files(a=A)), 422, "b")
    black = cv2.imencode(".png", np.zeros((20, 20, 3), np.uint8))[1].tobytes()
    answer = client.post("/v1/compare", files=files(a=black, b=B))
    if answer.status_code != 200:  # a model may have no direction for black
        problem(answer, 422, "a")


def test_bodies_that_are_no_form_are_refused(client: httpx.Client) -> None:
    def post(content: bytes, kind: str) -> httpx.Response:
        return client.post("/v1/compare", content=content, headers={"Content-Type": kind})

    problem(post(b"x", "text/plain"), 415)
    problem(post(b"{", "application/json"), 422)
    problem(post(b"[]", "application/json"), 422)
    problem(post(b'{"a": NaN}', "application/json"), 422)
    problem(post(b"[" * 100_000, "application/json"), 422)
    problem(post(b'{"a": 1}', "application/json"), 422, "a")
    assert "base64" in problem(post(b'{"a": "%%"}', "application/json"), 422, "a")
    assert "fields are a, b" in problem(post(b'{"c\\n": ""}', "application/json"), 422, "body")
    problem(post(b"x", "multipart/form-data"), 422)
    problem(post(b"--x\r\nno header", "multipart/form-data; boundary=x"), 422)
    part = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\ndata'
    assert "cut off" in problem(post(part, "multipart/form-data; boundary=x"), 422)
    twice = part + b"\r\n" + part + b"\r\n--x--\r\n"
    assert "twice" in problem(post(twice, "multipart/form-data; boundary=x"), 422, "a")


def test_unknown_views_are_refused_by_name(client: httpx.Client) -> None:
    problem(client.post("/v1/compare?view=heat", files=files(a=A, b=B)), 422, "view")
    problem(client.post("/v1/compare?points=many", files=files(a=A, b=B)), 422, "points")


def test_the_model_is_the_one_that_was_asked_for(client: httpx.Client) -> None:
    about = client.get("/v1/model").json()
    assert about["model"]["fingerprint"] == engine(AVG).contract.fingerprint and about["index"] is None
