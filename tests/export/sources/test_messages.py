"""Words for errors, and layouts of feature maps."""

import logging
import sys
import warnings

import pytest
import torch

from simmap.engine.errors import ExportError
from simmap.export.sources.layers import Layout
from simmap.export.sources.messages import first_few, first_line, quiet, shape_text, suggest


def test_three_are_told_and_no_more() -> None:
    assert first_few([]) == ""
    assert first_few(["a", "b", "c"]) == "a, b, c"
    assert first_few(["a", "b", "c", "d"]) == "a, b, c, ..."


def test_the_first_line_of_an_error_is_short() -> None:
    assert first_line(ValueError("\n  one \n two")) == "one"
    assert first_line(ValueError(" \n")) == "ValueError"
    assert first_line(ValueError("x" * 300)) == "x" * 200


def test_names_that_are_close_are_offered() -> None:
    assert suggest("resnet19", ["resnet18", "vgg16", "_resnet19"]) == "; close to it: resnet18"
    assert suggest("resnet", [f"resnet{i}" for i in range(5)]).count(",") == 2
    assert suggest("resnet", ["vgg"]) == ""


def test_shapes_are_told() -> None:
    assert shape_text(torch.ones(2, 3)) == "2x3" and shape_text(torch.ones(())) == "scalar"


def test_libraries_are_quiet_and_heard_again_after_an_error(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def loud() -> None:
        print("out")
        print("err", file=sys.stderr)
        logging.getLogger("some").critical("log")
        warnings.warn("warning", stacklevel=1)
        raise ValueError("raised")

    with warnings.catch_warnings(record=True) as told, pytest.raises(ValueError, match="raised"), quiet():
        loud()
    assert not told and not caplog.records and capfd.readouterr() == ("", "")
    logging.getLogger("some").critical("again")
    assert [record.message for record in caplog.records] == ["again"]


def test_a_feature_map_in_each_layout() -> None:
    alpha = torch.arange(2 * 4 * 2 * 3, dtype=torch.float32).reshape(2, 4, 2, 3)
    tokens = alpha.flatten(2).transpose(1, 2)
    prefixed = torch.cat((torch.zeros(2, 1, 4), tokens), 1)
    for layout, x in (
        (Layout("net"), alpha),
        (Layout("net", last=True), alpha.permute(0, 2, 3, 1)),
        (Layout("net", grid=(2, 3)), tokens),
        (Layout("net", prefix=1, grid=(2, 3)), prefixed),
    ):
        assert torch.equal(layout.to_map(x), alpha)


@pytest.mark.parametrize(
    ("layout", "x", "told"),
    [
        (Layout("net", grid=(2, 3)), torch.ones(2, 7, 4), "its 7 tokens lie on no known grid"),
        (Layout("net", prefix=1, grid=(2, 3)), torch.ones(2, 6, 4), "its 6 tokens lie on no known grid"),
        (Layout("net"), torch.ones(2, 4, 4), "its 4 tokens lie on no known grid"),  # a square is not guessed
        (Layout("net"), torch.ones(2, 4), r"its feature map is \(2, 4\), not"),
        (Layout("net"), torch.ones(2, 4, 1, 1, 1), r"its feature map is \(2, 4, 1, 1, 1\), not"),
        (Layout("net"), (torch.ones(2, 4, 1, 1),), "its feature map is tuple, not"),
    ],
)
def test_what_is_no_feature_map_is_told(layout: Layout, x: object, told: str) -> None:
    with pytest.raises(ExportError, match=told):
        layout.to_map(x)
