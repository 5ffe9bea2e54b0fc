"""From photos to maps: one object that holds a session, and what it returns."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from simmap.engine import decompose, image, render
from simmap.engine.artifact import Contract
from simmap.engine.config import Options, load_options
from simmap.engine.decompose import Array
from simmap.engine.errors import ArtifactError, ConfigError, ImageError, SimmapError
from simmap.engine.image import Geometry, Photo, Source
from simmap.engine.session import open_session

DEFAULT_MODEL = Path(__file__).resolve().parent.parent / "models" / "efficientnet_lite0.onnx"


@dataclass(frozen=True)
class Vector:
    """One image as an index keeps it.

    Attributes:
        path: the image's path, or ``<bytes>`` or ``<array>``.
        embedding: (D,) float32, not normalised.
        geometry: where the network's input lies on the photo.
    """

    path: str
    embedding: Array
    geometry: Geometry


@dataclass(frozen=True)
class Embedded(Vector):
    """One image as the network sees it.

    Attributes:
        path, embedding, geometry: as for ``Vector``.
        parts: (H, W, D) float32, what each place adds; the sum and the bias give ``embedding``.
        bias: (D,) float32, or None where the network has none.
    """

    parts: Array
    bias: Array | None

    def map_against(self, other: "Embedded") -> Array:
        """(H, W): what each place of this image adds to the score with ``other``."""
        return decompose.similarity_map(self.parts, self.embedding, other.embedding)

    def residual_against(self, other: "Embedded") -> float:
        """The part of the score with ``other`` that the bias gives and no place owns."""
        return decompose.residual(self.bias, self.embedding, other.embedding)


@dataclass(frozen=True)
class Pair:
    """Two images, their cosine similarity, and where it comes from.

    Attributes:
        images: the two images as the network sees them.
        photos: their pixels, EXIF orientation applied.
        options: the engine's options, for the picture.
    """

    images: tuple[Embedded, Embedded]
    photos: tuple[Photo, Photo]
    options: Options

    @cached_property
    def score(self) -> float:
        """The cosine of the two embeddings, between -1 and 1."""
        return decompose.score(self.images[0].embedding, self.images[1].embedding)

    @cached_property
    def maps(self) -> tuple[Array, Array]:
        """(H, W) of the first against the second and of the second against the first.

        Each sums to ``score`` less its residual.
        """
        first, second = self.images
        return first.map_against(second), second.map_against(first)

    @cached_property
    def residuals(self) -> tuple[float, float]:
        """The part of the score that a bias gives, per direction; 0 without a bias."""
        first, second = self.images
        return first.residual_against(second), second.residual_against(first)

    def point(self, index: Literal[0, 1], y: int, x: int) -> Array:
        """What place (y, x) of one image matches in the other.

        Args:
            index: 0 for a place of the first image, 1 for one of the second.
            y, x: row and column of the place on the image's map.

        Returns:
            (H, W) of the other image.

        Raises:
            DecompositionError: the place is outside the map.
        """
        here, there = self.images[index], self.images[1 - index]
        return decompose.point_map(here.parts, here.embedding, there.parts, there.embedding, y, x)

    def render(self, point: tuple[int, int] | None = None) -> npt.NDArray[np.uint8]:
        """The picture: both photos, then both with their maps on one scale, score and legend.

        Args:
            point: (y, x) of a place on the first image's map; adds a row that shows this place and
                what it matches in the second image.

        Returns:
            uint8 RGB (height, width, 3).

        Raises:
            DecompositionError: the point is outside the map.
        """
        photos, overlays = [], []
        for photo, embedded, values, rest in zip(
            self.photos, self.images, self.maps, self.residuals, strict=True
        ):
            caption = f"the map sums to {values.sum():.3f}"
            if embedded.bias is not None:
                caption += f", the bias gives {rest:.3f}"
            photos.append(render.Panel(photo.pixels, None, embedded.geometry, title=Path(photo.name).name))
            overlays.append(render.Panel(photo.pixels, values, embedded.geometry, caption=caption))
        heading = f"cosine similarity {self.score:.3f}"
        rows = [photos, overlays]
        picture = render.grid(
            rows, heading=heading, panel_height=self.options.panel_height, opacity=self.options.opacity
        )
        if point is None:
            return picture
        return render.stack([picture, self._render_point(*point)])

    def _render_point(self, y: int, x: int) -> npt.NDArray[np.uint8]:
        """A row of its own, since a point's map has a scale of its own."""
        values = self.point(0, y, x)
        grid_height, grid_width = self.images[0].parts.shape[:2]
        box = self.images[0].geometry.cell_box(y, x, grid_height, grid_width)
        geometry = self.images[0].geometry
        here = render.Panel(self.photos[0].pixels, None, geometry, caption=f"cell {y}, {x}", boxes=(box,))
        there = render.Panel(
            self.photos[1].pixels,
            values,
            self.images[1].geometry,
            caption=f"the map sums to {values.sum():.4f}",
        )
        return render.grid(
            [[here, there]],
            heading="what the marked cell of the first image matches in the second",
            panel_height=self.options.panel_height,
            opacity=self.options.opacity,
        )

    def save(self, path: str | Path, *, force: bool = False, point: tuple[int, int] | None = None) -> None:
        """Write ``render(point)`` to a PNG, JPEG or WebP file, atomically.

        Raises:
            OutputError: the file exists and ``force`` is false, or it cannot be written.
        """
        render.write_picture(path, self.render(point), force=force)


class Engine:
    """An artifact, opened once, that embeds and compares images."""

    def __init__(self, model: str | Path | None = None, *, device: str = "auto", **options: Any) -> None:
        """Open the artifact ``model``; None takes the one that ships.

        Args:
            model: path of the ``.onnx`` file.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
            options: the other fields of ``engine.config.Options``.

        Raises:
            ConfigError: an option that is unknown or cannot be.
            DeviceError: the device or the runtime is not to be had.
            ArtifactError: the file is not an artifact, or its contract does not hold.
        """
        try:
            chosen = Options(model=str(model) if model is not None else None, device=device, **options)
        except TypeError as error:
            allowed = ", ".join(Options.__dataclass_fields__)
            raise ConfigError(f"Engine: {error}; options are {allowed}") from error
        self._open(chosen)

    @classmethod
    def from_config(cls, path: str | Path, **overrides: Any) -> "Engine":
        """An engine by a YAML file of options; ``overrides`` that are not None win over the file."""
        engine = cls.__new__(cls)
        engine._open(load_options(path, **overrides))
        return engine

    def _open(self, options: Options) -> None:
        self.options = options
        self._session = open_session(
            options.model or DEFAULT_MODEL,
            device=options.device,
            threads=options.threads,
            tf32=options.tf32,
        )
        if options.size is not None and not self.contract.input.dynamic:
            spec = self.contract.input
            raise ConfigError(
                f"size is {options.size}, but {self.model} takes {spec.height} x {spec.width} only; "
                "export it with --dynamic for other sizes"
            )

    @property
    def contract(self) -> Contract:
        """What the artifact says of itself."""
        return self._session.contract

    @property
    def device(self) -> str:
        """The device really taken: ``cpu`` or ``cuda:N``."""
        return self._session.device

    @property
    def model(self) -> Path:
        """The artifact's file."""
        return self._session.path

    def warm_up(self, batch_size: int = 1) -> None:
        """Run once on grey, so that the first photo does not wait for kernels to load and be chosen.

        Args:
            batch_size: of the runs to come; CUDA prepares each shape on its own.
        """
        spec = self.contract.input
        height, width = self.options.size or (spec.height, spec.width)
        grey = np.full((batch_size, height, width, 3), 128, np.uint8)
        self._session.run.run(None, {self._session.run.get_inputs()[0].name: grey})

    def load(self, source: Source) -> Photo:
        """Decode an image: a path, encoded bytes, or a uint8 RGB array (h, w, 3).

        Raises:
            ImageError: it cannot be read, or has more than ``max_pixels``.
        """
        return image.load(source, max_pixels=self.options.max_pixels)

    def embed(
        self,
        sources: Iterable[Source],
        *,
        batch_size: int = 1,
        on_error: Callable[[Source, SimmapError], None] | None = None,
    ) -> Iterator[Embedded]:
        """Embed images one after the other, in their order, as a stream.

        Args:
            sources: paths, encoded bytes or uint8 RGB arrays.
            batch_size: images of one run; more than 1 pays on CUDA only.
            on_error: called for an image that cannot be embedded, which is then left out, before any
                later image is given; without it the error is raised.

        Raises:
            ImageError: an image cannot be read, or its embedding is zero or not finite.
        """
        return cast(Iterator[Embedded], self._stream(sources, batch_size, on_error, places=True))

    def vectors(
        self,
        sources: Iterable[Source],
        *,
        batch_size: int = 1,
        on_error: Callable[[Source, SimmapError], None] | None = None,
    ) -> Iterator[Vector]:
        """As ``embed``, without ``parts``: all that an index or a comparison of scores needs."""
        return self._stream(sources, batch_size, on_error, places=False)

    def _stream(
        self,
        sources: Iterable[Source],
        batch_size: int,
        on_error: Callable[[Source, SimmapError], None] | None,
        *,
        places: bool,
    ) -> Iterator[Vector]:
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}, must be 1 or more")
        if isinstance(sources, str | bytes | os.PathLike | np.ndarray | Photo):
            raise ConfigError("embed takes a list of images; put a single one in brackets")
        stream = iter(sources)
        while chunk := list(islice(stream, batch_size)):
            photos = []
            for source in chunk:
                try:
                    photos.append((source, self.load(source)))
                except SimmapError as error:
                    if on_error is None:
                        raise
                    on_error(source, error)
            results = self._run([photo for _, photo in photos], places=places)
            for (source, _), result in zip(photos, results, strict=True):
                if isinstance(result, Vector):
                    yield result
                elif on_error is None:
                    raise result
                else:
                    on_error(source, result)

    def compare(self, first: Source, second: Source) -> Pair:
        """The cosine of two images and its maps in both directions.

        Raises:
            ImageError: an image cannot be read, or its embedding is zero or not finite.
        """
        photos = (self.load(first), self.load(second))
        results = []
        for photo in photos:
            (result,) = self._run([photo], places=True)
            if isinstance(result, ImageError):
                raise result
            results.append(cast(Embedded, result))
        return Pair((results[0], results[1]), photos, self.options)

    def _run(self, photos: list[Photo], *, places: bool) -> list[Vector | ImageError]:
        """One run of the network; a photo without a direction gives its error in place of a result."""
        if not photos:
            return []
        contract = self.contract
        prepared = [image.preprocess(p.pixels, contract.input, size=self.options.size) for p in photos]
        feed = {self._session.run.get_inputs()[0].name: np.stack([pixels for pixels, _ in prepared])}
        affine = contract.head == "affine"
        names = ["embedding", "parts"] if affine else ["pooled", "conv"]
        try:
            embeddings, *rest = self._session.run.run(names if places else names[:1], feed)
        except Exception as error:  # ORT's exceptions share no public base class
            told = " ".join(str(error).split())[:200]
            raise ArtifactError(f"{self.model}: the network failed on {photos[0].name}: {told}") from error
        self._check_outputs(embeddings, *rest)
        results: list[Vector | ImageError] = []
        for at, (photo, (_, geometry), embedding) in enumerate(
            zip(photos, prepared, embeddings, strict=True)
        ):
            place = rest[0][at] if places else None
            if not (np.isfinite(embedding).all() and (place is None or np.isfinite(place).all())):
                results.append(
                    ImageError(
                        f"{photo.name}: its embedding by {self.model.name} has NaN or infinite values; "
                        "the model's weights or their precision are at fault, export it again"
                    )
                )
            elif not embedding.any():
                results.append(
                    ImageError(
                        f"{photo.name}: its embedding by {self.model.name} is zero, so it is similar to "
                        "nothing; use an image that is not constant"
                    )
                )
            elif place is None:
                results.append(Vector(photo.name, embedding, geometry))
            else:
                parts = place if affine else self._share_out(place)
                results.append(Embedded(photo.name, embedding, geometry, parts, contract.bias_vector))
        return results

    def _share_out(self, conv: Array) -> Array:
        contract = self.contract
        eps = decompose.GEM_EPS if contract.eps is None else contract.eps
        return decompose.alpha_hat(conv, contract.pooling, p=contract.p, eps=eps)

    def _check_outputs(self, embeddings: Array, places: Array | None = None) -> None:
        """A symbolic axis hides a lie of the contract until the network has run."""
        contract = self.contract
        right = embeddings.shape[1:] == (contract.dimension,)
        if right and places is not None:
            affine = contract.head == "affine"
            grid = places.shape[1:3] if affine else places.shape[2:]
            right = (
                places.ndim == 4
                and (
                    places.shape[3] == contract.dimension if affine else places.shape[1] == contract.channels
                )
                and (self.options.size is not None or grid == (contract.grid_height, contract.grid_width))
            )
        if not right:
            told = "" if places is None else f" and a map {places.shape[1:]}"
            raise ArtifactError(
                f"{self.model}: gave an embedding {embeddings.shape[1:]}{told}, but "
                f"its contract says D = {contract.dimension}, C = {contract.channels}, H x W = "
                f"{contract.grid_height} x {contract.grid_width}; export it again"
            )
