"""Lineage: each parent is proven by its weights digest, and every way a chain can break is told."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from apr.quality.lineage import LinkStatus, trace_lineage
from tests.quality.generations import write_family, write_generation


@pytest.fixture
def family(tmp_path: Path) -> Path:
    return write_family(tmp_path)


def statuses(path: Path, **options: Any) -> list[LinkStatus]:
    return [link.status for link in trace_lineage(path, **options)]


@pytest.mark.parametrize("deep", [False, True])
def test_a_whole_chain_is_verified_to_its_origin(family: Path, deep: bool) -> None:
    links = list(trace_lineage(family / "c.apr", deep=deep))
    assert [link.status for link in links] == [LinkStatus.START, LinkStatus.VERIFIED, LinkStatus.VERIFIED]
    assert [Path(link.path).name for link in links] == ["c.apr", "b.apr", "a.apr"]
    assert (links[2].step, links[2].validation_loss, links[2].parent_digest) == (100, 5.0, None)
    assert {link.is_computed for link in links} == {deep}


@pytest.mark.planted_defect("INV-LINEAGE-001")
@pytest.mark.parametrize("deep", [False, True])
def test_a_parent_that_was_replaced_is_a_mismatch(family: Path, deep: bool) -> None:
    write_generation(family / "a.apr", 9.0, parent=None)
    assert statuses(family / "c.apr", deep=deep)[-1] is LinkStatus.MISMATCH


@pytest.mark.planted_defect("INV-LINEAGE-001")
def test_deep_reading_finds_a_parent_whose_bytes_left_its_record(family: Path) -> None:
    data = bytearray((family / "a.apr").read_bytes())
    data[-40] ^= 1
    (family / "a.apr").write_bytes(data)
    assert statuses(family / "c.apr")[-1] is LinkStatus.VERIFIED
    assert statuses(family / "c.apr", deep=True)[-1] is LinkStatus.MISMATCH


def test_a_parent_that_moved_is_found_by_its_digest(family: Path) -> None:
    (family / "archive" / "deep").mkdir(parents=True)
    shutil.move(family / "a.apr", family / "archive" / "deep" / "renamed.apr")
    (family / "archive" / "broken.apr").write_bytes(b"APR\0 broken")
    assert statuses(family / "c.apr")[-1] is LinkStatus.NOT_FOUND
    assert statuses(family / "c.apr", search=[family / "archive"])[-1] is LinkStatus.VERIFIED


def test_a_chain_that_returns_to_itself_ends(family: Path) -> None:
    first = write_generation(family / "a.apr", 1.0, parent=None)
    write_generation(family / "a.apr", 1.0, parent=(first, "a.apr"))
    assert statuses(family / "a.apr") == [LinkStatus.START, LinkStatus.VERIFIED, LinkStatus.CYCLE]
