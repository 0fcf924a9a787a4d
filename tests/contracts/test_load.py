"""A contract file that breaks the schema is refused with every fault, and a status cannot be typed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from apr.contracts import load
from apr.contracts.load import clause_index, contracts_directory, load_contracts, read_contract
from apr.errors import DamagedFileError, NotFoundError
from tests.contracts.small import clause, contract

Write = Callable[..., Path]


def faults(path: Path) -> list[str]:
    with pytest.raises(DamagedFileError) as caught:
        read_contract(path)
    assert str(path) in str(caught.value)
    found: list[str] = caught.value.facts["faults"]
    return found


def test_a_sound_contract_is_read(write: Write) -> None:
    read = read_contract(write(contract()))
    assert read.clauses[0].id == "INV-SMALL-001"
    assert read.ids == ("INV-SMALL-001", "FALSIFY-INV-SMALL-001")


def test_an_unknown_key_is_an_error_at_every_level(write: Write) -> None:
    document = contract(clauses=[clause("INV-SMALL-001", pirority=1)], sumary="x")
    found = "\n".join(faults(write(document)))
    assert "sumary: Extra inputs are not permitted" in found
    assert "clauses.0.pirority: Extra inputs are not permitted" in found


@pytest.mark.parametrize("key", ["status", "discharge_status", "verdict"])
def test_a_status_typed_into_the_file_is_an_error(write: Write, key: str) -> None:
    document = contract(clauses=[clause("INV-SMALL-001", **{key: "ACTIVE"})])
    assert faults(write(document)) == [
        f"clauses.0.{key}: status is computed from the last recorded run, never typed",
    ]


def test_a_key_given_twice_is_an_error(write: Write) -> None:
    text = yaml.safe_dump(contract()) + "version: 2.0.0\n"
    assert "key given twice: version" in faults(write(contract(), text))[0]


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"version": "1.0"}, "version"),
        ({"version": "01.0.0"}, "version"),
        ({"kind": "ACTIVE"}, "kind"),
        ({"references": []}, "references"),
        ({"clauses": []}, "clauses"),
        ({"clauses": [clause("inv-small-001")]}, "clauses.0.id"),
        ({"clauses": [clause("INV-SMALL-001", falsifiers=[])]}, "clauses.0.falsifiers"),
        ({"clauses": [clause("INV-SMALL-001", applies_to=["onnx"])]}, "clauses.0.applies_to.0"),
        ({"clauses": [clause("INV-SMALL-001", rule="")]}, "clauses.0.rule"),
    ],
)
def test_a_value_of_another_form_is_named(write: Write, changes: dict[str, Any], place: str) -> None:
    assert any(fault.startswith(f"{place}: ") for fault in faults(write(contract(**changes))))


def test_a_missing_key_is_named(write: Write) -> None:
    document = contract()
    del document["motivation"]
    assert "motivation: Field required" in faults(write(document))


def test_the_file_must_be_named_after_the_contract(write: Write, tmp_path: Path) -> None:
    path = tmp_path / "other-v1.yaml"
    write(contract()).rename(path)
    assert faults(path) == ["contract: says 'small-v1', the file is named other-v1.yaml"]


@pytest.mark.parametrize("text", ["{", "- 1", "just text", "", "!!python/object/apply:os.system ['true']"])
def test_what_is_not_a_contract_is_refused(write: Write, text: str) -> None:
    assert faults(write(contract(), text))


def test_bytes_that_are_not_text_are_refused(write: Write) -> None:
    path = write(contract())
    path.write_bytes(b"\xff\xfe\x00")
    assert faults(path)


def test_a_directory_without_contracts_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no contract files"):
        load_contracts(tmp_path)


def test_an_installed_package_reads_its_own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write) -> None:
    package = tmp_path / "site-packages" / "apr"
    data = package / "contracts" / "data"
    data.mkdir(parents=True)
    write(contract()).rename(data / "small-v1.yaml")
    monkeypatch.setattr(load, "PACKAGE_DIRECTORY", package)
    assert contracts_directory() == data
    assert [each.contract for each in load_contracts()] == ["small-v1"]


def test_the_index_leads_from_clause_and_falsifier_to_the_clause() -> None:
    index = clause_index(load_contracts())
    by_clause = index["INV-INIT-ARCH-MATCH-001"]
    assert by_clause[0].contract == "apr-pretrain-from-init-v1"
    assert index["FALSIFY-INIT-ARCH-MATCH-001"] == by_clause
