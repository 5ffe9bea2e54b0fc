"""A recipe: all that says how a network becomes an artifact, from YAML or from flags."""

import importlib.util
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from simmap.engine import decompose
from simmap.engine.contract import ChannelOrder, Kernel, Precision, Resize
from simmap.engine.dataset import Item, find_images
from simmap.engine.errors import ConfigError
from simmap.engine.schema import build, load_yaml
from simmap.engine.types import Triple

SourceKind = Literal["torchvision", "timm", "module", "onnx"]
SOURCES: tuple[SourceKind, ...] = ("torchvision", "timm", "module", "onnx")
PACKAGE = "package:"
REFERENCES = ("blank", "zero")  # any other is a folder
# More than so many photos to calibrate on and to judge by add time and no knowledge.
MOST_CALIBRATION, MOST_HELD_OUT = 128, 512
LEAST_PHOTOS = 30
LARGEST_SIDE = 8192
LONGEST_NAME = 1024


@dataclass(frozen=True)
class Fidelity:
    """What an int8 artifact must reach against float32, on photos that it was not calibrated on.

    Attributes:
        map_correlation, map_correlation_1st_percentile, same_nearest, rank_correlation: at least; see
            ``engine.evaluate.Agreement``.
        largest_map_difference: at most; likewise.
        recall_at_1_loss: at most; how much lower recall@1 may be, where sub-folders of the calibration
            folder give labels.
    """

    map_correlation: float = 0.99
    map_correlation_1st_percentile: float = 0.95
    same_nearest: float = 0.85
    rank_correlation: float = 0.98
    largest_map_difference: float = 0.5
    recall_at_1_loss: float = 0.03

    def __post_init__(self) -> None:
        """Refuse thresholds outside [0, 1] (ConfigError)."""
        for item in fields(self):
            value = getattr(self, item.name)
            if not 0 <= value <= 1:
                raise ConfigError(f"fidelity.{item.name} is {value}, must be from 0 to 1")


@dataclass(frozen=True)
class Recipe:
    """One of the four sources is required; None elsewhere means the source's own, or its default.

    Attributes:
        torchvision, timm: name of an architecture.
        module: ``package.module:factory``, a function that gives the network; its code runs, so ``export``
            wants ``trust``.
        onnx: path of an ``.onnx`` file.
        weights: path of a checkpoint, or ``package:NAME/FILE`` inside an installed package; relative
            paths of a recipe start at the recipe.
        pool: pooling put on the feature map instead of the network's own.
        p: exponent of ``pool: gem``; 3 by default.
        conv_layer: the feature map: a module of a torch network, a tensor or node of an ONNX graph.
        embedding: ``output``, ``pooled``, or a tensor of the ONNX graph to cut at; by default what the
            network is made to give: of timm its output with ``num_classes=0``, of torchvision the pooled
            feature, of others their output.
        grid: rows and columns of the parts of a network with a class token: patches of one cell are
            summed. By default every patch is a cell.
        size: (height, width) of the input.
        dynamic: accept other heights and widths too.
        mean, std, colour, resize, kernel, crop_fraction: see ``engine.artifact.InputSpec``.
        precision: see ``engine.artifact.Contract``.
        calibrate: folder of photos for ``precision: int8``, the kind that the network will see; relative
            paths of a recipe start at the recipe. A third calibrates, the others judge.
        fidelity: what ``int8`` must reach.
        reference: what parts are counted from: ``zero``, ``blank`` (a photo of the constant colour mean), or
            a folder, for the mean parts of its photos; relative paths of a recipe start at the recipe. By
            default ``blank`` for poolings ``weights`` and ``flatten``, else ``zero``.
    """

    torchvision: str | None = None
    timm: str | None = None
    module: str | None = None
    onnx: str | None = None
    weights: str | None = None
    pool: decompose.Pooling | None = None
    p: float | None = None
    conv_layer: str | None = None
    embedding: str | None = None
    grid: tuple[int, int] | None = None
    size: tuple[int, int] | None = None
    dynamic: bool = False
    mean: Triple | None = None
    std: Triple | None = None
    colour: ChannelOrder | None = None
    resize: Resize | None = None
    kernel: Kernel | None = None
    crop_fraction: float | None = None
    precision: Precision = "fp32"
    calibrate: str | None = None
    fidelity: Fidelity = field(default_factory=Fidelity)
    reference: str | None = None

    def __post_init__(self) -> None:
        """Refuse invalid values, by the name of the field (ConfigError)."""
        given = [kind for kind in SOURCES if getattr(self, kind) is not None]
        if len(given) != 1:
            names = " and ".join(given) or "none"
            raise ConfigError(f"give one source of {', '.join(SOURCES)}; given: {names}")
        if self.onnx is not None and self.weights is not None:
            raise ConfigError("weights: an ONNX file has its own; leave weights out")
        if "\0" in self.name or len(self.name) > LONGEST_NAME:
            raise ConfigError(f"{self.kind} is no name of at most {LONGEST_NAME} characters")
        for name, sides in (("size", self.size), ("grid", self.grid)):
            if sides is not None and not 1 <= min(sides) <= max(sides) <= LARGEST_SIDE:
                raise ConfigError(
                    f"{name} is {str(sides)[:40]}, must be whole numbers from 1 to {LARGEST_SIDE}"
                )
        if self.grid is not None and (self.pool is not None or self.conv_layer is not None):
            raise ConfigError("grid: is for a class token's patches; leave pool and conv_layer out")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and not all(math.isfinite(value) for value in values):
                raise ConfigError(f"{name} is {values}, must be finite")
        if self.std is not None and 0 in self.std:
            raise ConfigError("std has a zero; each of r, g, b must differ from 0")
        if self.crop_fraction is not None and not 0 < self.crop_fraction <= 1:
            raise ConfigError(f"crop_fraction is {self.crop_fraction}, must be above 0 and at most 1")
        if self.p is not None and (self.pool != "gem" or not 0 < self.p < math.inf):
            raise ConfigError(f"p is {self.p}; it is the finite exponent above 0 of pool: gem")
        if self.reference == "":
            raise ConfigError("reference is empty, must be blank, zero or a folder of photos")
        if self.precision == "int8" and self.calibrate is None:
            raise ConfigError("precision int8 needs photos like those of its use: give --calibrate FOLDER")
        if self.precision != "int8" and self.calibrate is not None:
            raise ConfigError(
                f"calibrate: is for precision int8 alone, precision is {self.precision}; leave it out"
            )

    @property
    def kind(self) -> SourceKind:
        """Which source is given."""
        return next(kind for kind in SOURCES if getattr(self, kind) is not None)

    @property
    def name(self) -> str:
        """The source's name or path."""
        return cast(str, getattr(self, self.kind))

    def weights_path(self) -> Path | None:
        """The checkpoint's file, inside an installed package if so named.

        Raises:
            ConfigError: the package is not installed, or has no such file.
        """
        if self.weights is None or not self.weights.startswith(PACKAGE):
            return None if self.weights is None else Path(self.weights)
        package, _, file = self.weights.removeprefix(PACKAGE).partition("/")
        # Of a dotted name the packages above would be imported, and so run.
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
        if spec is None or not spec.submodule_search_locations:
            raise ConfigError(f"weights: the package {package[:80]!r} is not installed; install it with pip")
        path = Path(next(iter(spec.submodule_search_locations))) / file
        if not os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises for a name that is too long
            raise ConfigError(f"weights: the package {package!r} has no file {file[:80]!r}")
        return path

    def reference_photos(self) -> list[str]:
        """Paths of the photos of the folder ``reference``; none for ``blank`` and ``zero``.

        Raises:
            ConfigError: there is no such folder, or it has no photos.
        """
        if self.reference is None or self.reference in REFERENCES:
            return []
        try:
            return [item.path for item in find_images(self.reference)]
        except ConfigError as error:
            raise ConfigError(f"reference must be blank, zero or a folder of photos: {error}") from error

    def split_photos(self) -> tuple[list[Item], list[Item]]:
        """Photos of ``calibrate`` to calibrate on and to judge by, drawn by a fixed seed; none is in both.

        Raises:
            ConfigError: there is no such folder, or it has too few photos.
        """
        folder = cast(str, self.calibrate)
        items = find_images(folder)
        if len(items) < LEAST_PHOTOS:
            raise ConfigError(
                f"calibrate: {folder} has {len(items)} photos, int8 needs {LEAST_PHOTOS} or more: a third "
                "calibrates, the others judge"
            )
        order = np.random.default_rng(0).permutation(len(items)).tolist()
        third = len(items) // 3
        chosen = (order[:third][:MOST_CALIBRATION], order[third:][:MOST_HELD_OUT])
        calibration, held_out = ([items[i] for i in sorted(part)] for part in chosen)
        return calibration, held_out


def load_recipe(path: Path | None, flags: Mapping[str, Any]) -> Recipe:
    """A recipe from a YAML file, from flags, or from both; a flag that is given wins.

    Raises:
        ConfigError: the file cannot be read, a key, type or value is wrong, or ``calibrate`` has too few
            photos, or ``reference`` is no folder of photos.
    """
    data = {} if path is None else load_yaml(path)
    if path is not None:
        for key in ("weights", "onnx", "calibrate", "reference"):
            value = data.get(key)
            is_word = key == "reference" and value in ("", *REFERENCES)
            if isinstance(value, str) and not value.startswith(PACKAGE) and not is_word:
                data[key] = str(path.parent / value)
    data.update({key: value for key, value in flags.items() if value is not None})
    where = path or "export"
    for name, example in (("size", "224 or 160x320"), ("grid", "7 or 7x7")):
        if data.get(name) is not None:
            try:
                data[name] = parse_sides(data[name], name, example)
            except ConfigError as error:
                raise ConfigError(f"{where}: {error}") from error
    recipe: Recipe = build(Recipe, data, kind="recipe", where=where)
    if recipe.calibrate is not None:
        recipe.split_photos()  # an unsuitable folder is refused before the network is built
    recipe.reference_photos()
    return recipe


def parse_sides(value: object, name: str, example: str) -> object:
    """``224``, ``"160x320"`` (height x width) or ``[160, 320]`` as (height, width).

    Raises:
        ConfigError: it is none of these.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return (value, value)
    if isinstance(value, str):
        sides = value.lower().split("x")
        if len(sides) <= 2 and all(s.isascii() and s.strip().isdigit() and len(s) < 8 for s in sides):
            return (int(sides[0]), int(sides[-1]))
        raise ConfigError(f"{name} is {value[:40]!r}, must be like {example} (height x width)")
    return value
