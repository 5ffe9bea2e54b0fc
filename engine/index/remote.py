"""What the adapters of database servers share: text, exact ranking, lost connections.

A server ranks by sums of float32, in an order of its own. So more images than were asked for are fetched with
their vectors, and scored again in float64 here, as the embedded index does.
"""

import json
import re
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from ..errors import StoreError, printable
from ..types import Array
from .scan import exact_scores
from .store import TOLERANCE, About, Entry, MissingImageError, Recall, VectorStore
from .vectors import checksum

EXTRA = 16  # images that are fetched beyond those that were asked for
PAUSES = (0.1, 0.4, 1.0, 2.0, 4.0, 8.0, 8.0)  # seconds before each new try to reach a server

SCHEMA = 1  # of the metadata

_ABOUT = {"model": str, "fingerprint": str, "dimension": int, "root": str}
_RECALL = {"whole": float, "region": float, "queries": int, "images": int}
_T = TypeVar("_T")
_ESCAPED = re.compile("[\ud800-\udfff\ufffd\0]")
_ESCAPE = re.compile("\ufffd([0-9a-f]{4})")


class Row(NamedTuple):
    """One image as a server has it; ``checksum`` is that of entry and vector when it was written."""

    entry: Entry
    vector: Array
    checksum: int


class Answer(NamedTuple):
    """Images that a server found.

    Attributes:
        rows: of the largest inner products with the unit query, by its own arithmetic.
        least: the smallest of these products, by its own arithmetic.
        complete: whether these are all that there are.
    """

    rows: list[Row]
    least: float
    complete: bool


class Metadata(NamedTuple):
    """What a server keeps beside the images: what made them, and the recall of its approximate index."""

    about: About
    recall: Recall | None = None
    measured: str | None = None  # the approximate index that had this recall

    def text(self) -> str:
        """As ASCII."""
        recall = None if self.recall is None else self.recall._asdict()
        values = {"simmap": SCHEMA, **self.about._asdict(), "recall": recall, "measured": self.measured}
        return json.dumps(values)


class ServerIndex(VectorStore):
    """An index on a server: what its adapters share."""

    _name: str  # without a password
    _metadata: Metadata
    _index: str | None  # the server's own index, if it is approximate

    @property
    def name(self) -> str:
        """Its URL without a password."""
        return self._name

    @property
    def about(self) -> About:
        """What made its vectors."""
        return self._metadata.about

    @property
    def approximate(self) -> str | None:
        """The server's own index, as it was when this was opened; None for an exact search."""
        return self._index

    @property
    def recall(self) -> Recall | None:
        """What was measured of this approximate index."""
        return self._metadata.recall if self._metadata.measured == self._index else None

    def record_recall(self, recall: Recall) -> None:
        """Keep what was measured of an approximate index with it."""
        if self._index is not None:
            self._metadata = Metadata(self.about, recall, self._index)
            self._write_metadata()

    def get(self, ids: Sequence[str]) -> tuple[list[Entry], Array]:
        """Entries and unit vectors (n, D) float32 of images, in the order of ``ids``."""
        rows = {row.entry.id: row for row in self.rows(list(dict.fromkeys(ids)))}
        for name in ids:
            if name not in rows:
                raise MissingImageError(f"{printable(self.name)}: has no image {name!r}")
        check_sound(self.name, rows.values())
        vectors = np.array([rows[name].vector for name in ids], np.float32).reshape(-1, self.dimension)
        return [rows[name].entry for name in ids], vectors

    @abstractmethod
    def rows(self, ids: Sequence[str]) -> list[Row]:
        """The images of ``ids`` that are there, each once, whether they are sound or not."""

    @abstractmethod
    def _write_metadata(self) -> None:
        """Replace what the server keeps beside the images."""


def encoded(text: str) -> str:
    """Text as a server takes it: without NUL, and without the lone surrogates of undecodable file names."""
    return _ESCAPED.sub(lambda found: f"\ufffd{ord(found[0]):04x}", text)


def decoded(text: str) -> str:
    """The text that was ``encoded``."""
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)


def unit_query(query: Array) -> Array:
    """(D,) of length 1; zero stays zero.

    The vectors of an index have length 1, so the query's own length changes no ranking, and servers that know
    cosines, inner products or distances agree.
    """
    norm = float(np.linalg.norm(query.astype(np.float64)))
    return query if norm == 0 else np.asarray(query / norm, np.float32)


def rank(
    name: str, query: Array, k: int, answer: Answer, ask: Callable[[int], Answer], *, exact: bool
) -> list[tuple[str, float]]:
    """Ids and scores of the ``k`` best, by products in float64; equal scores by id.

    Args:
        name: of the index, for errors.
        query: (D,) of any length.
        k: how many.
        answer: what the server gave for ``k + EXTRA``, or for more.
        ask: for more.
        exact: whether the server looks at all images, so that more are worth asking for.

    Raises:
        StoreError: an image is damaged.
    """
    asked, dimension = k + EXTRA, len(query)
    # The server's float32 product with a unit query is off by no more (see ``scan.candidates``).
    u = (dimension + 8) * 2.0**-24
    margin = u / (1 - u)
    norm = float(np.linalg.norm(query.astype(np.float64)))
    while True:
        check_sound(name, answer.rows)
        vectors = np.array([row.vector for row in answer.rows], np.float32).reshape(-1, dimension)
        scores = exact_scores(vectors, np.arange(len(vectors)), query)
        ranked = sorted((-score, row.entry.id) for score, row in zip(scores, answer.rows, strict=True))
        best = [(one, -score) for score, one in ranked[:k]]
        sure = len(best) == k and best[-1][1] > norm * (answer.least + margin)
        if sure or answer.complete or not exact:
            return best
        asked *= 4
        answer = ask(asked)


def check_sound(name: str, rows: Iterable[Row]) -> None:
    """Refuse images that are not what was written, not finite or not of length 1."""
    for row in rows:
        if not is_sound(row):
            raise StoreError(
                f"{printable(name)}: the image {printable(row.entry.id)} is damaged; see how much is with: "
                f"simmap index check '{printable(name)}', then remove it and add it again"
            )


def is_sound(row: Row) -> bool:
    """Whether an image is what was written, finite and of length 1."""
    with np.errstate(all="ignore"):
        length = float(np.dot(row.vector, row.vector))
    return checksum(row.entry, row.vector) == row.checksum and abs(length - 1) < 4 * TOLERANCE


def retried(work: Callable[[], _T], is_lost: Callable[[Exception], bool]) -> _T:
    """What ``work`` gives; it is done again where the connection was lost, and so must be safe to repeat."""
    for pause in PAUSES:
        try:
            return work()
        except Exception as error:
            if not is_lost(error):
                raise
        time.sleep(pause)
    return work()


def metadata_of(name: str, text: str | None) -> Metadata:
    """What ``Metadata.text`` gave.

    Raises:
        StoreError: it is not, or of another schema.
    """
    try:
        values = json.loads(text or "")
        schema = values["simmap"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise StoreError(
            f"{printable(name)}: is there but is no index of simmap; give another name"
        ) from error
    if schema != SCHEMA:
        raise StoreError(
            f"{printable(name)}: has schema {printable(str(schema))}, this simmap reads schema {SCHEMA}; "
            "use the simmap that made it, or build it anew under another name"
        )
    try:
        about = About(*(kind(values[field]) for field, kind in _ABOUT.items()))
        recall = values["recall"] and Recall(*(kind(values["recall"][f]) for f, kind in _RECALL.items()))
        return Metadata(about, recall or None, values["measured"])
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(
            f"{printable(name)}: what it says of itself is damaged; build it anew under another name"
        ) from error


def no_index(name: str) -> StoreError:
    """The error of a name that a server does not have."""
    return StoreError(
        f"{printable(name)}: is no index; make one with: simmap index build IMAGES -o '{printable(name)}'"
    )


def needs(name: str, extra: str, error: ImportError) -> StoreError:
    """The error of a package that is missing."""
    return StoreError(
        f"{printable(name)}: needs the package {error.name}; install it with: pip install 'simmap[{extra}]'"
    )
