"""Every operation of the OpenAPI document, on values that it allows and on others: no fault of the server."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from serving import KEYS, Served

requests = pytest.importorskip("requests")
schemathesis = pytest.importorskip("schemathesis")
from schemathesis import GenerationMode  # noqa: E402
from schemathesis.specs.openapi import checks as openapi_checks  # noqa: E402

CHECKS = [
    schemathesis.checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_schema_conformance,
]


def operations() -> list[str]:
    """All of them; a server has the same whatever its model."""
    return [
        "POST /v1/compare",
        "POST /v1/embed",
        "POST /v1/maps",
        "POST /v1/search",
        "GET /v1/images/{id}",
        "POST /v1/index/images",
        "DELETE /v1/index/images/{id}",
        "GET /v1/model",
        "GET /healthz",
        "GET /readyz",
        "GET /metrics",
        "POST /v1/admin/reload",
        "GET /v2",
        "GET /v2/health/live",
        "GET /v2/health/ready",
        "GET /v2/models/{name}",
        "GET /v2/models/{name}/ready",
        "POST /v2/models/{name}/infer",
        "GET /v2/models/{name}/versions/{version}",
        "GET /v2/models/{name}/versions/{version}/ready",
        "POST /v2/models/{name}/versions/{version}/infer",
    ]


@pytest.fixture(scope="module")
def document(indexed: tuple[Served, Path]) -> Any:
    return schemathesis.openapi.from_url(f"{indexed[0].url}/openapi.json")


@pytest.mark.parametrize("label", operations())
def test_no_request_is_a_fault_of_the_server(document: Any, label: str) -> None:
    method, path = label.split()
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {KEYS['all']}"
        for mode in GenerationMode:

            @settings(max_examples=10, suppress_health_check=list(HealthCheck), deadline=None)
            @given(case=document[path][method].as_strategy(generation_mode=mode))
            def validate(case: Any) -> None:
                case.call_and_validate(session=session, checks=CHECKS)

            try:
                validate()
            except Unsatisfiable:  # an operation without parameters has no wrong ones
                assert mode == GenerationMode.NEGATIVE


def test_every_operation_is_tried(document: Any) -> None:
    assert {result.ok().label for result in document.get_all_operations()} == set(operations())


def test_the_document_has_examples_and_a_problem_for_every_route(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert "examples" in document["components"]["schemas"]["Comparison"]["properties"]["score"]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["summary"] and operation.get("description"), path
            if path.startswith("/v1"):
                content = operation["responses"]["401"]["content"]
                assert content == {
                    "application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}
                }
                assert operation["security"] == [{"HTTPBearer": []}]
