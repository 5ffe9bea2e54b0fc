"""What the tests of the page share."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from common import ROOT

ORT_WEB = Path(
    os.environ.get("SIMMAP_ORT_WEB") or ROOT / "build" / "node" / "node_modules" / "onnxruntime-web"
)
BLANK = "blank.html"  # a page of the site's origin that starts nothing


@dataclass(frozen=True)
class Site:
    """A site that is served: its folder, and the address with a slash at its end."""

    folder: Path
    url: str


def missing(reason: str) -> Any:
    """Skip, or fail where a browser is required."""
    if os.environ.get("SIMMAP_REQUIRE_BROWSER") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def in_browser(tab: Any, body: str, **given: Any) -> Any:
    """What the body of an async function gives, which has `given`."""
    return tab.evaluate(f"async (given) => {{ {body} }}", given)
