"""`apr lineage` on the command line: the chain, its completeness, and the exit code of a broken one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.quality.generations import write_family, write_generation


@pytest.mark.falsifies("FALSIFY-LINEAGE-001")
def test_the_command_tells_the_chain_and_refuses_a_broken_one(apr: Callable, tmp_path: Path) -> None:
    family = write_family(tmp_path)
    document = apr("lineage", family / "c.apr", "--json").document
    assert (document["schema"], document["is_complete"], document["is_refused"]) == ("apr.lineage/1", True, False)
    assert [link["status"] for link in document["links"]] == ["start", "verified", "verified"]
    assert "validation loss 5.0000" in apr("lineage", family / "c.apr").stdout
    write_generation(family / "a.apr", 9.0, parent=None)
    answer = apr("lineage", family / "c.apr", "--json")
    assert (answer.exit_code, answer.document["is_refused"], answer.document["is_complete"]) == (5, True, False)
    (family / "a.apr").unlink()
    answer = apr("lineage", family / "c.apr", "--json")
    assert (answer.exit_code, answer.document["is_complete"]) == (0, False)
