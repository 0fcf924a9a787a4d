"""The pages that speak of invariants say what the contracts and the program say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from apr.cli.main import cli
from apr.contracts.audit import audit_source
from apr.contracts.bindings import scan_source
from apr.contracts.load import PACKAGE_DIRECTORY, clause_index, load_contracts

ROOT = Path(__file__).parents[2]
PUBLIC_ID = re.compile(r"\b(?:INV|GATE|FALSIFY)-[A-Z0-9]+(?:-[A-Z0-9]+)*\b")
COMMAND = re.compile(r"`(apr [a-z]+[^`]*)`")


def test_the_page_of_invariants_is_not_stale() -> None:
    tool = ROOT / "tools" / "build_invariants_reference.py"
    done = subprocess.run([sys.executable, tool, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_clause_stands_on_the_page() -> None:
    page = (ROOT / "docs" / "invariants.md").read_text()
    assert all(f"### {clause.id}\n" in page for contract in load_contracts() for clause in contract.clauses)


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda path: path.name)
def test_every_id_in_the_docs_is_known(page: Path) -> None:
    known = set(clause_index(load_contracts()))
    known |= {each.id for contract in load_contracts() for each in contract.not_adopted}
    assert set(PUBLIC_ID.findall(page.read_text())) <= known


def test_failure_modes_has_the_four_and_the_fourteen_classes_whole() -> None:
    text = (ROOT / "docs" / "failure-modes.md").read_text()
    sections = re.split(r"^### ", text, flags=re.MULTILINE)[1:]
    titles = [section.split("\n", 1)[0] for section in sections]
    expected = [f"Class {number}" for number in range(1, 5)] + [f"{letter}." for letter in "ABCDEFGHIJKLMN"]
    assert [title.startswith(start) for title, start in zip(titles, expected, strict=True)] == [True] * 18
    for section in sections:
        for part in ("**Symptom.**", "**without apr**", "**with apr**", "**producer**", "**existing files**"):
            assert part in section, section.split("\n", 1)[0]


def test_every_id_in_a_message_of_the_program_can_be_explained() -> None:
    named = scan_source(PACKAGE_DIRECTORY)
    assert named
    assert audit_source(load_contracts(), named) == ()


def test_an_id_that_nobody_can_explain_is_found(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text('ID = "INV-PLANTED-001"\nTEXT = "see INV-PLANTED-002"\n')
    (problem,) = audit_source(load_contracts(), scan_source(tmp_path))
    assert (problem.where, problem.message) == ("module.py (line 1)", "INV-PLANTED-001: no contract knows this id")


def commands_in_contracts() -> list[str]:
    return sorted(
        {
            found
            for contract in load_contracts()
            for clause in contract.clauses
            for text in (clause.title, clause.rule, clause.why, clause.refusal, clause.remedy)
            for found in COMMAND.findall(text)
        }
    )


@pytest.mark.falsifies("FALSIFY-APR-PRETRAIN-INIT-007")
@pytest.mark.parametrize("text", commands_in_contracts())
def test_every_command_named_in_the_contracts_exists_with_its_flags(text: str) -> None:
    _, name, *words = text.split()
    command = cli.get_command(click.Context(cli), name)
    assert command is not None, name
    if isinstance(command, click.Group) and words:
        command = command.get_command(click.Context(command), words[0])
        assert command is not None, text
    options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    named = {word.strip(".,;") for word in words if word.startswith("-") and word != "…"}
    assert named <= options, f"{text}: {named - options}"


def test_the_check_of_commands_can_fail() -> None:
    with pytest.raises(AssertionError):
        test_every_command_named_in_the_contracts_exists_with_its_flags("apr contract status --typed-status")
