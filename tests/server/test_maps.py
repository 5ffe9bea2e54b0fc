"""Embeddings, and maps against vectors that a client has."""

import json

import httpx
import numpy as np
from serving import A, B, engine, files, problem


def test_an_embedding_is_the_engines_own(client: httpx.Client) -> None:
    (vector,) = engine().vectors([A])
    answer = client.post("/v1/embed", files=files(image=A)).json()
    assert answer["embedding"] == vector.embedding.tolist()
    assert answer["image"] == {"height": vector.geometry.photo_height, "width": vector.geometry.photo_width}


def test_maps_against_embeddings_are_those_of_comparing(client: httpx.Client) -> None:
    own = engine()
    pair = own.compare(A, B)
    vectors = [image.embedding.tolist() for image in pair.images]
    for view in ("contribution", "influence"):
        form = {**files(image=A), "vectors": (None, json.dumps(vectors))}
        answer = client.post(f"/v1/maps?view={view}", files=form).json()
        maps = pair.maps if view == "contribution" else pair.influence
        np.testing.assert_allclose(answer["maps"][1], maps[0], atol=1e-6)
        np.testing.assert_allclose(answer["scores"], [1, pair.score], atol=1e-6)
        np.testing.assert_allclose(answer["residuals"][1], pair.residuals[0], atol=1e-6)
        own_map = pair.images[0].map_against(pair.images[0], view)  # type: ignore[arg-type]
        np.testing.assert_allclose(answer["maps"][0], own_map, atol=1e-6)


def test_vectors_that_have_no_direction_are_refused(client: httpx.Client) -> None:
    dimension = engine().contract.dimension
    row = [1.0] * dimension
    for vectors in ([], [[]], [row[:-1]], [row, [0.0] * dimension], [["1"] * dimension], {"a": 1}, "x", None):
        form = {**files(image=A), "vectors": (None, json.dumps(vectors))}
        problem(client.post("/v1/maps", files=form), 422, "vectors")
    huge = {**files(image=A), "vectors": (None, json.dumps([[10**400] * dimension]))}
    problem(client.post("/v1/maps", files=huge), 422, "vectors")
    problem(client.post("/v1/maps", files={**files(image=A), "vectors": (None, "[[1e999]]")}), 422, "vectors")
    problem(client.post("/v1/maps", files=files(image=A)), 422, "vectors")
