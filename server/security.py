"""Headers of every answer, and requests that another site's page or a broken proxy sent."""

from urllib.parse import urlsplit

from starlette.datastructures import Headers

from .headers import CONTENT_SECURITY_POLICY, ISOLATION
from .problems import ProblemError

_COMMON = {**ISOLATION, "Cross-Origin-Resource-Policy": "same-origin", "X-Frame-Options": "DENY"}
# Of the page's files.
PAGE_HEADERS = {
    **_COMMON,
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Permissions-Policy": "camera=(self), microphone=()",
}
# Of any other answer.
ANSWER_HEADERS = {**_COMMON, "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'"}


def check_request(method: str, headers: Headers) -> None:
    """Refuse what no honest client sends.

    Raises:
        ProblemError: 400 two lengths, by which a proxy and this server could read different requests; 403 a
            page of another site.
    """
    if "transfer-encoding" in headers and "content-length" in headers:
        both = "a request has Content-Length or Transfer-Encoding, not both"
        raise ProblemError(400, "length", both, headers={"Connection": "close"})
    if headers.get("content-encoding", "identity") != "identity":
        raise ProblemError(415, "encoding", "send the body without Content-Encoding")
    origin = headers.get("origin")
    # A browser lets any page post a form to any address, that of a server on the same machine too.
    if method not in ("GET", "HEAD") and origin is not None and urlsplit_host(origin) != headers.get("host"):
        raise ProblemError(403, "origin", "requests from the pages of other sites are refused")


def urlsplit_host(origin: str) -> str | None:
    """Host and port of an origin; None where it has none."""
    try:
        return urlsplit(origin).netloc or None
    except ValueError:
        return None
