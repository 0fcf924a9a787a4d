"""What an export will write, decided before anything is written: config, and the fate of every stored tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from apr.convert.checks import Fate, LedgerLine
from apr.convert.dequantizing import FLOAT_DTYPES, dequantized, is_quantized
from apr.convert.metering import Meter
from apr.errors import RefusedError, shell_word
from apr.formats.base import Checkpoint, TensorEntry
from apr.formats.dtypes import DType
from apr.formats.writing import TensorToWrite
from apr.gates.road import Examination
from apr.identity.evidence import INTERNAL_PREFIXES
from apr.identity.types import Origin
from apr.loading.ledger import Rule

CONFIG_ID = "INV-INIT-CONFIG-001"


class ExportFormat(StrEnum):
    """What `--format` accepts."""

    HF = "hf"
    SAFETENSORS = "safetensors"


@dataclass(frozen=True)
class ExportJob:
    """An export decided but not begun.

    config: of the directory to write, empty for a single file. dequantize: the float dtype quantised tensors become,
    None when there are none. ledger: every stored tensor of the checkpoint.
    """

    checkpoint: Checkpoint
    examination: Examination
    format: ExportFormat
    config: Mapping[str, Any]
    tensors: tuple[TensorToWrite, ...]
    ledger: tuple[LedgerLine, ...]
    dequantize: str | None
    notes: tuple[str, ...]
    meter: Meter


def plan_export(
    checkpoint: Checkpoint,
    examination: Examination,
    format: ExportFormat,
    dequantize: str | None,
    meter: Meter,
) -> ExportJob:
    """The export of `checkpoint` as `format`.

    Raises RefusedError for quantised tensors without `dequantize`, a config that is not known in full, and a tensor
    of zero bytes that is not tied.
    """
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
    return ExportJob(
        checkpoint=checkpoint,
        examination=examination,
        format=format,
        config=config,
        tensors=tuple(tensors),
        ledger=tuple(ledger),
        dequantize=dequantize if dtype is not None else None,
        notes=tuple(_notes(checkpoint, format)),
        meter=meter,
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
            remedy=f"apr stamp {shell_word(checkpoint.path)} "
            + " ".join(f"--set {shell_word(name)}=VALUE" for name in missing if resolved is not None)
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
        remedy=f"apr stamp {shell_word(examination.facts.path)} --set tie_word_embeddings=true -o OUT, "
        "if the head is tied",
        invariant="INV-INIT-COVERAGE-001",
    )


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
