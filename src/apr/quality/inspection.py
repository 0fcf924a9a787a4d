"""The inspection of one checkpoint as plain data: the body of `apr.inspect/1`.

The keys of the founding project's `apr inspect --json` keep their names and meaning (`docs/format-apr2.md`); what we
add stands beside them. `valid` is true only when nothing that was looked at contradicts itself.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from apr.formats.base import Checkpoint, Format, IntegrityProblem
from apr.formats.recorded import Recorded
from apr.identity.types import Architecture, Candidate, Verdict
from apr.quality.facts import dimensions, identity_stamps, model_rows, text_stamp

FORMAT_NAMES = {
    Format.APR2: "APR v2",
    Format.SAFETENSORS: "SafeTensors",
    Format.HF_DIRECTORY: "Hugging Face directory",
    Format.PEFT_ADAPTER: "PEFT adapter",
    Format.GGUF: "GGUF",
}
FLAGS_SHOWN = ("LZ4_COMPRESSED", "ZSTD_COMPRESSED", "ENCRYPTED", "SIGNED", "SHARDED", "QUANTIZED", "HAS_VOCAB")


def inspect_checkpoint(
    checkpoint: Checkpoint, *, shown_path: str, with_quality: bool, with_vocabulary: bool, deep: bool
) -> dict[str, Any]:
    """Everything `apr inspect` says of `checkpoint`; `deep` also reads every byte."""
    from apr.identity.verdict import give_verdict

    verdict = give_verdict(checkpoint)
    problems = (*checkpoint.contradictions, *(checkpoint.verify_checksums() if deep else ()))
    stated = dimensions(checkpoint)
    stamps = identity_stamps(checkpoint)
    document: dict[str, Any] = {
        "file": shown_path,
        "valid": not problems,
        "deep": deep,
        "format": FORMAT_NAMES[checkpoint.format],
        "container": checkpoint.format.value,
        **_header(checkpoint),
        "tensor_count": len(checkpoint.tensors),
        "parameter_count": checkpoint.parameter_count,
        "size_bytes": checkpoint.size_bytes,
        "dtypes": dict(sorted(Counter(entry.dtype.value for entry in checkpoint.tensors.values()).items())),
        "architecture": None if stamps.architecture is None else stamps.architecture.value,
        **{name: stated[name].value if name in stated else None for name in _DIMENSIONS},
        "metadata": _metadata(checkpoint),
        "claims": _claims(verdict),
        "verdict": _verdict(verdict),
        "config": _config(checkpoint, verdict),
        "recorded": _recorded(checkpoint.recorded),
        "tokenizer": {
            "files": sorted(checkpoint.tokenizer_files()),
            "row_count": None,
            "usable": None,
            "problem": "not parsed (--quality, --vocab or --deep)",
        },
        "problems": [_problem(problem) for problem in problems],
    }
    if checkpoint.format is Format.PEFT_ADAPTER:
        from apr.quality.adapter import describe_adapter

        document["adapter"] = describe_adapter(checkpoint)
    if with_quality or with_vocabulary or deep:
        document |= _parsed_tokenizer(checkpoint, verdict, with_vocabulary)
    if with_quality:
        from apr.quality.score import quality_score

        document["quality"] = quality_score(checkpoint, verdict, deep).to_json()
    return document


def _parsed_tokenizer(checkpoint: Checkpoint, verdict: Verdict, with_vocabulary: bool) -> dict[str, Any]:
    """`tokenizer`, and `vocabulary` if asked; never made unasked: 150,000 tokens take longer than all headers."""
    from apr.quality.tokenizer import recorded_tokenizer

    found = recorded_tokenizer(checkpoint, model_rows(checkpoint, verdict))
    document: dict[str, Any] = {
        "tokenizer": {
            "files": list(found.file_names),
            "row_count": found.row_count,
            "usable": found.problem is None,
            "problem": found.problem,
        }
    }
    if with_vocabulary:
        document["vocabulary"] = [{"id": number, "token": token} for number, token in sorted(found.tokens.items())]
    return document


_DIMENSIONS = ("hidden_size", "num_layers", "num_heads", "num_kv_heads", "vocab_size", "intermediate_size")


def _header(checkpoint: Checkpoint) -> dict[str, Any]:
    if checkpoint.format is not Format.APR2:
        return {"version": None, "checksum_valid": None, "flags": None}
    from apr.formats.apr2.layout import HEADER_BYTES, Flags, header_checksum, unpack_header

    head = checkpoint.files[0].read_at(0, HEADER_BYTES)
    header = unpack_header(head)
    return {
        "version": f"{header.major}.{header.minor}",
        "checksum_valid": header_checksum(head) == header.checksum,
        "flags": {name.lower(): bool(header.flags & Flags[name]) for name in FLAGS_SHOWN},
    }


def _metadata(checkpoint: Checkpoint) -> dict[str, Any]:
    """The founding project's `metadata` object: six keys always, its other typed keys when the file has them.

    Of a GGUF file every key beside them; a long array is said to be one, and not listed.
    """
    from apr.formats.apr2.metadata import TYPED_KEYS

    stamps = identity_stamps(checkpoint)
    always = {
        "license": text_stamp(checkpoint, "license"),
        "data_source": text_stamp(checkpoint, "data_source"),
        "data_license": text_stamp(checkpoint, "data_license"),
        "hf_architecture": None if stamps.hf_architecture is None else stamps.hf_architecture.value,
        "hf_model_type": None if stamps.hf_model_type is None else stamps.hf_model_type.value,
        "architecture": "unknown" if stamps.architecture is None else stamps.architecture.value,
    }
    if checkpoint.format is Format.GGUF:
        keys = {key: _listed(value) for key, value in checkpoint.metadata.items() if key not in OWN_RECORDS}
        return {**always, **keys, **always}
    if checkpoint.format is not Format.APR2:
        return always
    others = {key: checkpoint.metadata.get(key) for key in TYPED_KEYS if key not in always}
    return always | {key: value for key, value in others.items() if value is not None and (key, value) != _NO_COUNT}


_NO_COUNT = ("param_count", 0)
OWN_RECORDS = frozenset({"apr.history"})


def _listed(value: Any) -> Any:
    """A value of a GGUF key as JSON has it."""
    if isinstance(value, (str, int, float, list)):
        return value
    return {"array_of": value.element_type.name.lower(), "count": len(value)}


def _claims(verdict: Verdict) -> list[dict[str, Any]]:
    disputed = {stamp for pair in verdict.claim.disagreements for stamp in pair}
    read = [(stamp, meanings) for stamp, meanings in verdict.claim.readings]
    unread = [stamp for stamp in verdict.claim.unknown if stamp not in {stamp for stamp, _ in read}]
    return [
        {
            "place": stamp.place,
            "key": stamp.key.value,
            "value": stamp.value,
            "means": [_architecture(each) for each in meanings],
            "is_disputed": stamp in disputed,
        }
        for stamp, meanings in [*read, *((stamp, ()) for stamp in unread)]
    ]


def _verdict(verdict: Verdict) -> dict[str, Any]:
    runner_up = verdict.evidence.runner_up
    claimed = verdict.claim.architecture
    return {
        "kind": verdict.kind.value,
        "claimed": None if claimed is None else _architecture(claimed),
        "candidates": [_candidate(candidate) for candidate in verdict.evidence.candidates],
        "runner_up": None if runner_up is None else _candidate(runner_up),
        "reasons": [*verdict.reasons],
    }


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return {
        **_architecture(candidate.architecture),
        "unfilled": list(candidate.unfilled),
        "unused": list(candidate.unused),
        "shape_conflicts": list(candidate.shape_conflicts),
        "dimensions": dict(candidate.dimensions),
    }


def _architecture(architecture: Architecture) -> dict[str, Any]:
    return {
        "class_name": architecture.class_name or None,
        "model_type": architecture.model_type,
        "kind": architecture.kind.value,
    }


def _config(checkpoint: Checkpoint, verdict: Verdict) -> dict[str, Any]:
    """Where the config stands, and which facts that no tensor shows nobody recorded.

    `missing` is None, with the reason in `problem`, when no one architecture tells which facts to ask for.
    """
    missing, problem = _missing_facts(checkpoint, verdict)
    return {
        "place": checkpoint.config_place if checkpoint.config is not None else "metadata" if checkpoint.typed else None,
        "is_full": checkpoint.config is not None,
        "missing": missing,
        "problem": problem,
    }


def _missing_facts(checkpoint: Checkpoint, verdict: Verdict) -> tuple[list[str] | None, str | None]:
    from apr.errors import AprError
    from apr.identity.config import resolve_config

    fitting = [candidate.architecture for candidate in verdict.evidence.candidates]
    claimed = verdict.claim.architecture
    architecture = claimed if claimed in fitting else (fitting[0] if len(fitting) == 1 else None)
    if architecture is None:
        return None, "no one architecture is both claimed and shown by the tensors"
    try:
        return list(resolve_config(checkpoint, architecture).missing), None
    except AprError as error:
        return None, error.what


def _recorded(recorded: Recorded) -> dict[str, Any]:
    document = recorded.to_json()
    training, probe = document["training"], document["probe"]
    return {
        "training": training,
        "probe": None if probe is None else {key: probe[key] for key in ("loss", "dtype", "device")},
        "weights_digest": recorded.weights_digest,
        "parent_digest": None if training is None else training["parent_digest"],
        "parent_path": None if training is None else training["parent_path"],
        "tensor_digest_count": len(recorded.tensor_digests),
        "history": document["history"],
    }


def _problem(problem: IntegrityProblem) -> dict[str, str]:
    return {
        "what": problem.what,
        "where": problem.where,
        "expected": problem.expected,
        "found": problem.found,
    }
