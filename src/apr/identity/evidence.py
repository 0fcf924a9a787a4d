"""The evidence: from names and shapes to every architecture that explains all tensors, and the closest that does not.

Two-way: an architecture explains a file when nothing it wants is absent and nothing in the file is unknown to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from apr.formats.base import Checkpoint, TensorEntry
from apr.identity.atlas import Atlas, load_atlas
from apr.identity.candidates import CANONICAL, explaining_entries
from apr.identity.claim import read_claim
from apr.identity.entries import Entry, common_word, literal_holds
from apr.identity.gguf_atlas import has_gguf_names
from apr.identity.latest import Latest
from apr.identity.matching import Account, match
from apr.identity.names import FileNames, file_names, pattern_parts
from apr.identity.reasons import reasons_for
from apr.identity.renaming import as_the_class_names_them, current_name
from apr.identity.ties import TIE_FLAG, entry_ties, stands_for
from apr.identity.types import Architecture, Claim, Evidence
from apr.identity.wrappers import describe_wrapping

INTERNAL_PREFIXES = ("__training__.", "__apr__.")
"""Names a container keeps for itself: training state of upstream's trainer, files that `apr` embeds."""

_CLOSEST_TRIED = 3

_grouped: Latest[Mapping[str, TensorEntry], FileNames] = Latest()
_by_kept_names: Latest[FileNames, dict[tuple[object, ...], FileNames]] = Latest()
_explaining: Latest[FileNames, tuple[list[Account], list[tuple[int, int]]]] = Latest()
"""Of the tensors last asked for: a walk through the gates asks several times, a stamp before and after."""


def gather_evidence(checkpoint: Checkpoint, claim: Claim | None = None) -> Evidence:
    """What the tensors of `checkpoint` show, from headers alone.

    candidates: architectures that explain every tensor; those the stamps name first, then the best known of the
    group. None where the tensors are those of a class known exactly, but for some that are missing. runner_up: that
    class; else the claimed one when it does not explain all, else the closest other one. Tensors that belong to the
    container, not to the model, are left out of account.
    """
    claim = claim or read_claim(checkpoint)
    if has_gguf_names(checkpoint):
        from apr.identity.gguf_evidence import gather_gguf_evidence

        return gather_gguf_evidence(checkpoint, claim)
    names = model_tensors(checkpoint)
    atlas = load_atlas()
    named = [architecture for _, meanings in claim.readings for architecture in meanings]
    explaining, near = _explaining.get(names, lambda: explaining_entries(atlas, names))
    fitting = [*explaining, *_as_base_model(atlas, names, explaining, claim, checkpoint.config or {})]
    fitting = _as_built(fitting, named, checkpoint.config or {})
    fitting.sort(key=lambda each: _rank(each.entry.architecture, claim, named))
    incomplete = _incomplete(atlas, names, near, fitting, claim)
    if incomplete is not None:
        fitting = []
    runner_up = incomplete or _runner_up(atlas, names, near, fitting, claim, checkpoint.config or {})
    return Evidence(
        candidates=tuple(account.candidate() for account in fitting),
        runner_up=None if runner_up is None else runner_up.candidate(),
        reasons=tuple(reasons_for(names, fitting, runner_up, lambda: _hints(names))),
    )


def model_tensors(checkpoint: Checkpoint) -> FileNames:
    """Names and shapes of the tensors that belong to the model, old norms by today's names, and a tied tensor by the
    name that the claimed class keeps (`apr.identity.ties`); zero-byte placeholders apart."""
    names = _grouped.get(checkpoint.tensors, lambda: _grouped_names(checkpoint.tensors))
    claimed = None if has_gguf_names(checkpoint) else read_claim(checkpoint).architecture
    if claimed is None:
        return names
    entry = load_atlas().entry(claimed)
    kept = stands_for(entry_ties(entry, checkpoint.config or {}, names.shapes), names.shapes)
    if not kept:
        return names
    known = _by_kept_names.get(names, dict)
    question = (entry.architecture, *kept.items())
    if question not in known:
        renamed = file_names({kept.get(name, name): size for name, size in names.shapes.items()}, names.placeholders)
        known[question] = renamed if _is_mostly_of(entry, renamed) else names
    return known[question]


def _is_mostly_of(entry: Entry, names: FileNames) -> bool:
    """Whether a file is worth reading as `entry` names its tensors: under a false label `lm_head.weight` is the head of
    another class, and what that one is must stay to be seen."""
    return 2 * len(match(entry, names).unused) < len(names.shapes)


def _grouped_names(stored: Mapping[str, TensorEntry]) -> FileNames:
    kept = {
        current_name(name, stored): entry for name, entry in stored.items() if not name.startswith(INTERNAL_PREFIXES)
    }
    return file_names(
        {name: entry.shape for name, entry in kept.items() if not entry.is_placeholder},
        frozenset(name for name, entry in kept.items() if entry.is_placeholder),
    )


def _hints(names: FileNames) -> list[str]:
    hints = describe_wrapping(names)
    if not hints and any(name.startswith("blk.") for name in names.shapes):
        from apr.identity.gguf_evidence import described_as_gguf

        hints = described_as_gguf(names)
    return hints


def _as_base_model(
    atlas: Atlas, names: FileNames, fitting: Sequence[Account], claim: Claim, recorded: Mapping[str, Any]
) -> list[Account]:
    """The account of the claimed class when the file names its tensors as that class's base model does."""
    if claim.architecture is None or claim.architecture in [account.entry.architecture for account in fitting]:
        return []
    entry = atlas.entry(claim.architecture)
    renamed = as_the_class_names_them(entry, names)
    return [] if renamed is names else [match(entry, renamed, recorded=recorded)]


def _as_built(fitting: Sequence[Account], named: Sequence[Architecture], recorded: Mapping[str, Any]) -> list[Account]:
    """Those that explain the file exactly, under the flags of their class or of the recorded config, and the claimed.

    An architecture that fits only with a flag nobody recorded turned round, or by names alone, is no rival to one
    that fits as it is; where nothing fits as it is, all of them are worth naming.
    """

    def is_as_built(account: Account) -> bool:
        # Whether two sizes are equal (`a==b`) follows from the shapes, so it is no flag that somebody turned round; and
        # whether the head is tied is seen in the file itself, whatever a class does by default.
        flags = {flag: value for flag, value in account.settings.items() if flag != TIE_FLAG and "==" not in flag}
        return account.entry.is_exact and all(
            literal_holds(common_word(account.entry, flag, account.entry.defaults.get(flag)), value)
            or (flag in recorded and literal_holds(common_word(account.entry, flag, recorded[flag]), value))
            for flag, value in flags.items()
        )

    as_built = [account for account in fitting if is_as_built(account)]
    if not as_built:
        return list(fitting)
    return [account for account in fitting if account in as_built or account.entry.architecture in named]


def _incomplete(
    atlas: Atlas, names: FileNames, near: Sequence[tuple[int, int]], fitting: Sequence[Account], claim: Claim
) -> Account | None:
    """The exactly known class that has every name and shape of the file and wants a few tensors more.

    Looked for where only names speak for the architectures that fit: names alone do not notice a tensor that is gone.
    """
    if not fitting or any(account.entry.is_exact for account in fitting):
        return None
    accounts = (match(atlas.entry_at(at), names) for distance, at in near if distance == 0)
    damaged = [
        account
        for account in accounts
        if account.entry.is_exact
        and not (account.unused or account.shape_conflicts)
        and len(account.unfilled) < len(names.shapes)
        and not _lacks_kinds_of_layers(account, names)
    ]
    return min(damaged, key=lambda each: (len(each.unfilled), _rank(each.entry.architecture, claim, ())), default=None)


def _lacks_kinds_of_layers(account: Account, names: FileNames) -> bool:
    """Whether what the file lacks belongs to a kind of layers that none of its layers is: a model of other kinds never
    had them."""
    of_some_layers = {pattern_parts(each.pattern)[0] for each in account.entry.templates if each.where}
    lacking = {pattern_parts(name)[0] for name in account.unfilled}
    return any(pattern in of_some_layers and pattern not in names.groups for pattern in lacking)


def _rank(architecture: Architecture, claim: Claim, named: Sequence[Architecture]) -> tuple[object, ...]:
    model_type = architecture.model_type
    votes = sum(architecture in meanings for _, meanings in claim.readings)
    known = CANONICAL.index(model_type) if model_type in CANONICAL else len(CANONICAL)
    return (
        architecture != claim.architecture,
        -votes,
        known,
        model_type,
        named.index(architecture) if architecture in named else len(named),
        load_atlas().architectures.index(architecture),
    )


def _runner_up(
    atlas: Atlas,
    names: FileNames,
    near: Sequence[tuple[int, int]],
    fitting: Sequence[Account],
    claim: Claim,
    recorded: Mapping[str, Any],
) -> Account | None:
    explaining = {account.entry.architecture for account in fitting}
    if claim.architecture is not None and claim.architecture not in explaining:
        return match(atlas.entry(claim.architecture), names, recorded=recorded)
    types = {architecture.model_type for architecture in explaining}
    places = [at for _, at in near if atlas.architectures[at].model_type not in types]
    accounts = [match(atlas.entry_at(at), names) for at in places[:_CLOSEST_TRIED]]
    return min(accounts, key=lambda each: (each.leftovers, _rank(each.entry.architecture, claim, ())), default=None)
