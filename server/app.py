"""The application: routes, and how their errors are answered."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from .documents import ProblemDocument
from .observer import Observer
from .problems import ProblemError, answer
from .routes import health, images, index, inference, search
from .routes.page import add_page
from .service import Service


def make_app(service: Service) -> ASGIApp:
    """The application of a service, with its observer around it."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.pool.close()

    # The pages of FastAPI's own documentation load scripts from elsewhere.
    app = FastAPI(
        title="simmap",
        version=metadata.version("simmap"),
        description="Which regions make two images similar, exactly.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.service = service
    for routes in (images, search, index, health, inference):
        app.include_router(routes.router)
    add_page(app)
    app.add_exception_handler(ProblemError, _problem)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _crash)
    _describe(app)
    return Observer(app, service)


def _describe(app: FastAPI) -> None:
    """The OpenAPI document with our form of errors in place of FastAPI's."""
    made = app.openapi

    def openapi() -> dict[str, object]:
        if app.openapi_schema is None:
            schema = made()
            schemas = schema.setdefault("components", {}).setdefault("schemas", {})
            schemas["ProblemDocument"] = ProblemDocument.model_json_schema()
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            for path in schema["paths"].values():
                for operation in path.values():
                    answers = operation.get("responses", {})
                    if "422" in answers:
                        answers["422"]["content"] = answers["401"]["content"] if "401" in answers else {}
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    return answer(error, request)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kinds = {
        404: ("not-found", "there is nothing at this address"),
        405: ("method", "this address has other methods"),
    }
    kind, detail = kinds.get(error.status_code, ("http", str(error.detail)))
    return answer(ProblemError(error.status_code, kind, detail, headers=dict(error.headers or {})), request)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = str(first["loc"][-1])
    return answer(ProblemError(422, "field", f"{name}: {first['msg']}", name), request)


async def _crash(request: Request, _: Exception) -> Response:
    return answer(ProblemError(500, "bug", "this is a fault of the server; its log has more"), request)
