"""What the tests of pictures share: photos, panels, and results made by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from simmap.engine.analysis.classes import ClassMaps
from simmap.engine.analysis.contrast import Candidate, Contrast, Row
from simmap.engine.contract import InputSpec
from simmap.engine.figures.classes import ClassFigure
from simmap.engine.figures.contrast import ContrastFigure
from simmap.engine.figures.figure import Figure
from simmap.engine.figures.files import write_picture
from simmap.engine.figures.found import SearchFigure
from simmap.engine.figures.pair import PairFigure
from simmap.engine.figures.panel import Panel
from simmap.engine.images.geometry import Geometry
from simmap.engine.images.photo import Photo
from simmap.engine.images.preprocess import preprocess
from simmap.engine.index.search import Found, Hit, Match
from simmap.engine.options import Options
from simmap.engine.results import Embedded, Mapped, Pair, Vector
from simmap.engine.types import Pixels

Array = npt.NDArray[Any]


def plain(height: int, width: int, value: int = 255) -> Pixels:
    return np.full((height, width, 3), value, np.uint8)


def noise(height: int, width: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def photo(height: int, width: int, seed: int) -> Pixels:
    """A photo of few colours: light, with a dark, a red and a green part."""
    pixels = plain(height, width, 225 - 20 * seed)
    pixels[height // 2 :, : width // 3] = 30
    pixels[: height // 3, width // 2 :] = (190, 20 + 10 * seed, 30)
    pixels[-(height // 4) :, -(width // 4) :] = (20, 120, 40 + 20 * seed)
    return pixels


def geometry(pixels: Array, resize: Any = "squash") -> Geometry:
    return preprocess(pixels, InputSpec(224, 224, resize=resize))[1]


def panel(pixels: Pixels, values: Array, resize: Any = "squash", **more: Any) -> Panel:
    return Panel(pixels, values, geometry(pixels, resize), **more)


def embedded(path: str, pixels: Pixels, seed: int, resize: Any = "squash", bias: bool = False) -> Embedded:
    """4 x 5 cells of 6 features, of which a bias may be a part."""
    rng = np.random.default_rng(seed)
    parts = (rng.random((4, 5, 6)) ** 3).astype(np.float32)
    offset = np.linspace(0, 1, 6, dtype=np.float32) if bias else None
    total = parts.sum(axis=(0, 1)) if offset is None else parts.sum(axis=(0, 1)) + offset
    return Embedded(path, total, geometry(pixels, resize), parts, offset)


def pair(resize: Any = "squash", bias: bool = False) -> Pair:
    photos = photo(90, 160, 0), photo(120, 90, 1)
    names = "left/00.jpg", "right/00.jpg"
    return Pair(
        (
            embedded(names[0], photos[0], 1, resize, bias),
            embedded(names[1], photos[1], 2, resize, bias),
        ),
        (Photo(photos[0], names[0]), Photo(photos[1], names[1])),
    )


def searches(folder: Path) -> list[Found]:
    """A whole-image search with the query itself, and one by box and mask of which a result is gone."""
    paths = []
    for at, (height, width) in enumerate([(90, 160), (120, 90), (90, 90)]):
        (folder / f"class{at}").mkdir(parents=True, exist_ok=True)
        paths.append(folder / f"class{at}" / "00.png")
        write_picture(paths[-1], photo(height, width, at), force=True)
    pixels = [photo(90, 160, 0), photo(120, 90, 1), photo(90, 90, 2)]
    images = [embedded(str(path), own, at) for at, (path, own) in enumerate(zip(paths, pixels, strict=True))]
    query = images[0]

    def match(image: Embedded, weights: Array | None = None) -> Match:
        asked, answer = query.map_against(image), image.map_against(query)
        if weights is not None:
            asked = asked * weights
            answer = answer * (asked.sum() / answer.sum())
        return Match(asked, Mapped(image.path, image.embedding, image.geometry, answer))

    scores = [float(query.map_against(image).sum()) for image in images]
    hits = tuple(Hit(at + 1, str(path), f"class {at}", scores[at]) for at, path in enumerate(paths))
    direction = query.embedding
    whole = Found(
        str(paths[0]),
        direction,
        hits,
        pixels[0],
        matches=tuple(match(image) for image in images),
        geometry=query.geometry,
    )
    weights = np.zeros((4, 5), np.float32)
    weights[:2, :3] = 1
    mask = np.zeros((90, 160), bool)
    mask[5:40, 10:90] = True
    gone = Hit(2, str(folder / "class1" / "gone.png"), "class 1", 0.5, 0.25)
    region = Found(
        str(paths[0]),
        direction,
        (Hit(1, str(paths[2]), "class 2", scores[2], float(match(images[2], weights).hit.map.sum())), gone),
        pixels[0],
        boxes=((20.0, 10.0, 40.0, 20.0),),
        mask=mask,
        weights=weights,
        matches=(match(images[2], weights), None),
        geometry=query.geometry,
    )
    return [whole, region]


def class_maps() -> ClassMaps:
    """Three photos of unlike shapes; the maps have negative places."""
    sizes = [(90, 160), (120, 60), (90, 90)]
    photos = [photo(height, width, at) for at, (height, width) in enumerate(sizes)]
    maps = [np.random.default_rng(at).normal(0.002, 0.01, (3, 4)) for at in range(3)]
    images = tuple(
        Vector(f"set/{at}.jpg", np.ones(3, np.float32), geometry(own)) for at, own in enumerate(photos)
    )
    return ClassMaps(images, tuple(maps), (0.25, 0.75, 0.5), tuple(photos))


def contrast() -> Contrast:
    """Two models of unlike pooling, a query and one candidate."""
    asked, other = photo(90, 90, 0), photo(90, 160, 1)
    rows = []
    for at, pooling in enumerate(("avg", "max")):
        query = embedded("asked.jpg", asked, at)
        candidate = embedded("other.jpg", other, at + 5)
        maps = query.map_against(candidate), candidate.map_against(query)
        one = Candidate(candidate, float(maps[0].sum()), maps, other, "cat")
        correlation = None if at == 0 else 0.5
        rows.append(
            Row(f"model {at}", f"{at}.onnx", "f", pooling, query, (one,), correlation, 0.25)  # type: ignore[arg-type]
        )
    return Contrast(tuple(rows), Photo(asked, "asked.jpg"))


def figures(folder: Path) -> dict[str, Figure]:
    """Each kind of picture, as its reference shows it."""
    small = Options(panel_height=120)
    return {
        "pair": PairFigure(pair(), (1, 2), small),
        "pair_crop": PairFigure(pair("crop", bias=True), None, Options(panel_height=120, scale=0.02)),
        "pair_letterbox": PairFigure(pair("letterbox"), None, Options(panel_height=120, contours=False)),
        "search": SearchFigure(searches(folder), "searches", small),
        "class": ClassFigure(class_maps(), "a class", small),
        "contrast": ContrastFigure(contrast(), small),
    }
