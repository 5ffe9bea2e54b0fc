"""A real browser, Node, and the page as `simmap site` writes it.

Where one of them is missing, the tests are skipped with the reason; with SIMMAP_REQUIRE_BROWSER=1 they fail.
"""

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from page_common import BLANK, ORT_WEB, Site, missing

from common import MODEL

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# No request of the browser's own.
ARGUMENTS = [
    "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--use-fake-device-for-media-stream",
]  # fmt: skip


@pytest.fixture(scope="session")
def runtime() -> dict[str, bytes]:
    """The files of onnxruntime-web, with those for a GPU."""
    from simmap.server.ort_web import CPU, WEBGPU, from_folder

    if not ORT_WEB.is_dir():
        missing("no onnxruntime-web below build/node; install it with: make page")
    return from_folder(ORT_WEB, (CPU, WEBGPU))


@pytest.fixture(scope="session")
def node() -> str:
    """The path of Node."""
    return shutil.which("node") or missing("no Node; install it with: apt-get install nodejs")


@pytest.fixture(scope="session")
def launch() -> Iterator[Callable[..., Any]]:
    """Launch headless Chromium, the system's or Playwright's own, with more arguments."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("no Playwright; install it with: pip install playwright")
    with sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, BROWSERS)), None)
        if found is None and not Path(playwright.chromium.executable_path).is_file():
            missing("no Chromium; install it with: apt-get install chromium, or: playwright install chromium")
        yield lambda *arguments: playwright.chromium.launch(
            executable_path=found, args=[*ARGUMENTS, *arguments]
        )


@pytest.fixture(scope="session")
def browser(launch: Callable[..., Any]) -> Iterator[Any]:
    """Headless Chromium."""
    with launch("--disable-gpu") as launched:
        yield launched


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[[Path], str]]:
    """Serve a folder as `simmap site --serve` does, and give its address."""
    from simmap.server.static import open_server

    servers = []

    def start(folder: Path) -> str:
        server = open_server(folder, 0)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def site(
    runtime: dict[str, bytes], serve: Callable[[Path], str], tmp_path_factory: pytest.TempPathFactory
) -> Site:
    """The page with the model that ships, for CPU and GPU."""
    from simmap.server.site import write_site

    folder = tmp_path_factory.mktemp("page") / "site"
    write_site(folder, MODEL, runtime)
    (folder / BLANK).write_text("<!doctype html><title>blank</title><link rel=icon href=data:,>")
    return Site(folder, serve(folder))


@pytest.fixture
def tab(browser: Any, site: Site) -> Iterator[Any]:
    """A tab of a fresh profile, on a blank page of the site.

    After the test: nothing was asked of another origin, and no script raised an error.
    """
    with browser.new_context() as context:
        page = context.new_page()
        asked: list[str] = []
        errors: list[str] = []
        context.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(site.url + BLANK)
        yield page
    assert [url for url in asked if not url.startswith((site.url, "blob:", "data:"))] == []
    assert errors == []
