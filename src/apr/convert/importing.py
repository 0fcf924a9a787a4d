"""`import_checkpoint`: a Hugging Face directory or safetensors file becomes one self-contained `.apr`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from apr.convert.checks import (
    Fate,
    LedgerLine,
    check_convertible,
    check_same_model,
    check_texts,
    digest_of,
    refuse_lies,
)
from apr.convert.metering import Meter, Report
from apr.convert.probing import probe_of
from apr.convert.proof import check_written, intact_tensors
from apr.convert.publishing import check_output, published
from apr.errors import DamagedFileError, UsageError, shell_word
from apr.formats.apr2.metadata import apr2_metadata
from apr.formats.apr2.tokenizer import TENSOR_PREFIX, tokenizer_tensors
from apr.formats.apr2.write import write_apr2
from apr.formats.base import Checkpoint, Format, Stamp, StampKey
from apr.formats.config_stamps import config_stamps
from apr.formats.hf.read import CONFIG_FILE_NAME, GENERATION_CONFIG_FILE_NAME
from apr.formats.hf.weights import INDEX_FILE_NAME
from apr.formats.json_text import read_object, without_tagged_floats
from apr.formats.recorded import RECORDED_FILE_NAME, RECORDED_METADATA_KEY, Probe, Recorded
from apr.formats.registry import open_checkpoint
from apr.formats.tokenizer_facts import TOKENIZER_FILE_NAMES
from apr.formats.writing import STAMP_SLACK_BYTES
from apr.gates.finding import Finding
from apr.gates.road import Examination, RoadOptions, examine_opened
from apr.gates.words import beside
from apr.identity.evidence import model_tensors
from apr.identity.wrappers import Repair, with_repaired_names
from apr.loading.pinned import config_facts
from apr.stamping.changes import PROVENANCE_FIELDS
from apr.stamping.history import history_entry

BYTES_ID = "INV-GENERATION-001"
PASSES = 3  # read, write, read back
LONGEST_CONFIG_BYTES = 16 << 20

ORIGINAL_FORMATS: Mapping[Format, str] = MappingProxyType(
    {Format.HF_DIRECTORY: "safetensors", Format.SAFETENSORS: "safetensors"}
)
"""Upstream's `original_format` for each source format."""

CARRIED_FILE_NAMES = frozenset(
    {CONFIG_FILE_NAME, GENERATION_CONFIG_FILE_NAME, INDEX_FILE_NAME, RECORDED_FILE_NAME, *TOKENIZER_FILE_NAMES}
)

METADATA_STAMPS = (StampKey.APR_ARCHITECTURE, StampKey.APR_HF_ARCHITECTURE, StampKey.APR_HF_MODEL_TYPE)


@dataclass(frozen=True)
class ImportResult:
    """What an import did. architecture: the identity that was stamped, None when the source names none.

    probe_loss: of the recorded probe, None without one. ledger: every stored tensor of the source. stamps: identity
    stamps of the written file.
    """

    source: Path
    output: Path
    source_format: Format
    output_bytes: int
    architecture: str | None
    stamps: tuple[Stamp, ...]
    weights_digest: str
    probe_loss: float | None
    ledger: tuple[LedgerLine, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]


def import_checkpoint(
    source: Path,
    output: Path | None = None,
    *,
    config_path: Path | None = None,
    allowed_gates: Mapping[str, str] | None = None,
    with_probe: bool = False,
    unwraps: bool = False,
    force: bool = False,
    report: Report | None = None,
) -> ImportResult:
    """Write the checkpoint at `source` as the APR v2 file `output` (default: the stem of the source + `.apr`).

    Identity, dimensions and full config come from `config.json`, or for a single safetensors file from `config_path`;
    without one nothing is invented. Tensors keep names, dtypes and bytes; tokenizer and generation config go along
    byte for byte, as do training record, probe and history. What the config says of the mathematics is pinned, unless
    the source has pinned it before. allowed_gates: gate id to the reason for letting its refusal pass, recorded in the
    file. with_probe: load the model, and record what it does (needs torch and transformers). unwraps: take out of the
    tensors' names what a training wrapper put there; the repair is recorded. report: told of the bytes done.

    Raises RefusedError for a source whose stamps contradict its tensors or that the gates do not let load for a probe,
    and NotFoundError, DamagedFileError, UsageError, InputOutputError as reading and writing do. After any of them
    nothing is left at `output`.
    """
    source = Path(source)
    output = default_output(source) if output is None else Path(output)
    check_output(source, output, force=force)
    with open_checkpoint(source) as opened:
        check_convertible(opened)
        checkpoint = opened if config_path is None else _with_config(opened, config_path)
        check_texts(checkpoint)
        repair = None
        if unwraps:
            checkpoint, repair = with_repaired_names(checkpoint, model_tensors(checkpoint))
        options = RoadOptions(
            allowed_gates=allowed_gates or {},
            may_use_zoo=with_probe,
            retry_command=f"apr import {{path}} -o {shell_word(output)}",
        )
        examination = examine_opened(checkpoint, options)
        findings = refuse_lies(examination)
        probe = probe_of(examination) if with_probe else checkpoint.recorded.probe
        meter = Meter(report, checkpoint.size_bytes, PASSES)
        return _write(checkpoint, examination, output, findings, meter, probe, repair)


def default_output(source: Path) -> Path:
    """`model.safetensors` gives `model.apr` beside it, the directory `qwen` gives `qwen.apr` beside it."""
    path = Path(os.path.realpath(source))
    return beside(path, ".apr", is_file=not path.is_dir())


def _write(
    checkpoint: Checkpoint,
    examination: Examination,
    output: Path,
    findings: tuple[Finding, ...],
    meter: Meter,
    probe: Probe | None,
    repair: Repair | None,
) -> ImportResult:
    _check_names(checkpoint)
    expected = intact_tensors(checkpoint, meter)
    recorded = checkpoint.recorded._replace(
        probe=probe,
        config_facts=checkpoint.recorded.config_facts or config_facts(checkpoint.config or {}),
        tensor_digests={name: tensor.blake3_hex for name, tensor in expected.items()},
        weights_digest=digest_of(expected, examination),
        provenance={},
    )
    overrides = dict(examination.options.allowed_gates)
    if overrides or repair is not None:
        reason = None if repair is None else f"tensor names repaired: {repair.words}"
        entry = history_entry("import", (), reason=reason, overrides=overrides)
        recorded = recorded._replace(history=(*recorded.history, entry))
    tokenizer_files = checkpoint.tokenizer_files()
    with published(output) as beside:
        write_apr2(
            beside,
            metadata=_metadata(checkpoint, recorded, tokenizer_files, output.stem),
            tensors=[*map(meter.copy_of, checkpoint.tensors.values()), *tokenizer_tensors(tokenizer_files)],
            metadata_slack_bytes=STAMP_SLACK_BYTES,
        )
        with check_written(beside, expected, invariant=BYTES_ID, meter=meter) as written:
            check_same_model(replace(checkpoint, recorded=recorded), written, checkpoint.config)
            verdict = examination.facts.verdict
            claimed = verdict.claim.architecture if verdict is not None else None
            return ImportResult(
                source=checkpoint.path,
                output=output,
                source_format=checkpoint.format,
                output_bytes=written.size_bytes,
                architecture=None if claimed is None else claimed.class_name,
                stamps=written.stamps,
                weights_digest=str(recorded.weights_digest),
                probe_loss=None if probe is None else probe.loss,
                ledger=tuple(LedgerLine(name, Fate.COPIED) for name in checkpoint.tensors),
                findings=findings,
                notes=(*_repaired(repair), *_notes(checkpoint)),
            )


def _metadata(
    checkpoint: Checkpoint, recorded: Recorded, tokenizer_files: Mapping[str, bytes], name: str
) -> dict[str, Any]:
    if checkpoint.format is Format.APR2:
        return {**checkpoint.metadata, RECORDED_METADATA_KEY: recorded.to_json()}
    stamps = {stamp.key.value: stamp.value for stamp in checkpoint.stamps if stamp.key in METADATA_STAMPS}
    known = {**checkpoint.metadata, **checkpoint.recorded.provenance}
    provenance = {key: known[key] for key in PROVENANCE_FIELDS if known.get(key)}
    leftover = {key: value for key, value in checkpoint.metadata.items() if key not in {*stamps, *provenance}}
    return apr2_metadata(
        config=checkpoint.config,
        stamps=stamps,
        recorded=recorded,
        tokenizer_files=tokenizer_files,
        generation_config=checkpoint.generation_config,
        name=name,
        parameter_count=checkpoint.parameter_count,
        total_size_bytes=sum(entry.size_bytes for entry in checkpoint.tensors.values()),
        typed={**provenance, "original_format": ORIGINAL_FORMATS[checkpoint.format]},
        custom={"source_metadata": leftover} if leftover else {},
    )


def _with_config(checkpoint: Checkpoint, config_path: Path) -> Checkpoint:
    """The checkpoint of a single weights file with the config the user named for it."""
    if checkpoint.config is not None:
        raise UsageError(
            "the source has a config of its own",
            where=str(checkpoint.path),
            expected="--config only for a single safetensors file",
            found=str(checkpoint.config_place),
            remedy="leave out --config",
        )
    config = without_tagged_floats(read_object(config_path, LONGEST_CONFIG_BYTES))
    return replace(
        checkpoint,
        config=MappingProxyType(config),
        config_place=str(config_path),
        stamps=(*checkpoint.stamps, *config_stamps(config, str(config_path))),
    )


def _check_names(checkpoint: Checkpoint) -> None:
    reserved = [name for name in checkpoint.tensors if name.startswith(TENSOR_PREFIX)]
    if reserved:
        raise DamagedFileError(
            "a tensor has a name that .apr files keep for embedded tokenizer files",
            where=f"{checkpoint.path}: tensor {reserved[0]}",
            expected=f"names that do not begin with {TENSOR_PREFIX}",
            found=reserved[0],
            remedy="rename the tensor in the source",
        )


def _repaired(repair: Repair | None) -> tuple[str, ...]:
    if repair is None:
        return ()
    changed = sum(old != new for old, new in repair.names.items())
    return (f"{changed} tensors were renamed, {repair.words}; every byte of them is as in the source",)


def _notes(checkpoint: Checkpoint) -> tuple[str, ...]:
    notes = []
    beside = checkpoint.path.parent / "config.json"
    if checkpoint.config is None and checkpoint.format is Format.SAFETENSORS and beside.is_file():
        notes.append(f"{beside} was not read, since nothing ties it to this file; name it with --config {beside}")
    if checkpoint.format is Format.HF_DIRECTORY:
        left = sorted(path.name for path in checkpoint.path.iterdir() if not _is_carried(path.name))
        if left:
            notes.append(f"files that an .apr has no place for were not carried: {', '.join(left)}")
    if not checkpoint.stamps:
        notes.append("the source does not say what it is, and no identity was invented")
    return tuple(notes)


def _is_carried(name: str) -> bool:
    return name in CARRIED_FILE_NAMES or name.endswith(".safetensors") or name.startswith(".")
