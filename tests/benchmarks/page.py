"""The page in headless Chromium: ``python tests/benchmarks/page.py [--turns N] [--model M]``.

Prints the bytes that a browser loads, the time to the first result (from the address to the score of the
example), cold (a fresh profile) and warm (a second visit), the time of a pair (both photos decoded, embedded
and compared) once the page is open, and the largest difference from the engine. The files come from this
machine, so a network's time is not in it. Times need a quiet machine; the first row says whether it was one.
"""

import argparse
import gzip
import os
import re
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from playwright.sync_api import Page, Response, sync_playwright

from simmap.engine.engine import DEFAULT_MODEL, Engine
from simmap.engine.types import Array
from simmap.server.ort_web import from_folder, from_npm
from simmap.server.site import write_site
from simmap.server.static import open_server

ROOT = Path(__file__).resolve().parents[2]
ORT_WEB = ROOT / "build" / "node" / "node_modules" / "onnxruntime-web"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
LARGE = (4000, 3000)
TURNS = """
async ([urls, turns]) => {
  const [{ localBackend }, { readPhoto }] = await Promise.all([import('./local.js'), import('./decode.js')]);
  const backend = localBackend(await (await fetch('config.json')).json());
  await backend.open(() => undefined);
  const blobs = await Promise.all(urls.map(async (url) => (await fetch(url)).blob()));
  const times = [];
  let pair;
  for (let turn = 0; turn <= turns; turn++) {
    const start = performance.now();
    pair = await backend.compare(await Promise.all(blobs.map((blob, at) => readPhoto(blob, urls[at]))));
    times.push(performance.now() - start);
  }
  const plain = (values) => values.map((value) => [...value]);
  return {
    times: times.slice(1), score: pair.score, maps: plain(pair.maps), influence: plain(pair.influence),
    threads: crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, 4) : 1,
  };
}
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        site = Path(temporary) / "site"
        runtime = from_folder(ORT_WEB) if ORT_WEB.is_dir() else from_npm()
        write_site(site, options.model, runtime)
        (site / "blank.html").write_text("<!doctype html><title>blank</title><link rel=icon href=data:,>")
        with open_server(site, 0) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            measure(site, f"http://127.0.0.1:{server.server_port}/", options.turns)
            server.shutdown()


def measure(site: Path, url: str, turns: int) -> None:
    """Print all rows."""
    examples = sorted(path.relative_to(site) for path in (site / "examples").glob("*.jpg"))
    for path in examples:
        grown = cv2.resize(cv2.imread(str(site / path)), LARGE, interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(site / f"large_{path.name}"), grown)
    with sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, BROWSERS)), None)
        browser = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        row("browser", f"Chromium {browser.version}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
        cold, warm = [], []
        for _ in range(max(3, turns // 5)):
            with browser.new_context() as context:
                page = context.new_page()
                responses: list[Response] = []
                page.on("response", lambda response, seen=responses: seen.append(response))
                cold.append(first_result(page, url))
                loaded = {response.url for response in responses if response.url.startswith(url)}
                sizes = loaded_bytes(site, loaded, url)
                warm.append(first_result(page, url))
        row("loaded", f"{sizes[0] / 1e6:.2f} MB in {len(loaded)} files, {sizes[1] / 1e6:.2f} MB by gzip")
        row("first result, cold", milliseconds(cold))
        row("first result, warm", milliseconds(warm))
        for name, paths in (
            ("a pair, 0.2 megapixels", [str(path) for path in examples]),
            ("a pair, 12 megapixels", [f"large_{path.name}" for path in examples]),
        ):
            with browser.new_context() as context:
                page = context.new_page()
                page.goto(url + "blank.html")
                shown = page.evaluate(TURNS, [paths, turns])
            row(name, f"{milliseconds(shown['times'])}, {shown['threads']} threads")
            row("  difference", differences(shown, site, paths))
        browser.close()


def first_result(page: Page, url: str) -> float:
    """Milliseconds from the address to the score of the example, which is asked for at once."""
    page.goto("about:blank")
    start = time.perf_counter()
    page.goto(url)
    page.get_by_role("button", name="Try the example").click()
    page.locator("#score .number", has_text=re.compile(r"\d")).wait_for()
    return 1000 * (time.perf_counter() - start)


def loaded_bytes(site: Path, urls: set[str], url: str) -> tuple[int, int]:
    """Bytes of the site's files among these, plain and compressed."""
    names = {part.removeprefix(url).split("?")[0] or "index.html" for part in urls}
    contents = [(site / name).read_bytes() for name in names]
    return sum(map(len, contents)), sum(len(gzip.compress(content, 6)) for content in contents)


def differences(shown: dict[str, Any], site: Path, paths: list[str]) -> str:
    with Engine(site / "model.onnx") as engine:
        pair = engine.compare(*(site / path for path in paths))
    return (
        f"score {abs(shown['score'] - pair.score):.1e}, maps {largest(shown['maps'], pair.maps):.1e}, "
        f"influence {largest(shown['influence'], pair.influence):.1e}"
    )


def largest(values: list[list[float]], expected: tuple[Array, Array]) -> float:
    pairs = zip(values, expected, strict=True)
    return max(float(np.abs(np.array(one) - two.ravel()).max()) for one, two in pairs)


def milliseconds(times: list[float]) -> str:
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return f"{middle:.0f} ms ({low:.0f} to {high:.0f})"


def row(name: str, value: str) -> None:
    print(f"{name:24}{value}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
