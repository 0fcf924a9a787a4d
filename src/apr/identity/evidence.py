"""The evidence: from names and shapes to every architecture that explains all tensors, and the closest that does not.

Two-way: an architecture explains a file when nothing it wants is absent and nothing in the file is unknown to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from apr.formats.base import Checkpoint
from apr.identity.atlas import Atlas, load_atlas
from apr.identity.renaming import as_the_class_names_them, current_name
from apr.identity.candidates import CANONICAL, explaining_entries
from apr.identity.claim import read_claim
from apr.identity.entries import common_word, literal_holds
from apr.identity.folding import fold_names
from apr.identity.matching import Account, match
from apr.identity.names import FileNames, file_names
from apr.identity.types import Architecture, Claim, Evidence
from apr.identity.wrappers import describe_wrapping

INTERNAL_PREFIXES = ("__training__.", "__apr__.")
"""Names a container keeps for itself: training state of upstream's trainer, files that `apr` embeds."""

TIE_FLAG = "tie_word_embeddings"
"""Whether the head is tied is seen in the file itself, whatever a class does by default."""

_CLOSEST_TRIED = 3
_GROUPS_SHOWN = 4


def gather_evidence(checkpoint: Checkpoint, claim: Claim | None = None) -> Evidence:
    """What the tensors of `checkpoint` show, from headers alone.

    candidates: architectures that explain every tensor; those the stamps name first, then the best known of the
    group. runner_up: the claimed architecture when it does not explain all, else the closest other one. Tensors
    that belong to the container, not to the model, are left out of account.
    """
    claim = claim or read_claim(checkpoint)
    names = model_tensors(checkpoint)
    atlas = load_atlas()
    named = [architecture for _, meanings in claim.readings for architecture in meanings]
    fitting, near = explaining_entries(atlas, names)
    fitting += _as_base_model(atlas, names, fitting, claim, checkpoint.config or {})
    fitting = _as_built(fitting, named, checkpoint.config or {})
    fitting.sort(key=lambda each: _rank(each.entry.architecture, claim, named))
    runner_up = _runner_up(atlas, names, near, fitting, claim, checkpoint.config or {})
    return Evidence(
        candidates=tuple(account.candidate() for account in fitting),
        runner_up=None if runner_up is None else runner_up.candidate(),
        reasons=tuple(_reasons(names, fitting, runner_up)),
    )


def model_tensors(checkpoint: Checkpoint) -> FileNames:
    """Names and shapes of the tensors that belong to the model, old norms by today's names; zero-byte placeholders
    apart."""
    stored = checkpoint.tensors
    kept = {
        current_name(name, stored): entry for name, entry in stored.items() if not name.startswith(INTERNAL_PREFIXES)
    }
    return file_names(
        {name: entry.shape for name, entry in kept.items() if not entry.is_placeholder},
        frozenset(name for name, entry in kept.items() if entry.is_placeholder),
    )


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
        # Whether two sizes are equal (`a==b`) follows from the shapes, so it is no flag that somebody turned round.
        flags = {flag: value for flag, value in account.settings.items() if flag != TIE_FLAG and "==" not in flag}
        return account.entry.is_exact and all(
            literal_holds(account.entry.defaults.get(flag), value)
            or (flag in recorded and literal_holds(common_word(account.entry, flag, recorded[flag]), value))
            for flag, value in flags.items()
        )

    as_built = [account for account in fitting if is_as_built(account)]
    if not as_built:
        return list(fitting)
    return [account for account in fitting if account in as_built or account.entry.architecture in named]


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


def _reasons(names: FileNames, fitting: Sequence[Account], runner_up: Account | None) -> list[str]:
    reasons = []
    if fitting:
        types = list(dict.fromkeys(account.entry.architecture.model_type for account in fitting))
        reasons.append(f"all {len(names.shapes)} tensors are explained by {_listed(types)}")
        by_name = sorted({account.entry.architecture.model_type for account in fitting if not account.entry.is_exact})
        if by_name:
            reasons.append(f"{_listed(by_name)}: by names alone, the atlas does not hold their shapes exactly")
        reasons += [line for account in fitting if (line := _renaming(account, names))]
    else:
        reasons.append(f"no known architecture explains all {len(names.shapes)} tensors")
        reasons += describe_wrapping(names)
    if runner_up is not None:
        reasons += _against(runner_up, fitting)
    if names.placeholders:
        reasons.append(
            f"{_listed(sorted(names.placeholders))} is stored with zero bytes, which means tied to the input embedding"
        )
    return reasons


def _renaming(account: Account, names: FileNames) -> str:
    prefix = f"{account.entry.base_prefix}."
    if not account.entry.base_prefix or any(name.startswith(prefix) for name in names.shapes):
        return ""
    return (
        f"the names are those of the base model of {account.entry.architecture.class_name}, which puts `{prefix}` "
        "before each of them and ties its head"
    )


def _against(runner_up: Account, fitting: Sequence[Account]) -> list[str]:
    """Why the runner-up does not explain the file, each group of tensors with the count it stands for."""
    name = runner_up.entry.architecture.model_type
    known = f"known to {fitting[0].entry.architecture.model_type}, not to {name}" if fitting else f"unknown to {name}"
    lines = [
        f"{_count(count)} {folded} {'is' if count == 1 else 'are'} {known}"
        for folded, count in fold_names(runner_up.unused)[:_GROUPS_SHOWN]
    ]
    lines += [
        f"{name} wants {_count(count)} {folded}, which the file lacks"
        for folded, count in fold_names(runner_up.unfilled)[:_GROUPS_SHOWN]
    ]
    return lines + [f"as {name}, {conflict}" for conflict in runner_up.shape_conflicts[:_GROUPS_SHOWN]]


def _count(count: int) -> str:
    return "1 tensor" if count == 1 else f"{count} tensors"


def _listed(words: Sequence[str]) -> str:
    shown = list(words[:6]) + ([f"{len(words) - 6} more"] if len(words) > 6 else [])
    return shown[0] if len(shown) == 1 else ", ".join(shown[:-1]) + " and " + shown[-1]
