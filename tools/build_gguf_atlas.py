"""Generate the GGUF atlas from the installed gguf: `python tools/build_gguf_atlas.py [--out FILE]`.

Which architectures there are and which tensors each can have: gguf's lists. Which of them must be there, under which
shapes and in which layers: llama.cpp's loader, read off by `tools/read_gguf_loader.py`. Which Hugging Face classes an
architecture is made from: llama.cpp's converter and transformers' GGUF loader; what neither knows stays unknown.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "src"))

from gguf_tables import (
    BUNDLES,
    ENCODERS,
    LAYERED,
    NAMES_ONLY,
    QKV_BIASES,
    ROPE_UNTOLD,
    SEQ2SEQ,
    SLUGS_OF_TRANSFORMERS,
    SPARSE_ONLY,
    Row,
)

LOADER = Path(__file__).parent / "gguf_loader.json"
OUTPUT = Path(__file__).parent.parent / "src" / "apr" / "identity" / "data" / "gguf.json.gz"
_BIAS_OF_QKV = re.compile(r"\.(q_proj|query|q_lin|qkv_proj|query_key_value|c_attn|Wqkv)\.bias$")
_OPPOSITES = {"<": ">=", ">=": "<", "==": "!=", "!=": "==", "item": "not item", "not item": "item"}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    packed = pack(build(json.loads(LOADER.read_text())))
    arguments.out.write_bytes(packed)
    print(f"{arguments.out}: {len(packed)} bytes")


def build(loader: dict[str, Any]) -> dict[str, Any]:
    """`source`, and the entries by architecture."""
    from importlib.metadata import version

    import transformers
    from gguf.constants import MODEL_ARCH, MODEL_ARCH_NAMES

    facts = loader["architectures"]
    entries = {MODEL_ARCH_NAMES[member]: entry(member, facts.get(MODEL_ARCH_NAMES[member])) for member in MODEL_ARCH}
    source = f"gguf {version('gguf')}, {loader['source']}, transformers {transformers.__version__}"
    return {"source": source, "entries": entries}


def entry(member: Any, facts: dict[str, Any] | None) -> dict[str, Any]:
    from gguf.constants import MODEL_ARCH_NAMES

    slug = MODEL_ARCH_NAMES[member]
    listed = list(_listed(member))
    facts = facts or {"tensors": [], "keys": [], "rope": None, "classes": []}
    partners = counterparts(slug, facts["classes"])
    by_names = slug in NAMES_ONLY or not facts["tensors"]
    rows = _names_only(slug, listed) if by_names else list(_rows(slug, listed, facts["tensors"], partners))
    return {
        "class": "",
        "naming": "gguf",
        "model_type": slug,
        "kind": "encoder" if slug in ENCODERS else "seq2seq" if slug in SEQ2SEQ else "decoder",
        "exact": not by_names,
        "defaults": {},
        "aliases": {},
        "derived": [],
        "fixed": [],
        "base_prefix": "",
        "rope": None,
        "tensors": [_packed(row) for row in rows],
        "facts": {
            "keys": facts["keys"],
            "rope": None if slug in ROPE_UNTOLD else facts["rope"],
            "counterparts": partners,
        },
    }


def _listed(member: Any) -> Iterator[str]:
    """Names that gguf's list of the architecture can give, without `.weight` or `.bias`."""
    from gguf.constants import MODEL_TENSORS, TENSOR_NAMES

    for tensor in MODEL_TENSORS[member]:
        yield TENSOR_NAMES[tensor].replace("{bid}", "{layer}").replace("{xid}", "{expert}")


def _names_only(slug: str, listed: Iterable[str]) -> list[Row]:
    """Every listed name with weight, bias or neither; required is what every model that predicts tokens has."""
    required = {"token_embd", "output_norm", "blk.{layer}.attn_norm", "blk.{layer}.attn_output"}
    rows = []
    for name in listed:
        for suffix in (".weight", ".bias", ""):
            is_required = slug not in ENCODERS and suffix == ".weight" and name in required
            extra = {} if is_required else {"optional": True}
            rows.append({"name": name + suffix, "dims": [], "loose": True, **extra})
    return rows


def _rows(slug: str, listed: list[str], found: list[Row], partners: list[list[str | None]]) -> Iterator[Row]:
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
            kept.append(
                {**{key: value for key, value in row.items() if key != "when"}, **({"when": flags} if flags else {})}
            )
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
        if row["may"] and biases in ("with output", "may"):
            row["bundle"] = "attention biases" if biases == "with output" else "bias of the attention output"
    return rows


def _qkv_biases(slug: str, partners: list[list[str | None]]) -> str:
    """`must`, `none`, `with output`, or `may`: what the classes of the zoo do that are converted to the architecture."""
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
            outputs = [
                each for each in found.templates if each.pattern.endswith(("o_proj.bias", "attention.dense.bias"))
            ]
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
        twin["may"] = twin["may"] and row["may"] if twin.get("where") == row.get("where") else twin["may"] or row["may"]
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
    for architecture, pattern, layers in LAYERED:
        if architecture == slug and re.fullmatch(pattern, row["name"]):
            operator = "not item" if layers.startswith("not ") else "item"
            row["where"] = [[operator, layers.removeprefix("not "), 1]]
            row["may"] = row["name"].endswith("bias")
    if row["name"] == "blk.{layer}.attn_norm.weight" and slug == "modern-bert":
        # The first layer has none in the models of the zoo, and one in some others.
        row["where"], row["may"] = [["!=", "layer", "0"]], False


def _bundle(row: Row) -> None:
    if not row.pop("may"):
        row.pop("bundle", None)
        return
    own = next((bundle for pattern, bundle in BUNDLES if re.fullmatch(pattern, row["name"])), row["name"])
    row.setdefault("bundle", own)


def _packed(row: Row) -> list[Any]:
    loops = [[name, _extent(row["name"])] for name in re.findall(r"\{(\w+)\}", row["name"])]
    extra: Row = {"loops": loops} if loops else {}
    if row.get("when"):
        extra["when"] = [row["when"]]
    for key in ("where", "bundle", "optional", "loose"):
        if row.get(key):
            extra[key] = row[key]
    # A leading dimension of 1 is none: ggml stores its dimensions the other way round, and those it lacks are 1.
    dims = [_plain(dim) for dim in row["dims"]]
    while len(dims) > 1 and dims[0] == "1":
        dims = dims[1:]
    name = re.sub(r"\{\w+\}", "#", row["name"]) if row.get("loose") else row["name"]
    return [name, dims, {key: value for key, value in extra.items() if not (row.get("loose") and key == "loops")}]


def _extent(name: str) -> str:
    return "num_decoder_layers" if name.startswith("dec.") else "num_hidden_layers"


def _plain(dim: str) -> str:
    return dim[1:-1] if re.fullmatch(r"\([^()]*\)", dim) else dim


def counterparts(slug: str, converted: list[str]) -> list[list[str | None]]:
    """Hugging Face classes that become the architecture: (class or None, model type or None, who says so)."""
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    found: list[list[str | None]] = [[name, _model_type(name), "llama.cpp's converter"] for name in converted]
    named = SLUGS_OF_TRANSFORMERS.get(slug, slug)
    supported = {SLUGS_OF_TRANSFORMERS.get(each, each) for each in GGUF_SUPPORTED_ARCHITECTURES}
    if named in supported and named in CONFIG_MAPPING_NAMES and all(each[1] != named for each in found):
        found.append([None, named, "transformers' GGUF loader"])
    return sorted(found, key=lambda each: (each[1] is None, each[1] != named, each[1] or "", each[0] or ""))


@lru_cache(maxsize=1)
def _mapped_types() -> dict[str, list[str]]:
    """Class name to the model types that the installed transformers maps to it."""
    from transformers.models.auto import modeling_auto

    found: dict[str, list[str]] = {}
    for mapping in (name for name in dir(modeling_auto) if name.endswith("_MAPPING_NAMES")):
        for model_type, classes in getattr(modeling_auto, mapping).items():
            for each in (classes,) if isinstance(classes, str) else classes:
                found.setdefault(each, []).append(model_type)
    return found


def _model_type(class_name: str) -> str | None:
    """The model type of a class: of its own config where it serves several; None for classes transformers lacks."""
    import transformers

    types = sorted(set(_mapped_types().get(class_name, ())))
    if len(types) < 2:
        return types[0] if types else None
    return str(getattr(transformers, class_name).config_class.model_type)


def pack(built: dict[str, Any]) -> bytes:
    """One JSON text for each line: the index of names, then the entries."""
    entries = list(built["entries"].values())
    generic = [[_generic(row[0]) for row in each["tensors"]] for each in entries]
    patterns = sorted({name for names in generic for name in names})
    ids = {name: at for at, name in enumerate(patterns)}
    index = []
    for each, names in zip(entries, generic, strict=True):
        must = {
            ids[name]
            for name, (_, _, extra) in zip(names, each["tensors"], strict=True)
            if not any(extra.get(key) for key in ("when", "where", "bundle", "optional"))
        }
        can = {ids[name] for name in names}
        index.append(["", each["model_type"], each["kind"], sorted(must), sorted(can - must)])
    facts = {each["model_type"]: each.pop("facts") for each in entries}
    head = {
        "source": built["source"],
        "naming": "gguf",
        "index": index,
        "patterns": patterns,
        "absent": {},
        "facts": facts,
    }
    lines = [json.dumps(each, separators=(",", ":")) for each in (head, *entries)]
    return gzip.compress("\n".join(lines).encode(), 9, mtime=0)


def _generic(pattern: str) -> str:
    return ".".join(
        "#" if part == "#" or part.isdigit() or part.startswith("{") else part for part in pattern.split(".")
    )


if __name__ == "__main__":
    main()
