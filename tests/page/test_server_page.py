"""The page of a real server with a real index, in a real browser."""

import base64
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from serving import Served, key_setting, serving

from common import PHOTOS, SAMPLES
from simmap.engine import Engine

PATIENCE = 60_000  # ms: a slow machine is not a failure
A, B, BOX = PHOTOS / "buddha_a.jpg", PHOTOS / "buddha_b.jpg", SAMPLES / "box.png"


def command(*arguments: object) -> str:
    """What a command of simmap prints."""
    done = subprocess.run(
        [sys.executable, "-m", "simmap.cli", *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of nine photos in two classes, by the model that ships."""
    folder = tmp_path_factory.mktemp("page_index")
    for label, paths in (
        ("buddhas", PHOTOS.glob("*.jpg")),
        ("others", [*SAMPLES.glob("*.jpg"), *SAMPLES.glob("*.png")]),
    ):
        (folder / "photos" / label).mkdir(parents=True)
        for path in paths:
            shutil.copy(path, folder / "photos" / label)
    command("index", "build", folder / "photos", "-o", folder / "index")
    return folder / "index"


@pytest.fixture(scope="module")
def searching(index: Path) -> Iterator[Served]:
    """A server of the index."""
    with serving("--index", index) as served:
        yield served


class Tab:
    """A tab of a fresh profile, and what has gone wrong in it."""

    def __init__(self, browser: Any) -> None:
        self.context = browser.new_context(viewport={"width": 1280, "height": 900})
        self.page, self.wrong = self.context.new_page(), list[str]()

    def open(self, served: Served) -> Any:
        page = self.page
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("console", lambda line: "Content Security" in line.text and self.wrong.append(line.text))
        page.on("request", lambda request: self.check(request.url, served.url))
        page.add_init_script(KEEP_FIELDS)
        answer = page.goto(served.url)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        return page

    def check(self, url: str, origin: str) -> None:
        if not url.startswith((f"{origin.rstrip('/')}/", "blob:", "data:")):
            self.wrong.append(url)


@pytest.fixture
def tab(browser: Any) -> Iterator[Tab]:
    """After the test, no script has failed, no policy was broken, and nothing was asked of another origin."""
    made = Tab(browser)
    yield made
    made.context.close()
    assert made.wrong == []


def says(page: Any, selector: str, text: str | re.Pattern[str]) -> None:
    from playwright.sync_api import expect

    expect(page.locator(selector)).to_contain_text(text, timeout=PATIENCE)


def becomes(page: Any, condition: str) -> None:
    """Wait for a condition; the browser's own waiting is refused by the page's content policy."""
    deadline = time.monotonic() + PATIENCE / 1000
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        page.wait_for_timeout(20)


def give(page: Any, side: str, path: Path) -> None:
    page.locator(f"#file-{side}").set_input_files(path)
    says(page, f"#foot-{side} .title", path.name)


def search(page: Any, button: str) -> list[str]:
    """What the hits say after a search."""
    page.get_by_role("button", name=button, exact=True).click()
    says(page, "#found", "best first")
    return [" ".join(text.split()) for text in page.locator(".hit").all_text_contents()]


def drag(page: Any, side: str, tool: str, *points: tuple[float, float]) -> None:
    """Draw through points, in shares of the photo's width and height."""
    page.get_by_role("radio", name=tool).check()
    box = page.locator(f"#panel-{side} canvas").bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=4)
    page.mouse.up()


def results(index: Path, *arguments: object) -> list[dict[str, Any]]:
    """What `simmap search` finds."""
    data = json.loads(command("search", index, *arguments, "-k", "12", "--json"))
    found: list[dict[str, Any]] = data["results"]
    return found


def texts(index: Path, found: list[dict[str, Any]]) -> list[str]:
    """What the page is to say of it."""
    said = []
    for one in found:
        region = f"region {one['region_score']:.3f} " if "region_score" in one else ""
        name = Path(one["path"]).relative_to(index.parent / "photos")
        said.append(f"{region}score {one['score']:.3f} {one['label']} {name}")
    return said


# Keeps what the page appends to forms: the browser's protocol gives no body that holds files.
KEEP_FIELDS = """
  window.fields = {};
  const append = FormData.prototype.append;
  FormData.prototype.append = function (name, value, ...rest) {
    window.fields[name] = value;
    append.call(this, name, value, ...rest);
  };
"""


def sent_field(page: Any, name: str) -> bytes:
    """The content of a field that the page has sent."""
    text: str = page.evaluate(
        """async (name) => {
          const bytes = new Uint8Array(await new Blob([window.fields[name]]).arrayBuffer());
          return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(''));
        }""",
        name,
    )
    return base64.b64decode(text)


def test_the_example_has_the_engines_score(tab: Tab, searching: Served) -> None:
    page = tab.open(searching)
    page.get_by_role("button", name="Try the example").click()
    with Engine() as engine:
        pair = engine.compare(A, B)
    says(page, "#score", f"{pair.score:.3f}")
    says(page, "#score", f"Each map sums to {pair.score:.3f}.")
    says(page, "#privacy", "Photos are sent to this server only.")


def test_a_search_finds_what_the_command_finds(tab: Tab, searching: Served, index: Path) -> None:
    page = tab.open(searching)
    assert page.locator("#search").is_hidden()
    give(page, "a", B)
    assert search(page, "Search with A") == texts(index, results(index, B))
    says(page, "#found", "9 images most similar to A")


def test_a_rectangle_is_searched_for_as_by_the_command(tab: Tab, searching: Served, index: Path) -> None:
    page = tab.open(searching)
    give(page, "a", B)
    drag(page, "a", "Rectangle", (0.3, 0.1), (0.7, 0.5))
    hits = search(page, "Search this region of A")
    ((x, y, width, height),) = json.loads(sent_field(page, "regions"))
    size = cv2.imread(str(B)).shape
    assert np.allclose(
        [x, y, width, height], [0.3 * size[1], 0.1 * size[0], 0.4 * size[1], 0.4 * size[0]], atol=4
    )
    assert hits == texts(index, results(index, B, "--region", f"{x},{y},{width},{height}"))


def test_a_lasso_is_searched_for_as_a_mask(tab: Tab, searching: Served, index: Path, tmp_path: Path) -> None:
    page = tab.open(searching)
    give(page, "a", B)
    drag(page, "a", "Lasso", (0.2, 0.2), (0.6, 0.2), (0.6, 0.8))
    hits = search(page, "Search this region of A")
    path = tmp_path / "mask.png"
    path.write_bytes(sent_field(page, "mask"))
    mask = cv2.imread(str(path))
    assert mask.shape == cv2.imread(str(B)).shape
    inside = mask.max(axis=2) >= 128
    height, width = inside.shape
    assert inside.mean() == pytest.approx(0.5 * 0.4 * 0.6, abs=0.01)
    assert inside[int(0.3 * height), int(0.5 * width)] and not inside[int(0.7 * height), int(0.3 * width)]
    assert hits == texts(index, results(index, B, "--mask", path))


def test_a_click_makes_a_hit_photo_b_with_the_hits_score(tab: Tab, searching: Served, index: Path) -> None:
    page = tab.open(searching)
    give(page, "a", B)
    search(page, "Search with A")
    second = results(index, B)[1]
    page.locator(".hit").nth(1).click()
    says(page, "#foot-b .title", "buddha_a.jpg")
    says(page, "#score", f"{second['score']:.3f}")
    assert page.locator(".hit[aria-pressed=true]").count() == 1
    assert page.locator(".hit").nth(1).get_attribute("aria-pressed") == "true"


def test_a_region_stays_while_hits_change_and_sums_to_their_region_score(
    tab: Tab, searching: Served, index: Path
) -> None:
    page = tab.open(searching)
    give(page, "a", B)
    drag(page, "a", "Rectangle", (0.3, 0.1), (0.7, 0.5))
    for at, hit in list(enumerate(search(page, "Search this region of A")))[1:3]:
        button = page.locator(".hit").nth(at)
        button.focus()
        page.keyboard.press("Enter")
        says(page, "#foot-b .title", hit.rpartition("/")[2])
        part, score = re.findall(r"\d\.\d{3}", hit)
        says(page, "#score", score)
        says(page, "#marked", re.compile("Region of A: contribution"))
        shown = re.search(r"contribution (\d\.\d{4}) of", page.locator("#marked").text_content())
        assert shown is not None and float(shown[1]) == pytest.approx(float(part), abs=6e-4)


def test_hits_go_with_the_photo_that_was_searched_for(tab: Tab, searching: Served) -> None:
    page = tab.open(searching)
    give(page, "a", B)
    search(page, "Search with A")
    give(page, "b", BOX)
    assert page.locator(".hit").count() == 9
    give(page, "a", BOX)
    assert page.locator(".hit").count() == 0
    says(page, "#found", re.compile("^$"))


# Whether the first thumbnail has colours; that of a grey photo has them from its heat alone.
COLOURFUL = """() => {
  const canvas = document.querySelector('.hit canvas');
  const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  let sum = 0;
  for (let at = 0; at < data.length; at += 4) sum += Math.abs(data[at] - data[at + 2]);
  return sum / (data.length / 4) > 10;
}"""


def test_thumbnails_have_heat_which_photo_takes_away(tab: Tab, searching: Served) -> None:
    page = tab.open(searching)
    give(page, "a", BOX)  # which is grey
    give(page, "b", B)
    says(page, "#score", "cosine")
    search(page, "Search with A")
    becomes(page, COLOURFUL)
    page.get_by_role("radio", name="Photo", exact=True).check()
    becomes(page, f"!({COLOURFUL})()")
    page.get_by_role("radio", name="Heat", exact=True).check()
    becomes(page, COLOURFUL)


def test_a_photo_that_the_server_refuses_is_named_in_its_sentence(
    tab: Tab, index: Path, tmp_path: Path
) -> None:
    config = tmp_path / "server.yaml"
    config.write_text("max_pixels: 1000000\n")
    large = tmp_path / "large.png"
    cv2.imwrite(str(large), np.zeros((1100, 1000, 3), np.uint8))
    with serving("--index", index, "--config", config) as served:
        page = tab.open(served)
        give(page, "b", large)
        says(page, "#search-button", "Search with B")
        page.locator("#search-button").click()
        says(page, "#search .error", "Nothing was searched: large.png")
        give(page, "a", BOX)
        says(page, "#foot-b .error", "large.png")
        says(page, "#foot-b .error", "1000000")


def test_a_hit_whose_file_has_gone_says_so(tab: Tab, index: Path, tmp_path: Path) -> None:
    shutil.copytree(index.parent / "photos", tmp_path / "photos")
    command("index", "build", tmp_path / "photos", "-o", tmp_path / "index")
    (tmp_path / "photos" / "buddhas" / A.name).unlink()
    with serving("--index", tmp_path / "index") as served:
        page = tab.open(served)
        give(page, "a", B)
        search(page, "Search with A")
        says(page, ".hit .gone", "cannot be read any more")
        assert page.locator(".hit").nth(1).is_disabled()


def test_a_server_without_an_index_offers_no_search(tab: Tab) -> None:
    with serving() as served:
        page = tab.open(served)
        give(page, "a", BOX)
        give(page, "b", B)
        says(page, "#score", "cosine")
        assert page.locator("#search").is_hidden()


@pytest.fixture
def locked(index: Path, tmp_path: Path) -> Iterator[Served]:
    """A server with a key that may do all a page does, and one that may not search."""
    keys = f"secret: {key_setting('secret', 'read', 'search')}, reader: {key_setting('reader', 'read')}"
    (tmp_path / "server.yaml").write_text(f"keys: {{{keys}}}\n")
    with serving("--index", index, "--config", tmp_path / "server.yaml") as served:
        yield served


def send_key(page: Any, key: str) -> None:
    page.locator("#key-text").fill(key)
    page.get_by_role("button", name="Send", exact=True).click()


def test_a_key_is_asked_for_once_and_opens_all(tab: Tab, locked: Served, index: Path) -> None:
    page = tab.open(locked)
    give(page, "a", BOX)
    give(page, "b", B)
    send_key(page, " wrong ")
    says(page, "#key .error", "does not know that key")
    send_key(page, " secret ")
    says(page, "#score", "cosine")
    assert page.locator("#key").is_hidden() and page.locator("#problem").is_hidden()
    assert search(page, "Search with A") == texts(index, results(index, BOX))
    becomes(page, "document.querySelectorAll('.hit canvas').length === 9")
    assert "secret" not in page.content() + page.evaluate(
        "JSON.stringify([{...localStorage}, {...sessionStorage}])"
    )


def test_without_a_key_the_page_says_what_to_do(tab: Tab, locked: Served) -> None:
    page = tab.open(locked)
    give(page, "a", BOX)
    page.locator("#search-button").click()
    page.locator("#key").wait_for()
    page.keyboard.press("Escape")
    says(page, "#search .error", "requests with a key")
    give(page, "b", B)
    page.get_by_role("button", name="Cancel", exact=True).last.click()
    says(page, "#problem", "requests with a key")
    page.get_by_role("button", name="Try again").click()
    send_key(page, "reader")
    says(page, "#score", "cosine")
    page.locator("#search-button").click()
    says(page, "#search .error", "has not the permission 'search'")


def test_a_server_that_has_stopped_is_said_to_be_silent(tab: Tab, index: Path) -> None:
    with serving("--index", index) as served:
        page = tab.open(served)
        give(page, "a", BOX)
        says(page, "#search-button", "Search with A")
        served.stop()
        page.locator("#search-button").click()
        says(page, "#search .error", "the server does not answer")


def test_hits_fit_a_phone(tab: Tab, searching: Served) -> None:
    page = tab.open(searching)
    page.set_viewport_size({"width": 390, "height": 844})
    give(page, "a", B)
    search(page, "Search with A")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    last = page.locator(".hit").last
    last.focus()
    box = last.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390


def test_photos_come_back_after_a_moment_without_room(tab: Tab, searching: Served) -> None:
    page = tab.open(searching)
    give(page, "a", B)
    search(page, "Search with A")
    page.evaluate("document.querySelector('#stage').style.width = '0'")
    becomes(page, "document.querySelector('#marks').width === 0")
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    page.evaluate("document.querySelector('#stage').style.width = ''")
    becomes(page, "document.querySelector('#panel-a canvas').width > 100")
