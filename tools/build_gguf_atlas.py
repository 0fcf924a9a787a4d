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
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "src"))

from gguf_rows import rows_by_loader, rows_by_names
from gguf_tables import BASE_UNTOLD, ENCODERS, NAMES_ONLY, ROPE_UNTOLD, SEQ2SEQ, SLUGS_OF_TRANSFORMERS, Row

LOADER = Path(__file__).parent / "gguf_loader.json"
OUTPUT = Path(__file__).parent.parent / "src" / "apr" / "identity" / "data" / "gguf.json.gz"


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
    rope = None if slug in ROPE_UNTOLD else facts["rope"]
    rows = rows_by_names(slug, listed) if by_names else list(rows_by_loader(slug, listed, facts["tensors"], partners))
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
            "rope": rope,
            "is_base_untold": slug in BASE_UNTOLD,
            "counterparts": partners,
        },
    }


def _listed(member: Any) -> Iterator[str]:
    """Names that gguf's list of the architecture can give, without `.weight` or `.bias`."""
    from gguf.constants import MODEL_TENSORS, TENSOR_NAMES

    for tensor in MODEL_TENSORS[member]:
        yield TENSOR_NAMES[tensor].replace("{bid}", "{layer}").replace("{xid}", "{expert}")


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
        "facts": facts,
    }
    lines = [json.dumps(each, separators=(",", ":")) for each in (head, *entries)]
    return gzip.compress("\n".join(lines).encode(), 9, mtime=0)


def _generic(pattern: str) -> str:
    parts = pattern.split(".")
    return ".".join("#" if part.isdigit() or part.startswith("{") else part for part in parts)


if __name__ == "__main__":
    main()
