"""`apr preflight` on several paths, patterns, and as another class."""

import json

import pytest

from tests.tiny_models import relabel, save_tiny


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    """Ten checkpoints; the fourth and the seventh lie."""
    import shutil

    home = tmp_path_factory.mktemp("fleet")
    healthy = save_tiny(home / "m0", "qwen2")
    for number in range(1, 10):
        shutil.copytree(healthy, home / f"m{number}")
    for number in (3, 6):
        relabel(home / f"m{number}", "llama", "LlamaForCausalLM")
    return home


def test_many_paths_answer_in_order_one_document_a_line(apr, fleet):
    paths = [fleet / f"m{number}" for number in (9, 3, 0, 1, 6, 2, 4, 5, 8, 7)]
    result = apr("preflight", *paths, "--json")
    documents = [json.loads(line) for line in result.stdout.splitlines()]
    assert [document["path"] for document in documents] == [str(path) for path in paths]
    assert [document["path"][-2:] for document in documents if not document["accepted"]] == ["m3", "m6"]
    assert {document["schema"] for document in documents} == {"apr.preflight/1"}
    assert result.exit_code == 5


def test_a_pattern_names_the_paths_it_matches_sorted(apr, fleet):
    result = apr("preflight", fleet / "m[0-2]", "--json")
    assert [json.loads(line)["path"][-2:] for line in result.stdout.splitlines()] == ["m0", "m1", "m2"]
    assert result.exit_code == 0


def test_a_pattern_that_matches_nothing_is_not_found(apr, fleet):
    assert apr("preflight", fleet / "none*").exit_code == 3


def test_one_path_that_is_missing_does_not_silence_the_others(apr, fleet):
    result = apr("preflight", fleet / "m0", fleet / "absent", fleet / "m1", "--json")
    documents = [json.loads(line) for line in result.stdout.splitlines()]
    assert [document["accepted"] for document in documents] == [True, False, True]
    assert result.exit_code == 5


@pytest.mark.planted_defect("INV-INIT-ARCH-MATCH-001")
def test_as_another_class_a_healthy_checkpoint_is_refused(apr, fleet):
    result = apr("preflight", fleet / "m0", "--as", "LlamaForCausalLM", "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 5
    assert document["claimed"]["architecture"]["hf_architecture"] == "LlamaForCausalLM"
    assert document["ledger"]["unused"]


def test_as_what_it_is_a_mislabelled_checkpoint_is_accepted(apr, fleet):
    assert apr("preflight", fleet / "m3").exit_code == 5
    assert apr("preflight", fleet / "m3", "--as", "qwen2").exit_code == 0


def test_as_no_class_of_the_vocabulary_is_refused(apr, fleet):
    result = apr("preflight", fleet / "m0", "--as", "NoSuchClass", "--json")
    assert result.exit_code == 5
    assert "NoSuchClass" in result.stdout
