"""Why an architecture does or does not explain a file, in sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from apr.identity.folding import fold_names
from apr.identity.matching import Account
from apr.identity.names import FileNames

_GROUPS_SHOWN = 4


def reasons_for(
    names: FileNames, fitting: Sequence[Account], runner_up: Account | None, hints: Callable[[], Iterable[str]]
) -> list[str]:
    """What the tensors show. hints: what may be the matter where nothing fits; asked for only then."""
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
        reasons += hints()
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
