"""Names of architectures as users give them: known ones in the spelling readers need, others with suggestions."""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import NamedTuple

from apr.errors import UsageError
from apr.identity.atlas import Atlas, load_atlas
from apr.identity.claim import OTHER_SPELLINGS, normalise, read_stamp
from apr.stamping.changes import OPTIONS, StampChanges

MOST_SUGGESTIONS = 3


class UnknownName(NamedTuple):
    """A stamp that names nothing known: the flag it came from, its value, and the known names nearest to it."""

    option: str
    value: str
    suggestions: tuple[str, ...]

    def __str__(self) -> str:
        nearest = f"; nearest known: {', '.join(self.suggestions)}" if self.suggestions else ""
        return f"{self.option} {self.value!r}{nearest}"


def with_family_slug(changes: StampChanges) -> tuple[StampChanges, tuple[str, ...]]:
    """`changes` with the family slug in `architecture` where it was given in another spelling, and a note of it.

    Upstream's readers look for a lower-case slug in that key and drop the q/k/v biases of a file that holds
    `Qwen2ForCausalLM` there (`docs/format-apr2.md`, "architecture from metadata").
    """
    given = changes.architecture
    if given is None or load_atlas().find_model_type(given):
        return changes, ()
    slugs = {architecture.model_type for architecture in read_stamp(given)}
    if len(slugs) != 1:
        return changes, ()
    slug = slugs.pop()
    note = f"`architecture` is written as {slug!r}, since readers take the key for the family; {given!r} was given"
    return replace(changes, architecture=slug), (note,)


def gguf_name(architecture: str) -> str:
    """The name GGUF has for the family `architecture`, as `qwen2moe` for `qwen2_moe`; UsageError where it has none."""
    from apr.formats.gguf.architectures import ARCHITECTURES

    if architecture in ARCHITECTURES:
        return architecture
    word = normalise(architecture)
    spelled = [name for name in sorted(ARCHITECTURES) if normalise(name) == word]
    meant = [name for name in sorted(ARCHITECTURES) if architecture in _model_types_of(name)]
    if spelled or len(meant) == 1:
        return (spelled or meant)[0]
    close = ", ".join(meant or nearest(architecture, set(ARCHITECTURES)))
    raise UsageError(
        "GGUF has no name for this architecture",
        where=OPTIONS["architecture"],
        expected="a value of general.architecture that llama.cpp knows" + (f"; nearest: {close}" if close else ""),
        found=architecture,
        remedy="give the name that llama.cpp has for it",
    )


def _model_types_of(gguf_name: str) -> set[str]:
    return {each.model_type for each in read_stamp(gguf_name)} | {OTHER_SPELLINGS.get(normalise(gguf_name), "")}


def unknown_names(changes: StampChanges) -> tuple[UnknownName, ...]:
    """The identity stamps in `changes` that are not spelled as an architecture of the atlas is."""
    atlas = load_atlas()
    found = []
    for name, value in changes.identity.items():
        is_class = name == "hf_architecture"
        if not (atlas.find_class(value) if is_class else atlas.find_model_type(value)):
            names = _class_names(atlas) if is_class else _model_types(atlas)
            found.append(UnknownName(OPTIONS[name], value, nearest(value, names)))
    return tuple(found)


def nearest(text: str, names: set[str]) -> tuple[str, ...]:
    """Up to three of `names` that are spelled most like `text`, case and separators aside."""
    folded = {normalise(name): name for name in sorted(names)}
    close = difflib.get_close_matches(normalise(text), folded, n=MOST_SUGGESTIONS, cutoff=0.5)
    return tuple(folded[each] for each in close)


def _class_names(atlas: Atlas) -> set[str]:
    return {architecture.class_name for architecture in atlas.architectures}


def _model_types(atlas: Atlas) -> set[str]:
    return {architecture.model_type for architecture in atlas.architectures}
