"""Random networks, exported for real: whatever simmap says of them is what naive float64 arithmetic gives."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from fuzzing import fuzzed, trial

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from simmap.engine import Engine, Index, class_maps, decompose, search, update_index  # noqa: E402
from simmap.engine.dataset import find_images  # noqa: E402
from simmap.engine.options import Options  # noqa: E402
from simmap.export.exporter import export  # noqa: E402
from simmap.export.recipe import load_recipe  # noqa: E402

nn: Any = torch.nn
Array = npt.NDArray[np.float64]
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
TOLERANCE = 2e-5  # of float32 against float64, relative to the terms of a sum
POOLINGS = ("avg", "max", "gem", "avgmax", "catavgmax", "weights", "flatten")
HEADS = ("none", "linear", "norm", "two")
IMAGES = 5


class Pool(nn.Module):  # type: ignore[misc]
    """A feature map (N, C, H, W) to its pooled feature."""

    def __init__(self, kind: str, p: float) -> None:
        super().__init__()
        self.kind, self.p = kind, p

    def forward(self, alpha: Any) -> Any:
        average, largest = alpha.mean((2, 3)), alpha.amax((2, 3))
        if self.kind == "gem":
            return alpha.clamp(min=1e-6).pow(self.p).mean((2, 3)).pow(1 / self.p)
        return {
            "avg": average,
            "max": largest,
            "avgmax": (average + largest) / 2,
            "catavgmax": torch.cat([average, largest], 1),
        }[self.kind]


@dataclass
class Case:
    """A network, and its parts by name."""

    network: Any
    features: Any
    kind: str
    p: float
    spread: Any
    head: Any
    size: tuple[int, int]

    def describe(self) -> str:
        """All that it is made of."""
        return f"{self.kind} p={self.p} size={self.size}\n{self.network}"


def drawn(draw: random.Random) -> Case:
    torch.manual_seed(draw.randrange(2**31))
    size = draw.choice((16, 17, 24, 31)), draw.choice((16, 20, 29))
    layers, channels = [], 3
    for _ in range(draw.randrange(1, 4)):
        kernel, stride, wide = draw.choice((1, 3, 5)), draw.choice((1, 2, 2)), draw.choice((4, 6, 8))
        layers.append(nn.Conv2d(channels, wide, kernel, stride, kernel // 2, bias=bool(draw.randrange(2))))
        if draw.randrange(2):
            norm = nn.BatchNorm2d(wide)
            nn.init.normal_(norm.running_mean, std=0.3)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            layers.append(norm)
        layers.append(draw.choice((nn.ReLU, nn.SiLU, nn.Tanh, nn.Hardswish, nn.LeakyReLU))())
        channels = wide
    features = nn.Sequential(*layers).eval()
    height, width = features(torch.zeros(1, 3, *size)).shape[2:]
    kind, p = draw.choice(POOLINGS), draw.choice((1.5, 2.5, 3.0))
    spread = None
    if kind == "weights":
        spread = nn.Conv2d(channels, channels, (height, width), groups=channels, bias=bool(draw.randrange(2)))
        pooling, pooled = nn.Sequential(spread, nn.Flatten()), channels
    elif kind == "flatten":
        pooled = draw.choice((3, 7))
        spread = nn.Linear(channels * height * width, pooled, bias=bool(draw.randrange(2)))
        pooling = nn.Sequential(nn.Flatten(), spread)
    else:
        pooling, pooled = Pool(kind, p), channels * (2 if kind == "catavgmax" else 1)
    wide = draw.choice((4, 9))
    head = {
        "none": nn.Sequential(),
        "linear": nn.Sequential(nn.Linear(pooled, wide, bias=bool(draw.randrange(2)))),
        "norm": nn.Sequential(nn.Linear(pooled, wide), nn.BatchNorm1d(wide)),
        "two": nn.Sequential(nn.Linear(pooled, wide), nn.Linear(wide, 5)),
    }[draw.choice(HEADS)]
    network = nn.Sequential(features, pooling, head).eval()
    return Case(network, features, kind, p, spread, head, size)


def affine(layers: Any, vector: Array, *, bias: bool) -> Array:
    """Linear layers and BatchNorms applied to a vector, with or without what they add."""
    for layer in layers:
        if isinstance(layer, nn.BatchNorm1d):
            scale = layer.weight / torch.sqrt(layer.running_var + layer.eps)
            shift = layer.bias - layer.running_mean * scale
            vector = vector * scale.numpy()
        else:
            vector, shift = layer.weight.numpy() @ vector, layer.bias
        if bias and shift is not None:
            vector = vector + shift.numpy()
    return vector


def places(case: Case, alpha: Array) -> list[list[Array]]:
    """What each place adds to the pooled feature: [y][x] (C',), term by term."""
    channels, height, width = alpha.shape
    result = [[np.zeros(0)] * width for _ in range(height)]
    for y in range(height):
        for x in range(width):
            here = alpha[:, y, x]
            average = here / (height * width)
            tops = alpha.max(axis=(1, 2))
            ties = np.array([(alpha[c] == tops[c]).sum() for c in range(channels)])
            largest = np.where(here == tops, here / ties, 0)
            if case.kind == "gem":
                powers = np.maximum(alpha, 1e-6) ** case.p
                beta = powers.mean(axis=(1, 2)) ** (1 / case.p)
                value = beta * powers[:, y, x] / powers.sum(axis=(1, 2))
            elif case.kind == "weights":
                value = case.spread.weight.numpy()[:, 0, y, x] * here
            elif case.kind == "flatten":
                columns = case.spread.weight.numpy().reshape(-1, channels, height, width)
                value = columns[:, :, y, x] @ here
            else:
                value = {
                    "avg": average,
                    "max": largest,
                    "avgmax": (average + largest) / 2,
                    "catavgmax": np.concatenate([average, largest]),
                }[case.kind]
            result[y][x] = value
    return result


def close(found: Any, expected: Any, terms: float = 1.0) -> None:
    """Equal but for rounding, which grows with the terms of both embeddings where these cancel."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max(initial=0) <= TOLERANCE * max(1.0, terms) ** 2


@fuzzed(tries=12)
def test_everything_is_what_naive_arithmetic_gives(
    draw: random.Random, tmp_path_factory: pytest.TempPathFactory
) -> None:
    case = drawn(draw)
    folder = tmp_path_factory.mktemp("case")
    noise = np.random.default_rng(draw.randrange(2**31))
    # Smooth images and noise on them, each of another colour.
    coarse = noise.integers(0, 256, (IMAGES, 4, 4, 3), np.uint8)
    photos = np.array([cv2.resize(one, case.size[::-1], interpolation=cv2.INTER_LINEAR) for one in coarse])
    with trial("invariants", **{"network.txt": case.describe().encode()}):
        compare(case, photos, folder, draw)


def has_near_tie(alphas: Array) -> bool:
    """Whether the two largest values of a channel differ by less than float32 tells apart.

    Then the place that gets all of a maximum, or a half of it, is a matter of rounding.
    """
    second, first = np.sort(alphas.reshape(*alphas.shape[:2], -1))[..., -2:].transpose(2, 0, 1)
    gap = first - second
    return bool(((gap > 0) & (gap < 1e-5 * np.maximum(np.abs(first), 1e-3))).any())


def compare(case: Case, photos: npt.NDArray[np.uint8], folder: Path, draw: random.Random) -> None:
    source, path = folder / "source.onnx", folder / "artifact.onnx"
    example = torch.zeros(2, 3, *case.size)
    with torch.no_grad():
        torch.onnx.export(
            case.network, (example,), str(source), dynamo=False, input_names=["x"], output_names=["y"],
            dynamic_axes={"x": {0: "N"}, "y": {0: "N"}}, opset_version=17,
        )  # fmt: skip
    # The arithmetic below counts parts from zero.
    recipe = {"onnx": str(source), "mean": list(MEAN), "std": list(STD), "reference": "zero"}
    export(load_recipe(None, recipe), path)

    exact = case.network.double().requires_grad_(False)
    inputs = ((photos / 255 - np.array(MEAN)) / np.array(STD)).transpose(0, 3, 1, 2)
    with torch.no_grad():
        embeddings = exact(torch.from_numpy(inputs)).numpy()
        alphas = case.features(torch.from_numpy(inputs)).numpy()
    if "max" in case.kind and has_near_tie(alphas):
        return
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    parts = []
    for alpha in alphas:
        rows = [[affine(case.head, place, bias=False) for place in row] for row in places(case, alpha)]
        parts.append(np.array(rows))
    height, width = parts[0].shape[:2]

    def map_of(i: int, direction: Array) -> Array:
        norm = np.linalg.norm(embeddings[i])
        return np.array([[parts[i][y, x] @ direction / norm for x in range(width)] for y in range(height)])

    terms = max(float(np.abs(map_of(i, units[j])).sum()) for i in range(IMAGES) for j in range(IMAGES))
    names = [f"{number}.png" for number in range(IMAGES)]
    (folder / "photos").mkdir()
    for name, photo in zip(names, photos, strict=True):
        cv2.imwrite(str(folder / "photos" / name), photo[..., ::-1])
    files = [folder / "photos" / name for name in names]
    with Engine(path, device="cpu", options=Options(threads=1, cache=False)) as engine:
        i, j = draw.randrange(IMAGES), draw.randrange(IMAGES)
        pair = engine.compare(files[i], files[j])
        close(pair.score, units[i] @ units[j], terms)
        for at, (one, other) in enumerate(((i, j), (j, i))):
            expected = map_of(one, units[other])
            close(pair.maps[at], expected, terms)
            close(pair.residuals[at], units[one] @ units[other] - expected.sum(), terms)
        y, x = draw.randrange(height), draw.randrange(width)
        norms = np.linalg.norm(embeddings[i]) * np.linalg.norm(embeddings[j])
        products = [[parts[i][y, x] @ parts[j][v, u] / norms for u in range(width)] for v in range(height)]
        close(pair.point(0, y, x), products, terms)

        order, values = decompose.contributions(*(image.embedding for image in pair.images))
        close(values, sorted(units[i] * units[j], reverse=True), terms)
        close((units[i] * units[j])[order], values, terms)

        maps = class_maps(engine, files)
        for number in range(IMAGES):
            others = [k for k in range(IMAGES) if k != number]
            expected = sum(map_of(number, units[k]) for k in others) / len(others)
            close(maps.maps[number], expected, terms)
            close(maps.cohesion[number], np.mean([units[number] @ units[k] for k in others]), terms)

        index = Index.create(folder / "index", engine, folder / "photos")
        update_index(index, engine, find_images(folder / "photos"))
        (found,) = search(engine, index, [files[i]], IMAGES)
        close([hit.score for hit in found.hits], sorted(units[i] @ units.T, reverse=True), terms)
        for hit in found.hits:
            close(hit.score, units[i] @ units[int(Path(hit.path).stem)], terms)

        left, top = draw.randrange(case.size[1] - 1), draw.randrange(case.size[0] - 1)
        box = (left, top, draw.randrange(1, case.size[1] - left), draw.randrange(1, case.size[0] - top))
        shares = covered(box, case.size, height, width)
        asked = np.einsum("yx,yxd->d", shares, parts[i]) / np.linalg.norm(embeddings[i])
        if np.abs(asked).max() > 1e-3:
            (found,) = search(engine, index, [files[i]], IMAGES, boxes=[box])
            for hit in found.hits:
                number = int(Path(hit.path).stem)
                close(hit.region_score, (shares * map_of(i, units[number])).sum(), terms)
                close(hit.score, units[i] @ units[number], terms)
            best = [hit.region_score for hit in found.hits]
            assert best == sorted(best, reverse=True)


def covered(box: tuple[int, int, int, int], size: tuple[int, int], height: int, width: int) -> Array:
    """(height, width), the share of each cell that lies in the box x, y, w, h of a photo of ``size``."""
    left, top, w, h = box
    shares = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            y0, y1 = y * size[0] / height, (y + 1) * size[0] / height
            x0, x1 = x * size[1] / width, (x + 1) * size[1] / width
            tall = max(0.0, min(y1, top + h) - max(y0, top))
            wide = max(0.0, min(x1, left + w) - max(x0, left))
            shares[y, x] = tall * wide / ((y1 - y0) * (x1 - x0))
    return shares
