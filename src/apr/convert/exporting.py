"""`export_checkpoint`: an `.apr` becomes a directory that `transformers` opens at once, or one safetensors file."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from apr.convert.checks import Fate, LedgerLine, check_same_model, digest_of, refuse_lies
from apr.convert.dequantizing import FLOAT_DTYPES, dequantized, is_quantized
from apr.convert.metering import Meter, Report
from apr.convert.proof import StoredTensor, check_written, intact_tensors
from apr.convert.publishing import check_output, published
from apr.errors import RefusedError, UsageError
from apr.formats.base import Checkpoint, StampKey, TensorEntry
from apr.formats.dtypes import DType
from apr.formats.hf.write import DEFAULT_SHARD_BYTES, write_hf_directory
from apr.formats.recorded import Recorded
from apr.formats.registry import open_checkpoint
from apr.formats.safetensors.write import PYTORCH_METADATA, write_safetensors
from apr.formats.writing import TensorToWrite, tensor_digests
from apr.gates.finding import Finding
from apr.gates.road import Examination, RoadOptions, examine_opened
from apr.identity.evidence import INTERNAL_PREFIXES
from apr.identity.types import Origin
from apr.loading.ledger import Rule
from apr.stamping.changes import PROVENANCE_FIELDS
from apr.stamping.history import Change, history_entry

BYTES_ID = "INV-GENERATION-001"
PASSES = 3  # read, write, read back
CONFIG_ID = "INV-INIT-CONFIG-001"


class ExportFormat(StrEnum):
    """What `--format` accepts."""

    HF = "hf"
    SAFETENSORS = "safetensors"


@dataclass(frozen=True)
class ExportResult:
    """What an export did. quantization: the float dtype quantised tensors were turned into, None when none were."""

    source: Path
    output: Path
    format: ExportFormat
    input_bytes: int
    output_bytes: int
    weights_digest: str
    quantization: str | None
    ledger: tuple[LedgerLine, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]


def export_checkpoint(
    source: Path,
    output: Path,
    format: ExportFormat = ExportFormat.HF,
    *,
    dequantize: str | None = None,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    allowed_gates: Mapping[str, str] | None = None,
    force: bool = False,
    report: Report | None = None,
) -> ExportResult:
    """Write the checkpoint at `source` as `output`: a directory for HF, one file for SAFETENSORS.

    Every tensor keeps its name, dtype and bytes. Left out, with a ledger line: a head of zero bytes that is tied to
    the embedding, and training state of the container. dequantize: `float32`, `float16` or `bfloat16`, what
    block-quantised tensors become; without it they are refused. allowed_gates: gate id to the reason for letting its
    refusal pass, recorded in the history. report: told of the bytes done.

    Raises RefusedError for a source whose stamps contradict its tensors, whose config is not known in full, or that
    holds quantised tensors; UsageError, NotFoundError, DamagedFileError, InputOutputError as reading and writing do.
    """
    source, output, format = Path(source), Path(output), ExportFormat(format)
    if dequantize is not None and dequantize not in FLOAT_DTYPES:
        expected = ", ".join(FLOAT_DTYPES)
        raise UsageError("no such float dtype", where="--dequantize", expected=expected, found=dequantize)
    check_output(source, output, force=force)
    with open_checkpoint(source) as checkpoint:
        retry = f"apr export {{path}} --format {format} -o {shlex.quote(str(output))}"
        options = RoadOptions(allowed_gates=allowed_gates or {}, retry_command=retry)
        examination = examine_opened(checkpoint, options)
        findings = refuse_lies(examination)
        meter = Meter(report, checkpoint.size_bytes, PASSES)
        job = _plan(checkpoint, examination, format, dequantize, meter)
        return _write(job, output, findings, shard_bytes)


@dataclass(frozen=True)
class _Job:
    """An export decided but not begun. changed: some tensor gets other bytes than it has."""

    checkpoint: Checkpoint
    examination: Examination
    format: ExportFormat
    config: Mapping[str, Any]
    tensors: tuple[TensorToWrite, ...]
    ledger: tuple[LedgerLine, ...]
    dequantize: str | None
    notes: tuple[str, ...]
    meter: Meter


def _plan(
    checkpoint: Checkpoint,
    examination: Examination,
    format: ExportFormat,
    dequantize: str | None,
    meter: Meter,
) -> _Job:
    quantized = [entry for entry in checkpoint.tensors.values() if is_quantized(entry) and not entry.is_placeholder]
    if quantized and dequantize is None:
        raise _refuse_quantized(checkpoint, quantized)
    dtype = FLOAT_DTYPES[dequantize] if dequantize is not None and quantized else None
    config = {} if format is ExportFormat.SAFETENSORS else dict(_config(checkpoint, examination))
    if dtype is not None and config:
        config |= {key: dequantize for key in ("dtype", "torch_dtype") if key in config}
    tensors, ledger = [], []
    for entry in checkpoint.tensors.values():
        reason = _reason_to_drop(entry, examination)
        if reason is not None:
            ledger.append(LedgerLine(entry.name, Fate.DROPPED, reason))
        elif dtype is not None and is_quantized(entry):
            tensors.append(dequantized(entry, dtype))
            ledger.append(LedgerLine(entry.name, Fate.DEQUANTIZED, f"{entry.dtype} to {dtype}, as asked"))
        else:
            tensors.append(meter.copy_of(entry))
            ledger.append(LedgerLine(entry.name, Fate.COPIED))
    asked = dequantize if dtype is not None else None
    return _Job(
        checkpoint,
        examination,
        format,
        config,
        tuple(tensors),
        tuple(ledger),
        asked,
        tuple(_notes(checkpoint, format)),
        meter,
    )


def _write(job: _Job, output: Path, findings: tuple[Finding, ...], shard_bytes: int) -> ExportResult:
    checkpoint = job.checkpoint
    expected = _expected(job)
    recorded = _recorded(job, expected)
    with published(output) as beside:
        if job.format is ExportFormat.HF:
            write_hf_directory(
                beside,
                config=job.config,
                tensors=job.tensors,
                tokenizer_files=checkpoint.tokenizer_files(),
                generation_config=checkpoint.generation_config,
                recorded=recorded,
                shard_bytes=shard_bytes,
            )
        else:
            write_safetensors(beside, tensors=job.tensors, metadata=_texts(checkpoint))
        with check_written(beside, expected, invariant=BYTES_ID, meter=job.meter) as written:
            if job.format is ExportFormat.HF:
                check_same_model(checkpoint, written, job.config)
            return ExportResult(
                source=checkpoint.path,
                output=output,
                format=job.format,
                input_bytes=checkpoint.size_bytes,
                output_bytes=written.size_bytes,
                weights_digest=str(recorded.weights_digest),
                quantization=job.dequantize,
                ledger=job.ledger,
                findings=findings,
                notes=job.notes,
            )


def _config(checkpoint: Checkpoint, examination: Examination) -> Mapping[str, Any]:
    """The recorded config; of a file with typed keys alone, the config these and the tensors determine in full."""
    if checkpoint.config is not None:
        return checkpoint.config
    facts = examination.facts
    if facts.config_error is not None:
        raise facts.config_error
    resolved = facts.config
    missing = resolved.missing if resolved is not None else ("the architecture",)
    if resolved is None or missing:
        raise RefusedError(
            "the config is not known in full, and nothing is invented",
            where=str(checkpoint.path),
            expected="every fact that no tensor shows, recorded in the file",
            found="missing: " + ", ".join(missing),
            remedy=f"apr stamp {checkpoint.path} "
            + " ".join(f"--set {name}=VALUE" for name in missing if resolved is not None)
            + " -o OUT, with the values the model was trained with",
            invariant=CONFIG_ID,
        )
    known = {name: value for name, value in resolved.values.items() if resolved.origins.get(name) is not None}
    kept = {name: value for name, value in known.items() if resolved.origins[name] is not Origin.CLASS_DEFAULT}
    identity = {
        "architectures": [resolved.architecture.class_name],
        "model_type": resolved.architecture.model_type,
    }
    return {**identity, **kept}


def _reason_to_drop(entry: TensorEntry, examination: Examination) -> str | None:
    """Why a stored tensor does not go into the export; None when it does."""
    if entry.name.startswith(INTERNAL_PREFIXES):
        return Rule.CONTAINER_INTERNAL.value
    if not entry.is_placeholder:
        return None
    plan = examination.facts.plan
    for ruling in plan.ledger.ruled if plan is not None else ():
        if ruling.name == entry.name and ruling.rule is Rule.TIED_PLACEHOLDER:
            return f"{ruling.rule.value} ({ruling.partner})"
    config = examination.facts.config
    if config is not None and config.values.get("tie_word_embeddings") is True:
        return Rule.TIED_PLACEHOLDER.value
    raise RefusedError(
        "a tensor is stored with zero bytes, but nothing says that it is tied",
        where=f"{examination.facts.path}: tensor {entry.name}",
        expected="tie_word_embeddings true in the config, or a tensor with its bytes",
        found="0 bytes, and a config that is untied or not known",
        remedy=f"apr stamp {examination.facts.path} --set tie_word_embeddings=true -o OUT, if the head is tied",
        invariant="INV-INIT-COVERAGE-001",
    )


def _expected(job: _Job) -> dict[str, StoredTensor]:
    """What each tensor of the result will be on disk: for copies what it is, for others what will be written."""
    kept = [line.name for line in job.ledger if line.fate is Fate.COPIED]
    stored = intact_tensors(job.checkpoint, job.meter)
    expected = {name: stored[name] for name in kept}
    made = [tensor for tensor in job.tensors if tensor.name not in expected]
    digests = tensor_digests(made)
    return expected | {each.name: StoredTensor(each.dtype, each.shape, digests[each.name]) for each in made}


def _recorded(job: _Job, expected: Mapping[str, StoredTensor]) -> Recorded:
    checkpoint = job.checkpoint
    weights_digest = digest_of(expected, job.examination)
    history = [*checkpoint.recorded.history]
    overrides = dict(job.examination.options.allowed_gates)
    if overrides or job.dequantize is not None:
        previous = checkpoint.recorded.weights_digest
        change = Change("tensors", previous, weights_digest, was_absent=previous is None)
        reason = f"dequantised to {job.dequantize}" if job.dequantize is not None else None
        history.append(history_entry("export", [change] if reason else [], reason=reason, overrides=overrides))
    return replace(
        checkpoint.recorded,
        tensor_digests={name: tensor.blake3_hex for name, tensor in expected.items()},
        weights_digest=weights_digest,
        history=tuple(history),
        provenance=_provenance(checkpoint),
    )


def _provenance(checkpoint: Checkpoint) -> dict[str, str]:
    known = {**checkpoint.recorded.provenance, **checkpoint.metadata}
    return {key: known[key] for key in PROVENANCE_FIELDS if isinstance(known.get(key), str) and known[key]}


def _texts(checkpoint: Checkpoint) -> dict[str, str]:
    """What a single safetensors file can say of itself: identity and provenance as texts."""
    names = {StampKey.CONFIG_ARCHITECTURES: "hf_architecture", StampKey.CONFIG_MODEL_TYPE: "hf_model_type"}
    stamps = {names.get(stamp.key, stamp.key.value): stamp.value for stamp in reversed(checkpoint.stamps)}
    return {**PYTORCH_METADATA, **stamps, **_provenance(checkpoint)}


def _notes(checkpoint: Checkpoint, format: ExportFormat) -> list[str]:
    notes = []
    if format is ExportFormat.SAFETENSORS:
        notes.append("a safetensors file holds no config, tokenizer or training record; --format hf carries them")
    elif not checkpoint.tokenizer_files():
        found = "only upstream's vocabulary keys" if checkpoint.tokenizer_vocabulary_size is not None else "none"
        notes.append(f"no tokenizer files were written, since the source records {found}")
    return notes


def _refuse_quantized(checkpoint: Checkpoint, quantized: list[TensorEntry]) -> RefusedError:
    kinds: dict[DType, int] = {}
    for entry in quantized:
        kinds[entry.dtype] = kinds.get(entry.dtype, 0) + 1
    return RefusedError(
        "quantised tensors have no form in safetensors, and are not turned into floats unasked",
        where=str(checkpoint.path),
        expected="tensors of a plain dtype",
        found=", ".join(f"{count} tensors of {dtype}" for dtype, count in kinds.items()),
        remedy="add --dequantize bfloat16 (or float16, float32); values stay those the blocks hold, rounded once",
    )
