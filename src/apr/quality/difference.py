"""What two checkpoints have different: identity, metadata, config, tensors by header, and if asked by value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from apr.formats.base import Checkpoint, Format, TensorEntry
from apr.quality.facts import identity_stamps
from apr.quality.inspection import FORMAT_NAMES

ABSENT = "(absent)"
OWN_KEYS = frozenset({"hf_config", "hf_generation_config", "hf_tokenizer_files", "apr_recorded", "apr.history"})
"""Metadata keys that carry something which is compared under its own name, or is a record of the file itself."""


class Category(StrEnum):
    """What a difference is about; the names are the founding project's (`apr diff --json`), and `config`, `values`."""

    FORMAT = "format"
    METADATA = "metadata"
    CONFIG = "config"
    TENSOR = "tensor"
    QUANTIZATION = "quantization"
    VALUES = "values"


class Difference(NamedTuple):
    """One fact that the two sides state differently, as text; ABSENT where one side does not state it."""

    field: str
    first: str
    second: str
    category: Category

    def to_json(self) -> dict[str, str]:
        return {
            "field": self.field,
            "file1_value": self.first,
            "file2_value": self.second,
            "category": self.category.value,
        }


def header_differences(first: Checkpoint, second: Checkpoint) -> Iterator[Difference]:
    """Every difference that headers show, tensors sorted by name."""
    if first.format is not second.format:
        yield Difference("format", FORMAT_NAMES[first.format], FORMAT_NAMES[second.format], Category.FORMAT)
    yield from _compared("", _stamps(first), _stamps(second), Category.METADATA)
    yield from _compared("", _provenance(first), _provenance(second), Category.METADATA)
    if first.format is second.format:
        yield from _compared("", _metadata(first), _metadata(second), Category.METADATA)
    yield from _compared("config.", first.config or {}, second.config or {}, Category.CONFIG)
    for name in sorted(set(first.tensors) | set(second.tensors)):
        yield from _tensor_differences(name, first.tensors.get(name), second.tensors.get(name))


def value_differences(first: Checkpoint, second: Checkpoint) -> Iterator[Difference]:
    """Tensors of equal name, dtype and shape whose bytes differ, with how far; reads every byte of both."""
    from apr.loading.values import read_values

    common = [name for name in sorted(first.tensors) if _is_comparable(first.tensors[name], second.tensors.get(name))]
    ours = read_values(first.tensors[name] for name in common)
    theirs = read_values(second.tensors[name] for name in common)
    for name in common:
        if ours[name].blake3_hex != theirs[name].blake3_hex:
            distance = _largest_distance(first.tensors[name], second.tensors[name])
            digests = (f"blake3 {each[name].blake3_hex[:16]}" for each in (ours, theirs))
            one, other = digests
            yield Difference(name, one, f"{other}, {distance}", Category.VALUES)


def category_counts(differences: tuple[Difference, ...]) -> dict[str, int]:
    counted = Counter(difference.category.value for difference in differences)
    return {category.value: counted.get(category.value, 0) for category in Category}


def _compared(
    prefix: str, first: Mapping[str, Any], second: Mapping[str, Any], category: Category
) -> Iterator[Difference]:
    for key in sorted(set(first) | set(second)):
        one, other = first.get(key), second.get(key)
        if one != other:
            yield Difference(prefix + key, _shown(one), _shown(other), category)


def _stamps(checkpoint: Checkpoint) -> dict[str, str]:
    named = identity_stamps(checkpoint)._asdict()
    return {key: stamp.value for key, stamp in named.items() if stamp is not None}


def _provenance(checkpoint: Checkpoint) -> dict[str, str]:
    return {f"provenance.{key}": value for key, value in checkpoint.recorded.provenance.items()}


def _metadata(checkpoint: Checkpoint) -> dict[str, Any]:
    skipped = OWN_KEYS | ({*_stamps(checkpoint)} if checkpoint.format is Format.APR2 else set())
    return {key: value for key, value in checkpoint.metadata.items() if key not in skipped and value is not None}


def _tensor_differences(name: str, first: TensorEntry | None, second: TensorEntry | None) -> Iterator[Difference]:
    if first is None or second is None:
        yield Difference(name, _tensor_text(first), _tensor_text(second), Category.TENSOR)
        return
    if first.shape != second.shape or first.is_placeholder != second.is_placeholder:
        yield Difference(name, _tensor_text(first), _tensor_text(second), Category.TENSOR)
    elif first.dtype is not second.dtype:
        yield Difference(name, first.dtype.value, second.dtype.value, Category.QUANTIZATION)


def _is_comparable(first: TensorEntry, second: TensorEntry | None) -> bool:
    if second is None or first.is_placeholder or second.is_placeholder:
        return False
    return first.dtype is second.dtype and first.shape == second.shape


def _largest_distance(first: TensorEntry, second: TensorEntry) -> str:
    """The largest absolute difference of two tensors of equal dtype and shape, as text, chunk by chunk."""
    import numpy as np

    from apr.formats.dtypes import NOT_DECODED
    from apr.quality.statistics import value_chunks

    if first.dtype in NOT_DECODED:
        return f"values of {first.dtype} are not decoded"
    largest, count = 0.0, 0
    for ours, theirs in zip(value_chunks(first), value_chunks(second), strict=True):
        with np.errstate(invalid="ignore"):
            distances = np.abs(ours - theirs)
        is_same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
        count += int(np.count_nonzero(~is_same))
        finite = distances[np.isfinite(distances)]
        largest = max(largest, float(finite.max(initial=0.0)))
    return f"{count:,} of {first.element_count:,} values differ, by at most {largest:.4g}"


def _tensor_text(entry: TensorEntry | None) -> str:
    if entry is None:
        return ABSENT
    stored = " (zero bytes, tied)" if entry.is_placeholder else ""
    return f"{entry.dtype.value} {list(entry.shape)}{stored}"


def _shown(value: object) -> str:
    if value is None:
        return ABSENT
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
