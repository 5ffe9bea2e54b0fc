"""Which index a name means: a folder, or a table or collection of a server."""

from pathlib import Path

from ..errors import StoreError, printable
from .embedded import Index
from .store import About, VectorStore

KINDS = "a folder, milvus://HOST:PORT/COLLECTION or postgresql://USER@HOST/DATABASE?table=TABLE"


def open_index(name: str | Path) -> VectorStore:
    """The index with that name.

    Args:
        name: a folder, ``milvus://user:password@host:port/collection`` or
            ``postgresql://user:password@host:port/database?table=name``, whose other parameters go to libpq.

    Raises:
        StoreError: there is no such index; its server cannot be reached; or a package for it is missing.
    """
    match _scheme(name):
        case "milvus":
            from .milvus import MilvusIndex

            return MilvusIndex(str(name))
        case "postgresql":
            from .postgres import PostgresIndex

            return PostgresIndex(str(name))
    return Index(name)


def make_index(name: str | Path, about: About) -> VectorStore:
    """The index with that name, of a model and root; an empty one where there is none.

    Raises:
        StoreError: as for ``open_index``; it is of another model or root; or it cannot be made.
    """
    match _scheme(name):
        case "milvus":
            from .milvus import MilvusIndex

            return MilvusIndex.make(str(name), about)
        case "postgresql":
            from .postgres import PostgresIndex

            return PostgresIndex.make(str(name), about)
    return Index.make(name, about)


def _scheme(name: str | Path) -> str | None:
    scheme, mark, _ = str(name).partition("://")
    if not mark or isinstance(name, Path):
        return None
    if scheme not in ("milvus", "postgresql"):
        raise StoreError(f"{printable(scheme)}://: is no kind of index; give {KINDS}")
    return scheme
