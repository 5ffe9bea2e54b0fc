"""``simmap contrast``: a query under several models."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from common import ARTIFACTS, MODEL, Simmap, report

AVG = ARTIFACTS / "avg.onnx"


def test_contrast_shows_a_query_under_several_models(simmap: Simmap, folder: Path) -> None:
    a, b = sorted((folder / "buddha").glob("*.jpg"))
    done = report(simmap("contrast", "--model", MODEL, "--model", AVG, a, b, "-o", "c.png", "--json"))
    assert [row["model"] for row in done["rows"]] == [str(MODEL), str(AVG)]
    moved = report(
        simmap(
            "contrast", "--model", MODEL, "--model", AVG, a, b, "-o", "i.png", "--json", "--influence"
        )
    )  # fmt: skip
    assert (done["view"], moved["view"]) == ("contribution", "influence")
    rows_of = {Path(row["model"]): row["candidates"][0]["maps"] for row in moved["rows"]}
    scores = [row["candidates"][0]["score"] for row in done["rows"]]
    for model, score in zip((MODEL, AVG), scores, strict=True):
        pair = report(simmap("compare", a, b, "--model", model, "--json", "--force"))
        assert score == pytest.approx(pair["score"], abs=1e-6)
        np.testing.assert_allclose(rows_of[model], pair["influence"], atol=1e-6)
    assert done["rows"][0]["correlation"] is None and -1 <= done["rows"][1]["correlation"] <= 1
    # The query may stand before the models, and a folder for the images.
    text = simmap(
        "contrast", a, "--model", MODEL, "--model", AVG, "--index-folder", "photos", "-k", "2",
        "--steps", "0,10", "-o", "d.png",
    ).stdout  # fmt: skip
    assert "step 0  recall@1 " in text and "step 10  recall@1 " in text
    assert text.count(".jpg") + text.count(".png") == 4 + 1 and str(a) not in text
    assert cv2.imread(str(folder.parent / "d.png")).shape[0] > 300
