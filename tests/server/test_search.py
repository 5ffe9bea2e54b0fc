"""Searching the index, thumbnails, and changing it."""

import json
import os
from pathlib import Path
from urllib.parse import quote

import cv2
import httpx
import numpy as np
import pytest
from serving import (
    KEYS,
    A,
    B,
    Served,
    bearer,
    engine,
    files,
    key_setting,
    make_index,
    noise,
    png,
    problem,
    serving,
)

from common import SAMPLES
from simmap.engine import Index
from simmap.engine.dataset import Item
from simmap.engine.index.explain import explain
from simmap.engine.index.search import Found, search
from simmap.engine.index.store import about_of
from simmap.engine.index.update import update_index
from simmap.engine.listing import list_source

Indexed = tuple[Served, Path]


@pytest.fixture
def client(indexed: Indexed) -> httpx.Client:
    return indexed[0].client(headers=bearer("search"))


def equals(answer: httpx.Response, found: Found, index: Index) -> None:
    assert answer.status_code == 200, answer.text
    got = [(h["rank"], h["id"], h["label"], h["score"], h["region_score"]) for h in answer.json()["hits"]]
    assert got == [(h.rank, index.id_of(h.path), h.label, h.score, h.region_score) for h in found.hits]


def test_hits_are_those_of_the_engine(client: httpx.Client, indexed: Indexed) -> None:
    index, own = Index(indexed[1] / "index"), engine()
    equals(client.post("/v1/search?k=4", files=files(image=B)), search(own, index, [B], 4)[0], index)
    found = search(own, index, [B], 2, per_class=True)[0]
    equals(client.post("/v1/search?k=2&per_class=1", files=files(image=B)), found, index)


def test_a_region_may_be_boxes_a_mask_or_both(client: httpx.Client, indexed: Indexed) -> None:
    index, own = Index(indexed[1] / "index"), engine()
    height, width = cv2.imread(str(B)).shape[:2]
    mask = np.zeros((height, width), np.uint8)
    mask[height // 2 :] = 255
    box = [10, 20, 150.5, 100]
    region = {"regions": (None, json.dumps([box]))}
    for form, given in (
        (region, {"boxes": [tuple(box)]}),
        (files(mask=png(mask)), {"mask": mask}),
        ({**region, **files(mask=png(mask))}, {"boxes": [tuple(box)], "mask": mask}),
    ):
        (found,) = search(own, index, [B], 5, **given)  # type: ignore[arg-type]
        answer = client.post("/v1/search?k=5", files={**files(image=B), **form})
        equals(answer, found, index)
        assert found.weights is not None and answer.json()["weights"] == found.weights.tolist()


@pytest.mark.parametrize("view", ["contribution", "influence"])
def test_maps_of_hits_are_those_of_the_engine(client: httpx.Client, indexed: Indexed, view: str) -> None:
    index, own = Index(indexed[1] / "index"), engine()
    (found,) = explain(own, search(own, index, [B], 3), view=view)  # type: ignore[arg-type]
    answer = client.post(f"/v1/search?k=3&maps=1&view={view}", files=files(image=B))
    equals(answer, found, index)
    assert found.matches is not None
    for hit, match in zip(answer.json()["hits"], found.matches, strict=True):
        assert match is not None and match.query is not None
        assert hit["map"] == match.hit.map.tolist() and hit["query_map"] == match.query.tolist()
        assert (hit["grid"]["rows"], hit["grid"]["columns"]) == match.hit.map.shape
        height, width = cv2.imread(str(indexed[1] / "photos" / hit["id"])).shape[:2]
        assert hit["image"] == {"height": height, "width": width}


def test_what_cannot_be_searched_for_is_named(client: httpx.Client) -> None:
    def post(query: str = "", **fields: str) -> httpx.Response:
        form = {name: (None, value) for name, value in fields.items()}
        return client.post(f"/v1/search{query}", files={**files(image=B), **form})

    for text in (
        "[]",
        "[[1,2,3]]",
        '[["1",2,3,4]]',
        "[[1,2,true,4]]",
        "{}",
        "[[1e308,0,1e308,1]]",
        "x",
        "[[NaN,1,1,1]]",
    ):
        problem(post(regions=text), 422, "regions")
    assert "off the photo" in problem(post(regions="[[99999,0,1,1]]"), 422)
    assert "empty" in problem(post(regions="[[0,0,0,1]]"), 422)
    problem(post("?k=0"), 422, "k")
    problem(post("?k=101"), 422, "k")
    problem(post("?k=x"), 422, "k")
    problem(post(other="1"), 422, "body")
    small = client.post("/v1/search", files=files(image=B, mask=noise(1)))
    assert problem(small, 422, "mask") == "mask must have the size of the image"


def test_a_server_without_an_index_searches_none(served: Served) -> None:
    with served.client() as client:
        assert "no index" in problem(client.post("/v1/search", files=files(image=B)), 404)
        problem(client.get("/v1/images/x.png"), 404)


def test_thumbnails_are_the_indexs_images_and_no_other_file(client: httpx.Client, indexed: Indexed) -> None:
    answer = client.get("/v1/images/others/home.jpg?side=100")
    assert answer.headers["content-type"] == "image/jpeg"
    small = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)
    height, width = cv2.imread(str(SAMPLES / "home.jpg")).shape[:2]
    assert max(small.shape[:2]) == 100
    assert small.shape[0] / small.shape[1] == pytest.approx(height / width, rel=0.02)
    # Below the root, but not in the index.
    (indexed[1] / "photos" / "secret.png").write_bytes(noise(77))
    outside = [
        "../server.yaml",
        "..%2fserver.yaml",
        "%2e%2e/index/index.sqlite",
        "/etc/passwd",
        "%2Fetc%2Fpasswd",
    ]
    for name in ("secret.png", *outside, "others", "", ".", "others/home.jpg%00", "%ff%fe", "a" * 3000):
        problem(client.get(f"/v1/images/{name}"), 404)
    problem(client.get("/v1/images/others/home.jpg?side=9999"), 422, "side")


def test_a_lossless_image_has_the_pixels_of_the_file(client: httpx.Client) -> None:
    answer = client.get("/v1/images/others/home.jpg?side=2048&lossless=1")
    assert answer.headers["content-type"] == "image/png"
    got = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(got, cv2.imread(str(SAMPLES / "home.jpg")))
    small = client.get("/v1/images/others/home.jpg?side=100&lossless=1").content
    assert max(cv2.imdecode(np.frombuffer(small, np.uint8), cv2.IMREAD_COLOR).shape) == 100


def test_the_page_is_told_whether_there_is_an_index(indexed: Indexed, served: Served, tmp_path: Path) -> None:
    with served.client() as one:
        assert one.get("/config.json").json()["index"] is None
    with indexed[0].client() as one:  # without a key
        assert one.get("/config.json").json()["index"] == {"results": 12}
    config = tmp_path / "few.yaml"
    config.write_text("max_results: 3\n")
    with serving("--index", indexed[1] / "index", "--config", config) as few, few.client() as one:
        assert one.get("/config.json").json()["index"] == {"results": 3}


def test_an_image_whose_file_has_gone_has_no_thumbnail_and_no_map(tmp_path: Path) -> None:
    index = make_index(tmp_path)
    (tmp_path / "photos" / "buddhas" / A.name).unlink()
    with serving("--index", index.path) as served, served.client() as client:
        assert "any more" in problem(client.get(f"/v1/images/buddhas/{A.name}"), 404)
        (first, *_) = client.post("/v1/search?k=1&maps=1", files=files(image=A)).json()["hits"]
        assert first["id"] == f"buddhas/{A.name}" and first["map"] is first["grid"] is first["image"] is None


@pytest.mark.skipif(os.name == "nt", reason="names are text")
def test_names_that_are_not_utf8_are_ids_too(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path / "photos") + b"/caf\xe9 #?%.png")
    index = make_index(tmp_path)
    Path(path).write_bytes(noise(5))
    update_index(index, engine(), [Item(path, None)])
    with serving("--index", index.path) as served, served.client() as client:
        found = client.post("/v1/search?k=12", files=files(image=noise(5))).json()["hits"]
        (name,) = [hit["id"] for hit in found if hit["id"].startswith("caf")]
        url = f"{served.url}/v1/images/{quote(os.fsencode(name))}"
        assert client.get(url).status_code == 200


def test_an_index_of_a_url_is_searched_and_drawn_but_not_added_to(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    root = f"file://{make_index(tmp_path).root}"
    index = Index.make(tmp_path / "urls", about_of(engine(), root))
    update_index(index, engine(), list_source(root).items)
    config = tmp_path / "server.yaml"
    config.write_text(f"keys: {{all: {key_setting(KEYS['all'], 'read', 'search', 'change')}}}\n")
    with (
        serving("--index", tmp_path / "urls", "--config", config) as served,
        served.client(headers=bearer("all")) as client,
    ):
        (first, *_) = client.post("/v1/search?k=1&maps=1", files=files(image=A)).json()["hits"]
        assert first["id"] == f"buddhas/{A.name}" and first["map"] is not None
        assert client.get(f"/v1/images/{first['id']}").headers["content-type"] == "image/jpeg"
        added = client.post("/v1/index/images", files=files(image=noise(900)))
        assert "behind a URL" in problem(added, 409)


def test_images_are_added_once_and_removed(indexed: Indexed, client: httpx.Client) -> None:
    folder = indexed[1]
    change, data = bearer("change"), noise(1000)
    before = len(Index(folder / "index"))
    form = {**files(image=data), "label": (None, "new")}
    first = client.post("/v1/index/images", files=form, headers=change)
    assert first.status_code == 201, first.text
    name = first.json()["id"]
    again = client.post("/v1/index/images", files=form, headers=change)
    assert again.json()["id"] == name
    index = Index(folder / "index")
    assert len(index) == before + 1
    (entry,), _ = index.get([name])
    assert entry.label == "new" and (entry.height, entry.width) == (40, 60)
    assert (folder / "photos" / name).read_bytes() == data
    (hit,) = client.post("/v1/search?k=1", files=files(image=data)).json()["hits"]
    assert hit["id"] == name and hit["score"] == pytest.approx(1, abs=1e-5)
    assert client.get(f"/v1/images/{name}").status_code == 200
    assert client.delete(f"/v1/index/images/{name}", headers=change).status_code == 204
    problem(client.delete(f"/v1/index/images/{name}", headers=change), 404)
    assert len(Index(folder / "index")) == before and not (folder / "photos" / name).exists()
    problem(client.get(f"/v1/images/{name}"), 404)


def test_removing_an_image_keeps_a_file_that_no_client_added(indexed: Indexed) -> None:
    served, folder = indexed
    with served.client(headers=bearer("change")) as client:
        assert client.delete("/v1/index/images/noise/5.png").status_code == 204
    assert (folder / "photos" / "noise" / "5.png").exists()
    assert "noise/5.png" not in Index(folder / "index").ids_below(folder / "photos")


def test_labels_and_images_that_cannot_be_kept_are_refused(indexed: Indexed) -> None:
    served, folder = indexed
    before = sorted((folder / "photos").rglob("*"))
    with served.client(headers=bearer("change")) as client:
        for label in ("", "a\nb", "\x00", "x" * 201, "\u202e"):
            form = {**files(image=noise(2)), "label": (None, label)}
            problem(client.post("/v1/index/images", files=form), 422, "label")
        lone = b'{"image": "", "label": "\\ud800"}'
        json_type = {"Content-Type": "application/json"}
        problem(client.post("/v1/index/images", content=lone, headers=json_type), 422, "label")
        problem(client.post("/v1/index/images", files=files(image=b"GIF89a")), 422, "image")
        problem(client.delete("/v1/index/images/..%2fserver.yaml"), 404)
        assert client.get("/v1/images/noise/0.png").status_code == 403
    assert (folder / "server.yaml").exists()
    assert sorted((folder / "photos").rglob("*")) == before
