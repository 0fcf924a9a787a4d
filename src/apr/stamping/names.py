"""Names of architectures as users give them: known ones in the spelling readers need, others with suggestions."""

from __future__ import annotations

from typing import NamedTuple

from apr.formats.base import Format
from apr.identity.atlas import Atlas, load_atlas
from apr.identity.claim import normalise, read_stamp
from apr.identity.types import Architecture, Kind
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


def with_family_slug(changes: StampChanges, format_: Format) -> tuple[StampChanges, tuple[str, ...]]:
    """`changes` with the family slug in `architecture` where it was given in another spelling, and a note of it.

    Upstream's readers look for a lower-case slug in that key and drop the q/k/v biases of a file that holds
    `Qwen2ForCausalLM` there (`docs/format-apr2.md`, "architecture from metadata"). GGUF has slugs of its own.
    """
    given = changes.architecture
    if given is not None and format_ is Format.GGUF:
        return _with_gguf_name(changes)
    if given is None or load_atlas().find_model_type(given):
        return changes, ()
    slugs = {architecture.model_type for architecture in read_stamp(given)}
    if len(slugs) != 1:
        return changes, ()
    slug = slugs.pop()
    note = f"`architecture` is written as {slug!r}, since readers take the key for the family; {given!r} was given"
    return changes._replace(architecture=slug), (note,)


def _with_gguf_name(changes: StampChanges) -> tuple[StampChanges, tuple[str, ...]]:
    """`changes` with the family under GGUF's own name, as `qwen2moe` for `qwen2_moe`."""
    given = str(changes.architecture)
    meanings = _gguf_meanings(given)
    decoders = [each for each in meanings if each.kind is Kind.DECODER]
    names = [each.model_type for each in (decoders if len(decoders) == 1 else meanings)]
    if len(names) != 1 or names[0] == given:
        return changes, ()
    note = f"`general.architecture` is written as {names[0]!r}, since that is GGUF's name for it; {given!r} was given"
    return changes._replace(architecture=names[0]), (note,)


def unknown_gguf_names(changes: StampChanges) -> tuple[UnknownName, ...]:
    """The identity stamps in `changes` that mean no GGUF architecture, in its own name or in Hugging Face's."""
    from apr.identity.gguf_atlas import load_gguf_atlas

    names = {architecture.model_type for architecture in load_gguf_atlas().architectures}
    return tuple(
        UnknownName(OPTIONS[name], value, nearest(value, names))
        for name, value in changes.identity.items()
        if (value not in names if name == "architecture" else not _gguf_meanings(value))
    )


def _gguf_meanings(value: str) -> tuple[Architecture, ...]:
    from apr.identity.gguf_evidence import read_gguf_stamp

    return read_gguf_stamp(normalise(value))


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
    import difflib

    folded = {normalise(name): name for name in sorted(names)}
    close = difflib.get_close_matches(normalise(text), folded, n=MOST_SUGGESTIONS, cutoff=0.5)
    return tuple(folded[each] for each in close)


def _class_names(atlas: Atlas) -> set[str]:
    return {architecture.class_name for architecture in atlas.architectures}


def _model_types(atlas: Atlas) -> set[str]:
    return {architecture.model_type for architecture in atlas.architectures}
