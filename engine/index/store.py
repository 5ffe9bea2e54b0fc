"""What an index is: unit vectors of images, what made them, and what a search needs of them."""

import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..engine import Engine
from ..errors import DecompositionError, StoreError, printable
from ..files import absolute, is_elsewhere, joined
from ..types import Array
from ..urls import is_url

ENOUGH = 0.99  # recall; a search in an approximate index of less says so
TOLERANCE = 1e-3  # of a vector's length from 1, when it is added


class Entry(NamedTuple):
    """What an index keeps of an image beside its vector.

    Attributes:
        id: the path relative to the index's root, or the whole path or URL of an image elsewhere.
        label: its class, or None.
        height, width: pixels of the photo, EXIF orientation applied.
        bytes, mtime_ns: of the file when it was embedded; tell whether it has changed since.
    """

    id: str
    label: str | None
    height: int
    width: int
    bytes: int
    mtime_ns: int


class About(NamedTuple):
    """What an index says of all of its vectors.

    Attributes:
        model: the file of the model that made them, as it was then.
        fingerprint: what tells this model's vectors from another's; see ``identity``.
        dimension: D of the vectors.
        root: the folder that ids are relative to.
    """

    model: str
    fingerprint: str
    dimension: int
    root: str


class Recall(NamedTuple):
    """Recall@10 of an approximate index against the exact answers; see ``recall``.

    Attributes:
        whole: of whole images.
        region: of regions of them.
        queries: how many of each were asked.
        images: that the index had.
    """

    whole: float
    region: float
    queries: int
    images: int


class MissingImageError(StoreError):
    """An id that is not in the index, or no longer."""


class VectorStore(ABC):
    """An index of images; ``Index`` is the one without a server.

    Ids are text, ``upsert`` replaces, a write is visible when it returns, equal scores rank by id. Several
    threads and processes may read and write at the same time.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """What a user calls it: its folder, or its URL without a password."""

    @property
    @abstractmethod
    def about(self) -> About:
        """What made its vectors."""

    @property
    def approximate(self) -> str | None:
        """What the server's own approximate index is, or None where every search is exact."""
        return None

    @property
    def recall(self) -> Recall | None:
        """What was measured of the approximate index, or None."""
        return None

    def record_recall(self, recall: Recall) -> None:  # noqa: B027
        """Keep what was measured, with the index; nothing is kept of an exact one."""

    def settle(self) -> None:  # noqa: B027
        """Wait until the server's own indexes have taken up all that was written."""

    @abstractmethod
    def __len__(self) -> int:
        """How many images there are."""

    @abstractmethod
    def size(self) -> int:
        """Bytes that it takes."""

    @abstractmethod
    def upsert(self, entries: Sequence[Entry], vectors: Array) -> None:
        """Add images, or replace those of the same id; kept when it returns.

        Args:
            entries: n images.
            vectors: (n, D), of length 1.

        Raises:
            DecompositionError: vectors of another shape or length.
            StoreError: the index cannot be written.
        """

    @abstractmethod
    def delete(self, ids: Collection[str]) -> int:
        """Remove images; ids that are not in the index are no error. Returns how many were.

        Raises:
            StoreError: the index cannot be written.
        """

    @abstractmethod
    def search(
        self, queries: Array, k: int, *, exclude: Collection[str] = ()
    ) -> list[list[tuple[str, float]]]:
        """The ``k`` images of the largest inner product with each query.

        Args:
            queries: (m, D); need not be unit, so that a region's query vector is one.
            k: how many; all, where there are fewer.
            exclude: ids to leave out.

        Returns:
            For each query its ids and scores, largest first; equal scores by id.

        Raises:
            DecompositionError: the queries have another shape, NaN or infinite values, or k is below 1.
            StoreError: an image that may be among them is damaged, or the index cannot be read.
        """

    @abstractmethod
    def get(self, ids: Sequence[str]) -> tuple[list[Entry], Array]:
        """Entries and unit vectors (n, D) float32 of images, in the order of ``ids``.

        Raises:
            MissingImageError: an id is not in the index.
            StoreError: an image is damaged, or the index cannot be read.
        """

    @abstractmethod
    def entries(self, label: str | None = None) -> list[Entry]:
        """All images, or those of one label."""

    @abstractmethod
    def labels(self) -> dict[str | None, int]:
        """How many images each label has, by label; None stands first, for images without one."""

    @abstractmethod
    def ids(self, start: str = "", stop: str | None = None) -> list[str]:
        """Ids from ``start`` to before ``stop``, sorted."""

    @property
    def model(self) -> str:
        """The file of the model that made the vectors, as it was then."""
        return self.about.model

    @property
    def fingerprint(self) -> str:
        """What tells this model's vectors from another's; see ``identity``."""
        return self.about.fingerprint

    @property
    def dimension(self) -> int:
        """D of the vectors."""
        return self.about.dimension

    @property
    def root(self) -> str:
        """The folder that ids are relative to."""
        return self.about.root

    def path_of(self, name: str) -> str:
        """The file, or the URL, of the image with the id ``name``."""
        return name if is_elsewhere(name) else joined(self.root, name)

    def id_of(self, path: str | Path) -> str:
        """The id of the image file or URL ``path``."""
        whole = absolute(path)
        if is_url(whole):
            return whole.removeprefix(f"{self.root}/")
        below = not is_url(self.root) and Path(whole).is_relative_to(self.root)
        return str(Path(whole).relative_to(self.root)) if below else whole

    def ids_below(self, path: str | Path) -> list[str]:
        """Ids of the image with the file ``path``, or of all images in that folder and its sub-folders.

        The file or folder need not exist any more.

        Raises:
            StoreError: the path is empty.
        """
        if not str(path):
            raise StoreError(f"{printable(self.name)}: an empty path names no image; give a file or a folder")
        whole, name = absolute(path), self.id_of(path)
        start = name.rstrip(os.sep) + os.sep
        names = self._present(name)
        if (
            f"{self.root}/".startswith(f"{whole}/")
            if is_url(whole)
            else Path(self.root).is_relative_to(whole)
        ):
            # Images that were added from elsewhere have whole paths for their ids.
            names += [one for one in self.ids() if not is_elsewhere(one)]
        return names + self.ids(start, start[:-1] + chr(ord(os.sep) + 1))

    def _present(self, name: str) -> list[str]:
        try:
            return [entry.id for entry in self.get([name])[0]]
        except MissingImageError:
            return []

    def check_model(self, engine: Engine) -> None:
        """Refuse to mix the vectors of two models.

        Raises:
            StoreError: another model than the engine's made this index.
        """
        self._check_maker(identity(engine), str(engine.model))

    def check_about(self, about: About) -> None:
        """Refuse to write the vectors of another model, or of images below another folder.

        Raises:
            StoreError: this index is of another model or root.
        """
        self._check_maker(about.fingerprint, about.model)
        if self.root != about.root:
            name = printable(self.name)
            raise StoreError(
                f"{name}: is the index of the folder {printable(self.root)}; give another -o, or add to it "
                f"with: simmap index add {name} {printable(about.root)}"
            )

    def _check_maker(self, fingerprint: str, model: str) -> None:
        if self.fingerprint != fingerprint:
            raise StoreError(
                f"{printable(self.name)}: was built by another model, {printable(self.model)} "
                f"({printable(short_identity(self.fingerprint))}), not by {printable(model)} "
                f"({printable(short_identity(fingerprint))}); use that model, or build the index anew"
            )

    def _checked_vectors(self, entries: Sequence[Entry], vectors: Array) -> npt.NDArray[np.float32]:
        vectors = np.asarray(vectors, np.float32)
        if vectors.shape != (len(entries), self.dimension):
            raise DecompositionError(
                f"vectors have shape {vectors.shape}, must be {(len(entries), self.dimension)}"
            )
        if not (np.abs(np.linalg.norm(vectors, axis=1) - 1) < TOLERANCE).all():
            raise DecompositionError("vectors of an index must have length 1; take decompose.unit of them")
        return vectors

    def _checked_queries(self, queries: Array, k: int) -> npt.NDArray[np.float32]:
        queries = np.asarray(queries, np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.dimension:
            wanted = f"must be (m, {self.dimension}) for {printable(self.name)}"
            raise DecompositionError(f"queries have shape {queries.shape}, {wanted}")
        if not np.isfinite(queries).all():
            raise DecompositionError("a query has NaN or infinite values, so nothing is similar to it")
        if k < 1:
            raise DecompositionError(f"k is {k}, must be 1 or more")
        return queries


def about_of(engine: Engine, root: str | Path) -> About:
    """Of an index for the vectors of ``engine``, of images below the folder ``root``."""
    dimension = engine.contract.dimension
    return About(absolute(engine.model), identity(engine), dimension, absolute(root))


def identity(engine: Engine) -> str:
    """What tells one engine's vectors from another's: the weights' fingerprint and the input size."""
    size, spec = engine.options.size, engine.contract.input
    own = size is None or size == (spec.height, spec.width)
    return engine.contract.fingerprint + ("" if own or size is None else f"@{size[0]}x{size[1]}")


def short_identity(name: str) -> str:
    """An identity, for a message."""
    fingerprint, at, size = name.partition("@")
    return fingerprint[:16] + at + size
