"""Limits: of bodies, pixels, time, clients, and of requests under way."""

import os
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress

import cv2
import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import A, B, Served, figure, files, problem, serving, slow_photo

from simmap.server.problems import ProblemError
from simmap.server.rates import BURST_SECONDS, Rates

LIMIT = 200_000  # bytes of a body
HEAD = "POST /v1/compare HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"


@pytest.fixture(scope="module")
def small() -> Iterator[Served]:
    """A server with one thread and tight limits."""
    with serving(
        SIMMAP_SERVER_THREADS="1", SIMMAP_SERVER_QUEUE="4", SIMMAP_SERVER_MAX_BYTES=str(LIMIT),
        SIMMAP_SERVER_MAX_PIXELS="1000000", SIMMAP_SERVER_BODY_SECONDS="1",
    ) as served:  # fmt: skip
        yield served


def settle(client: httpx.Client) -> None:
    """Wait until no request is under way."""
    deadline = time.monotonic() + 30
    while figure(client, "simmap_slots_taken") > 0:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def read_head(stream: socket.socket) -> str:
    data = b""
    while b"\r\n\r\n" not in data and (part := stream.recv(4096)):
        data += part
    return data.decode("latin-1")


@contextmanager
def half_sent(served: Served, count: int = 1) -> Iterator[list[socket.socket]]:
    """Connections that have sent the head of a request and a part of its body."""
    with ExitStack() as stack:
        streams = [stack.enter_context(served.connect()) for _ in range(count)]
        for stream in streams:
            stream.sendall(f"{HEAD}Content-Length: 1000\r\n\r\n--x".encode())
        yield streams


@pytest.mark.parametrize("connection", ["keep-alive", "close"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_413_and_never_a_reset(
    small: Served, connection: str, chunked: bool
) -> None:
    size = 3 * LIMIT
    data: bytes | Iterator[bytes] = (b"x" * 10_000 for _ in range(size // 10_000)) if chunked else b"x" * size
    headers = {"Connection": connection, "Content-Type": "multipart/form-data; boundary=x"}
    with small.client() as client:
        answer = client.post("/v1/compare", content=data, headers=headers)
        assert str(LIMIT) in problem(answer, 413)
        assert client.get("/healthz").status_code == 200


def test_a_body_within_the_limit_is_read_however_it_comes(small: Served) -> None:
    body = httpx.Request("POST", "http://x", files=files(a=A, b=B))
    content = body.read()
    assert len(content) < LIMIT
    pieces = (content[start : start + 777] for start in range(0, len(content), 777))
    with small.client() as client:
        answer = client.post(
            "/v1/compare", content=pieces, headers={"Content-Type": body.headers["Content-Type"]}
        )
    assert answer.status_code == 200


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(small: Served) -> None:
    bomb = cv2.imencode(".png", np.zeros((9000, 9000), np.uint8))[1].tobytes()
    with small.client() as client:
        answer = client.post("/v1/embed", files=files(image=bomb))
        assert "9000 x 9000" in problem(answer, 422, "image")
        assert answer.elapsed.total_seconds() < 1


def test_a_body_that_does_not_come_is_408_and_its_slot_is_free_again(small: Served) -> None:
    with small.client() as client, half_sent(small) as (stream,):
        started = time.monotonic()
        head = read_head(stream)
        assert head.startswith("HTTP/1.1 408") and "connection: close" in head.lower()
        assert 0.5 < time.monotonic() - started < 10
        settle(client)


def test_a_head_that_does_not_come_closes_the_connection(small: Served) -> None:
    with small.connect() as silent, small.connect() as half:
        half.sendall(b"GET /healthz HTTP/1.1\r\nHost:")
        for _ in range(3):
            time.sleep(0.5)
            half.sendall(b" x")  # a byte now and then does not help
        assert silent.recv(1) == b""
        with suppress(ConnectionResetError):  # closed too, under the last byte
            assert half.recv(1) == b""


def test_a_request_too_many_is_turned_away_before_its_body_is_read(small: Served) -> None:
    with small.client() as client, half_sent(small, 5):
        deadline = time.monotonic() + 10
        while figure(client, "simmap_slots_taken") < 5:
            assert time.monotonic() < deadline
        with small.connect() as stream:
            stream.sendall(f"{HEAD}Content-Length: 100000\r\n\r\n".encode())
            head = read_head(stream)  # though nothing of the body was sent
        assert head.startswith("HTTP/1.1 503") and re.search("retry-after: [1-3]\r", head.lower())
        answer = client.post("/v1/compare", files=files(a=A, b=B))
        assert "too many" in problem(answer, 503)
        waits = {client.post("/v1/compare", files=files(a=A)).headers["retry-after"] for _ in range(50)}
        assert waits == {"1", "2", "3"}  # of clients that are turned away together
        assert client.get("/readyz").status_code == 200  # what needs no thread goes on
        assert figure(client, 'simmap_errors_total{kind="overload"}') >= 2
        settle(client)
        assert client.post("/v1/compare", files=files(a=A, b=B)).status_code == 200


def test_slow_clients_leave_the_others_alone(small: Served) -> None:
    with small.client() as client, half_sent(small, 3):
        for _ in range(3):
            assert client.post("/v1/compare", files=files(a=A, b=B)).status_code == 200


def test_a_client_of_too_many_requests_must_wait() -> None:
    with serving(SIMMAP_SERVER_REQUESTS_PER_MINUTE="30") as served, served.client() as client:
        answers = [client.post("/v1/embed", files=files(image=A)) for _ in range(8)]
        assert [one.status_code for one in answers[:5]] == [200] * 5
        late = answers[-1]
        problem(late, 429)
        assert 1 <= int(late.headers["retry-after"]) <= 2
        assert client.get("/healthz").status_code == 200


def test_an_answer_that_takes_too_long_is_503_and_keeps_its_slot_to_the_end() -> None:
    photo = slow_photo()
    options = {"SIMMAP_SERVER_THREADS": "1", "SIMMAP_SERVER_QUEUE": "0", "SIMMAP_SERVER_RUN_SECONDS": "0.05"}
    with serving(**options) as served, served.client() as client:
        answer = client.post("/v1/embed", files=files(image=photo))
        assert "took longer than 0.05 s" in problem(answer, 503)
        assert figure(client, "simmap_slots_taken") == 1
        assert "too many" in problem(client.post("/v1/embed", files=files(image=A)), 503)
        settle(client)
        assert client.post("/v1/embed", files=files(image=A)).status_code == 200


def test_work_of_clients_that_have_left_is_dropped() -> None:
    photo, count = slow_photo(), 8
    body = httpx.Request("POST", "http://x/v1/embed", files=files(image=photo))
    content = body.read()
    head = "".join(f"{name}: {value}\r\n" for name, value in body.headers.items())
    raw = f"POST /v1/embed HTTP/1.1\r\n{head}\r\n".encode() + content
    with serving(SIMMAP_SERVER_THREADS="1", SIMMAP_SERVER_QUEUE="20") as served, served.client() as client:
        streams = [served.connect() for _ in range(count)]
        for stream in streams:
            stream.sendall(raw)
        for stream in streams:
            stream.close()
        settle(client)
        assert figure(client, "simmap_images_total") < count / 2
        assert figure(client, 'simmap_errors_total{kind="left"}') > count / 2
        assert client.post("/v1/embed", files=files(image=A)).status_code == 200


def test_files_and_threads_do_not_grow_with_requests(small: Served) -> None:
    pid = small.process.pid

    def held() -> tuple[int, int]:
        return len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))  # noqa: PTH208

    def ask(_: int) -> None:
        with small.client() as client:
            client.post("/v1/compare", files=files(a=A, b=b"broken"))
            client.post("/v1/compare", files=files(a=A, b=B))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(ask, range(8)))
        time.sleep(0.3)
        before = held()
        list(threads.map(ask, range(24)))
        time.sleep(0.3)
    assert held() <= (before[0] + 2, before[1])


@given(st.lists(st.tuples(st.floats(0, 30), st.sampled_from("ab")), max_size=60), st.integers(1, 600))
def test_no_client_gets_more_than_the_rate_and_its_burst(steps: list[tuple[float, str]], rate: int) -> None:
    now = 0.0
    rates = Rates(rate, lambda: now)
    taken: dict[str, list[float]] = {"a": [], "b": []}
    for wait, name in steps:
        now += wait
        with suppress(ProblemError):
            rates.take(name)
            taken[name].append(now)
    burst = max(1.0, rate / 60 * BURST_SECONDS)
    for times in taken.values():
        for at, start in enumerate(times):
            for count, end in enumerate(times[at:], 1):
                assert count <= burst + (end - start) * rate / 60 + 1e-6


@given(st.integers(1, 600), st.integers(1, 200))
def test_a_client_that_waits_as_it_was_told_is_served(rate: int, count: int) -> None:
    now = 0.0
    rates = Rates(rate, lambda: now)
    served = 0
    for _ in range(count):
        try:
            rates.take("a")
        except ProblemError as problem:
            now += int(problem.headers["Retry-After"])
            rates.take("a")
        served += 1
    assert served == count
