"""What headers show is found over the network as on the disk: every fault and every twin, in every container."""

from __future__ import annotations

from contextlib import closing

import pytest

from apr.formats.registry import open_address
from apr.gates.finding import Finding
from apr.gates.road import RoadOptions, examine
from apr.storage.remote.address import parse_address
from apr.storage.remote.client import Client
from apr.storage.remote.traffic import Traffic
from tests.faults.checkpoints import write
from tests.faults.corpus import FAULTS, HEADERS, TWINS
from tests.serving import ModelServer

# Whether a recorded tokenizer fits is not asked over the network, as it takes megabytes.
NOT_FETCHED = "FALSIFY-APR-PRETRAIN-ARCH-009"

# A server does not tell a directory without files from one that is not there.
UNSEEN = ("the path is gone", "an empty directory")

ROWS = [
    pytest.param(row, container, id=f"{row.letter} {row.name} [{container}]")
    for row in (*(fault for fault in FAULTS if fault.stage == HEADERS), *TWINS)
    for container in row.containers
]


@pytest.mark.parametrize(("row", "container"), ROWS)
def test_an_address_gets_the_findings_of_the_path(row, container, tmp_path):
    path = write(row.draft(), container, tmp_path)
    local = examine(path, RoadOptions(may_use_zoo=True))
    local.close()
    is_directory = path.is_dir() or not path.suffix
    with ModelServer(path.parent).running() as server, closing(Client()) as client:
        address = parse_address(f"{server.url}/{path.name}{'/' if is_directory else ''}")
        remote = examine(
            address.path,
            RoadOptions(may_use_zoo=True, download=address.download),
            opening=lambda _path: open_address(address, client, Traffic()),
        )
        remote.close()
    if row.name in UNSEEN:
        assert [finding.id for finding in remote.refusals] == ["FALSIFY-APR-PRETRAIN-INIT-003"]
    else:
        assert _said(remote.findings, str(address.path)) == _said(local.findings, str(path))


def _said(findings: tuple[Finding, ...], place: str) -> list[tuple[str, str, str]]:
    return [
        (finding.id, finding.status.value, finding.message.replace(place, "PLACE"))
        for finding in findings
        if finding.id != NOT_FETCHED
    ]
