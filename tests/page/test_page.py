"""What a user does on the page, in a real browser, with the real model."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_common import Site
from PIL import Image

from common import ARTIFACTS, PHOTOS, SAMPLES
from simmap.engine import Engine
from simmap.engine.results import Pair

WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
PATIENCE = 60_000  # ms: a slow machine is not a failure
FRAME = 16  # ms that a repaint may take
BUDDHAS = [PHOTOS / "buddha_a.jpg", PHOTOS / "buddha_b.jpg"]
# How long the callbacks of frames take.
MEASURE = """() => {
  window.frames_ms = [];
  const request = window.requestAnimationFrame.bind(window);
  window.requestAnimationFrame = (callback) => request((time) => {
    const start = performance.now();
    callback(time);
    window.frames_ms.push(performance.now() - start);
  });
}"""
# Text whose contrast with what is behind it is below 4.5, or 3 where it is large.
FAINT_TEXT = """
  () => {
    const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = (colour) => {
      const [r, g, b] = parts(colour).slice(0, 3).map((value) => value / 255)
        .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (element) => {
      for (let at = element; at; at = at.parentElement) {
        const colour = getComputedStyle(at).backgroundColor;
        if ((parts(colour)[3] ?? 1) === 1) return colour;
      }
      return 'rgb(255, 255, 255)';
    };
    const faint = [];
    for (const element of document.querySelectorAll('body *')) {
      const hasText = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
      if (!hasText || !element.checkVisibility({ visibilityProperty: true })) continue;
      const style = getComputedStyle(element);
      const lights = [light(style.color), light(behind(element))].sort();
      const contrast = (lights[1] + 0.05) / (lights[0] + 0.05);
      const least = parseFloat(style.fontSize) >= 24 ? 3 : 4.5;
      if (contrast < least) faint.push([element.textContent, contrast]);
    }
    return faint;
  }
"""

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def profiles(browser: Any) -> Iterator[Callable[..., Any]]:
    """A profile for each set of options, which keeps the model from test to test."""
    made: dict[str, Any] = {}

    def profile(options: dict[str, Any]) -> Any:
        key = json.dumps(options, sort_keys=True)
        if key not in made:
            made[key] = browser.new_context(**{"viewport": WIDE, **options})
        return made[key]

    yield profile
    for context in made.values():
        context.close()


def start(context: Any, address: str) -> tuple[Any, list[str]]:
    """The page in a new tab, and what will go wrong there.

    That is a request to another origin, an error of a script, and what the content policy refuses.
    """
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda line: wrong.append(line.text) if "Content Security" in line.text else None)

    def check(url: str) -> None:
        if not re.match(r"http://127\.0\.0\.1:|blob:|data:", url):
            wrong.append(url)

    page.on("request", lambda request: check(request.url))
    answer = page.goto(address)
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    return page, wrong


@pytest.fixture
def open_page(profiles: Callable[..., Any], site: Site) -> Iterator[Open]:
    """Open the page; after the test nothing has gone wrong there."""
    tabs = []

    def open_tab(hash: str = "", url: str = site.url, **options: Any) -> Any:
        tabs.append(start(profiles(options), url + hash))
        return tabs[-1][0]

    yield open_tab
    for page, _ in tabs:
        page.close()
    assert [wrong for _, wrong in tabs if wrong] == []


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """The engine's answer for the example."""
    with Engine() as engine:
        yield engine.compare(*BUDDHAS)


@pytest.fixture(scope="module")
def tab_with_example(profiles: Callable[..., Any], site: Site, pair: Pair) -> Iterator[Any]:
    """A tab that shows the example, for the tests that change the view only."""
    page, wrong = start(profiles({}), site.url)
    yield example(page, pair)
    assert wrong == []


@pytest.fixture
def shown(tab_with_example: Any) -> Any:
    """The same with the view that it starts with."""
    page = tab_with_example
    page.mouse.move(1, 1)
    page.evaluate("document.activeElement.blur()")
    page.get_by_role("radio", name="Cell").check()
    page.evaluate("location.hash = 'example&contours=0&pin=a,1,1'")
    says(page, "#marked", "A, row 1, column 1")
    page.evaluate("location.hash = 'example'")
    says(page, "#marked", "Nothing is marked.")
    return page


def repaint(page: Any) -> float:
    """The median time, in ms, of a frame in which the pointer comes to another cell."""
    page.evaluate(MEASURE)
    for x in np.tile([0.3, 0.7], 10):
        page.mouse.move(*spot(page, "a", x, 0.4))
        page.wait_for_timeout(20)
    times = page.evaluate("window.frames_ms")
    assert len(times) >= 10
    return float(np.median(times))


def has_score(page: Any, score: float) -> None:
    from playwright.sync_api import expect

    expect(page.locator("#score .number")).to_have_text(
        f"{score:.3f}".replace("-", "\u2212"), timeout=PATIENCE
    )


def example(page: Any, pair: Pair) -> Any:
    page.get_by_role("button", name="Try the example").click()
    has_score(page, pair.score)
    return page


def says(page: Any, selector: str, text: str | re.Pattern[str]) -> None:
    from playwright.sync_api import expect

    expect(page.locator(selector)).to_contain_text(text, timeout=PATIENCE)


def at_url(page: Any, pattern: str) -> None:
    from playwright.sync_api import expect

    expect(page).to_have_url(re.compile(pattern), timeout=PATIENCE)


def is_checked(page: Any, name: str) -> None:
    from playwright.sync_api import expect

    expect(page.get_by_role("radio", name=name)).to_be_checked(timeout=PATIENCE)


def spot(page: Any, side: str, x: float, y: float) -> tuple[float, float]:
    """A place of the window: shares of the photo's width and height."""
    box = page.locator(f"#panel-{side} canvas").bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def pixels(page: Any, selector: str) -> np.ndarray[Any, Any]:
    """(h, w, 4) of a canvas, after a frame."""
    height, width, data = page.evaluate(
        """(selector) => new Promise((resolve) => requestAnimationFrame(() => setTimeout(() => {
          const canvas = document.querySelector(selector);
          const context = canvas.getContext('2d');
          const { width, height, data } = context.getImageData(0, 0, canvas.width, canvas.height);
          let text = '';
          for (let at = 0; at < data.length; at += 32768) {
            text += String.fromCharCode(...data.subarray(at, at + 32768));
          }
          resolve([height, width, btoa(text)]);
        })))""",
        selector,
    )
    import base64

    return np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)


def saturation(image: np.ndarray[Any, Any]) -> float:
    colours = image[..., :3].astype(int)
    return float((colours.max(axis=-1) - colours.min(axis=-1)).mean())


@contextmanager
def saved(page: Any, button: str, path: Path) -> Iterator[Path]:
    with page.expect_download() as download:
        page.get_by_role("button", name=button).click()
    download.value.save_as(path)
    yield path


def put(page: Any, event: str, selector: str, files: list[Path]) -> None:
    """Drop or paste files, as a browser reports it."""
    import base64

    given = [[path.name, base64.b64encode(path.read_bytes()).decode()] for path in files]
    page.evaluate(
        """([event, selector, files]) => {
          const transfer = new DataTransfer();
          for (const [name, data] of files) {
            const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
            transfer.items.add(new File([bytes], name, { type: 'image/' + name.split('.').pop() }));
          }
          const options = { bubbles: true, cancelable: true };
          const made = event === 'drop'
            ? new DragEvent('drop', { ...options, dataTransfer: transfer })
            : new ClipboardEvent('paste', { ...options, clipboardData: transfer });
          document.querySelector(selector).dispatchEvent(made);
        }""",
        [event, selector, given],
    )


# 1. Two photos and their score


def test_one_click_on_the_example_gives_the_score_and_what_the_maps_sum_to(
    open_page: Open, pair: Pair
) -> None:
    page = example(open_page(), pair)
    says(page, "#score", f"Each map sums to {pair.score:.3f}.")
    for side in "ab":
        says(page, f"#foot-{side} .title", f"buddha_{side}.jpg")
        says(page, f"#foot-{side} .caption", f"the map sums to {pair.score:.3f}")
    left, right = (page.locator(f"#panel-{side} canvas").bounding_box() for side in "ab")
    assert left["y"] == right["y"] and left["x"] + left["width"] < right["x"]


def test_the_residual_of_a_bias_is_named(
    open_page: Open, runtime: dict[str, bytes], serve: Callable[[Path], str], tmp_path: Path
) -> None:
    from simmap.server.site import write_site

    write_site(tmp_path / "site", ARTIFACTS / "affine_bias.onnx", runtime)
    page = open_page(url=serve(tmp_path / "site"))
    with Engine(ARTIFACTS / "affine_bias.onnx") as engine:
        pair = engine.compare(*BUDDHAS)
    example(page, pair)
    residual = f"{pair.residuals[0]:.3f}".replace("-", "\u2212")
    says(page, "#score", f"no place owns the rest, {residual}")
    says(page, "#foot-a .caption", f"no place owns {residual}")


# 2. Photos from outside


def test_two_dropped_files_are_compared(open_page: Open, pair: Pair) -> None:
    page = open_page()
    put(page, "drop", "#panel-b", BUDDHAS)
    has_score(page, pair.score)
    says(page, "#foot-a .title", "buddha_a.jpg")


def test_a_dropped_file_goes_to_the_photo_under_the_pointer(open_page: Open, pair: Pair) -> None:
    page = open_page()
    put(page, "drop", "#panel-b .drop", BUDDHAS[1:])
    says(page, "#foot-b .title", "buddha_b.jpg")
    put(page, "drop", "#panel-a .drop", BUDDHAS[:1])
    has_score(page, pair.score)


def test_pasted_images_fill_the_first_photo_and_then_the_second(open_page: Open, pair: Pair) -> None:
    page = open_page()
    put(page, "paste", "body", BUDDHAS[:1])
    says(page, "#foot-a .title", "buddha_a.jpg")
    put(page, "paste", "body", BUDDHAS[1:])
    has_score(page, pair.score)


def test_files_are_chosen_one_by_one_or_together_and_changed(open_page: Open, pair: Pair) -> None:
    page = open_page()
    for name in ("Choose photo A", "Choose photo B"):
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name=name).click()
        chooser.value.set_files(BUDDHAS[0])
    has_score(page, 1)
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Change B").click()
    chooser.value.set_files(BUDDHAS[1])
    has_score(page, pair.score)
    page.set_input_files("#file-a", [SAMPLES / "aero1.jpg", SAMPLES / "aero3.jpg", SAMPLES / "home.jpg"])
    says(page, "#notice", "the first two are compared")
    with Engine() as engine:
        has_score(page, engine.compare(SAMPLES / "aero1.jpg", SAMPLES / "aero3.jpg").score)


def test_the_camera_gives_a_photo(open_page: Open) -> None:
    page = open_page(permissions=["camera"])
    for side in "ab":
        page.click(f"#panel-{side} [data-camera]")
        page.get_by_role("button", name="Take photo").click()
        says(page, f"#foot-{side} .title", "camera.png")
    says(page, "#score", "cosine similarity")
    assert page.evaluate("document.querySelector('video').srcObject") is None


def test_a_camera_that_is_refused_is_named_at_its_photo(open_page: Open) -> None:
    page = open_page()
    page.click("#panel-b [data-camera]")
    says(
        page, "#foot-b .error", "The page may not use the camera; allow it in the browser, or choose a photo."
    )


def test_a_refused_file_is_named_at_its_photo_with_the_mend(
    open_page: Open, pair: Pair, tmp_path: Path
) -> None:
    text = tmp_path / "notes.jpg"
    text.write_text("no image")
    page = open_page()
    put(page, "drop", "#panel-a", [BUDDHAS[0]])
    put(page, "drop", "#panel-b", [text])
    says(page, "#foot-b .error", re.compile(r"^notes\.jpg .+; .+\.$"))
    assert page.locator("#foot-a .error").is_hidden()
    put(page, "drop", "#panel-b", BUDDHAS[1:])
    has_score(page, pair.score)
    assert page.locator("#foot-b .error").is_hidden()
    # What is shown stays where a later file is refused.
    put(page, "drop", "#panel-a", [text])
    says(page, "#foot-a .error", "notes.jpg")
    has_score(page, pair.score)


def test_a_photo_that_the_network_cannot_compare_is_named(
    open_page: Open, runtime: dict[str, bytes], serve: Callable[[Path], str], tmp_path: Path
) -> None:
    from simmap.server.site import write_site

    write_site(tmp_path / "site", ARTIFACTS / "fragile.onnx", runtime)
    black = tmp_path / "black.png"
    Image.new("RGB", (32, 32)).save(black)
    page = open_page(url=serve(tmp_path / "site"))
    page.set_input_files("#file-a", [BUDDHAS[0], black])
    says(page, "#foot-b .error", "black.png")
    assert page.locator("#score").inner_text().strip() == ""


def test_a_drop_without_a_file_says_what_to_do(open_page: Open) -> None:
    page = open_page()
    put(page, "drop", "#panel-a", [])
    says(page, "#foot-a .error", "save the image and drop its file")


@pytest.mark.parametrize("megapixels", [2, 12])
def test_a_photo_of_many_megapixels_scores_as_in_the_engine(
    open_page: Open, tmp_path: Path, megapixels: int
) -> None:
    width = {2: 1632, 12: 4000}[megapixels]
    large = tmp_path / "large.jpg"
    Image.open(BUDDHAS[0]).resize((width, width * 3 // 4)).save(large, quality=90)
    page = open_page()
    page.set_input_files("#file-a", [large, BUDDHAS[1]])
    with Engine() as engine:
        has_score(page, engine.compare(large, BUDDHAS[1]).score)
    assert repaint(page) < FRAME


# 3. Heat


def test_the_heat_and_the_photo_are_shown_side_by_side_by_the_swipe(shown: Any, pair: Pair) -> None:
    page = shown
    heat = pixels(page, "#panel-b canvas")
    page.get_by_role("radio", name="Photo").check()
    photo = pixels(page, "#panel-b canvas")
    original = np.asarray(Image.open(BUDDHAS[1]).resize(photo.shape[1::-1]), int)
    assert np.abs(photo[..., :3] - original).mean() < 3
    assert np.abs(heat[..., :3].astype(int) - photo[..., :3]).mean() > 20
    page.get_by_role("radio", name="Swipe").check()
    page.mouse.move(*spot(page, "a", 0.5, 0.3))
    page.mouse.down()
    page.mouse.move(*spot(page, "a", 0.25, 0.3), steps=3)
    page.mouse.up()
    page.mouse.move(1, 1)
    both = pixels(page, "#panel-b canvas")
    edge = both.shape[1] // 4
    assert (both[:, : edge - 2] == photo[:, : edge - 2]).all()
    assert (both[:, edge + 2 :] == heat[:, edge + 2 :]).all()
    assert page.get_by_role("slider", name="Divider").input_value() == "25"
    assert page.locator("#marked").inner_text() == "Nothing is marked."


def test_opacity_covers_the_photo_and_contours_can_be_left_out(shown: Any, pair: Pair) -> None:
    page = shown
    before = pixels(page, "#panel-a canvas")
    page.get_by_role("slider", name="Opacity").fill("0")
    after = pixels(page, "#panel-a canvas")
    # With more of the photo's contrast, neighbouring pixels differ more.
    assert (
        np.abs(np.diff(after[..., 1].astype(int))).mean() > np.abs(np.diff(before[..., 1].astype(int))).mean()
    )
    assert pixels(page, "#marks").any()
    page.get_by_role("checkbox", name="Contours").uncheck()
    assert not pixels(page, "#marks").any()


def test_influence_has_its_own_scale_and_says_what_raises_and_lowers(shown: Any, pair: Pair) -> None:
    page = shown
    page.get_by_role("radio", name="Influence").check()
    up = float(pair.influence[0][pair.influence[0] > 0].sum())
    says(page, "#foot-a .caption", f"raise the score: +{up:.3f}, lower it: \u2212{up:.3f}")
    legend = page.get_by_role("img", name=re.compile("^influence on the cosine per cell"))
    largest = max(float(np.abs(values).max()) for values in pair.influence)
    low, high = legend.get_attribute("aria-label").split(": ")[-1].split(" to ")
    assert float(high) >= largest and float(low.replace("\u2212", "-")) == -float(high)
    assert saturation(pixels(page, "#panel-a canvas")) > 10


# 4. Cells


def numbers(pair: Pair, side: int, cell: int) -> str:
    """What the page says of a cell, from the engine."""
    columns = pair.maps[side].shape[1]
    value = float(pair.maps[side].flat[cell])
    influence = f"{float(pair.influence[side].flat[cell]):+.4f}".replace("-", "\u2212")
    return (
        f"{'AB'[side]}, row {cell // columns + 1}, column {cell % columns + 1}: contribution {value:.4f}, "
        f"{100 * value / pair.score:.1f}\u00a0% of the score; influence {influence}."
    )


def matches(pair: Pair, side: int, cell: int) -> str:
    columns = pair.maps[1 - side].shape[1]
    values = pair.point(0 if side == 0 else 1, *divmod(cell, pair.maps[side].shape[1])).ravel()
    best = np.argsort(-values, kind="stable")[:5]
    return "; ".join(f"row {at // columns + 1}, column {at % columns + 1} ({values[at]:.4f})" for at in best)


def test_pointing_at_a_cell_gives_its_share_and_its_matches(shown: Any, pair: Pair) -> None:
    page = shown
    rows, columns = pair.maps[0].shape
    before = pixels(page, "#panel-b canvas")
    page.mouse.move(*spot(page, "a", 3.5 / columns, 2.5 / rows))
    cell = 2 * columns + 3
    says(page, "#marked", numbers(pair, 0, cell))
    says(page, "#marked", f"Best matches in B: {matches(pair, 0, cell)}.")
    total = float(pair.maps[0].flat[cell])
    says(page, "#foot-b .caption", f"what the marked cell of A matches; it sums to {total:.4f}")
    assert (pixels(page, "#panel-b canvas") != before).any()
    page.mouse.move(1, 1)
    says(page, "#marked", "Nothing is marked.")
    assert (pixels(page, "#panel-b canvas") == before).all()


def test_a_repaint_while_pointing_takes_less_than_a_frame(shown: Any, pair: Pair) -> None:
    page = shown
    assert repaint(page) < FRAME


def test_a_click_pins_a_cell_and_draws_lines_to_its_matches(shown: Any, pair: Pair) -> None:
    page = shown
    page.get_by_role("checkbox", name="Contours").uncheck()
    rows, columns = pair.maps[1].shape
    gap = slice(*(round(edge) for edge in between_panels(page)))
    page.mouse.click(*spot(page, "b", 2.5 / columns, 3.5 / rows))
    assert pixels(page, "#marks")[:, gap].any()
    page.mouse.move(1, 1)
    says(page, "#marked", numbers(pair, 1, 3 * columns + 2))
    # A further cell of the other photo is told with the pinned one.
    page.mouse.move(*spot(page, "a", 1.5 / columns, 1.5 / rows))
    says(page, "#marked", "With the pinned cell: ")
    value = float(re.search(r"pinned cell: (.+)\.$", page.locator("#marked").inner_text())[1])
    assert value == pytest.approx(pair.point(1, 3, 2)[1, 1], rel=0.06)
    page.mouse.click(*spot(page, "b", 2.5 / columns, 3.5 / rows))
    page.mouse.move(1, 1)
    says(page, "#marked", "Nothing is marked.")
    assert not pixels(page, "#marks")[:, gap].any()


def between_panels(page: Any) -> tuple[float, float]:
    stage = page.locator("#stage").bounding_box()["x"]
    left, right = (page.locator(f"#panel-{side} canvas").bounding_box() for side in "ab")
    return left["x"] + left["width"] - stage, right["x"] - stage


def test_the_keyboard_alone_does_it_all(open_page: Open, pair: Pair) -> None:
    page = open_page()
    press = page.keyboard.press
    page.get_by_role("button", name="Try the example").wait_for()
    reach(page, "example")
    press("Enter")
    has_score(page, pair.score)
    reach(page, "panel-a")
    focused = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(focused) == "solid"
    rows, columns = pair.maps[0].shape
    cell = int(pair.maps[0].argmax())
    says(page, "#marked", numbers(pair, 0, cell))
    press("ArrowRight")
    press("ArrowDown")
    cell += columns + 1
    says(page, "#marked", numbers(pair, 0, cell))
    press("Enter")
    at_url(page, f"pin=a,{cell // columns + 1},{cell % columns + 1}$")
    press("Tab")
    assert page.evaluate("document.activeElement.id") == "panel-b"
    # The cell starts at the best match.
    best = int(pair.point(0, *divmod(cell, columns)).argmax())
    says(page, "#marked", numbers(pair, 1, best))
    press("Shift+Tab")
    assert page.evaluate("document.activeElement.id") == "panel-a"
    for name in ("Photo", "Heat"):
        press("Space")
        is_checked(page, name)
    press("Escape")
    says(page, "#marked", "Nothing is marked.")
    for _ in range(rows + columns):
        press("ArrowUp")
        press("ArrowLeft")
    press("Shift+ArrowRight")
    press("Shift+ArrowDown")
    corner = float(pair.maps[0][:2, :2].sum())
    says(page, "#marked", f"Region of A: contribution {corner:.4f}")
    press("Tab")
    press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Change A"


def reach(page: Any, identity: str) -> None:
    """Press Tab until an element has the focus."""
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == identity:
            return
    pytest.fail(f"Tab does not reach {identity}")


# 5. Regions


def test_a_rectangle_gives_the_score_of_its_region_while_it_is_drawn(shown: Any, pair: Pair) -> None:
    page = shown
    page.get_by_role("radio", name="Rectangle").check()
    rows, columns = pair.maps[0].shape
    page.mouse.move(*spot(page, "a", 1 / columns, 2 / rows))
    page.mouse.down()
    for x, y in ((3, 4), (5, 5)):
        page.mouse.move(*spot(page, "a", x / columns, y / rows))
        text = page.locator("#marked")
        expected = float(pair.maps[0][2:y, 1:x].sum())
        says(page, "#marked", re.compile(r"Region of A: contribution \d"))
        value = float(re.search(r"contribution ([\d.]+)", text.inner_text())[1])
        # The pointer is on whole pixels.
        assert value == pytest.approx(expected, abs=0.004)
    page.mouse.up()
    says(page, "#foot-b .caption", "what the region of A matches")
    page.keyboard.press("Escape")
    says(page, "#marked", "Nothing is marked.")


def test_a_lasso_around_everything_gives_the_score(shown: Any, pair: Pair) -> None:
    page = shown
    page.get_by_role("radio", name="Lasso").check()
    corners = [(0, 0), (1, 0), (1, 1), (0, 1), (0, 0.02)]
    page.mouse.move(*spot(page, "b", *np.clip(corners[0], 0.001, 0.999)))
    page.mouse.down()
    for x, y in corners[1:]:
        page.mouse.move(*spot(page, "b", 1.1 * x - 0.05, 1.1 * y - 0.05), steps=5)
    page.mouse.up()
    text = page.locator("#marked").inner_text()
    assert float(re.search(r"contribution ([\d.]+)", text)[1]) == pytest.approx(pair.score, abs=0.005)


# 6. What is kept


def test_the_picture_has_photos_heat_and_legend(shown: Any, pair: Pair, tmp_path: Path) -> None:
    page = shown
    with saved(page, "Save picture", tmp_path / "similarity.png") as path:
        picture = np.asarray(Image.open(path).convert("RGB"))
    height, width = picture.shape[:2]
    assert width == 1400
    photos, maps = picture[height // 8 : height // 3], picture[height // 2 : 2 * height // 3]
    assert not (photos[:, width // 8 : 3 * width // 8] == 255).all(axis=-1).any()
    assert saturation(maps) > 2 * saturation(photos)
    legend = picture[-200:, :400].reshape(-1, 3).astype(int)
    assert (np.ptp(legend, axis=1) > 120).any() and (legend.sum(axis=1) < 300).any()


def test_the_json_is_that_of_the_engine(open_page: Open, pair: Pair, tmp_path: Path) -> None:
    page = example(open_page("#pin=b,2,3"), pair)
    with saved(page, "Save JSON", tmp_path / "similarity.json") as path:
        report = json.loads(path.read_text())
    assert report["score"] == pytest.approx(pair.score, abs=1e-5)
    for name, expected in (("maps", pair.maps), ("influence", pair.influence)):
        for shown, values in zip(report[name], expected, strict=True):
            np.testing.assert_allclose(shown, values, atol=1e-5)
    np.testing.assert_allclose(
        np.reshape(report["points"], (49, 49)).sum(axis=1), pair.maps[0].ravel(), atol=1e-5
    )
    assert [image["path"] for image in report["images"]] == ["buddha_a.jpg", "buddha_b.jpg"]
    assert report["pin"] == {"image": 1, "cell": [1, 2]}


def test_the_saved_page_opens_from_a_file_and_asks_for_nothing(
    open_page: Open, browser: Any, pair: Pair, tmp_path: Path
) -> None:
    page = example(open_page("#view=influence&pin=a,3,4"), pair)
    with saved(page, "Save page", tmp_path / "similarity.html") as path, browser.new_context() as context:
        asked: list[str] = []
        errors: list[str] = []
        other = context.new_page()
        context.on("request", lambda request: asked.append(request.url))
        other.on("pageerror", lambda error: errors.append(str(error)))
        other.on("console", lambda line: errors.append(line.text))
        other.goto(path.as_uri())
        has_score(other, pair.score)
        says(other, "#marked", numbers(pair, 0, 2 * pair.maps[0].shape[1] + 3))
        is_checked(other, "Influence")
        other.keyboard.press("Escape")
        other.mouse.move(*spot(other, "b", 0.5, 0.5))
        says(other, "#marked", "Best matches in A")
        assert other.get_by_role("button", name="Change A").is_hidden()
        assert other.locator("#from-file").is_hidden()
        assert [url for url in asked if not url.startswith(("data:", "blob:", path.as_uri()))] == []
        assert errors == []


def test_a_link_keeps_pin_and_view(open_page: Open, pair: Pair) -> None:
    page = example(open_page(), pair)
    page.get_by_role("radio", name="Influence").check()
    page.get_by_role("radio", name="Swipe").check()
    rows, columns = pair.maps[1].shape
    page.mouse.click(*spot(page, "b", 5.5 / columns, 1.5 / rows))
    at_url(page, "#example&view=influence&look=swipe&pin=b,2,6$")
    other = open_page(url=page.url)
    has_score(other, pair.score)
    other.mouse.move(1, 1)
    says(other, "#marked", numbers(pair, 1, columns + 5))
    is_checked(other, "Influence")
    is_checked(other, "Swipe")


@pytest.mark.parametrize("hash", ["#pin=c,1,1", "#pin=a,99,1", "#look=%00&opacity=x", "#view=<b>&pin=a,1"])
def test_a_damaged_link_is_as_none(open_page: Open, pair: Pair, hash: str) -> None:
    page = example(open_page(hash), pair)
    says(page, "#marked", "Nothing is marked.")
    is_checked(page, "Heat")
    is_checked(page, "Contribution")


# 7. For everybody


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_the_contrast_of_wcag_aa(
    open_page: Open, pair: Pair, tmp_path: Path, scheme: str
) -> None:
    text = tmp_path / "notes.jpg"
    text.write_text("no image")
    page = open_page(color_scheme=scheme)
    assert page.evaluate(FAINT_TEXT) == []
    example(page, pair)
    page.mouse.click(*spot(page, "a", 0.5, 0.5))
    put(page, "drop", "#panel-b", [text])
    says(page, "#foot-b .error", "notes.jpg")
    assert page.evaluate(FAINT_TEXT) == []
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper))) < 150) == (scheme == "dark")


def test_score_and_cell_are_live_regions_and_all_that_acts_has_a_name(shown: Any, pair: Pair) -> None:
    page = shown
    assert page.get_by_role("status").filter(has_text="cosine similarity").is_visible()
    assert page.locator("#marked").get_attribute("aria-live") == "polite"
    for role in ("button", "radio", "slider", "checkbox", "application", "img"):
        for element in page.get_by_role(role).all():
            assert re.search(r"\w", element.aria_snapshot().split(role, 1)[1]), element.evaluate(
                "e => e.outerHTML"
            )


def test_the_table_lists_the_strongest_cells_and_pins_them(shown: Any, pair: Pair) -> None:
    page = shown
    columns = pair.maps[1].shape[1]
    order = np.argsort(-pair.maps[1], axis=None, kind="stable")
    table = page.get_by_role("table").nth(1)
    rows = table.get_by_role("row").all()[1:]
    assert len(rows) == 8
    for row, cell in zip(rows, order, strict=False):
        value, influence = pair.maps[1].flat[cell], pair.influence[1].flat[cell]
        signed = f"{influence:+.4f}".replace("-", "\u2212").replace("+0.0000", "0.0000")
        assert row.inner_text().split("\t") == [
            f"row {cell // columns + 1}, column {cell % columns + 1}", f"{value:.4f}",
            f"{100 * value / pair.score:.1f}\u00a0%", signed,
        ]  # fmt: skip
    rows[2].get_by_role("button").click()
    says(page, "#marked", numbers(pair, 1, int(order[2])))
    assert rows[2].get_by_role("button").get_attribute("aria-pressed") == "true"


def test_on_a_phone_the_photos_are_stacked_and_a_tap_pins(open_page: Open, pair: Pair) -> None:
    page = open_page(viewport=PHONE, device_scale_factor=2, is_mobile=True, has_touch=True)
    example(page, pair)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    first, second = (page.locator(f"#panel-{side} canvas").bounding_box() for side in "ab")
    assert first["y"] + first["height"] < second["y"] and first["width"] > 0.85 * PHONE["width"]
    page.locator("#panel-a canvas").tap(position={"x": first["width"] * 0.5, "y": first["height"] * 0.5})
    says(page, "#marked", "A, row 4, column 4")
    assert pixels(page, "#marks").any()


def test_nothing_moves_by_itself(open_page: Open, pair: Pair) -> None:
    page = open_page(reduced_motion="reduce")
    page.evaluate("""() => {
      window.moved = [];
      for (const kind of ['animationstart', 'transitionrun']) {
        document.addEventListener(kind, (event) => window.moved.push(event.target.id));
      }
    }""")
    example(page, pair)
    page.get_by_role("radio", name="Influence").check()
    page.mouse.click(*spot(page, "a", 0.5, 0.5))
    assert page.evaluate("window.moved.concat(document.getAnimations().map(String))") == []


def test_a_model_that_is_missing_is_named_and_tried_again(
    open_page: Open, runtime: dict[str, bytes], serve: Callable[[Path], str], tmp_path: Path
) -> None:
    from simmap.server.site import write_site

    folder = tmp_path / "site"
    write_site(folder, ARTIFACTS / "avg.onnx", runtime)
    (folder / "model.onnx").rename(folder / "away.onnx")
    page = open_page(url=serve(folder))
    says(page, "#problem", "The model does not load")
    (folder / "away.onnx").rename(folder / "model.onnx")
    page.get_by_role("button", name="Try again").click()
    page.get_by_role("button", name="Try the example").click()
    says(page, "#score", "Each map sums to")
    assert page.locator("#problem").is_hidden()


def test_a_page_that_is_opened_as_a_file_says_what_it_needs(browser: Any, site: Site) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        page.goto((site.folder / "index.html").as_uri())
        assert page.get_by_text("Browsers run this page from a web server only").is_visible()


def test_the_first_load_shows_how_far_it_is(browser: Any, site: Site) -> None:
    from playwright.sync_api import expect

    held = []
    with browser.new_context() as context:
        page = context.new_page()
        context.route("**/*.wasm*", lambda route: held.append(route))
        page.goto(site.url)
        says(page, "#loading", re.compile(r"Loading the model once: \d+\.\d of \d+\.\d MB"))
        while not held:
            page.wait_for_timeout(50)
        context.unroute("**/*.wasm*")  # and let go what is held
        expect(page.locator("#loading")).to_be_hidden(timeout=PATIENCE)
        says(page, "#about", "avg pooling")


def test_the_size_of_the_window_may_change(open_page: Open, pair: Pair) -> None:
    page = example(open_page(), pair)
    for size in (PHONE, {"width": 800, "height": 500}, WIDE):
        page.set_viewport_size(size)
        page.wait_for_timeout(100)
        box = page.locator("#panel-a canvas").bounding_box()
        assert box["width"] / box["height"] == pytest.approx(1024 / 576, rel=0.02)
        rows, columns = pair.maps[0].shape
        page.locator("#panel-a").scroll_into_view_if_needed()
        page.mouse.move(*spot(page, "a", 2.5 / columns, 1.5 / rows))
        says(page, "#marked", numbers(pair, 0, columns + 2))
        page.mouse.move(1, 1)
