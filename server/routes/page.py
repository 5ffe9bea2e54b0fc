"""The page: files that everybody may read, and what tells it to ask this server."""

from pathlib import Path

from fastapi import FastAPI, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from simmap.engine.engine import DEFAULT_MODEL

from .. import answers
from .access import ServiceOf

FOLDER = Path(__file__).resolve().parents[1] / "page"
HITS = 12  # of a search on the page
_EXAMPLES = DEFAULT_MODEL.parent / "photos"


class Files(StaticFiles):
    """Files with the security headers of the page."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, and let the observer know whose answer it is."""
        scope["simmap.page"] = True
        scope["state"]["page"] = True
        await super().__call__(scope, receive, send)


def add_page(app: FastAPI) -> None:
    """Serve the page at ``/``, where it is installed."""
    if not (FOLDER / "index.html").is_file():
        return
    examples = sorted(_EXAMPLES.glob("*.jpg"))[:2]

    @app.get("/config.json", include_in_schema=False)
    async def config_json(service: ServiceOf) -> Response:
        results = min(HITS, service.settings.max_results)
        config = {
            "backend": "remote",
            "examples": [f"examples/{path.name}" for path in examples],
            "index": None if service.models.current.index is None else {"results": results},
        }
        return answers.as_json(answers.json_bytes(config))

    app.mount("/examples", Files(directory=_EXAMPLES))
    app.mount("/", Files(directory=FOLDER, html=True))
