"""The page in a real browser, with the real runtime, against the engine."""

import io
import json
import shutil
import threading
import zlib
from base64 import b64encode
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_common import BLANK, Site, in_browser
from photo_kinds import write_kinds
from PIL import Image

from common import ARTIFACTS, PHOTOS
from simmap.engine.contract import Contract
from simmap.engine.engine import Engine
from simmap.engine.results import Pair
from simmap.server.site import page_contract

COSINE = 0.9999  # of the browser's embedding with the engine's
TOLERANCE = 2e-6  # of a score and of what a place adds to it; float32 sums in another order
MODELS = sorted(path.stem for path in ARTIFACTS.glob("*.onnx") if path.stem != "fragile")

OPEN = """
  const { localBackend } = await import('./local.js');
  const { readPhoto } = await import('./decode.js');
  const backend = localBackend(given.config ?? (await (await fetch('config.json')).json()));
  const steps = [];
  const model = await backend.open((done, total) => steps.push([done, total]));
  const read = async (url) => readPhoto(await (await fetch(url)).blob(), url.split('/').pop());
"""
PAIRS = """
  const plain = (value) => (ArrayBuffer.isView(value) ? [...value] : value);
  const shown = [];
  for (const urls of given.pairs) {
    const pair = await backend.compare(await Promise.all(urls.map(read)));
    shown.push(Object.fromEntries(Object.entries(pair).map(([name, value]) =>
      [name, Array.isArray(value) ? value.map(plain) : plain(value)])));
  }
  return shown;
"""


@pytest.fixture(scope="module")
def photos(site: Site) -> list[str]:
    """The addresses, below the site's, of photos of many kinds."""
    folder = site.folder / "photos"
    folder.mkdir()
    return [f"photos/{path.name}" for path in write_kinds(folder)]


@pytest.fixture(scope="module")
def configs(site: Site) -> dict[str, dict[str, Any]]:
    """A configuration for each small artifact, put beside the page."""
    shown = json.loads((site.folder / "config.json").read_text())
    folder = site.folder / "models"
    folder.mkdir()
    configs = {}
    for path in ARTIFACTS.glob("*.onnx"):
        shutil.copy(path, folder)
        contract = Engine(path).contract
        (folder / f"{path.stem}.json").write_text(json.dumps(page_contract(path.stem, contract)))
        model = {"path": f"models/{path.name}", "bytes": path.stat().st_size}
        configs[path.stem] = {**shown, "model": model, "contract": f"models/{path.stem}.json"}
    return configs


def encoded(form: str) -> bytes:
    stream = io.BytesIO()
    Image.open(PHOTOS / "buddha_a.jpg").save(stream, form)
    return stream.getvalue()


def huge(form: str) -> bytes:
    """A small file of 400 megapixels."""
    stream = io.BytesIO()
    Image.new("L", (16, 16)).save(stream, form)
    data = stream.getvalue()
    if form == "PNG":
        chunk = data[12:16] + 2 * (20000).to_bytes(4) + data[24:29]
        return data[:12] + chunk + zlib.crc32(chunk).to_bytes(4) + data[33:]
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + 2 * (20000).to_bytes(2) + data[at + 4 :]


def large(urls: list[str]) -> list[str]:
    return [url for url in urls if url.split("?")[0].endswith((".onnx", ".wasm"))]


def damaged(png: bytes) -> bytes:
    return png[:1000] + bytes(500) + png[1500:]


def differences(shown: dict[str, Any], pair: Pair) -> dict[str, float]:
    """The largest difference of each part of what the page shows from the engine's."""
    first, second = pair.images
    places = [image.parts.reshape(-1, image.embedding.size) for image in pair.images]
    lengths = np.linalg.norm(first.embedding) * np.linalg.norm(second.embedding)
    expected = {
        "score": pair.score,
        "residuals": pair.residuals,
        "maps": [values.ravel() for values in pair.maps],
        "influence": [values.ravel() for values in pair.influence],
        "points": (places[0] @ places[1].T / lengths).ravel(),
    }
    return {
        name: float(max(np.abs(np.asarray(one) - two).max() for one, two in zip(
            np.atleast_2d(shown[name]), np.atleast_2d(value), strict=True)))
        for name, value in expected.items()
    }  # fmt: skip


def check_grids(shown: dict[str, Any], pair: Pair, contract: Contract) -> None:
    for grid, image in zip(shown["grids"], pair.images, strict=True):
        assert (grid["rows"], grid["columns"]) == image.parts.shape[:2]
        corners = (grid["x"], grid["y"], grid["x"] + grid["width"], grid["y"] + grid["height"])
        assert corners == pytest.approx(image.geometry.field, abs=1e-9)
    assert shown["model"]["fingerprint"] == contract.fingerprint


def test_embeddings_are_those_of_the_engine_for_photos_of_every_kind(
    tab: Any, site: Site, photos: list[str]
) -> None:
    body = (
        OPEN
        + """
      const embeddings = [];
      for (const url of given.photos) {
        embeddings.push([...(await backend.embed(await read(url), 0)).explained.embedding]);
      }
      return embeddings;
    """
    )
    cosines = {}
    with Engine() as engine:
        for url, shown in zip(photos, in_browser(tab, body, photos=photos), strict=True):
            (image,) = engine.vectors([site.folder / url])
            vector = np.array(shown)
            cosines[url] = vector @ image.embedding / np.linalg.norm(vector) / np.linalg.norm(image.embedding)
    assert len(cosines) >= 20
    assert {url: cosine for url, cosine in cosines.items() if not cosine >= COSINE} == {}


def test_the_model_that_ships_gives_the_pair_of_the_engine(tab: Any, site: Site) -> None:
    examples = [f"examples/{name}.jpg" for name in ("buddha_a", "buddha_b")]
    (shown,) = in_browser(tab, OPEN + PAIRS, pairs=[examples])
    with Engine() as engine:
        pair = engine.compare(*(site.folder / url for url in examples))
        found = differences(shown, pair)
        assert max(found.values()) <= TOLERANCE, found
        check_grids(shown, pair, engine.contract)
    for values, residual in zip(shown["maps"], shown["residuals"], strict=True):
        assert sum(values) + residual == pytest.approx(shown["score"], abs=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_every_pooling_and_head_gives_the_pair_of_the_engine(
    tab: Any, site: Site, configs: dict[str, Any], photos: list[str], name: str
) -> None:
    pairs = [["photos/aero1.jpg", "photos/turned_6.jpg"], ["photos/tall.png", "photos/box.png"]]
    with Engine(ARTIFACTS / f"{name}.onnx") as engine:
        for urls, shown in zip(
            pairs, in_browser(tab, OPEN + PAIRS, config=configs[name], pairs=pairs), strict=True
        ):
            pair = engine.compare(*(site.folder / url for url in urls))
            found = differences(shown, pair)
            assert max(found.values()) <= TOLERANCE, found
            check_grids(shown, pair, engine.contract)


def test_a_photo_without_an_embedding_is_refused_by_its_place_and_name(
    tab: Any, site: Site, configs: dict[str, Any], photos: list[str]
) -> None:
    for name, colour in (("black", 0), ("white", 255)):
        Image.new("RGB", (20, 20), (colour,) * 3).save(site.folder / "photos" / f"{name}.png")
    body = (
        OPEN
        + """
      const photos = await Promise.all(given.photos.map(read));
      const error = await backend.compare(photos).catch((error) => error);
      return [error.name, error.photo, error.message];
    """
    )
    for at, (name, words) in enumerate((("black", "NaN"), ("white", "zero embedding"))):
        pair = ["photos/box.png", "photos/box.png"]
        pair[at] = f"photos/{name}.png"
        kind, photo, message = in_browser(tab, body, config=configs["fragile"], photos=pair)
        assert (kind, photo) == ("PhotoError", at)
        assert message.startswith(f"{name}.png ") and words in message and message.endswith(".")


def test_files_that_are_no_photo_are_refused_in_one_sentence(tab: Any) -> None:
    jpeg = (PHOTOS / "buddha_a.jpg").read_bytes()
    files = {
        "empty.jpg": (b"", "is empty"),
        "text.jpg": (b"hello", "is not an image"),
        "cut.jpg": (jpeg[: len(jpeg) // 2], "is cut off"),
        "cut.png": (encoded("PNG")[:2000], "is cut off"),
        "cut.webp": (encoded("WEBP")[:2000], "is cut off"),
        "damaged.png": (damaged(encoded("PNG")), "is a damaged PNG"),
        "scan.tiff": (encoded("TIFF"), "is a TIFF"),
        "huge.png": (huge("PNG"), "has 20000 x 20000 pixels"),
        "huge.jpg": (huge("JPEG"), "has 20000 x 20000 pixels"),
        "phone.heic": (b"\0\0\0\x18ftypheic" + bytes(100), "is a HEIC"),
    }
    body = """
      const { readPhoto } = await import('./decode.js');
      const blob = new Blob([Uint8Array.from(atob(given.data), (c) => c.charCodeAt(0))]);
      return readPhoto(blob, given.name).then(() => 'read', (error) => [error.name, error.message]);
    """
    for name, (data, words) in files.items():
        kind, message = in_browser(tab, body, data=b64encode(data).decode(), name=name)
        assert kind == "PhotoError", name
        assert message.startswith(f"{name} {words}") and message.endswith("."), message
        assert message.count(".") == 2 and ";" in message, message


def test_a_second_visit_loads_model_and_runtime_from_the_cache_of_the_browser(tab: Any) -> None:
    asked: list[str] = []
    tab.context.on("request", lambda request: asked.append(request.url))
    body = OPEN + "return { steps, model };"
    first = in_browser(tab, body)
    assert len(large(asked)) == 2
    done, total = first["steps"][-1]
    assert done == total > 20e6 and first["steps"] == sorted(first["steps"])
    tab.reload()
    asked.clear()
    assert in_browser(tab, body)["model"] == first["model"]
    assert asked and not large(asked)


def test_a_page_forgets_what_an_older_one_has_kept_and_leaves_other_pages_theirs(
    browser: Any, site: Site, serve: Callable[[Path], str]
) -> None:
    url = f"{serve(site.folder.parent)}site/"
    old = """
      const cache = await caches.open('simmap');
      await cache.put('model.onnx?older', new Response('old'));
      await cache.put('/elsewhere/model.onnx', new Response('old'));
    """
    kept = "return (await cache.keys()).map(({ url }) => new URL(url).pathname + new URL(url).search);"
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(url + BLANK)
        names = in_browser(page, old + OPEN + kept)
    assert "/elsewhere/model.onnx" in names and "/site/model.onnx?older" not in names
    assert len(names) == 3


def test_a_host_without_our_headers_serves_the_page_on_one_thread(browser: Any, site: Site) -> None:
    handler = partial(SimpleHTTPRequestHandler, directory=str(site.folder))
    body = OPEN + PAIRS.replace("return shown", "return [crossOriginIsolated, shown[0].score]")
    examples = [f"examples/{name}.jpg" for name in ("buddha_a", "buddha_b")]
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, browser.new_context() as context:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/{BLANK}")
        isolated, score = in_browser(page, body, pairs=[examples])
        server.shutdown()
    assert not isolated
    with Engine() as engine:
        expected = engine.compare(*(site.folder / url for url in examples)).score
    assert score == pytest.approx(expected, abs=TOLERANCE)


def test_a_photo_is_embedded_once(tab: Any) -> None:
    body = (
        """
      const tasks = [];
      const post = Worker.prototype.postMessage;
      Worker.prototype.postMessage = function (message) {
        tasks.push(message.name);
        post.call(this, message);
      };
    """
        + OPEN
        + """
      const [one, two] = await Promise.all(given.photos.map(read));
      const three = await read(given.photos[0]);
      await backend.compare([one, two]);
      await backend.compare([two, one]);
      await backend.compare([one, three]);
      return tasks;
    """
    )
    tasks = in_browser(tab, body, photos=["examples/buddha_a.jpg", "examples/buddha_b.jpg"])
    assert tasks == ["open", "embed", "embed", "compare", "compare", "embed", "compare"]


def test_a_comparison_that_is_aborted_ends_with_the_reason(tab: Any) -> None:
    body = (
        OPEN
        + """
      const photos = await Promise.all(given.photos.map(read));
      const control = new AbortController();
      const early = backend.compare(photos, AbortSignal.abort('early')).catch((reason) => reason);
      const late = backend.compare(photos, control.signal).catch((reason) => reason);
      control.abort('late');
      return [await early, await late, (await backend.compare(photos)).score];
    """
    )
    early, late, score = in_browser(tab, body, photos=["examples/buddha_a.jpg", "examples/buddha_b.jpg"])
    assert (early, late) == ("early", "late")
    assert 0 < score < 1


def test_noise_on_pixels_that_are_read_back_is_noticed(tab: Any) -> None:
    body = """
      const { addsNoise } = await import('./pixels.js');
      const before = await addsNoise();
      const read = OffscreenCanvasRenderingContext2D.prototype.getImageData;
      OffscreenCanvasRenderingContext2D.prototype.getImageData = function (...area) {
        const image = read.apply(this, area);
        image.data[4 * 77] ^= 1;
        return image;
      };
      return [before, await addsNoise()];
    """
    assert in_browser(tab, body) == [False, True]


def test_a_model_that_is_not_there_is_named(tab: Any, configs: dict[str, Any]) -> None:
    body = """
      const { localBackend } = await import('./local.js');
      window.backend ??= localBackend(given.config);
      return window.backend.open(() => undefined).then(() => 'open', (error) => error.message);
    """
    for part in ("model", "contract"):
        config = {
            **configs["avg"],
            part: {"path": "gone.onnx", "bytes": 1} if part == "model" else "gone.json",
        }
        message = in_browser(tab, "delete window.backend;" + body, config=config)
        assert "gone" in message and "404" in message and "simmap site" in message
    tab.context.set_offline(True)
    message = in_browser(tab, body)
    assert message.endswith("cannot be loaded; check the connection and try again")


def test_a_gpu_gives_what_the_cpu_gives_or_is_not_taken(launch: Callable[..., Any], site: Site) -> None:
    body = """
      const { Network } = await import('./network.js');
      const config = await (await fetch('config.json')).json();
      const { script, loader, wasm } = config.webgpu;
      const at = (path) => new URL(path, document.baseURI).href;
      const load = async (path) => (await fetch(path)).arrayBuffer();
      const contract = await (await fetch(config.contract)).json();
      const model = new Uint8Array(await load(config.model.path));
      const files = { loader: at(loader), wasm: await load(wasm.path) };
      const cpu = await Network.open(await import(at(script)), files, model, contract);
      const gpu = await cpu.onGpu(model);
      const noise = Uint8Array.from({ length: 224 * 224 * 3 }, () => 256 * Math.random());
      const [one, other] = [await cpu.explain(noise), await gpu.explain(noise)];
      const run = cpu.run;
      cpu.run = async (pixels) => (await run.call(cpu, pixels)).map((values) => values.map((v) => 1.001 * v));
      return {
        one: [...one.embedding], other: [...other.embedding],
        wrong: await cpu.onGpu(model), broken: await cpu.onGpu(new Uint8Array(10)),
      };
    """
    # A GPU that is computed on the CPU: slow, and so not taken by the page itself.
    with launch("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader") as browser:
        page = browser.new_page()
        page.goto(site.url + BLANK)
        shown = in_browser(page, body)
        device = in_browser(page, OPEN + "return model.device;")
    assert np.allclose(shown["one"], shown["other"], rtol=1e-4, atol=1e-5)
    assert shown["one"] != shown["other"]
    assert shown["wrong"] is None and shown["broken"] is None
    assert device == "WebAssembly"


def test_the_content_security_policy_holds_and_the_page_is_isolated(tab: Any) -> None:
    body = """
      const refused = await new Promise((resolve) => {
        document.addEventListener('securitypolicyviolation', (event) => resolve(event.effectiveDirective));
        const script = document.createElement('script');
        script.textContent = 'document.title = "run"';
        document.head.append(script);
      });
      return [refused, document.title, crossOriginIsolated];
    """
    assert in_browser(tab, body) == ["script-src-elem", "blank", True]
