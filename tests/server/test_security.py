"""What a client sends must not reach a file, another client's request or a line of the log."""

import json
import socket
import time
from contextlib import suppress
from http.client import HTTPConnection

import httpx
import pytest
from serving import A, B, Served, files, problem

from simmap.server.routes.page import FOLDER

PAGE = "http://evil.example"


def exchange(served: Served, data: bytes) -> bytes:
    """All that comes back until the server closes the connection or falls silent."""
    with served.connect() as stream:
        stream.sendall(data)
        stream.settimeout(1.0)
        answer = b""
        try:
            while part := stream.recv(65536):
                answer += part
        except (TimeoutError, ConnectionResetError):
            pass
        return answer


SMUGGLED = b"GET /v1/model HTTP/1.1\r\nHost: x\r\nX-Request-ID: smuggled\r\n\r\n"


@pytest.mark.parametrize(
    "lengths",
    [
        b"Content-Length: 0\r\nContent-Length: %d", b"Content-Length: %d\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: %d", b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding: chunked, identity", b"Content-Length: +%d", b"Content-Length: -%d",
        b"Content-Length: 0x%x", b"Content-Length: %d,0", b"Content-Length : %d", b"Content-Length: ",
        b"Transfer-Encoding : chunked", b"X: y\r\n Content-Length: %d", b"Content-Length: \x0b%d",
    ],
)  # fmt: skip
def test_requests_of_two_lengths_end_the_connection(served: Served, lengths: bytes) -> None:
    if b"%" in lengths:
        lengths %= len(SMUGGLED)
    head = b"POST /v1/compare HTTP/1.1\r\nHost: x\r\n" + lengths + b"\r\n\r\n"
    answer = exchange(served, head + b"0\r\n\r\n" + SMUGGLED)
    first = answer.partition(b"\r\n")[0]
    assert first.split()[1:2] in ([b"400"], [b"415"], [b"501"]), answer
    assert b"smuggled" not in answer
    assert not any(line.get("request_id") == "smuggled" for line in served.lines)


def test_a_request_id_of_a_client_comes_back_only_where_it_is_harmless(client: httpx.Client) -> None:
    assert (
        client.get("/healthz", headers={"X-Request-ID": "job-1.a_B"}).headers["x-request-id"] == "job-1.a_B"
    )
    for bad in ("a b", "x" * 65, 'a"b', "a;b", "é".encode("latin-1"), ""):
        given = client.get("/healthz", headers={"X-Request-ID": bad}).headers["x-request-id"]
        assert len(given) == 16 and given.isalnum()


def test_nothing_that_a_client_sends_breaks_a_line_of_the_log(served: Served, client: httpx.Client) -> None:
    client.get("/%0a%7b%22event%22:%22forged%22%7d")
    form = {'x\n{"event": "forged"}': ("a\r\n\x1b[31m", b"x"), "a": ("a", A.read_bytes())}
    client.post("/v1/compare", files=form)
    client.post("/v1/compare", content=b'{"\\n\\u001b[2J": 1}', headers={"Content-Type": "application/json"})
    client.post(
        "/v1/compare",
        content=b"--a\r\n\x1b\r\n\r\nx",
        headers={"Content-Type": "multipart/form-data; boundary=a"},
    )
    exchange(served, b"\x00\x01 broken\r\n\r\n")
    answer = client.get("/healthz")
    last = client.post("/v1/embed", files=files(image=A))
    served.wait("request", request_id=last.headers["x-request-id"])
    assert answer.status_code == 200
    assert not [line for line in served.lines if line["event"] == "forged" or line.get("route") == "forged"]
    assert all("\x1b" not in json.dumps(line) for line in served.lines)


def test_pages_of_other_sites_cannot_post(client: httpx.Client, served: Served) -> None:
    form = files(a=A, b=B)
    for origin in (PAGE, "null", "http://[", f"{served.url}0"):
        problem(client.post("/v1/compare", files=form, headers={"Origin": origin}), 403)
    own = client.post("/v1/compare", files=form, headers={"Origin": served.url})
    assert own.status_code == 200 and "access-control-allow-origin" not in own.headers
    preflight = client.options(
        "/v1/compare", headers={"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    )
    assert preflight.status_code in (403, 405)
    assert "access-control-allow-origin" not in preflight.headers


def test_every_answer_has_the_headers_that_keep_browsers_in(client: httpx.Client) -> None:
    for path in ("/healthz", "/nothing", "/v1/model", "/openapi.json"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert headers["cross-origin-embedder-policy"] == "require-corp"
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers


@pytest.mark.skipif(not (FOLDER / "index.html").is_file(), reason="this tree has no page")
def test_the_page_is_kept_to_its_own_origin(client: httpx.Client) -> None:
    page = client.get("/")
    policy = page.headers["content-security-policy"]
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in policy and "unsafe-inline" not in policy and "http" not in policy
    config = client.get("/config.json").json()
    assert config["backend"] == "remote"
    for path in config["examples"]:
        assert client.get(f"/{path}").headers["content-type"] == "image/jpeg"
    for path in ("/../app.py", "/%2e%2e/app.py", "/..%2fapp.py", "/examples/..%2f..%2fpyproject.toml"):
        problem(client.get(path), 404)


def test_addresses_and_methods_that_there_are_not(client: httpx.Client) -> None:
    problem(client.get("/v1/compare/"), 404)
    problem(client.get("/../../etc/passwd"), 404)
    for path in ("/docs", "/redoc", "/.git/config", "/server.yaml"):
        problem(client.get(path), 404)
    refused = client.get("/v1/compare")
    problem(refused, 405)
    assert refused.headers["allow"] == "POST"
    problem(client.request("BREW", "/healthz"), 405)


ENDLESS_PARTS = {
    "head": (b"X: ", b"y" * 1000),
    "headers": (b"", b"X: y\r\n" * 100),
    "address": (b"", b"y" * 1000),
    "size of a piece": (b"Transfer-Encoding: chunked\r\n\r\n5;x=", b"y" * 1000),
    "trailers": (b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n", b"X: y\r\n" * 100),
}


@pytest.mark.parametrize("part", ENDLESS_PARTS)
def test_parts_of_a_request_without_an_end_close_the_connection(served: Served, part: str) -> None:
    start, more = ENDLESS_PARTS[part]
    line = b"POST /v1/compare" if part == "address" else b"POST /v1/compare HTTP/1.1\r\nHost: x\r\n"
    sent = 0
    with served.connect() as stream, suppress(ConnectionError):
        stream.sendall(line + start)
        while sent < 20_000_000:
            stream.sendall(more)
            sent += len(more)
            time.sleep(0.001)
    assert 10_000 < sent < 500_000  # then the server closed the connection


def test_an_upgrade_that_nobody_offers_is_passed_over(served: Served) -> None:
    # As Java's client asks with each request of a plain connection.
    upgrade = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAEAAEAA"}
    connection = HTTPConnection("127.0.0.1", served.port)
    for body, detail in (
        (b"--x--", "a is missing"), (b"y" * 200_000, "the body is no form"), (b"--x--", "a is missing"),
    ):  # fmt: skip
        connection.request(
            "POST", "/v1/compare", body, {**upgrade, "Content-Type": "multipart/form-data; boundary=x"}
        )
        answer = connection.getresponse()
        assert answer.status == 422 and json.load(answer)["detail"].startswith(detail)
    connection.close()


def test_a_head_of_many_bytes_is_refused(served: Served) -> None:
    answer = exchange(served, b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 200_000 + b"\r\n\r\n")
    assert answer == b"" or answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 431"))
    with socket.create_connection(("127.0.0.1", served.port)) as stream:
        stream.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert stream.recv(20).startswith(b"HTTP/1.1 200")
