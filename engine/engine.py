"""From photos to maps: one object that holds an open artifact and its threads."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from .contract import Contract
from .errors import ConfigError, DecompositionError, SimmapError
from .images.decode import load
from .images.photo import Photo, Source
from .network import Item, Network, Wanted, check_several
from .options import Options
from .results import Activated, Embedded, Mapped, Pair, Vector
from .runtime.cpus import usable_cpus
from .streams import Streams
from .types import Array

if TYPE_CHECKING:
    from types import TracebackType

DEFAULT_MODEL = Path(__file__).resolve().parent.parent / "models" / "efficientnet_lite0.onnx"


class Engine:
    """An open artifact that embeds images and compares them.

    One engine may be used by many threads at once. Opening it takes tens of milliseconds, so keep it; its
    threads are made once and end with ``close``, with the ``with`` block, or with the engine itself:

        with Engine("model.onnx") as engine:
            pair = engine.compare("a.jpg", "b.jpg")
            print(pair.score, pair.maps[0])
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        device: str | None = None,
        options: Options | None = None,
    ) -> None:
        """Open an artifact.

        Args:
            model: path of the ``.onnx`` file; None takes that of the options, or the model that ships.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; None takes that of the options.
            options: all other settings; by default ``Options()``.

        Raises:
            DeviceError: the device or the runtime is unavailable.
            ArtifactError: the file is not an artifact, is damaged, or its contract does not fit its graph.
            ConfigError: a size that the artifact does not take.
        """
        options = options or Options()
        if model is not None:
            options = replace(options, model=str(model))
        if device is not None:
            options = replace(options, device=device)
        self.options = options
        cpus = options.threads or usable_cpus()
        path = Path(options.model or DEFAULT_MODEL)
        self._network = Network(path, options, cpus, options.workers or cpus)
        self._streams = Streams(self._network)

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: "TracebackType | None",
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all streams and threads; a closed engine embeds nothing any more (ConfigError)."""
        self._streams.close()

    @property
    def contract(self) -> Contract:
        """What the artifact says of itself."""
        return self._network.contract

    @property
    def device(self) -> str:
        """The device really taken: ``cpu`` or ``cuda:N``."""
        return self._network.session.device

    @property
    def model(self) -> Path:
        """The artifact's file."""
        return self._network.session.path

    def warm_up(self, batch_size: int = 1) -> None:
        """Run once on grey, so that the first photo does not wait for kernels to load and be chosen.

        Args:
            batch_size: of the runs to come; CUDA prepares each shape on its own.

        Raises:
            ArtifactError: the network failed.
            ConfigError: the engine is closed.
        """
        self._streams.warm_up(batch_size)

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

        Images are decoded, prepared and run on the engine's threads, ``workers`` of them. ``sources`` is read
        a few images ahead of what is taken from the stream, by the thread that takes it, so any number of
        images needs the same memory. Several streams may be read at the same time, by several threads or one
        within the loop over another. A stream that is closed, dropped or interrupted ends the runs that it
        has under way.

        Args:
            sources: paths, encoded bytes or uint8 RGB arrays.
            batch_size: images of one run; None takes 1 on the CPU, where more gain nothing, and 32 on CUDA.
            on_error: called for an image that cannot be embedded, which is then left out, before any
                later image is given; without it the error is raised.

        Raises:
            ConfigError: ``sources`` is a single image, ``batch_size`` is below 1, or the engine is closed.
            ImageError: an image cannot be read, or its embedding is zero or not finite.
            ArtifactError: the network failed, or an image's parts do not sum to its embedding.
        """
        items = _undirected(sources)
        return cast(Iterator[Embedded], self._streams.start(items, Wanted.PARTS, batch_size, on_error))

    def vectors(
        self,
        sources: Iterable[Source],
        *,
        batch_size: int | None = None,
        on_error: Callable[[Source, SimmapError], None] | None = None,
    ) -> Iterator[Vector]:
        """As ``embed``, without ``parts``: all that an index or a comparison of scores needs."""
        return self._streams.start(_undirected(sources), Wanted.VECTORS, batch_size, on_error)

    def activations(self, sources: Iterable[Source]) -> Iterator[Activated]:
        """As ``embed``, with the last feature map of each image: what methods other than maps start from."""
        return cast(
            Iterator[Activated], self._streams.start(_undirected(sources), Wanted.ACTIVATIONS, None, None)
        )

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
                a sum of them or a region's query vector what ``decompose.direction_map`` gives, and
                ``decompose.influence_direction`` of any of these, with the image's embedding, its influence.

        Raises:
            ConfigError: as for ``embed``, or there are more or fewer directions than images.
            ImageError, ArtifactError: as for ``embed``.
            DecompositionError: a direction that is no finite (D,).
        """
        check_several(sources)
        items = _directed(sources, directions, self.contract.dimension)
        return cast(Iterator[Mapped], self._streams.start(items, Wanted.MAPS, batch_size, on_error))

    def compare(self, first: Source, second: Source) -> Pair:
        """The cosine of two images and its maps in both directions.

        Raises:
            ImageError: an image cannot be read, or its embedding is zero or not finite.
            ArtifactError, ConfigError: as for ``embed``.
        """
        one, other = self._streams.load((first, second))
        images = tuple(self.embed([one, other]))
        return Pair((images[0], images[1]), (one, other))


def _undirected(sources: Iterable[Source]) -> Iterator[Item]:
    check_several(sources)
    return map(Item, sources)


def _directed(
    sources: Iterable[Source], directions: Array | Iterable[Array], dimension: int
) -> Iterator[Item]:
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
        yield Item(source, direction)
    if one is None and next(each, None) is not None:
        raise ConfigError("there are more directions than images; give one for each, or one for all")
