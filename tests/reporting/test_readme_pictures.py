"""The README's pictures show the refusal and the repair, are small, and load nothing."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
WORDS = {
    "refusal": ("INV-INIT-ARCH-MATCH-001", "INV-INIT-COVERAGE-001", "apr stamp", "Qwen2ForCausalLM", "[exit code 5]"),
    "repair": ("INV-STAMP-BYTES-001", "INV-STAMP-TRUTH-001", "loss at step 0", "[exit code 0]"),
    "loss": ("recorded", "loaded as it is stamped", "knows nothing"),
}


@pytest.mark.parametrize("name", WORDS)
def test_a_picture_shows_what_it_is_there_for(name: str) -> None:
    path = ROOT / "docs" / "pictures" / f"{name}.svg"
    picture = path.read_text(encoding="utf-8")
    assert len(picture.encode()) < 100_000
    assert "monospace" in picture or "sans-serif" in picture
    assert "url(http" not in picture
    assert "<image" not in picture
    shown = "".join(ElementTree.fromstring(picture).itertext()).replace("\xa0", " ")
    for words in WORDS[name]:
        assert words in shown, words
    assert f"docs/pictures/{name}.svg" in (ROOT / "README.md").read_text(encoding="utf-8")
