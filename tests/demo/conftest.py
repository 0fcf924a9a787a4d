"""A story as it stands when a model was trained and mislabelled: tiny, made in a second, the rest left to the test."""

from __future__ import annotations

from pathlib import Path

import pytest

from apr.demo.run import run_demo
from apr.demo.size import SMALL
from apr.demo.story import Story
from apr.demo.watching import SilentWatcher


@pytest.fixture
def story(tmp_path: Path) -> Story:
    """A story in which nothing has happened yet."""
    return Story(tmp_path, SMALL, 42, SilentWatcher())


@pytest.fixture(scope="session")
def demo_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of one whole small demo; run once for all tests that look at it."""
    directory = tmp_path_factory.mktemp("whole") / "demo"
    run_demo(directory, size=SMALL)
    return directory
