"""Open an APR v2 file: the facts of a Checkpoint from header, metadata and index alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from apr.formats.apr2.extents import place_tensors
from apr.formats.apr2.layout import ALIGNMENT_BYTES, ALL_FLAGS
from apr.formats.apr2.metadata import (
    CONFIG_KEY,
    CONFIG_KEYS,
    GENERATION_CONFIG_KEY,
    HF_NAMES,
    TYPED_KEYS,
    typed_problem,
)
from apr.formats.apr2.sections import Sections, read_sections
from apr.formats.apr2.tokenizer import TENSOR_PREFIX, recorded_vocabulary_size, tokenizer_loader, tokenizer_problems
from apr.formats.base import (
    TOKENIZER_NOT_FETCHED,
    Checkpoint,
    ChecksumVerifier,
    Format,
    IntegrityProblem,
    Stamp,
    StampKey,
    TensorEntry,
)
from apr.formats.config_stamps import config_stamps
from apr.formats.json_text import parse_object, without_tagged_floats
from apr.formats.recorded import NOTHING_RECORDED, RECORDED_METADATA_KEY, Recorded, recorded_from_json
from apr.storage.digests import NOTHING_READ, StoredSums
from apr.storage.reading import SourceFile

_STAMP_KEYS = (StampKey.APR_ARCHITECTURE, StampKey.APR_HF_ARCHITECTURE, StampKey.APR_HF_MODEL_TYPE)


def read_apr2(path: Path) -> Checkpoint:
    """The checkpoint in the APR v2 file `path`; it stays open until `Checkpoint.close`.

    Raises DamagedFileError where header, metadata or index contradict themselves or the file's size; contradictions
    that leave everything readable (no footer, a typed key of another type) are `Checkpoint.problems`.
    """
    return apr2_in(SourceFile(Path(path)))


def apr2_in(file: SourceFile) -> Checkpoint:
    """As `read_apr2`, of a file that is open, here or on another machine; an error closes it."""
    try:
        return _checkpoint(file)
    except BaseException:
        file.close()
        raise


def _checkpoint(file: SourceFile) -> Checkpoint:
    sections = read_sections(file)
    metadata = parse_object(sections.metadata, path=file.path, place="APR metadata")
    entries, problems, has_footer = place_tensors(file, sections)
    problems += _section_problems(file, sections) + _metadata_problems(file.path, metadata)
    config = _object(metadata, CONFIG_KEY)
    recorded = NOTHING_RECORDED
    if metadata.get(RECORDED_METADATA_KEY) is not None:
        where = f"{file.path}: APR metadata: {RECORDED_METADATA_KEY}"
        recorded = recorded_from_json(metadata[RECORDED_METADATA_KEY], where=where)
    tokenizer_entries = [each for each in entries if each.name.startswith(TENSOR_PREFIX)]
    problems += tokenizer_problems(file.path, metadata, tokenizer_entries)
    load_tokenizer = tokenizer_loader(metadata, tokenizer_entries)
    is_distant = file.is_remote and bool(tokenizer_entries)
    return Checkpoint(
        path=file.path,
        format=Format.APR2,
        files=(file,),
        tensors=MappingProxyType({each.name: each for each in entries if not each.name.startswith(TENSOR_PREFIX)}),
        stamps=stamps_in(metadata, config),
        config=config,
        config_place=None if config is None else f"APR metadata: {CONFIG_KEY}",
        typed=_typed(metadata),
        metadata=MappingProxyType(metadata),
        generation_config=_object(metadata, GENERATION_CONFIG_KEY),
        recorded=recorded,
        tokenizer_files=load_tokenizer,
        count_tokenizer_rows=lambda: None if is_distant else recorded_vocabulary_size(metadata, load_tokenizer),
        tokenizer_note=TOKENIZER_NOT_FETCHED if is_distant else None,
        problems=tuple(problems),
        verify_checksums=_verifier(file, entries, recorded, has_footer),
    )


def _verifier(
    file: SourceFile, entries: Sequence[TensorEntry], recorded: Recorded, has_footer: bool
) -> ChecksumVerifier:
    def verify(read: Mapping[str, StoredSums] = NOTHING_READ) -> tuple[IntegrityProblem, ...]:
        from apr.formats.apr2.verify import verify_file

        return verify_file(file, entries, recorded.tensor_digests, has_footer=has_footer, read=read)

    return verify


def _object(metadata: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
    value = metadata.get(key)
    return MappingProxyType(without_tagged_floats(value)) if isinstance(value, dict) else None


def _typed(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    present = (
        key for key in CONFIG_KEYS if metadata.get(key) is not None and typed_problem(key, metadata[key]) is None
    )
    return MappingProxyType({HF_NAMES.get(key, key): metadata[key] for key in present})


def stamps_in(metadata: Mapping[str, Any], config: Mapping[str, Any] | None) -> tuple[Stamp, ...]:
    """The identity stamps of APR metadata, and of the config embedded in it."""
    stamps = [
        Stamp(key, metadata[key], f"APR metadata: {key.value}")
        for key in _STAMP_KEYS
        if isinstance(metadata.get(key), str) and metadata[key]
    ]
    embedded = () if config is None else config_stamps(config, f"APR metadata: {CONFIG_KEY}")
    return (*stamps, *embedded)


def _section_problems(file: SourceFile, sections: Sections) -> list[IntegrityProblem]:
    problems = []
    unknown = sections.header.flags & ~ALL_FLAGS
    if unknown:
        where = f"{file.path} at byte 6"
        problems.append(IntegrityProblem("flags of unknown meaning are set", where, "known flags", f"{unknown:#06x}"))
    header = sections.header
    for what, offset_bytes in (
        ("the metadata", header.metadata_offset_bytes),
        ("the tensor index", header.index_offset_bytes),
        ("the tensor data", header.data_offset_bytes),
    ):
        if offset_bytes % ALIGNMENT_BYTES:
            expected = f"a multiple of {ALIGNMENT_BYTES}"
            problems.append(IntegrityProblem(f"{what} is not aligned", str(file.path), expected, str(offset_bytes)))
    if any(sections.index_padding):
        problems.append(
            IntegrityProblem(
                "bytes between the last index entry and the data are not padding",
                where=f"{file.path} at byte {sections.index_end_bytes}",
                expected=f"zeros behind {sections.header.tensor_count} entries",
                found=repr(sections.index_padding.strip(b"\0")[:32]),
            )
        )
    return problems


def _metadata_problems(path: Path, metadata: Mapping[str, Any]) -> list[IntegrityProblem]:
    problems = []
    for key, kind in TYPED_KEYS.items():
        found = typed_problem(key, metadata.get(key))
        if found is not None:
            place = f"{path}: APR metadata: {key}"
            problems.append(IntegrityProblem("a typed key has a value of another type", place, kind.value, found))
    for key in (CONFIG_KEY, GENERATION_CONFIG_KEY):
        value = metadata.get(key)
        if value is not None and not isinstance(value, dict):
            place = f"{path}: APR metadata: {key}"
            problems.append(IntegrityProblem("not a JSON object", place, "a JSON object", f"{value!r:.80}"))
    return problems
