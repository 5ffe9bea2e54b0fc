"""The Open Inference Protocol, spoken by Triton's own client and in plain JSON."""

import gzip
import json
from typing import Any

import httpx
import numpy as np
import pytest
from serving import A, B, Served, engine, noise, problem

from simmap.engine.images.decode import load

triton = pytest.importorskip("tritonclient.http")


@pytest.fixture(scope="module")
def spoken(served: Served) -> Any:
    client = triton.InferenceServerClient(served.url.removeprefix("http://"))
    yield client
    client.close()


def image(name: str, *contents: bytes) -> Any:
    """An input of encoded images."""
    tensor = triton.InferInput(name, [len(contents)], "BYTES")
    tensor.set_data_from_numpy(np.array(contents, dtype=np.object_))
    return tensor


def test_the_server_and_its_models_are_described(spoken: Any) -> None:
    assert spoken.is_server_live() and spoken.is_server_ready()
    assert spoken.get_server_metadata() == {
        "name": "simmap", "version": "1", "extensions": ["binary_tensor_data"],
    }  # fmt: skip
    for name in ("embed", "compare"):
        assert spoken.is_model_ready(name) and spoken.is_model_ready(name, "1")
        about = spoken.get_model_metadata(name)
        assert about == spoken.get_model_metadata(name, "1") and about["name"] == name
    assert not spoken.is_model_ready("other") and not spoken.is_model_ready("embed", "2")
    with pytest.raises(triton.InferenceServerException, match="the models are embed and compare"):
        spoken.get_model_metadata("other")


def test_embeddings_are_the_engines_own(spoken: Any) -> None:
    contents = [A.read_bytes(), B.read_bytes(), noise(1)]
    expected = [vector.embedding for vector in engine().vectors(contents)]
    done = spoken.infer("embed", [image("image", *contents)], request_id="7")
    np.testing.assert_array_equal(done.as_numpy("embedding"), expected)
    assert done.get_response()["id"] == "7" and done.get_response()["model_name"] == "embed"


@pytest.mark.parametrize("binary", [True, False])
def test_comparing_is_the_engines_own(spoken: Any, binary: bool) -> None:
    pair = engine().compare(A, B)
    names = {output["name"] for output in spoken.get_model_metadata("compare")["outputs"]}
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in sorted(names)]
    done = spoken.infer(
        "compare",
        [image("a", A.read_bytes()), image("b", B.read_bytes())],
        outputs=outputs,
        model_version="1",
    )
    got = {name: done.as_numpy(name) for name in names}
    assert got.keys() == {"score", "residuals", "map_a", "map_b", "influence_a", "influence_b"}
    assert got["score"] == np.float32(pair.score)
    for at, of in enumerate("ab"):
        np.testing.assert_array_equal(got[f"map_{of}"], pair.maps[at])
        np.testing.assert_array_equal(got[f"influence_{of}"], pair.influence[at])
    only = spoken.infer(
        "compare",
        [image("a", A.read_bytes()), image("b", B.read_bytes())],
        outputs=[triton.InferRequestedOutput("score", binary_data=binary)],
    )
    assert [output["name"] for output in only.get_response()["outputs"]] == ["score"]


def test_pixels_may_come_as_binary_or_as_json(spoken: Any, client: httpx.Client) -> None:
    pixels = load(noise(3)).pixels
    (expected,) = engine().vectors([pixels])
    for binary in (True, False):
        tensor = triton.InferInput("image", list(pixels.shape), "UINT8")
        tensor.set_data_from_numpy(pixels, binary_data=binary)
        done = spoken.infer("embed", [tensor])
        np.testing.assert_array_equal(done.as_numpy("embedding")[0], expected.embedding)
    tensors = [{"name": "image", "datatype": "UINT8", "shape": list(pixels.shape), "data": pixels.tolist()}]
    plain = client.post("/v2/models/embed/infer", json={"inputs": tensors})
    assert plain.json()["outputs"][0]["data"] == expected.embedding.tolist()


def test_errors_reach_the_client_as_the_protocol_has_them(spoken: Any) -> None:
    for inputs, message in (
        ([image("image", b"no image")], "image: is not a JPEG"),
        ([image("other", A.read_bytes())], "inputs must be image"),
        ([image("image")], "must hold 1 to 32 images"),
    ):
        with pytest.raises(triton.InferenceServerException, match=message):
            spoken.infer("embed", inputs)
    with pytest.raises(triton.InferenceServerException, match="outputs are embedding"):
        spoken.infer("embed", [image("image", noise(1))], outputs=[triton.InferRequestedOutput("other")])
    with pytest.raises(triton.InferenceServerException, match="without Content-Encoding"):
        spoken.infer("embed", [image("image", noise(1))], request_compression_algorithm="gzip")


def test_what_is_no_inference_request_is_refused(client: httpx.Client) -> None:
    def post(body: Any, length: str | None = None, extra: bytes = b"") -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {} if length is None else {"Inference-Header-Content-Length": length}
        return client.post("/v2/models/embed/infer", content=content + extra, headers=headers)

    tensor = {"name": "image", "datatype": "UINT8", "shape": [1, 1, 3]}
    binary = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 9}}
    head = str(len(json.dumps({"inputs": [binary]})))
    broken = [
        post(b"{"),
        post({"inputs": [binary]}, "-1"),
        post({"inputs": [binary]}, "9999"),
        post({"inputs": [binary]}, "x"),
        post({"inputs": [binary]}, head, b"\xff\xff\xff\xff12345"),
        post({"inputs": [binary]}, head, b"123"),
        post({"inputs": [binary]}, head, b"\x05\0\0\0abcdeX"),
        post({"inputs": [tensor | {"data": [1, 2, 3]}], "outputs": [{"name": ["x"]}]}),
    ]
    bodies = [[], {}, {"inputs": {}}, {"inputs": [1]}, {"inputs": [{}]}, {"inputs": [tensor, tensor]}]
    broken += map(post, bodies)
    tensors: list[dict[str, Any]] = [{"shape": [-1, 1, 3]}, {"shape": "x"}, {"parameters": 1}]
    tensors += [{"shape": [1 << 30, 1 << 30, 3], "data": [1]}, {"datatype": "FP32", "data": [1, 2, 3]}]
    data = [[1, 2], [1, 2, 256], [[1], [2, 3]], [1, 2, "x"], None, [1, 2, 10**30], [1, 2, 0.5]]
    tensors += [{"data": one} for one in data]
    broken += [post({"inputs": [tensor | one]}) for one in tensors]
    broken += [post({"inputs": [one]}) for one in (binary, binary | {"shape": [2]})]
    for answer in broken:
        assert answer.status_code == 422, answer.text
        assert answer.json()["error"] == answer.json()["detail"]
    problem(client.get("/v2/models/embed/versions/2"), 404)
    gzipped = gzip.compress(b"{}")
    sent = client.post("/v1/compare", content=gzipped, headers={"Content-Encoding": "gzip"})
    problem(sent, 415)
