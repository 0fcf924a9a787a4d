"""APR v2 metadata as text: typed keys in upstream's order, then custom keys, one compact JSON object.

f32 fields and the exponent form follow serde_json, as upstream writes (`docs/format-apr2.md`, "Metadata").
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any

from apr.errors import UsageError
from apr.formats.apr2.layout import MOST_METADATA_BYTES
from apr.formats.apr2.metadata import ALIASES, TYPED_KEYS, Kind, Spelling, typed_problem
from apr.formats.json_text import with_tagged_floats

_ALWAYS_WRITTEN: dict[str, Any] = {"model_type": "", "total_size": 0, "param_count": 0}
_NULL_WHEN_ABSENT = frozenset({"license", "data_source", "data_license"})


def encode_metadata(metadata: Mapping[str, Any], spelling: Spelling = Spelling.OMITTED) -> bytes:
    """`metadata` as stored: typed keys in upstream's order, then the custom keys in the order given.

    Raises UsageError for a typed key of another type, an alias beside its canonical key, text that has no UTF-8 form,
    and more than 16 MiB.
    """
    _check_aliases(metadata)
    parts = []
    for key, kind in TYPED_KEYS.items():
        value = metadata.get(key)
        if value is None:
            value = _ALWAYS_WRITTEN.get(key)
        if value is not None:
            parts.append(f"{json.dumps(key)}:{_encoded(key, value, kind)}")
        elif spelling is Spelling.NULL or key in _NULL_WHEN_ABSENT:
            parts.append(f"{json.dumps(key)}:null")
    parts += [
        f"{_json(key)}:{_json(with_tagged_floats(value))}" for key, value in metadata.items() if key not in TYPED_KEYS
    ]
    try:
        data = f"{{{','.join(parts)}}}".encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            "metadata holds half of a surrogate pair, which has no UTF-8 form",
            found=repr(error.object[max(error.start - 20, 0) : error.end]),
            remedy="repair the text in the tokenizer or config it comes from",
        ) from error
    if len(data) > MOST_METADATA_BYTES:
        raise UsageError(
            "the metadata is larger than APR readers accept",
            expected=f"at most {MOST_METADATA_BYTES} bytes",
            found=f"{len(data)} bytes",
            remedy="store large parts as U8 tensors, as apr.formats.apr2.tokenizer does",
        )
    return data


def float32_text(value: float) -> str:
    """The shortest decimal that reads back as the same f32, laid out as upstream writes it: 1000000.0, 1e-6, 0.00001.

    Raises UsageError for a value beyond 32-bit floating point.
    """
    stored = _single(value)
    if stored is None or not math.isfinite(value):
        raise UsageError("a number does not fit into 32-bit floating point", found=repr(value))
    (exact,) = struct.unpack("<f", stored)
    digits, text = 1, f"{exact:.0e}"
    while _single(float(text)) != stored:
        digits += 1
        text = f"{exact:.{digits - 1}e}"
    mantissa, exponent_text = text.split("e")
    exponent = int(exponent_text)
    if -5 <= exponent < 13:
        return f"{float(text):.{max(digits - 1 - exponent, 1)}f}"
    return f"{mantissa}e{exponent}"


def _single(value: float) -> bytes | None:
    try:
        return struct.pack("<f", value)
    except OverflowError:
        return None


def _check_aliases(metadata: Mapping[str, Any]) -> None:
    clashes = [
        (alias, canonical) for alias, canonical in ALIASES.items() if alias in metadata and canonical in metadata
    ]
    if clashes:
        raise UsageError(
            "metadata would hold a key and another name for it, which makes upstream readers lose all metadata",
            expected="only the canonical keys: " + ", ".join(sorted({canonical for _, canonical in clashes})),
            found=", ".join(f"{alias} beside {canonical}" for alias, canonical in clashes),
        )


def _encoded(key: str, value: Any, kind: Kind) -> str:
    problem = typed_problem(key, value)
    if problem is not None:
        raise UsageError("a metadata value has the wrong type", where=key, expected=kind.value, found=problem)
    return float32_text(float(value)) if kind is Kind.FLOAT32 else _json(with_tagged_floats(value))


def _json(value: Any) -> str:
    try:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError("a metadata value cannot be written as JSON", found=str(error)[:200]) from error
