"""Names that mean a tensor of the claimed class although they are spelled otherwise: two declared bijections.

A base model's names: GPT-2 was published as `h.0.attn.c_attn.weight` under a config that names `GPT2LMHeadModel`, which
calls it `transformer.h.0.attn.c_attn.weight` (transformers, `base_model_prefix`). Old norms: BERT was published with
`LayerNorm.gamma` and `LayerNorm.beta` (transformers, `conversion_mapping.py`, "legacy"). The zoo's own loader does the
same two renamings, and no other is done here.
"""

from __future__ import annotations

from collections.abc import Collection

from apr.identity.entries import Entry
from apr.identity.matching import match
from apr.identity.names import FileNames, file_names

OLD_NORMS = ((".LayerNorm.gamma", ".LayerNorm.weight"), (".LayerNorm.beta", ".LayerNorm.bias"))


def current_name(name: str, stored: Collection[str]) -> str:
    """`name` as today's classes spell it; as it is when the file (`stored`) has a tensor of that name already."""
    if name.endswith((".gamma", ".beta")):
        for old, new in OLD_NORMS:
            renamed = name.removesuffix(old) + new
            if name.endswith(old) and renamed not in stored:
                return renamed
    return name


def prefix_to_add(entry: Entry, names: FileNames) -> str:
    """The prefix, `transformer.`, when a file has exactly the base model's names and lacks nothing under it, else "".

    So the class's own head must be tied to a tensor of the base model; a file that lacks more is not completed by
    renaming, and one with a single prefixed name is named for the class already.
    """
    prefix = f"{entry.base_prefix}."
    if not entry.base_prefix or not names.shapes or any(name.startswith(prefix) for name in names.shapes):
        return ""
    return prefix if match(entry, _prefixed(names, prefix)).explains_all else ""


def as_the_class_names_them(entry: Entry, names: FileNames) -> FileNames:
    """`names` with the prefix that `entry`'s class puts before them, where that is the declared renaming."""
    prefix = prefix_to_add(entry, names)
    return _prefixed(names, prefix) if prefix else names


def _prefixed(names: FileNames, prefix: str) -> FileNames:
    return file_names(
        {prefix + name: shape for name, shape in names.shapes.items()},
        frozenset(prefix + name for name in names.placeholders),
    )
