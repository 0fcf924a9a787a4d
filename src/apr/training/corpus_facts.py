"""What the corpus checks look at: one dataset directory as found, read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from apr.errors import shell_word
from apr.loading.tokenizer import (
    NamedToken,
    build_tokenizer,
    end_of_document_token,
    tokenizer_output_hash,
    unknown_token,
    vocabulary_size,
)
from apr.training.corpus_manifest import VALIDATION_FOLDER, CorpusManifest, SideRow, read_manifest
from apr.training.corpus_scan import CorpusScan, TextSample, sample_text, scan_shards
from apr.training.windows import find_shards

ENCODE_AGAIN = "apr tokenize encode-corpus --corpus TEXT --tokenizer {tokenizer} --output NEW"


@dataclass(frozen=True)
class Side:
    """Training or validation as found. label: prefix of shard names in messages; row: the manifest's account, None
    where no manifest lists this side's shards."""

    label: str
    directory: Path
    scan: CorpusScan
    row: SideRow | None


@dataclass(frozen=True)
class CorpusFacts:
    """A dataset directory as found, with the validation side that belongs to the run (None: windows are set aside).

    model_rows: embedding rows of the model. sample: ids of the training side turned back into text.
    """

    directory: Path
    tokenizer_place: str
    model_rows: int
    manifest: CorpusManifest | None
    training: Side
    validation: Side | None
    tokenizer_hash: str
    end: NamedToken | None
    unknown: NamedToken | None
    sample: TextSample | None

    @property
    def sides(self) -> tuple[Side, ...]:
        return (self.training,) if self.validation is None else (self.training, self.validation)

    @property
    def encode_again(self) -> str:
        return ENCODE_AGAIN.format(tokenizer=shell_word(self.tokenizer_place))


def gather_corpus(
    directory: Path,
    *,
    tokenizer_files: Mapping[str, bytes],
    tokenizer_place: str,
    model_rows: int,
    validation_directory: Path | None = None,
) -> CorpusFacts:
    """Read every shard of the run once. validation_directory: shards of their own; default `directory/validation`."""
    tokenizer = build_tokenizer(tokenizer_files, where=tokenizer_place)
    end, unknown = end_of_document_token(tokenizer_files, tokenizer), unknown_token(tokenizer_files, tokenizer)
    counted = max(vocabulary_size(tokenizer), model_rows)
    manifest = read_manifest(directory)
    training = Side(
        "", directory, scan_shards(find_shards(directory), counted), manifest.training if manifest else None
    )
    validation = None
    if validation_directory is not None:
        own = read_manifest(validation_directory)
        scan = scan_shards(find_shards(validation_directory), counted)
        validation = Side(f"{validation_directory}/", validation_directory, scan, own.training if own else None)
    elif (directory / VALIDATION_FOLDER).is_dir():
        scan = scan_shards(find_shards(directory / VALIDATION_FOLDER), counted)
        row = manifest.validation if manifest else None
        validation = Side(f"{VALIDATION_FOLDER}/", directory / VALIDATION_FOLDER, scan, row)
    specials = [token.id for token in (end,) if token is not None]
    return CorpusFacts(
        directory=directory,
        tokenizer_place=tokenizer_place,
        model_rows=model_rows,
        manifest=manifest,
        training=training,
        validation=validation,
        tokenizer_hash=tokenizer_output_hash(tokenizer_files),
        end=end,
        unknown=unknown,
        sample=sample_text(training.scan.sample, tokenizer, specials),
    )
