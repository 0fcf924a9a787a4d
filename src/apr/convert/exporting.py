"""`export_checkpoint`: an `.apr` becomes a directory that `transformers` opens at once, or one safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from apr.convert.checks import (
    Fate,
    LedgerLine,
    check_convertible,
    check_same_model,
    check_texts,
    digest_of,
    refuse_lies,
)
from apr.convert.dequantizing import FLOAT_DTYPES
from apr.convert.export_plan import ExportFormat, ExportJob, plan_export
from apr.convert.metering import Meter, Report
from apr.convert.proof import StoredTensor, check_written, intact_tensors
from apr.convert.publishing import check_output, published
from apr.errors import UsageError, shell_word
from apr.formats.base import Checkpoint, StampKey
from apr.formats.hf.write import DEFAULT_SHARD_BYTES, write_hf_directory
from apr.formats.recorded import Recorded
from apr.formats.registry import open_checkpoint
from apr.formats.safetensors.write import PYTORCH_METADATA, write_safetensors
from apr.formats.writing import STAMP_SLACK_BYTES, tensor_digests
from apr.gates.finding import Finding
from apr.gates.road import RoadOptions, examine_opened
from apr.stamping.changes import PROVENANCE_FIELDS
from apr.stamping.history import Change, history_entry

BYTES_ID = "INV-GENERATION-001"
PASSES = 3  # read, write, read back


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
        check_convertible(checkpoint)
        check_texts(checkpoint)
        retry = f"apr export {{path}} --format {format} -o {shell_word(output)}"
        options = RoadOptions(allowed_gates=allowed_gates or {}, retry_command=retry)
        examination = examine_opened(checkpoint, options)
        findings = refuse_lies(examination)
        meter = Meter(report, checkpoint.size_bytes, PASSES)
        job = plan_export(checkpoint, examination, format, dequantize, meter)
        return _write(job, output, findings, shard_bytes)


def _write(job: ExportJob, output: Path, findings: tuple[Finding, ...], shard_bytes: int) -> ExportResult:
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
            write_safetensors(
                beside, tensors=job.tensors, metadata=_texts(checkpoint), metadata_slack_bytes=STAMP_SLACK_BYTES
            )
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


def _expected(job: ExportJob) -> dict[str, StoredTensor]:
    """What each tensor of the result will be on disk: for copies what it is, for others what will be written."""
    kept = [line.name for line in job.ledger if line.fate is Fate.COPIED]
    stored = intact_tensors(job.checkpoint, job.meter)
    expected = {name: stored[name] for name in kept}
    made = [tensor for tensor in job.tensors if tensor.name not in expected]
    digests = tensor_digests(made)
    return expected | {each.name: StoredTensor(each.dtype, each.shape, digests[each.name]) for each in made}


def _recorded(job: ExportJob, expected: Mapping[str, StoredTensor]) -> Recorded:
    checkpoint = job.checkpoint
    weights_digest = digest_of(expected, job.examination)
    history = [*checkpoint.recorded.history]
    overrides = dict(job.examination.options.allowed_gates)
    if overrides or job.dequantize is not None:
        previous = checkpoint.recorded.weights_digest
        change = Change("tensors", previous, weights_digest, was_absent=previous is None)
        reason = f"dequantised to {job.dequantize}" if job.dequantize is not None else None
        history.append(history_entry("export", [change] if reason else [], reason=reason, overrides=overrides))
    return checkpoint.recorded._replace(
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
