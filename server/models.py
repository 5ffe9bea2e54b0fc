"""The open model and index, and how others take their place while requests go on."""

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from simmap.engine.engine import Engine
from simmap.engine.images.photo import Source
from simmap.engine.index.opening import open_index
from simmap.engine.index.store import VectorStore
from simmap.engine.results import Embedded, Pair, Vector

from .batches import Batches
from .settings import Settings

log = logging.getLogger("simmap.server")


@dataclass(frozen=True, eq=False)
class Opened:
    """A model, and the index that it made. A request keeps both until it ends.

    Attributes:
        engine: of the model.
        index: None where the server has none.
        embed, vectors: as the engine's, for a few images; on CUDA, in one run with those of other requests.
    """

    engine: Engine
    index: VectorStore | None
    embed: Callable[[Sequence[Source]], Iterable[Embedded]]
    vectors: Callable[[Sequence[Source]], Iterable[Vector]]

    def compare(self, first: Source, second: Source) -> Pair:
        """As ``Engine.compare``."""
        photos = self.engine.load(first), self.engine.load(second)
        one, other = self.embed(photos)
        return Pair((one, other), photos)

    def about(self) -> dict[str, str | int]:
        """The model, as answers name it."""
        contract = self.engine.contract
        return {
            "name": self.engine.model.stem,
            "fingerprint": contract.fingerprint,
            "pooling": contract.pooling,
            "head": contract.head,
            "dimension": contract.dimension,
        }


class Models:
    """What the server has open.

    Attributes:
        current: what new requests use; replaced as a whole. Nothing is closed: an engine without threads of
            its own ends with the last request that holds it.
    """

    def __init__(self, settings: Settings) -> None:
        """Open model and index.

        Raises:
            As ``Engine`` and ``open_index``; StoreError also where another model made the index.
        """
        self._settings, self._lock = settings, threading.Lock()
        self.current = self._open()

    def reload(self) -> None:
        """Open model and index anew, verify and warm them, and take them for new requests.

        Raises:
            As the constructor; then nothing changes.
        """
        with self._lock:
            self.current = self._open()

    def _open(self) -> Opened:
        settings = self._settings
        index = None if settings.index is None else open_index(settings.index)
        made_by = index.model if index is not None and Path(index.model).is_file() else None
        engine = Engine(options=settings.engine_options(made_by))
        if index is not None:
            index.check_model(engine)
        engine.warm_up()
        if engine.device == "cpu":  # where a run of several images gains nothing
            return Opened(engine, index, engine.embed, engine.vectors)
        return Opened(engine, index, Batches(engine.embed), Batches(engine.vectors))
