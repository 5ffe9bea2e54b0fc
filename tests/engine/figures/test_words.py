"""Every figure that the pictures of searches, classes and contrasts print, by values worked out by hand."""

from dataclasses import replace
from pathlib import Path

import pytest
from scenes import class_maps, contrast, searches

from simmap.engine.analysis.contrast import Contrast
from simmap.engine.figures import layout, legend
from simmap.engine.figures.classes import ClassFigure
from simmap.engine.figures.contrast import ContrastFigure
from simmap.engine.figures.figure import Figure
from simmap.engine.figures.found import SearchFigure
from simmap.engine.options import Options

WIDE = Options(panel_height=1000)


def words_of(figure: Figure, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the picture says outside its legends, row by row and there column by column."""
    written: list[str] = []
    monkeypatch.setattr(layout, "draw_text", lambda _, line, *rest: written.append(line))
    monkeypatch.setattr(layout, "shortened", lambda line, size, width: line)
    monkeypatch.setattr(
        legend.Legend, "draw", lambda self, layout, width, opacity: layout.line("", 13, width, (0, 0, 0))
    )
    figure.picture()
    return [line for line in written if line]


def test_words_of_searches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, region = searches(tmp_path)
    by_hand = {}
    for hit, match in zip(whole.hits, whole.matches or (), strict=True):
        assert match is not None
        by_hand[hit.path] = f"{float(match.hit.map.sum()):.3f}"
    one, two, three = (hit.path for hit in whole.hits)
    assert by_hand[one] == "1.000"
    assert words_of(SearchFigure([whole, region], "heading", WIDE), monkeypatch) == [
        "heading",
        "class0/00.png",
        "query",
        "1. class 0", f"cosine {by_hand[one]}", "class0/00.png",
        "2. class 1", f"cosine {by_hand[two]}", "class1/00.png",
        "3. class 2", f"cosine {by_hand[three]}", "class2/00.png",
        "class0/00.png, ranked by the region",
        "query",
        "1. class 2", f"region {region.hits[0].region_score:.3f} of {by_hand[three]}", "class2/00.png",
        "2. class 1", "region 0.250 of 0.500", "the file is gone: class1/gone.png",
    ]  # fmt: skip


def test_words_of_a_search_by_embedding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = searches(tmp_path)
    hits = tuple(replace(hit, label=None) for hit in whole.hits[:1])
    assert whole.matches is not None
    found = replace(whole, name="<embedding>", source=None, hits=hits, matches=whole.matches[:1])
    assert words_of(SearchFigure([found], "", WIDE), monkeypatch) == [
        "<embedding>",
        "1. class0/00.png",
        "cosine 1.000, class0/00.png",
    ]


def test_results_go_onto_rows_of_six(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = searches(tmp_path)
    hits = tuple(replace(whole.hits[1], rank=rank, label=None) for rank in range(1, 9))
    many = replace(whole, hits=hits, matches=None)
    words = words_of(SearchFigure([many], "", WIDE), monkeypatch)
    assert words[0] == "class0/00.png" and words.count("query") == 2
    assert [word.split(".")[0] for word in words if word[0].isdigit()] == list("12345678")
    second = len(words) - 1 - words[::-1].index("query")
    assert words[second + 1].startswith("7.")


def test_words_of_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    assert words_of(ClassFigure(class_maps(), "a class", WIDE), monkeypatch) == [
        "a class",
        "set/1.jpg", "cohesion 0.750",
        "set/2.jpg", "cohesion 0.500",
        "set/0.jpg", "cohesion 0.250",
    ]  # fmt: skip


def test_words_of_a_contrast(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = contrast()
    scores = [f"cosine {row.candidates[0].maps[0].sum():.3f}" for row in shown.rows]
    assert scores[0] != scores[1]
    assert words_of(ContrastFigure(shown, WIDE), monkeypatch) == [
        "query asked.jpg",
        "model 0: recall@1 0.250",
        "query", "cat: other.jpg", scores[0],
        "model 1: recall@1 0.250, maps correlate 0.500 with the row above",
        "query", "cat: other.jpg", scores[1],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("label", "path", "title"),
    [
        (None, "other.jpg", "other.jpg"),
        ("cat", "other.jpg", "cat: other.jpg"),
        ("cat", "cat/asked.jpg", "cat/asked.jpg"),  # the folder tells the class
        ("dog", "cat/asked.jpg", "dog: cat/asked.jpg"),
    ],
)
def test_a_label_is_said_where_the_folder_does_not_say_it(
    label: str | None, path: str, title: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = contrast()
    rows = []
    for row in shown.rows:
        (one,) = row.candidates
        one = replace(one, label=label, image=replace(one.image, path=path))
        query = replace(row.query, path="set/asked.jpg")
        rows.append(replace(row, query=query, candidates=(one,)))
    asked = replace(shown.photo, name="set/asked.jpg")
    words = words_of(ContrastFigure(Contrast(tuple(rows), asked), WIDE), monkeypatch)
    assert [words[3], words[7]] == [title, title]


@pytest.mark.parametrize("kind", ["search", "class", "contrast"])
def test_pictures_of_influence_have_no_contours_and_a_legend_of_their_own(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[legend.Legend] = []
    monkeypatch.setattr(
        legend.Legend,
        "draw",
        lambda self, layout, width, opacity: (drawn.append(self), layout.line("", 13, width, (0, 0, 0)))[1],
    )
    searched = [replace(one, view="influence") for one in searches(tmp_path)]
    figures: dict[str, Figure] = {
        "search": SearchFigure(searched, "", WIDE),
        "class": ClassFigure(replace(class_maps(), view="influence"), "", WIDE),
        "contrast": ContrastFigure(replace(contrast(), view="influence"), WIDE),
    }
    figures[kind].picture()
    assert drawn and all(one.view == "influence" and one.total == "" for one in drawn)
    assert "raises the score" in legend.MEANINGS["influence"]
