"""URLs of indexes on servers."""

from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from ..errors import StoreError, printable


def shown(url: str) -> str:
    """A URL without a password, which is in its address or a parameter."""
    scheme, _, rest = url.partition("://")
    before, at, after = rest.rpartition("@")
    path, mark, query = f"{scheme}://{before.partition(':')[0]}{at}{after}".partition("?")
    kept = [part for part in query.split("&") if not part.startswith(("password=", "sslpassword="))]
    return path + mark + "&".join(kept)


def postgres_address(url: str) -> tuple[str, str, str]:
    """The URL without a password, the URL that libpq takes, and the table.

    Raises:
        StoreError: it is no URL, or names no table.
    """
    name = printable(shown(url))
    try:
        parts = urlsplit(url)
        query = parse_qsl(parts.query, keep_blank_values=True)
    except ValueError as error:
        raise StoreError(f"{name}: is no URL ({error})") from error
    tables = [value for key, value in query if key == "table"]
    if len(tables) != 1 or not tables[0]:
        raise StoreError(f"{name}: names no table; add ?table=NAME")
    if len(tables[0].encode("utf-8", "replace")) > 63:
        raise StoreError(f"{name}: the table's name is longer than PostgreSQL's 63 bytes; give a shorter one")
    rest = urlencode([(key, value) for key, value in query if key != "table"])
    return shown(url), urlunsplit(parts._replace(query=rest)), tables[0]


def milvus_address(url: str) -> tuple[str, str, str, str]:
    """The URL without a password, the server's address, ``user:password`` or nothing, and the collection.

    Raises:
        StoreError: it is no URL, or names no server and collection.
    """
    name = printable(shown(url))
    try:
        parts = urlsplit(url)
        port = parts.port or 19530
    except ValueError as error:
        raise StoreError(f"{name}: is no URL ({error})") from error
    collection = parts.path.strip("/")
    if not parts.hostname or not collection or "/" in collection or parts.query:
        raise StoreError(f"{name}: must be milvus://HOST:PORT/COLLECTION")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    token = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else ""
    return shown(url), f"http://{host}:{port}", token, unquote(collection)
