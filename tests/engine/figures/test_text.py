"""Text where OpenCV has no font for UTF-8."""

import cv2
import numpy as np
import pytest

from simmap.engine.figures import text


@pytest.mark.parametrize(("size", "thickness"), [(13, 1), (30, 2), (62, 3)])
def test_opencv_4_draws_with_its_strokes(monkeypatch: pytest.MonkeyPatch, size: int, thickness: int) -> None:
    monkeypatch.setattr(text, "_face", lambda: None)
    font = cv2.FONT_HERSHEY_SIMPLEX
    drawn, expected = (np.zeros((100, 900, 3), np.uint8) for _ in range(2))
    text.draw_text(drawn, f"score {text.MINUS}.31 \u00e9", (5, 80), size, (200, 30, 90))
    cv2.putText(expected, "score -.31 ?", (5, 80), font, size / 32, (200, 30, 90), thickness, cv2.LINE_AA)
    assert np.array_equal(drawn, expected) and drawn.any()
    width, _ = cv2.getTextSize("score -.31 ?", font, size / 32, 1)[0]
    assert text.text_width(f"score {text.MINUS}.31 \u00e9", size) == width
