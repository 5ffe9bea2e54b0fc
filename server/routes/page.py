"""The page: files that everybody may read, and what tells it to ask this server."""

from pathlib import Path

from fastapi import FastAPI, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from simmap.engine.engine import DEFAULT_MODEL

from .. import answers

FOLDER = Path(__file__).resolve().parents[1] / "page"
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
    config = {"backend": "remote", "examples": [f"examples/{path.name}" for path in examples]}

    @app.get("/config.json", include_in_schema=False)
    async def config_json() -> Response:
        return answers.as_json(answers.json_bytes(config))

    app.mount("/examples", Files(directory=_EXAMPLES))
    app.mount("/", Files(directory=FOLDER, html=True))
