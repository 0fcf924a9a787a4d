"""A folder of contract files to write into."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """`write(document)` puts it into a file named after its contract and gives the path."""

    def to_file(document: dict[str, Any], text: str | None = None) -> Path:
        path = tmp_path / f"{document['contract']}.yaml"
        path.write_text(text if text is not None else yaml.safe_dump(document))
        return path

    return to_file
