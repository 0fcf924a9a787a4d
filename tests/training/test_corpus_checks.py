"""Each corpus check: a planted defect turns it red, its clean twin stays green."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest

from apr.errors import DamagedFileError, NotFoundError, RefusedError
from apr.gates.finding import Finding, Status
from apr.loading.tokenizer import build_tokenizer, read_tokenizer_files
from apr.training.corpus_checks import CHECKS, CorpusReport, check_corpus
from tests.training.conftest import VOCABULARY


def check(dataset: Path, tokenizer: Path, **changes: object) -> CorpusReport:
    arguments: dict[str, object] = {"model_rows": VOCABULARY, **changes}
    return check_corpus(
        dataset,
        tokenizer_files=read_tokenizer_files(tokenizer),
        tokenizer_place=str(tokenizer),
        **arguments,  # type: ignore[arg-type]
    )


def finding(report: CorpusReport, identifier: str) -> Finding:
    return next(each for each in report.findings if each.id == identifier)


def rewrite(path: Path, ids: numpy.ndarray) -> None:
    ids.astype("<u4").tofile(path)


def edit_manifest(dataset: Path, change: Callable[[dict[str, object]], None]) -> None:
    path = dataset / "manifest.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_a_fresh_corpus_passes_every_check(shards: Path, tokenizer: Path) -> None:
    report = check(shards, tokenizer)
    assert [each.id for each in report.findings] == list(CHECKS)
    assert {each.status for each in report.findings} == {Status.PASS}


def flip_a_byte(dataset: Path) -> None:
    path = dataset / "shard-00000.bin"
    content = bytearray(path.read_bytes())
    content[400] ^= 1
    path.write_bytes(content)


def cut_a_shard(dataset: Path) -> None:
    path = dataset / "shard-00001.bin"
    path.write_bytes(path.read_bytes()[:-400])


def lose_a_shard(dataset: Path) -> None:
    (dataset / "shard-00001.bin").unlink()


def lose_the_validation_side(dataset: Path) -> None:
    shutil.rmtree(dataset / "validation")


@pytest.mark.parametrize("damage", [flip_a_byte, cut_a_shard, lose_a_shard, lose_the_validation_side])
@pytest.mark.planted_defect("INV-CORPUS-MANIFEST-001")
@pytest.mark.falsifies("FALSIFY-CORPUS-MANIFEST-001")
def test_shards_that_are_not_the_manifests_are_refused_by_name(
    damage: Callable[[Path], None], own_shards: Path, tokenizer: Path
) -> None:
    damage(own_shards)
    found = finding(check(own_shards, tokenizer), "INV-CORPUS-MANIFEST-001")
    assert found.status is Status.REFUSE
    assert "shard-0000" in str(found.found) or "validation/" in str(found.found)


@pytest.mark.parametrize("place", ["shard-00099.bin", "validation/shard-00099.bin"])
@pytest.mark.planted_defect("INV-CORPUS-STALE-001")
@pytest.mark.falsifies("FALSIFY-CORPUS-STALE-001")
def test_a_left_over_shard_is_refused_by_name(place: str, own_shards: Path, tokenizer: Path) -> None:
    shutil.copy(own_shards / "shard-00000.bin", own_shards / place)
    found = finding(check(own_shards, tokenizer), "INV-CORPUS-STALE-001")
    assert (found.status, found.found) == (Status.REFUSE, place)


@pytest.mark.planted_defect("INV-CORPUS-TOKENIZER-001")
@pytest.mark.falsifies("FALSIFY-CORPUS-TOKENIZER-001")
def test_another_tokenizer_of_the_same_size_is_refused(shards: Path, tokenizer: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(tokenizer, tmp_path / "other"))
    document = json.loads((other / "tokenizer.json").read_text())
    vocabulary = document["model"]["vocab"]
    vocabulary["Ġ"], vocabulary["e"] = vocabulary["e"], vocabulary["Ġ"]
    (other / "tokenizer.json").write_text(json.dumps(document))
    found = finding(check(shards, other), "INV-CORPUS-TOKENIZER-001")
    assert found.status is Status.REFUSE
    assert str(found.expected).startswith("output hash blake3:")
    assert str(found.found).startswith("output hash blake3:")


@pytest.mark.planted_defect("INV-CORPUS-RANGE-001")
@pytest.mark.falsifies("FALSIFY-CORPUS-RANGE-001")
@pytest.mark.parametrize("place", ["shard-00000.bin", "validation/shard-00000.bin"])
def test_the_largest_allowed_id_passes_and_one_more_is_refused(place: str, own_shards: Path, tokenizer: Path) -> None:
    path = own_shards / place
    ids = numpy.fromfile(path, dtype="<u4")
    ids[7] = VOCABULARY - 1
    rewrite(path, ids)
    assert finding(check(own_shards, tokenizer), "INV-CORPUS-RANGE-001").status is Status.PASS
    ids[7] = VOCABULARY
    rewrite(path, ids)
    found = finding(check(own_shards, tokenizer), "INV-CORPUS-RANGE-001")
    assert (found.status, found.found) == (Status.REFUSE, f"id {VOCABULARY}")


def word_tokenizer(folder: Path, words: list[str]) -> Path:
    """A tokenizer of whole words with an unknown token, as those that lost a corpus."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(["<unk>", *words])}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.planted_defect("INV-CORPUS-UNKNOWN-001")
@pytest.mark.falsifies("FALSIFY-CORPUS-UNKNOWN-001")
def test_a_corpus_of_unknown_tokens_is_refused_and_an_ordinary_one_passes(tmp_path: Path) -> None:
    words = [f"w{index}" for index in range(40)]
    tokenizer = word_tokenizer(tmp_path / "words", words)
    dataset = tmp_path / "data"
    dataset.mkdir()
    ids = numpy.arange(4000) % 40 + 1
    ids[:160] = 0
    rewrite(dataset / "shard-00000.bin", ids)
    assert finding(check(dataset, tokenizer), "INV-CORPUS-UNKNOWN-001").status is Status.PASS
    ids[: 4000 - 40] = 0
    rewrite(dataset / "shard-00000.bin", ids)
    report = check(dataset, tokenizer)
    found = finding(report, "INV-CORPUS-UNKNOWN-001")
    assert (found.status, found.found) == (Status.REFUSE, "99.00 % are '<unk>'")
    assert finding(report, "INV-CORPUS-ENTROPY-001").status is Status.REFUSE


@pytest.mark.planted_defect("INV-CORPUS-ENTROPY-001")
@pytest.mark.falsifies("FALSIFY-CORPUS-ENTROPY-001")
def test_a_corpus_of_one_repeated_id_is_refused(own_shards: Path, tokenizer: Path) -> None:
    assert finding(check(own_shards, tokenizer), "INV-CORPUS-ENTROPY-001").status is Status.PASS
    for path in own_shards.glob("*.bin"):
        rewrite(path, numpy.full(path.stat().st_size // 4, 17))
    found = finding(check(own_shards, tokenizer), "INV-CORPUS-ENTROPY-001")
    assert (found.status, found.found) == (Status.REFUSE, "0.000 bits per token")


@pytest.mark.planted_defect("INV-CORPUS-DENSITY-001")
@pytest.mark.falsifies("FALSIFY-CORPUS-DENSITY-001")
def test_text_encoded_byte_by_byte_is_refused(source_tree: Path, tokenizer: Path, tmp_path: Path) -> None:
    built = build_tokenizer(read_tokenizer_files(tokenizer))
    text = (source_tree / "textwrap.py").read_text()
    single = [built.encode(character).ids for character in text]
    dataset = tmp_path / "data"
    dataset.mkdir()
    rewrite(dataset / "shard-00000.bin", numpy.asarray(built.encode(text).ids))
    assert finding(check(dataset, tokenizer), "INV-CORPUS-DENSITY-001").status is Status.PASS
    rewrite(dataset / "shard-00000.bin", numpy.asarray([each for ids in single for each in ids]))
    assert finding(check(dataset, tokenizer), "INV-CORPUS-DENSITY-001").status is Status.REFUSE


@pytest.mark.planted_defect("INV-CORPUS-EOD-001")
@pytest.mark.falsifies("FALSIFY-CORPUS-EOD-001")
def test_another_end_of_document_id_is_refused_with_both(own_shards: Path, tokenizer: Path) -> None:
    edit_manifest(own_shards, lambda document: document.update(eos_token_id=33))
    found = finding(check(own_shards, tokenizer), "INV-CORPUS-EOD-001")
    assert (found.status, found.expected, found.found) == (Status.REFUSE, "0 (<|endoftext|>)", "33")


@pytest.mark.planted_defect("INV-CORPUS-EOD-001")
def test_ends_of_documents_that_are_missing_from_the_shards_are_refused(own_shards: Path, tokenizer: Path) -> None:
    for path in own_shards.glob("*.bin"):
        ids = numpy.fromfile(path, dtype="<u4")
        ids[ids == 0] = 5
        rewrite(path, ids)
    assert finding(check(own_shards, tokenizer), "INV-CORPUS-EOD-001").status is Status.REFUSE


@pytest.mark.planted_defect("INV-CORPUS-SPLIT-001")
@pytest.mark.falsifies("FALSIFY-CORPUS-SPLIT-001")
def test_a_document_on_both_sides_is_refused(own_shards: Path, tokenizer: Path) -> None:
    from blake3 import blake3

    validation = own_shards / "validation" / "documents.hashes"
    shared = validation.read_bytes()[:16]
    training = own_shards / "documents.hashes"
    training.write_bytes(training.read_bytes() + shared)
    digest = blake3(training.read_bytes()).hexdigest()
    edit_manifest(own_shards, lambda document: document["document_hashes"].update(blake3=digest))  # type: ignore[attr-defined]
    found = finding(check(own_shards, tokenizer), "INV-CORPUS-SPLIT-001")
    assert (found.status, found.found) == (Status.REFUSE, "1 shared documents")


@pytest.mark.planted_defect("INV-CORPUS-SPLIT-001")
def test_validating_on_a_shard_that_is_trained_on_is_refused(own_shards: Path, tokenizer: Path, tmp_path: Path) -> None:
    separate = tmp_path / "separate"
    separate.mkdir()
    shutil.copy(own_shards / "validation" / "shard-00000.bin", separate)
    clean = check(own_shards, tokenizer, validation_directory=separate)
    assert finding(clean, "INV-CORPUS-SPLIT-001").status is Status.UNCHECKED
    shutil.copy(own_shards / "shard-00001.bin", separate)
    found = finding(check(own_shards, tokenizer, validation_directory=separate), "INV-CORPUS-SPLIT-001")
    assert found.status is Status.REFUSE
    assert "shard-00001.bin" in str(found.found)


def test_upstreams_shards_without_our_extras_stay_usable(own_shards: Path, tokenizer: Path) -> None:
    shutil.rmtree(own_shards / "validation")
    (own_shards / "manifest.json").unlink()
    bare = check(own_shards, tokenizer)
    upstream = {"schema": "pretokenize-bin-v1", "vocab_size": VOCABULARY, "eos_policy": "between", "eos_token_id": 0}
    shard_count = len(list(own_shards.glob("*.bin")))
    (own_shards / "manifest.json").write_text(json.dumps({**upstream, "shard_count": shard_count}))
    with_manifest = check(own_shards, tokenizer)
    for report in (bare, with_manifest):
        assert not report.refusals
        assert all(each.message for each in report.findings if each.status is Status.UNCHECKED)
    assert finding(with_manifest, "INV-CORPUS-STALE-001").status is Status.PASS
    shutil.copy(own_shards / "shard-00000.bin", own_shards / "zz.bin")
    assert finding(check(own_shards, tokenizer), "INV-CORPUS-STALE-001").status is Status.REFUSE


def test_an_override_is_named_and_keeps_what_it_let_through(own_shards: Path, tokenizer: Path) -> None:
    flip_a_byte(own_shards)
    report = check(own_shards, tokenizer, allowed={"INV-CORPUS-MANIFEST-001": "known bad byte"})
    found = finding(report, "INV-CORPUS-MANIFEST-001")
    assert found.status is Status.UNCHECKED
    assert "known bad byte" in found.message
    assert "would have refused" in found.message


@pytest.mark.planted_defect("INV-CORPUS-EMPTY-001")
def test_directories_without_usable_shards_are_errors(tokenizer: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        check(tmp_path / "none", tokenizer)
    with pytest.raises(RefusedError) as caught:
        check(tmp_path, tokenizer)
    assert caught.value.invariant == "INV-CORPUS-EMPTY-001"
    (tmp_path / "shard-00000.bin").write_bytes(b"12345")
    with pytest.raises(DamagedFileError, match="cut off"):
        check(tmp_path, tokenizer)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("{", "manifest.json"),
        ('{"schema": "other"}', "schema"),
        (
            '{"schema": "pretokenize-bin-v1", "shards": [{"name": "../x", "tokens": 1, "documents": 1, "blake3": ""}]}',
            "0",
        ),
        ('{"schema": "pretokenize-bin-v1", "eos_token_id": "0"}', "eos_token_id"),
    ],
)
def test_a_manifest_that_contradicts_its_schema_is_damaged(
    text: str, key: str, own_shards: Path, tokenizer: Path
) -> None:
    (own_shards / "manifest.json").write_text(text)
    with pytest.raises(DamagedFileError, match="manifest") as caught:
        check(own_shards, tokenizer)
    assert key in str(caught.value.where)


def test_the_fingerprint_names_the_training_side(own_shards: Path, shards: Path, tokenizer: Path) -> None:
    assert check(own_shards, tokenizer).fingerprint == check(shards, tokenizer).fingerprint
    flip_a_byte(own_shards)
    assert check(own_shards, tokenizer).fingerprint != check(shards, tokenizer).fingerprint
