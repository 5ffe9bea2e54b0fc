"""Searching: region queries against explicit maps of every database image, classes, embeddings, pictures."""

import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from common import ARTIFACTS, MODEL, PHOTOS, SAMPLES
from simmap.engine import Engine, SearchFigure, explain
from simmap.engine.dataset import find_images
from simmap.engine.errors import ConfigError, DecompositionError, ImageError, StoreError
from simmap.engine.images.region import load_mask, region_weights
from simmap.engine.index.embedded import Index
from simmap.engine.index.search import Found, read_embeddings, search, search_embeddings
from simmap.engine.index.store import Entry
from simmap.engine.index.update import update_index
from simmap.engine.options import Options
from simmap.engine.results import Embedded
from simmap.engine.types import Box

NAMES = (
    "avg", "max", "gem", "catavgmax", "affine_bias", "flatten", "weights", "weights_zero", "letterbox_bgr",
    "crop", "max_affine", "gated", "attention", "shipped",
)  # fmt: skip
# On cell edges and off them, over the photo's edge, overlapping; and drawn as a mask.
REGIONS = {
    "box": [(80.0, 45.0, 160.0, 90.0)],
    "off the grid": [(33.3, 17.9, 201.7, 155.5)],
    "over the edge": [(500.0, 200.0, 900.0, 900.0)],
    "several": [(0.0, 0.0, 200.0, 100.0), (100.0, 50.0, 333.0, 222.0)],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real photos of four classes, their crops and flips among them."""
    root = tmp_path_factory.mktemp("photos")
    sources = {
        "buddha": sorted(PHOTOS.glob("*.jpg")),
        "box": sorted(SAMPLES.glob("*.png")),
        "aerial": sorted(SAMPLES.glob("aero*.jpg")),
        "house": [SAMPLES / "building.jpg", SAMPLES / "home.jpg"],
    }
    for label, paths in sources.items():
        (root / label).mkdir()
        for path in paths:
            pixels = cv2.imread(str(path))
            height, width = pixels.shape[:2]
            shutil.copy(path, root / label)
            for name, variant in {
                "cut": pixels[: height // 2, width // 3 :],
                "flip": pixels[:, ::-1],
            }.items():
                cv2.imwrite(str(root / label / f"{path.stem}_{name}.png"), variant)
    shutil.copy(SAMPLES / "fruits.jpg", root)
    return root


def opened(name: str) -> Engine:
    model = MODEL if name == "shipped" else ARTIFACTS / f"{name}.onnx"
    return Engine(model, device="cpu", options=Options(threads=1))


@pytest.fixture(scope="module", params=NAMES)
def database(
    request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Engine, Index]:
    engine = opened(request.param)
    index = Index.create(tmp_path_factory.mktemp("index") / "index", engine, folder)
    update_index(index, engine, find_images(folder))
    return engine, index


def explicit_map(query: Embedded, other: np.ndarray) -> np.ndarray:
    """M[x] = (W alpha_hat[x]) . e_j / (|e_i| |e_j|) in float64, place by place."""
    e, other = query.embedding.astype(np.float64), other.astype(np.float64)
    height, width = query.parts.shape[:2]
    values = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            values[y, x] = sum(query.parts[y, x].astype(np.float64) * other)
    return np.asarray(values / np.sqrt((e * e).sum() * (other * other).sum()))


def test_a_region_ranks_as_the_sums_over_explicit_maps(
    database: tuple[Engine, Index], folder: Path, tmp_path: Path
) -> None:
    engine, index = database
    query = folder / "buddha" / "buddha_a.jpg"
    (embedded,) = engine.embed([query])
    images = {image.path: image for image in engine.embed([item.path for item in find_images(folder)])}
    maps = {path: explicit_map(embedded, image.embedding) for path, image in images.items()}
    drawn = np.zeros((360, 640), np.uint8)
    cv2.ellipse(drawn, (300, 200), (170, 90), 30, 0, 360, 255, -1)
    cv2.imwrite(str(tmp_path / "mask.png"), drawn)
    cases = [(boxes, None) for boxes in REGIONS.values()] + [([], load_mask(tmp_path / "mask.png"))]
    compared = 0
    for boxes, mask in cases:
        try:
            weights = region_weights(embedded.geometry, *embedded.parts.shape[:2], boxes=boxes, mask=mask)
        except ImageError as error:  # a crop cut all of it away
            with pytest.raises(ImageError, match=re.escape(str(error))):
                search(engine, index, [query], boxes=boxes, mask=mask)
            continue
        expected = {path: float((weights.astype(np.float64) * m).sum()) for path, m in maps.items()}
        if not any(expected.values()):  # no maximum lies inside
            with pytest.raises(DecompositionError, match="nothing inside the region counts"):
                search(engine, index, [query], boxes=boxes, mask=mask)
            continue
        compared += 1
        (found,) = search(engine, index, [query], len(images), boxes=boxes, mask=mask)
        assert {hit.path for hit in found.hits} == set(images)
        assert np.array_equal(found.mask, drawn > 0) if boxes == [] else found.mask is None
        for hit in found.hits:
            assert hit.region_score == pytest.approx(expected[hit.path], abs=1e-5)
            rest = embedded.residual_against(images[hit.path])
            assert hit.score == pytest.approx(maps[hit.path].sum() + rest, abs=1e-5)
        # The same order, but where two sums are equal to the last digits of float32.
        sums = np.array([expected[hit.path] for hit in found.hits])
        assert (np.diff(sums) <= 1e-6).all()
    assert compared >= 2


def test_the_whole_photo_as_a_region_is_the_whole_image_search(
    database: tuple[Engine, Index], folder: Path
) -> None:
    engine, index = database
    query = folder / "aerial" / "aero1.jpg"
    (embedded,) = engine.embed([query])
    (whole,) = search(engine, index, [query], 50)
    # The part of the photo that the network sees is all of its map.
    (region,) = search(engine, index, [query], 50, boxes=[(0, 0, 640, 480)])
    rest = {i.path: embedded.residual_against(i) for i in engine.embed([hit.path for hit in whole.hits])}
    parts = {hit.path: hit.region_score for hit in region.hits}
    for hit in whole.hits:
        # No place owns what a bias gives, so no region has it.
        assert parts[hit.path] == pytest.approx(hit.score - rest[hit.path], abs=1e-5)
    if engine.contract.bias is None and engine.contract.rest == "constant":
        assert [hit.path for hit in whole.hits] == [hit.path for hit in region.hits]
        assert whole.hits[0].score == pytest.approx(1, abs=1e-6)


@pytest.fixture(scope="module")
def shipped(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Engine, Index]:
    engine = Engine(device="cpu")
    index = Index.create(tmp_path_factory.mktemp("shipped") / "index", engine, folder)
    update_index(index, engine, find_images(folder))
    return engine, index


def test_the_box_is_found_by_its_place_in_the_scene(shipped: tuple[Engine, Index], folder: Path) -> None:
    engine, index = shipped
    query = folder / "box" / "box_in_scene.png"
    (found,) = search(engine, index, [query], 30, boxes=[(100, 165, 180, 130)], exclude_self=True)
    scenes = ("box_in_scene_cut.png", "box_in_scene_flip.png")
    others = [hit for hit in found.hits if Path(hit.path).name not in scenes]
    assert others[0].label == "box"


def test_per_class_gives_the_best_image_of_each_of_the_best_classes(
    shipped: tuple[Engine, Index], folder: Path
) -> None:
    engine, index = shipped
    for query in (folder / "house" / "home.jpg", folder / "fruits.jpg"):
        (every,) = search(engine, index, [query], 1000, exclude_self=True)
        best: dict[str, str] = {}
        for hit in every.hits:
            if hit.label is not None:
                best.setdefault(hit.label, hit.path)
        for k in (1, 3, 4, 9):
            (found,) = search(engine, index, [query], k, per_class=True, exclude_self=True)
            assert {hit.label: hit.path for hit in found.hits} == dict(list(best.items())[:k])
            assert [hit.rank for hit in found.hits] == list(range(1, min(k, 4) + 1))


def test_per_class_looks_beyond_the_first_page_of_one_large_class(tmp_path: Path) -> None:
    engine = opened("avg")
    index = Index.create(tmp_path / "index", engine, tmp_path)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3000, 8)).astype(np.float32)
    vectors[:2990, 0] += 50  # one class far ahead of the two others
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = ["many"] * 2990 + ["few"] * 5 + ["fewer"] * 5
    index.upsert([Entry(f"{i:04}.png", label, 1, 1, 1, 1) for i, label in enumerate(labels)], vectors)
    query = np.eye(8, dtype=np.float32)[:1]
    (found,) = search_embeddings(index, query, 3, per_class=True)
    scores = vectors @ query[0]
    expected = [scores[:2990].max(), *sorted([scores[2990:2995].max(), scores[2995:].max()])[::-1]]
    assert [hit.score for hit in found.hits] == pytest.approx(expected, abs=1e-6)
    assert {hit.label for hit in found.hits} == {"many", "few", "fewer"}


def test_per_class_needs_labels_but_not_images(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index", opened("avg"), tmp_path)
    query = np.eye(8, dtype=np.float32)[:1]
    assert search_embeddings(index, query, 3, per_class=True)[0].hits == ()
    index.upsert([Entry("one.png", None, 1, 1, 1, 1)], query)
    with pytest.raises(StoreError, match="the index has no labels"):
        search_embeddings(index, query, 3, per_class=True)
    index.upsert([Entry("two.png", "class", 1, 1, 1, 1)], query)
    assert [hit.label for hit in search_embeddings(index, query, 3, per_class=True)[0].hits] == ["class"]


def test_a_query_leaves_itself_out_and_only_itself(shipped: tuple[Engine, Index], folder: Path) -> None:
    engine, index = shipped
    queries = [folder / "house" / "home.jpg", folder / "fruits.jpg", SAMPLES / "home.jpg"]
    found = search(engine, index, queries, 4, exclude_self=True)
    for one, query in zip(found, queries, strict=True):
        assert len(one.hits) == 4 and str(query) not in [hit.path for hit in one.hits]
    # The same photo from elsewhere is another file.
    assert found[2].hits[0].path == str(folder / "house" / "home.jpg")


def test_several_queries_find_what_each_finds_alone(shipped: tuple[Engine, Index], folder: Path) -> None:
    engine, index = shipped
    queries = [item.path for item in find_images(folder)][::3]
    together = search(engine, index, queries, 5)
    embeddings = np.array([vector.embedding for vector in engine.vectors(queries)])
    by_vector = search_embeddings(index, embeddings, 5)
    for query, one, other in zip(queries, together, by_vector, strict=True):
        (alone,) = search(engine, index, [query], 5)
        assert [hit.path for hit in one.hits] == [hit.path for hit in alone.hits]
        assert [hit.path for hit in one.hits] == [hit.path for hit in other.hits]
        assert [h.score for h in one.hits] == pytest.approx([h.score for h in alone.hits], abs=1e-6)
        assert one.name == query
    assert [one.name for one in by_vector] == [f"<embedding>[{row}]" for row in range(len(queries))]
    (single,) = search_embeddings(index, embeddings[:1], name="q.npy")
    assert single.name == "q.npy"


def test_the_report_is_what_the_command_prints(shipped: tuple[Engine, Index], folder: Path) -> None:
    engine, index = shipped
    query = str(folder / "house" / "home.jpg")
    (found,) = search(engine, index, [query], 2, boxes=[(10, 20, 300, 200)])
    (report,) = SearchFigure([found]).data()["queries"]
    assert report["query"] == query and report["region"]["boxes"] == [[10, 20, 300, 200]]
    assert np.array(report["region"]["weights"]).shape == (7, 7)
    assert list(report["results"][0]) == ["rank", "path", "label", "score", "region_score"]
    (found,) = search(engine, index, [query], 2)
    (report,) = SearchFigure([found]).data()["queries"]
    assert report["region"] is None
    assert list(report["results"][0]) == ["rank", "path", "label", "score"]


def panels(engine: Engine, found: list[Found]) -> tuple[int, int]:
    picture = SearchFigure(explain(engine, found)).picture()
    assert picture.dtype == np.uint8 and picture.std() > 10
    return picture.shape[0], picture.shape[1]


def test_pictures_grow_by_results_and_rows(shipped: tuple[Engine, Index], folder: Path) -> None:
    engine, index = shipped
    query = folder / "box" / "box_in_scene.png"
    few = search(engine, index, [query], 2)
    more = search(engine, index, [query], 9)
    region = search(engine, index, [query], 2, boxes=[(100, 165, 180, 130)])
    (vector,) = engine.vectors([query])
    by_vector = search_embeddings(index, vector.embedding[None], 2)
    assert panels(engine, more)[1] > panels(engine, few)[1]
    assert panels(engine, few + region)[0] > 1.8 * panels(engine, few)[0]
    assert panels(engine, by_vector)[0] < 0.8 * panels(engine, few)[0]


def test_a_result_that_has_gone_is_said_to_be_and_the_rest_is_drawn(folder: Path, tmp_path: Path) -> None:
    engine = opened("avg")
    shutil.copytree(folder / "house", tmp_path / "house")
    index = Index.create(tmp_path / "index", engine, tmp_path / "house")
    update_index(index, engine, find_images(tmp_path / "house"))
    query = tmp_path / "house" / "home.jpg"
    found = search(engine, index, [query], 3, exclude_self=True)
    whole = SearchFigure(explain(engine, found)).picture()
    Path(found[0].hits[0].path).unlink()
    assert found[0].hits == search(engine, index, [query], 3, exclude_self=True)[0].hits
    holed = SearchFigure(explain(engine, found)).picture()
    assert holed.std() > 10
    assert holed.shape != whole.shape or (holed != whole).any()


def test_a_mask_is_light_inside(tmp_path: Path) -> None:
    drawn = np.zeros((20, 30, 3), np.uint8)
    drawn[5:9, 3:7, 1] = 255
    drawn[12, 12] = 90
    cv2.imwrite(str(tmp_path / "m.png"), drawn)
    expected = np.zeros((20, 30), bool)
    expected[5:9, 3:7] = True
    np.testing.assert_array_equal(load_mask(tmp_path / "m.png"), expected)
    cv2.imwrite(str(tmp_path / "dark.png"), np.zeros((20, 30), np.uint8))
    with pytest.raises(ImageError, match=r"dark\.png: the mask is dark everywhere"):
        load_mask(tmp_path / "dark.png")


def test_what_cannot_be_searched_for_is_told(
    shipped: tuple[Engine, Index], folder: Path, tmp_path: Path
) -> None:
    engine, index = shipped
    query = folder / "house" / "home.jpg"
    with pytest.raises(ConfigError, match="a region belongs to one query, there are 2"):
        search(engine, index, [query, query], boxes=[(0, 0, 9, 9)])
    with pytest.raises(ConfigError, match="k is 0"):
        search(engine, index, [query], 0)
    with pytest.raises(ImageError, match="off the photo"):
        search(engine, index, [query], boxes=[(5000, 0, 9, 9)])
    with pytest.raises(ImageError, match="the mask is 3 x 4, must be 384 x 512"):
        search(engine, index, [query], mask=np.ones((3, 4)))
    with pytest.raises(StoreError, match="was built by another model"):
        search(opened("avg"), index, [query])
    with pytest.raises(DecompositionError, match=r"q\.npy: embeddings have 7 values, .* the index 1280"):
        search_embeddings(index, np.ones((1, 7), np.float32), name="q.npy")
    for row, value in ((0, 0), (2, np.nan)):
        embeddings = np.ones((3, 1280), np.float32)
        embeddings[row] = value
        with pytest.raises(DecompositionError, match=rf"q\.npy\[{row}\]: the embedding (is zero|has NaN)"):
            search_embeddings(index, embeddings, name="q.npy")
    assert search_embeddings(index, np.empty((0, 1280), np.float32)) == []
    with pytest.raises(DecompositionError, match="must be floats"):
        search_embeddings(index, np.ones((1, 1280), np.int64))
    with pytest.raises(ConfigError, match=r"none\.npy: no such file"):
        read_embeddings(tmp_path / "none.npy")
    np.save(tmp_path / "cut.npy", np.ones((1, 8)))
    whole = (tmp_path / "cut.npy").read_bytes()
    # NumPy reads a header as Python: here a bracket that is never closed.
    for data in (b"not numpy", whole.replace(b"(1, 8)", b"((1, 8"), whole.replace(b"8)", b"\0)")):
        (tmp_path / "bad.npy").write_bytes(data)
        with pytest.raises(ConfigError, match=r"bad\.npy: is no \.npy file"):
            read_embeddings(tmp_path / "bad.npy")
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    with pytest.raises(ConfigError, match=r"words\.npy: must hold one array of floats"):
        read_embeddings(tmp_path / "words.npy")
    flat = Index.create(tmp_path / "index", engine, folder / "house")
    update_index(flat, engine, find_images(folder / "house"))
    with pytest.raises(StoreError, match="the index has no labels"):
        search(engine, flat, [query], per_class=True)


@pytest.mark.parametrize("boxes", [(), ((100.0, 165.0, 180.0, 130.0),)])
def test_explained_influence_is_the_derivative_of_what_ranks(
    shipped: tuple[Engine, Index], folder: Path, boxes: tuple[Box, ...]
) -> None:
    engine, index = shipped
    query = str(folder / "box" / "box_in_scene.png")
    (found,) = search(engine, index, [query], 3, boxes=boxes, exclude_self=True)
    (moved,) = explain(engine, [found], view="influence")
    assert moved.view == "influence" and moved.matches is not None
    (asked,) = engine.embed([query])
    asked_unit = asked.embedding.astype(float) / np.linalg.norm(asked.embedding)
    wanted = asked_unit
    if boxes:
        assert found.weights is not None
        weighted = (found.weights[..., None] * asked.parts).sum(axis=(0, 1), dtype=float)
        wanted = weighted / np.linalg.norm(asked.embedding)
    for hit, match in zip(found.hits, moved.matches, strict=True):
        (image,) = engine.embed([hit.path])
        assert match is not None and match.query is not None
        norm = np.linalg.norm(image.embedding)
        unit = image.embedding.astype(float) / norm
        # M - s S, a place at a time, for the hit and for the query.
        by_hand = [
            [p @ wanted / norm - (unit @ wanted) * (p @ unit) / norm for p in row] for row in image.parts
        ]
        np.testing.assert_allclose(match.hit.map, by_hand, atol=1e-6)
        own = np.linalg.norm(asked.embedding)
        score = unit @ asked_unit
        by_hand = [[p @ unit / own - score * (p @ asked_unit) / own for p in row] for row in asked.parts]
        expected = np.array(by_hand) * (1 if found.weights is None else found.weights)
        np.testing.assert_allclose(match.query, expected, atol=1e-6)
    assert SearchFigure([moved]).picture().std() > 10
