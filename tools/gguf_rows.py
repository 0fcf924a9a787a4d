"""The rows of one GGUF architecture: what the loader wants, as gguf's lists, the zoo and our tables narrow it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from gguf_tables import (
    BUNDLES,
    ENCODERS,
    FIRST_LAYER,
    FREE_SIZES,
    LATER_LAYERS,
    LAYERED,
    QKV_BIASES,
    SPARSE_ONLY,
    Row,
)

_BIAS_OF_QKV = re.compile(r"\.(q_proj|query|q_lin|qkv_proj|query_key_value|c_attn|Wqkv)\.bias$")
_BIAS_OF_OUTPUT = ("o_proj.bias", "attention.dense.bias")
_LITERAL_PLACES: dict[str, list[Any]] = {FIRST_LAYER: ["==", "layer", "0"], LATER_LAYERS: ["!=", "layer", "0"]}
_OPPOSITES = {"<": ">=", ">=": "<", "==": "!=", "!=": "==", "item": "not item", "not item": "item"}


def rows_by_names(slug: str, listed: Iterable[str]) -> list[Row]:
    """Every listed name with weight, bias or neither; required is what every model that predicts tokens has."""
    required = {"token_embd", "output_norm", "blk.{layer}.attn_norm", "blk.{layer}.attn_output"}
    rows = []
    for name in listed:
        for suffix in (".weight", ".bias", ""):
            is_required = slug not in ENCODERS and suffix == ".weight" and name in required
            extra = {} if is_required else {"optional": True}
            rows.append({"name": name + suffix, "dims": [], "loose": True, **extra})
    return rows


def rows_by_loader(slug: str, listed: list[str], found: list[Row], partners: list[list[str | None]]) -> Iterator[Row]:
    biases = _qkv_biases(slug, partners)
    found = _dense_or_sparse(slug, listed, found)
    rows = [row for each in found for row in _spelled_out(each, listed, biases)]
    rows = _with_output_bias(rows, biases)
    trunk = {row["name"] for row in rows if not _is_nextn(row)}
    rows = [row for row in rows if not _is_nextn(row) or row["name"] not in trunk]
    for row in _merged(rows):
        _place(slug, row)
        _bundle(row)
        yield row
    known = {row["name"].rpartition(".")[0] for row in rows}
    for name in _skipped(slug):
        if name not in known:
            yield {"name": f"{name}.weight", "dims": [], "optional": True}


def _dense_or_sparse(slug: str, listed: list[str], found: list[Row]) -> list[Row]:
    """Rows without those for experts, or without those for none, where gguf's list has only the other kind."""
    has = {
        True: "blk.{layer}.ffn_up_exps" in listed,
        False: "blk.{layer}.ffn_up" in listed and slug not in SPARSE_ONLY,
    }
    if all(has.values()):
        return found
    kept = []
    for row in found:
        flags = [[name, value] for name, value in row.get("when", ()) if name != "is_sparse"]
        is_sparse = dict(row.get("when", ())).get("is_sparse")
        if is_sparse is None or has[is_sparse]:
            others = {key: value for key, value in row.items() if key != "when"}
            kept.append({**others, **({"when": flags} if flags else {})})
    return kept


def _skipped(slug: str) -> list[str]:
    from gguf.constants import MODEL_ARCH_NAMES, MODEL_TENSOR_SKIP, TENSOR_NAMES

    rows = {MODEL_ARCH_NAMES[member]: tensors for member, tensors in MODEL_TENSOR_SKIP.items()}
    return [TENSOR_NAMES[tensor].replace("{bid}", "{layer}") for tensor in rows.get(slug, ())]


def _is_nextn(row: Row) -> bool:
    return any(place[1] == "nextn_layers" for place in row.get("where", ()))


def _spelled_out(row: Row, listed: list[str], biases: str) -> Iterator[Row]:
    """The rows a helper of the loader stands for; fused and split tensors are alternatives where gguf lists both."""
    common = {key: row[key] for key in ("when", "where") if key in row}
    if "parts" not in row:
        yield {**row}
        return
    if row["parts"] == "qkv":
        wide, *parts = row["dims"]
        fused, split = "blk.{layer}.attn_qkv", [f"blk.{{layer}}.attn_{letter}" for letter in "qkv"]
        whole = "?" if "?" in parts else "+".join(parts)
        yield from _alternative("is_fused", listed, fused, [(fused, [whole, wide])], biases, common)
        own = [(name, [part, wide]) for name, part in zip(split, parts, strict=True)]
        yield from _alternative("is_fused", listed, fused, own, biases, common, is_split=True)
        return
    wide, size, experts = row["dims"]
    fused, split = "blk.{layer}.ffn_gate_up_exps", [f"blk.{{layer}}.ffn_{part}_exps" for part in ("gate", "up")]
    yield from _alternative("is_gate_up", listed, fused, [(fused, [experts, f"2*{size}", wide])], "none", common)
    own = [(name, [experts, size, wide]) for name in split]
    yield from _alternative("is_gate_up", listed, fused, own, "none", common, is_split=True)


def _alternative(
    flag: str,
    listed: list[str],
    fused: str,
    tensors: list[tuple[str, list[str]]],
    biases: str,
    common: Row,
    is_split: bool = False,
) -> Iterator[Row]:
    names = [name for name, _ in tensors]
    if names[0] not in listed and (is_split or fused not in listed):
        return
    other = fused in listed if is_split else any(_is_split_name(name) for name in listed)
    when = [*common.get("when", ()), *([[flag, not is_split]] if other else [])]
    row = {**common, **({"when": when} if when else {})}
    for name, dims in tensors:
        yield {**row, "name": f"{name}.weight", "dims": dims, "may": False}
    for name, dims in tensors if biases != "none" else ():
        is_may = biases != "must"
        yield {**row, "name": f"{name}.bias", "dims": dims[:1], "may": is_may, "bundle": "attention biases"}


def _is_split_name(name: str) -> bool:
    return name in ("blk.{layer}.attn_q", "blk.{layer}.ffn_gate_exps")


def _with_output_bias(rows: list[Row], biases: str) -> list[Row]:
    """Biases of q, k and v stand together with that of the output where one switch of the class makes all four."""
    together = {"blk.{layer}.attn_output.bias"}
    output_rows = [row for row in rows if row["name"] in together]
    if biases == "with output" and not output_rows:
        return [row for row in rows if row.get("bundle") != "attention biases"]
    for row in output_rows:
        if row.get("may", False) and biases in ("with output", "may"):
            row["bundle"] = "attention biases" if biases == "with output" else "bias of the attention output"
    return rows


def _qkv_biases(slug: str, partners: list[list[str | None]]) -> str:
    """`must`, `none`, `with output`, or `may`: what the classes of the zoo do that become the architecture."""
    from apr.identity.atlas import load_atlas

    if slug in QKV_BIASES:
        return QKV_BIASES[slug]
    kinds = set()
    for class_name, model_type, _ in partners:
        found = load_atlas().find_class(class_name or "", model_type)
        if found is None or not found.is_exact:
            continue
        rows = [each for each in found.templates if _BIAS_OF_QKV.search(each.pattern) and "cross" not in each.pattern]
        if not rows:
            kinds.add("none")
        elif not rows[0].when:
            kinds.add("must")
        else:
            outputs = [each for each in found.templates if each.pattern.endswith(_BIAS_OF_OUTPUT)]
            kinds.add("with output" if any(each.when == rows[0].when for each in outputs) else "may")
    if len(kinds) == 1:
        return kinds.pop()
    return "with output" if kinds == {"with output", "none"} else "may"


def _merged(rows: list[Row]) -> list[Row]:
    """Rows of one name and rank as one: what stands in an if and in its else stands always."""
    merged: list[Row] = []
    for row in rows:
        twin = next((each for each in merged if _is_twin(each, row)), None)
        if twin is None:
            merged.append(row)
            continue
        twin["dims"] = [one if one == other else "?" for one, other in zip(twin["dims"], row["dims"], strict=True)]
        twin["may"] = (
            twin.get("may", False) and row.get("may", False)
            if twin.get("where") == row.get("where")
            else twin.get("may", False) or row.get("may", False)
        )
        if _is_else(twin.get("where"), row.get("where")) or not row.get("where") or not twin.get("where"):
            twin.pop("where", None)
        elif twin["where"] != row["where"]:
            twin.pop("where")
            twin["may"] = True
        if [[name, not value] for name, value in row.get("when", ())] == twin.get("when"):
            twin.pop("when", None)
    return merged


def _is_twin(one: Row, other: Row) -> bool:
    if one["name"] != other["name"] or len(one["dims"]) != len(other["dims"]):
        return False
    flags, others = one.get("when", []), other.get("when", [])
    return flags == others or [[name, not value] for name, value in others] == flags


def _is_else(one: list[list[Any]] | None, other: list[list[Any]] | None) -> bool:
    if not one or not other or len(one) != len(other):
        return False
    *same, last = one
    *others, latter = other
    return same == others and last[1:] == latter[1:] and _OPPOSITES.get(last[0]) == latter[0]


def _place(slug: str, row: Row) -> None:
    for architecture, pattern in FREE_SIZES:
        if architecture == slug and re.fullmatch(pattern, row["name"]):
            row["dims"] = ["?", *row["dims"][1:]]
    for architecture, pattern, layers in LAYERED:
        if architecture == slug and re.fullmatch(pattern, row["name"]):
            row["where"] = [_LITERAL_PLACES.get(layers) or _named_place(layers)]
            row["may"] = row["name"].endswith("bias")


def _named_place(layers: str) -> list[Any]:
    return ["not item" if layers.startswith("not ") else "item", layers.removeprefix("not "), 1]


def _bundle(row: Row) -> None:
    if not row.pop("may", False):
        row.pop("bundle", None)
        return
    own = next((bundle for pattern, bundle in BUNDLES if re.fullmatch(pattern, row["name"])), row["name"])
    row.setdefault("bundle", own)
