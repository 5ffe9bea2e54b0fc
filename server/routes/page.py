"""The page: files that everybody may read, and what tells it to ask this server."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import FastAPI, Request, Response
from starlette.staticfiles import StaticFiles

from simmap.engine.engine import DEFAULT_MODEL

from .. import answers
from .access import ServiceOf

FOLDER = Path(__file__).resolve().parents[1] / "page"
HITS = 12  # of a search on the page
_EXAMPLES = DEFAULT_MODEL.parent / "photos"


def add_page(app: FastAPI) -> None:
    """Serve the page at ``/``, where it is installed.

    Each file has a route of its own: no path of a client is ever looked up, and no route of the interface is
    hidden behind a folder.
    """
    if not (FOLDER / "index.html").is_file():
        return
    page, photos = StaticFiles(directory=FOLDER), StaticFiles(directory=_EXAMPLES)
    examples = [path.name for path in sorted(_EXAMPLES.glob("*.jpg"))[:2]]

    @app.get("/config.json", include_in_schema=False)
    async def config(request: Request, service: ServiceOf) -> Response:
        request.scope["simmap.page"] = True
        results = min(HITS, service.settings.max_results)
        facts = {
            "backend": "remote",
            "examples": [f"examples/{name}" for name in examples],
            "index": None if service.models.current.index is None else {"results": results},
        }
        return answers.as_json(answers.json_bytes(facts))

    app.add_route("/", _serves(page, "index.html"), include_in_schema=False)
    for path in sorted(FOLDER.rglob("*")):
        if path.is_file():
            name = path.relative_to(FOLDER).as_posix()
            app.add_route(f"/{name}", _serves(page, name), include_in_schema=False)
    for name in examples:
        app.add_route(f"/examples/{name}", _serves(photos, name), include_in_schema=False)


def _serves(folder: StaticFiles, name: str) -> Callable[[Request], Awaitable[Response]]:
    async def file(request: Request) -> Response:
        request.scope["simmap.page"] = True
        return await folder.get_response(name, request.scope)

    return file
