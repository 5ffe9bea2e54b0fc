"""From photos to maps: one object that holds an artifact's sessions."""

import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from itertools import chain, islice, repeat
from pathlib import Path
from typing import cast

import numpy as np

from . import decompose
from .contract import Contract
from .errors import ArtifactError, ConfigError, DecompositionError, ImageError, SimmapError
from .images.decode import load
from .images.geometry import Geometry
from .images.photo import Photo, Source
from .images.preprocess import preprocess
from .options import Options
from .results import Embedded, Mapped, Pair, Vector
from .runtime.cpus import usable_cpus
from .runtime.session import Session, open_session
from .runtime.stream import ahead
from .types import Array, Pixels

DEFAULT_MODEL = Path(__file__).resolve().parent.parent / "models" / "efficientnet_lite0.onnx"
_CUDA_BATCH = 32
_FAST_SIDE = 3  # times the network's input: from there on reduced decoding hardly changes an embedding


class Engine:
    """An artifact, opened once, that embeds and compares images."""

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        device: str | None = None,
        options: Options | None = None,
    ) -> None:
        """Open an artifact.

        Args:
            model: path of the ``.onnx`` file; None takes that of the options, or the one that ships.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; None takes that of the options.
            options: all other choices, and these two; by default ``Options()``.

        Raises:
            DeviceError: the device or the runtime is unavailable.
            ArtifactError: the file is not an artifact, or its contract does not hold.
            ConfigError: a size that the artifact does not take.
        """
        options = options or Options()
        if model is not None:
            options = replace(options, model=str(model))
        if device is not None:
            options = replace(options, device=device)
        self.options = options
        self._cpus = options.threads or usable_cpus()
        self._workers = options.workers or self._cpus
        self._threads = self._workers if self._workers > 1 else 0  # beside the one that asks
        # Single images and pairs: both of a pair at once.
        self._session = self._open_session(max(1, self._cpus // min(2, self._workers)))
        self._opened: Session | None = None  # by _stream_session
        self._lock = threading.Lock()
        if options.size is not None and not self.contract.input.dynamic:
            spec = self.contract.input
            raise ConfigError(
                f"size is {options.size}, but {self.model} takes {spec.height} x {spec.width} only; "
                "export it with --dynamic for other sizes"
            )

    def _open_session(self, threads: int) -> Session:
        options = self.options
        return open_session(
            options.model or DEFAULT_MODEL,
            device=options.device,
            threads=threads,
            tf32=options.tf32,
            cache=options.cache,
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
        grey = np.full((height, width, 3), 128, np.uint8)
        self._session.infer([grey] * batch_size, self.contract.explained)

    def load(self, source: Source) -> Photo:
        """Decode an image: a path, encoded bytes, or a uint8 RGB array (h, w, 3).

        Raises:
            ImageError: it cannot be read, or has more than ``max_pixels``.
        """
        return load(source, max_pixels=self.options.max_pixels)

    def embed(
        self,
        sources: Iterable[Source],
        *,
        batch_size: int | None = None,
        on_error: Callable[[Source, SimmapError], None] | None = None,
    ) -> Iterator[Embedded]:
        """Embed images in their order, as a stream.

        Images are decoded, prepared and run on ``workers`` threads. ``sources`` is read a few images ahead
        of what is taken from the stream, by the thread that takes it, so any number of images needs the
        same memory. Closing the stream, or an error, ends the threads.

        Args:
            sources: paths, encoded bytes or uint8 RGB arrays.
            batch_size: images of one run; None takes 1 on the CPU, where more gain nothing, and 32 on CUDA.
            on_error: called for an image that cannot be embedded, which is then left out, before any
                later image is given; without it the error is raised.

        Raises:
            ConfigError: ``sources`` is a single image, or ``batch_size`` is below 1.
            ImageError: an image cannot be read, or its embedding is zero or not finite.
        """
        return cast(Iterator[Embedded], self._stream(_undirected(sources), batch_size, on_error, places=True))

    def vectors(
        self,
        sources: Iterable[Source],
        *,
        batch_size: int | None = None,
        on_error: Callable[[Source, SimmapError], None] | None = None,
    ) -> Iterator[Vector]:
        """As ``embed``, without ``parts``: all that an index or a comparison of scores needs."""
        return self._stream(_undirected(sources), batch_size, on_error, places=False)

    def maps(
        self,
        sources: Iterable[Source],
        directions: Array | Iterable[Array],
        *,
        batch_size: int | None = None,
        on_error: Callable[[Source, SimmapError], None] | None = None,
    ) -> Iterator[Mapped]:
        """As ``embed``, with maps against what is known beforehand in place of ``parts``.

        On CUDA the feature maps stay on the device, and only the maps are copied.

        Args:
            sources, batch_size, on_error: as for ``embed``.
            directions: one (D,) for all images, or one for each: a unit embedding gives a similarity map,
                a sum of them or a region's query vector what ``decompose.direction_map`` gives.

        Raises:
            ConfigError: as for ``embed``, or there are more or fewer directions than images.
            ImageError: as for ``embed``.
            DecompositionError: a direction that is no finite (D,).
        """
        _check_several(sources)
        directed = self._directed(sources, directions)
        return cast(Iterator[Mapped], self._stream(directed, batch_size, on_error, places=True))

    def _directed(
        self, sources: Iterable[Source], directions: Array | Iterable[Array]
    ) -> "Iterator[_Directed]":
        dimension = self.contract.dimension
        one = directions if isinstance(directions, np.ndarray) and directions.ndim == 1 else None
        each = iter(directions)
        for source in sources:
            direction = next(each, None) if one is None else one
            if direction is None:
                raise ConfigError("there are fewer directions than images; give one for each, or one for all")
            if np.shape(direction) != (dimension,) or not np.isfinite(direction).all():
                raise DecompositionError(
                    f"a direction of shape {np.shape(direction)} must be ({dimension},) and finite"
                )
            yield source, direction
        if one is None and next(each, None) is not None:
            raise ConfigError("there are more directions than images; give one for each, or one for all")

    def _stream(
        self,
        sources: "Iterable[_Directed]",
        batch_size: int | None,
        on_error: Callable[[Source, SimmapError], None] | None,
        *,
        places: bool,
    ) -> Iterator[Vector]:
        if batch_size is None:
            batch_size = 1 if self.device == "cpu" else _CUDA_BATCH
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}, must be 1 or more")
        if self.device == "cpu" and batch_size == 1:
            return _delivered(self._singly(sources, places), on_error)
        return _delivered(self._in_batches(sources, batch_size, places), on_error)

    def _singly(self, sources: "Iterable[_Directed]", places: bool) -> "_Outcomes":
        """Each worker takes an image all the way."""

        def work(numbered: "tuple[int, _Directed]") -> list[tuple[Source, Vector | SimmapError]]:
            at, source = numbered
            prepared = [self._prepare(source)]
            # A short stream does not pay for opening another session.
            session = self._session if at < self._workers else self._stream_session()
            return self._run(session, prepared, places=places)

        return ahead(work, enumerate(sources), self._threads, 2 * self._threads)

    def _in_batches(self, sources: "Iterable[_Directed]", size: int, places: bool) -> "_Outcomes":
        """Workers prepare images while the network runs on those before, on threads of its own.

        On CUDA there are two, so that the device works on one batch while the results of another are taken
        off. They are for streams of more than a batch: CUDA sets up its libraries for each new thread.
        """

        def work(batch: list[_Prepared]) -> list[tuple[Source, Vector | SimmapError]]:
            return self._run(self._session, batch, places=places)

        with closing(ahead(self._prepare, sources, self._threads, max(2 * self._threads, size))) as prepared:
            batches = iter(lambda: list(islice(prepared, size)), [])
            first = next(batches, [])
            apart = len(first) == size and (self._threads > 0 or self.device != "cpu")
            threads = (1 if self.device == "cpu" else 2) if apart else 0
            with closing(ahead(work, chain([first], batches), threads, threads + 1)) as outcomes:
                yield from outcomes

    def compare(self, first: Source, second: Source) -> Pair:
        """The cosine of two images and its maps in both directions.

        Raises:
            ImageError: an image cannot be read, or its embedding is zero or not finite.
        """
        one, other = ahead(self.load, (first, second), self._threads, 2)
        images = tuple(self.embed([one, other]))
        return Pair((images[0], images[1]), (one, other))

    def _stream_session(self) -> Session:
        """The session of streams: on many CPUs, one thread a run gets more done than several."""
        with self._lock:
            if self._opened is None:
                self._opened = self._session
                threads = max(1, self._cpus // self._workers)
                if self._session.run.get_session_options().intra_op_num_threads != threads:
                    with suppress(ArtifactError):
                        again = self._open_session(threads)
                        # Another artifact may have taken the file's place.
                        if again.contract == self.contract:
                            self._opened = again
            return self._opened

    def _prepare(self, directed: "_Directed") -> "_Prepared":
        source, direction = directed
        try:
            spec, options = self.contract.input, self.options
            most = _FAST_SIDE * max(options.size or (spec.height, spec.width))
            photo = load(
                source, max_pixels=options.max_pixels, short_side=most if options.fast_decode else None
            )
            pixels, geometry = preprocess(photo.pixels, spec, size=options.size)
            if photo.size is not None:
                geometry = geometry.resized(*photo.size)
        except SimmapError as error:
            return source, error
        return source, _Input(photo.name, pixels, geometry, direction)

    def _run(
        self, session: Session, batch: "list[_Prepared]", *, places: bool
    ) -> list[tuple[Source, Vector | SimmapError]]:
        """One run of the network on what could be prepared; the rest keeps its place and its error."""
        inputs = [prepared for _, prepared in batch if isinstance(prepared, _Input)]
        results = iter(self._infer(session, inputs, places=places) if inputs else [])
        return [
            (source, next(results) if isinstance(prepared, _Input) else prepared)
            for source, prepared in batch
        ]

    def _infer(self, session: Session, inputs: "list[_Input]", *, places: bool) -> list[Vector | ImageError]:
        """The results of a batch; an embedding without a direction gives its error in place of one."""
        images = [each.pixels for each in inputs]
        directions = [each.direction for each in inputs if each.direction is not None]
        maps = feature = None
        try:
            mapped = session.infer_maps(images, np.array(directions)) if directions else None
            if mapped is not None:
                embeddings, maps = mapped
            elif places:
                embeddings, feature = session.infer(images, self.contract.explained)
            else:
                (embeddings,) = session.infer(images, self.contract.explained[:1])
        except ArtifactError as error:
            raise ArtifactError(f"{inputs[0].name}: {error}") from error
        self._check_outputs(embeddings, feature)
        results: list[Vector | ImageError] = []
        for at, (each, embedding) in enumerate(zip(inputs, embeddings, strict=True)):
            shown = [values[at] for values in (feature, maps) if values is not None]
            fault = self._fault(each.name, embedding, *shown)
            if fault is not None:
                results.append(fault)
            elif maps is not None:
                values = maps[at] / np.linalg.norm(embedding)
                results.append(Mapped(each.name, embedding, each.geometry, values))
            elif feature is not None:
                parts = self._parts(feature[at])
                if each.direction is None:
                    rest = self._rest(embedding, parts)
                    results.append(Embedded(each.name, embedding, each.geometry, parts, rest))
                else:
                    values = decompose.direction_map(parts, embedding, each.direction)
                    results.append(Mapped(each.name, embedding, each.geometry, values))
            else:
                results.append(Vector(each.name, embedding, each.geometry))
        return results

    def _fault(self, name: str, embedding: Array, *shown: Array) -> ImageError | None:
        """What makes an image's outputs useless."""
        if not all(np.isfinite(values).all() for values in (embedding, *shown)):
            return ImageError(
                f"{name}: its embedding by {self.model.name} has NaN or infinite values; "
                "the model's weights or their precision are at fault, export it again"
            )
        if not embedding.any():
            return ImageError(
                f"{name}: its embedding by {self.model.name} is zero, so it is similar to "
                "nothing; use an image that is not constant"
            )
        return None

    def _parts(self, place: Array) -> Array:
        """(H, W, D) of one image's ``parts`` or ``conv``."""
        contract = self.contract
        if contract.has_parts:
            return place
        eps = decompose.GEM_EPS if contract.eps is None else contract.eps
        return decompose.alpha_hat(place, contract.pooling, p=contract.p, eps=eps)

    def _rest(self, embedding: Array, parts: Array) -> Array | None:
        """(D,): what of one image's embedding no place owns."""
        if self.contract.rest == "constant":
            return self.contract.bias_vector
        total = parts.sum(axis=(0, 1), dtype=np.float64)
        return np.asarray(embedding - total, dtype=np.float32)

    def _check_outputs(self, embeddings: Array, places: Array | None = None) -> None:
        """A symbolic axis hides a lie of the contract until the network has run."""
        contract = self.contract
        right = embeddings.shape[1:] == (contract.dimension,)
        if right and places is not None:
            is_parts = contract.has_parts
            grid = places.shape[1:3] if is_parts else places.shape[2:]
            right = (
                places.ndim == 4
                and (
                    places.shape[3] == contract.dimension
                    if is_parts
                    else places.shape[1] == contract.channels
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


@dataclass(frozen=True, eq=False)
class _Input:
    """An image as the network takes it: its name, uint8 (height, width, 3), where that lies, and the
    direction (D,) that its map is wanted against."""

    name: str
    pixels: Pixels
    geometry: Geometry
    direction: Array | None


_Directed = tuple[Source, Array | None]
_Prepared = tuple[Source, _Input | SimmapError]
_Outcomes = Generator[list[tuple[Source, Vector | SimmapError]], None, None]


def _check_several(sources: Iterable[Source]) -> None:
    if isinstance(sources, str | bytes | os.PathLike | np.ndarray | Photo):
        raise ConfigError("embed takes a list of images; put a single one in brackets")


def _undirected(sources: Iterable[Source]) -> Iterator[_Directed]:
    _check_several(sources)
    return zip(sources, repeat(None))


def _delivered(
    outcomes: _Outcomes, on_error: Callable[[Source, SimmapError], None] | None
) -> Iterator[Vector]:
    """The results one by one; errors go to ``on_error``, or are raised."""
    with closing(outcomes):
        for chunk in outcomes:
            for source, result in chunk:
                if isinstance(result, Vector):
                    yield result
                elif on_error is None:
                    raise result
                else:
                    on_error(source, result)
