"""An artifact's network on images: preparing them, running them, checking what comes out."""

import os
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import decompose
from .contract import Contract
from .errors import ArtifactError, ConfigError, ImageError, SimmapError, printable
from .images.decode import load
from .images.geometry import Geometry
from .images.photo import Photo, Source
from .images.preprocess import preprocess
from .options import Options
from .places import parts_of, rest_of
from .results import Activated, Embedded, Mapped, Vector
from .runtime.session import Session, open_session
from .types import Array, Pixels

if TYPE_CHECKING:
    from onnxruntime import RunOptions

_FAST_SIDE = 3  # times the network's input: from there on reduced decoding hardly changes an embedding


class Wanted(Enum):
    """What is asked for of each image."""

    VECTORS = "vectors"  # ``Vector``: the embedding alone
    PARTS = "parts"  # ``Embedded``: what each place adds to it as well
    ACTIVATIONS = "activations"  # ``Activated``: the last feature map as well
    MAPS = "maps"  # ``Mapped``: a map against a direction that is known beforehand


@dataclass(frozen=True, eq=False)
class Item:
    """An image of a stream.

    Attributes:
        source: path, encoded bytes, array or photo.
        direction: (D,) for ``Wanted.MAPS``, else None.
    """

    source: Source
    direction: Array | None = None


@dataclass(frozen=True, eq=False)
class Prepared:
    """An image as the network takes it.

    Attributes:
        item: where it came from.
        name: of the image in results and errors.
        pixels: (height, width, 3) uint8.
        geometry: where these lie on the photo.
    """

    item: Item
    name: str
    pixels: Pixels
    geometry: Geometry


@dataclass(frozen=True, eq=False)
class Failed:
    """An image that gives no result, and why."""

    item: Item
    error: SimmapError


class Network:
    """An artifact's sessions, and how images go through them."""

    def __init__(self, model: Path, options: Options, cpus: int, workers: int) -> None:
        """Open the artifact ``model``.

        Args:
            model: the file.
            options: the engine's; ``threads`` and ``workers`` count as given here.
            cpus: threads in all.
            workers: images that are worked on at the same time.

        Raises:
            As ``Engine``.
        """
        self.options, self.workers = options, workers
        self._model, self._cpus = model, cpus
        # Single images and pairs: both of a pair at once.
        self.session = self._open(max(1, cpus // min(2, workers)))
        self._stream_session: Session | None = None
        self._lock = threading.Lock()
        spec = self.contract.input
        if options.size is not None and not spec.dynamic:
            raise ConfigError(
                f"size is {options.size}, but {printable(str(model))} takes {spec.height} x {spec.width} "
                "only; export it with --dynamic for other sizes"
            )
        self.size = options.size or (spec.height, spec.width)

    @property
    def contract(self) -> Contract:
        """What the artifact says of itself."""
        return self.session.contract

    def _open(self, threads: int, *, optional: bool = False) -> Session:
        options = self.options
        return open_session(
            self._model,
            device=options.device,
            threads=threads,
            tf32=options.tf32,
            cache=options.cache,
            optional=optional,
        )

    @cached_property
    def _whole_session(self) -> Session:
        """With the outputs that an ordinary run leaves out, where the artifact has them."""
        if self.contract.pooling != "token":
            return self.session
        again = self._open(self._cpus, optional=True)
        # Another artifact may have taken the file's place.
        return again if again.contract == self.contract else self.session

    def session_of(self, position: int) -> Session:
        """The session for an image of a stream on the CPU, by its position.

        In long streams one thread a run gets more done than several. A short stream does not pay for opening
        another session.
        """
        if position < self.workers:
            return self.session
        with self._lock:
            if self._stream_session is None:
                self._stream_session = self.session
                threads = max(1, self._cpus // self.workers)
                if self.session.inference.get_session_options().intra_op_num_threads != threads:
                    with suppress(ArtifactError):
                        again = self._open(threads)
                        # Another artifact may have taken the file's place.
                        if again.contract == self.contract:
                            self._stream_session = again
            return self._stream_session

    def prepare(self, item: Item) -> Prepared | Failed:
        """Decode an image and bring it to the network's input."""
        try:
            options = self.options
            short_side = _FAST_SIDE * max(self.size) if options.fast_decode else None
            photo = load(item.source, max_pixels=options.max_pixels, short_side=short_side)
            pixels, geometry = preprocess(photo.pixels, self.contract.input, size=options.size)
            if photo.size is not None:
                geometry = geometry.resized(*photo.size)
        except SimmapError as error:
            return Failed(item, error)
        return Prepared(item, photo.name, pixels, geometry)

    def run(
        self, session: Session, batch: list[Prepared | Failed], wanted: Wanted, options: "RunOptions"
    ) -> list[Vector | Failed]:
        """One run of the network on what could be prepared; the rest keeps its position and its error.

        Args:
            session: where to run.
            batch: images of one size.
            wanted: what to give of each.
            options: of the run.

        Raises:
            ArtifactError: the network failed, or its outputs are not those of its contract.
        """
        images = [each for each in batch if isinstance(each, Prepared)]
        results = iter(self._infer(session, images, wanted, options) if images else [])
        return [next(results) if isinstance(each, Prepared) else each for each in batch]

    def _infer(
        self, session: Session, images: list[Prepared], wanted: Wanted, options: "RunOptions"
    ) -> list[Vector | Failed]:
        pixels = [image.pixels for image in images]
        explained = self.contract.explained
        check = session.sums.due()
        places: Array | None = None
        maps: Array | None = None
        more: list[Array] = []
        try:
            if wanted is Wanted.MAPS and session.maps_stay_on_device:
                directions = np.array([image.item.direction for image in images])
                embeddings, maps = session.infer_maps(pixels, directions, options)
                if check:
                    embeddings, places = session.infer(pixels, explained, options)
            elif wanted is Wanted.ACTIVATIONS:
                with self._lock:
                    whole = self._whole_session
                outputs = (*explained, *whole.optional)
                embeddings, places, *more = whole.infer(pixels, outputs, options)
            elif check or wanted is not Wanted.VECTORS:
                embeddings, places = session.infer(pixels, explained, options)
            else:
                (embeddings,) = session.infer(pixels, explained[:1], options)
        except ArtifactError as error:
            raise ArtifactError(f"{printable(images[0].name)}: {error}") from error
        self._check_shapes(embeddings, places)
        if check and places is not None:
            session.sums.check(embeddings[0], places[0])
        results: list[Vector | Failed] = []
        for at, image in enumerate(images):
            values: Array | None = None
            if maps is not None:
                values = maps[at]
            elif places is not None and wanted is not Wanted.VECTORS:
                values = places[at]
            fault = self._fault(image.name, embeddings[at], values)
            if fault is not None:
                results.append(Failed(image.item, fault))
            elif values is None:
                results.append(Vector(image.name, embeddings[at], image.geometry))
            elif maps is not None:
                norm = np.linalg.norm(embeddings[at])
                results.append(Mapped(image.name, embeddings[at], image.geometry, values / norm))
            else:
                results.append(self._explained(image, embeddings[at], values, wanted, [m[at] for m in more]))
        return results

    def _explained(
        self, image: Prepared, embedding: Array, places: Array, wanted: Wanted, more: list[Array]
    ) -> Vector:
        """The result of an image whose feature map is here."""
        parts, direction = parts_of(self.contract, places), image.item.direction
        if direction is None:
            rest = rest_of(self.contract, embedding, parts)
            if wanted is Wanted.ACTIVATIONS:
                alpha = None if self.contract.has_parts else places
                return Activated(image.name, embedding, image.geometry, parts, rest, alpha, *more)
            return Embedded(image.name, embedding, image.geometry, parts, rest)
        values = decompose.direction_map(parts, embedding, direction)
        return Mapped(image.name, embedding, image.geometry, values)

    def _fault(self, name: str, embedding: Array, values: Array | None) -> ImageError | None:
        """What makes an image's outputs useless."""
        name, model = printable(name), printable(self._model.name)
        norm = np.linalg.norm(embedding)
        if not np.isfinite(norm) or not (values is None or np.isfinite(values).all()):
            return ImageError(
                f"{name}: its embedding by {model} has NaN or infinite values, or too large ones; "
                "the model's weights or their precision are at fault, export it again"
            )
        if norm == 0:
            return ImageError(
                f"{name}: its embedding by {model} is zero, so it is similar to "
                "nothing; use an image that is not constant"
            )
        return None

    def _check_shapes(self, embeddings: Array, places: Array | None) -> None:
        """Outputs whose size the graph does not declare are known once it has run."""
        contract = self.contract
        right = embeddings.shape[1:] == (contract.dimension,)
        if right and places is not None:
            depth, grid = (3, (1, 2)) if contract.has_parts else (1, (2, 3))
            size = contract.dimension if contract.has_parts else contract.channels
            right = (
                places.ndim == 4
                and places.shape[depth] == size
                and (
                    self.options.size is not None
                    or tuple(places.shape[axis] for axis in grid)
                    == (contract.grid_height, contract.grid_width)
                )
            )
        if not right:
            given = "" if places is None else f" and a map {places.shape[1:]}"
            raise ArtifactError(
                f"{printable(str(self._model))}: gave an embedding {embeddings.shape[1:]}{given}, but "
                f"its contract says D = {contract.dimension}, C = {contract.channels}, H x W = "
                f"{contract.grid_height} x {contract.grid_width}; export it again"
            )


def check_several(sources: Iterable[Source]) -> None:
    """Refuse one image where several are asked for.

    Raises:
        ConfigError: ``sources`` is a single image.
    """
    if isinstance(sources, str | bytes | os.PathLike | np.ndarray | Photo):
        raise ConfigError("embed takes a list of images; put a single one in brackets")
