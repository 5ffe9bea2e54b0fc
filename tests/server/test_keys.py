"""Who may do what, permission by permission."""

import hashlib
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import KEYS, A, B, Served, bearer, files, noise, problem

from simmap.server.keys import Permission, check
from simmap.server.problems import ProblemError
from simmap.server.settings import Key

ROUTES = {
    "read": [
        ("POST", "/v1/compare"), ("POST", "/v1/embed"), ("POST", "/v1/maps"), ("GET", "/v1/model"),
        ("GET", "/v2/models/embed"), ("GET", "/v2/models/embed/ready"), ("POST", "/v2/models/compare/infer"),
        ("GET", "/v2/models/embed/versions/1"), ("POST", "/v2/models/embed/versions/1/infer"),
    ],
    "search": [("POST", "/v1/search"), ("GET", "/v1/images/others/home.jpg")],
    "change": [("POST", "/v1/index/images"), ("DELETE", "/v1/index/images/none.jpg")],
    "admin": [("POST", "/v1/admin/reload")],
}  # fmt: skip


@pytest.mark.parametrize("permission", ROUTES)
def test_a_route_takes_only_keys_with_its_permission(indexed: tuple[Served, Path], permission: str) -> None:
    with indexed[0].client() as client:
        for method, path in ROUTES[permission]:
            for headers in (
                {},
                {"Authorization": "Bearer no"},
                {"Authorization": f"Basic {KEYS[permission]}"},
            ):
                refused = client.request(method, path, headers=headers)
                problem(refused, 401)
                assert refused.headers["www-authenticate"] == "Bearer"
            for name in KEYS:
                answer = client.request(method, path, headers=bearer(name))
                if name in (permission, "all"):
                    assert answer.status_code not in (401, 403), (path, name)
                else:
                    assert permission in problem(answer, 403), (path, name)


def test_health_needs_no_key_and_metrics_needs_any(indexed: tuple[Served, Path]) -> None:
    with indexed[0].client() as client:
        assert client.get("/healthz").json() == {"status": "alive"}
        assert client.get("/readyz").json() == {"status": "ready"}
        assert client.get("/v2/health/ready").status_code == 200
        problem(client.get("/metrics"), 401)
        for name in KEYS:
            assert "simmap_index_images 1" in client.get("/metrics", headers=bearer(name)).text


def test_a_key_stands_in_no_log_and_its_name_does(indexed: tuple[Served, Path]) -> None:
    served = indexed[0]
    with served.client(headers=bearer("read")) as client:
        answer = client.post("/v1/compare", files=files(a=A, b=B))
    line = served.wait("request", request_id=answer.headers["x-request-id"])
    assert line["key"] == "read"
    assert not any(key in str(line) for line in served.lines for key in KEYS.values())


def test_without_keys_nobody_changes_anything(client: httpx.Client) -> None:
    problem(client.post("/v1/index/images", files=files(image=noise(1))), 403)
    problem(client.delete("/v1/index/images/x"), 403)
    problem(client.post("/v1/admin/reload"), 403)


@given(st.text(max_size=20), st.text(max_size=20), st.booleans(), st.booleans())
def test_exactly_the_bearer_of_a_key_has_its_permissions(
    key: str, sent: str, read: bool, search: bool
) -> None:
    permissions: list[tuple[Permission | None, bool]] = [("read", read), ("search", search), (None, True)]
    keys = {
        "other": Key(hashlib.sha256(b"other").hexdigest(), read=True, search=True),
        "one": Key(hashlib.sha256(key.encode()).hexdigest(), read=read, search=search),
    }
    for permission, allowed in permissions:
        known = sent in (key, "other")
        if known and (sent == "other" or allowed):
            assert check(keys, sent, permission) == ("other" if sent == "other" else "one")
            continue
        with pytest.raises(ProblemError) as refused:
            check(keys, sent, permission)
        assert refused.value.status == (403 if known else 401)
