"""Sentences that several gates share: the account of a plan, ln(vocabulary), and the way out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from apr.errors import in_lines, shell_word, shown_name, shown_value
from apr.gates.facts import InitFacts
from apr.identity.folding import fold_names
from apr.identity.types import Architecture, Naming
from apr.identity.verdict import stamp_recipe
from apr.identity.wrappers import WRAPPER_PARTS
from apr.loading.ledger import LoadPlan

MOST_NAMES_SHOWN = 6

VALUES_ID = "INV-INIT-VALUES-001"
VALUES_REMEDY = (
    "the producer wrote these values; get another copy, or find the save that lost them (docs/failure-modes.md)"
)


def folded(names: tuple[str, ...]) -> str:
    """Names in folded form with their counts: `model.layers.{0–23}.self_attn.{q,k,v}_proj.bias (72)`."""
    groups = fold_names(names)
    shown = [
        f"{shown_name(name)} ({count})" if count > 1 else shown_name(name) for name, count in groups[:MOST_NAMES_SHOWN]
    ]
    if len(groups) > MOST_NAMES_SHOWN:
        shown.append(f"and {len(groups) - MOST_NAMES_SHOWN} more groups")
    return ", ".join(shown)


def settings(names: Iterable[str], values: Mapping[str, object]) -> str:
    """`name = value; ...` for the fields of a config that are talked about; None for one that is not there."""
    return "; ".join(f"{name} = {shown_value(values.get(name))}" for name in names)


def account(plan: LoadPlan) -> str:
    """The ledger in one line: filled, unfilled and unused, the leftovers named and folded."""
    ledger = plan.ledger
    parts = [f"{len(ledger.filled)} filled"]
    for label, names in (("unfilled", ledger.unfilled), ("unused", ledger.unused)):
        parts.append(f"{len(names)} {label}" + (f": {folded(names)}" if names else ""))
    if ledger.raw_codes:
        parts.append(f"{len(ledger.raw_codes)} raw codes without a scale: {folded(ledger.raw_codes)}")
    if ledger.shape_conflicts:
        parts.append(f"{len(ledger.shape_conflicts)} of another shape")
    if ledger.tied:
        parts.append(f"{len(ledger.tied)} tied")
    return "; ".join(parts)


def vocabulary_size(facts: InitFacts) -> int | None:
    """The model's vocabulary: rows of the input embedding as the config states them, None when unknown."""
    if facts.config is None:
        return None
    size = facts.config.values.get("vocab_size")
    return size if isinstance(size, int) and size > 0 else None


def uniform_guess(facts: InitFacts) -> str:
    """`ln(vocabulary)`, the loss of knowing nothing; it tells damaged from random at a glance."""
    size = vocabulary_size(facts)
    return "ln(vocabulary) unknown" if size is None else f"a uniform guess scores ln({size:,}) = {math.log(size):.4f}"


def repair_commands(facts: InitFacts, architecture: Architecture) -> str:
    """The two lines that repair a false stamp and start again."""
    path = facts.local_path
    is_file = path.is_file() if facts.download is None else facts.download.is_file
    repaired = repaired_path(path, architecture, is_file)
    if architecture.naming is Naming.GGUF:
        return in_lines(stamp_recipe(path, architecture, repaired), f"apr preflight {shell_word(repaired)}")
    retry = facts.retry_command.replace("{path}", shell_word(repaired))
    return in_lines(stamp_recipe(path, architecture, repaired), retry)


def repaired_path(path: Path, architecture: Architecture, is_file: bool) -> Path:
    """Where the recipe puts the repaired copy: beside the original, named for what it is."""
    return beside(path, f".{architecture.model_type}{path.suffix if is_file else ''}", is_file=is_file)


def beside(path: Path, ending: str, *, is_file: bool) -> Path:
    """A path next to `path`, under its name with `ending`, which replaces a file's suffix; `.` has a name too."""
    named = path if path.name not in ("", "..") else path.resolve()
    return named.with_name((named.stem if is_file else named.name) + ending)


def wrapping(facts: InitFacts) -> str:
    """What wrapper or prefix shifted the names of a file, `320 names carry `_orig_mod.``; empty when none is seen."""
    if facts.checkpoint is None:
        return ""
    names = facts.plan.ledger.unused if facts.plan is not None else tuple(facts.checkpoint.tensors)
    said = []
    for part, wrapper in WRAPPER_PARTS.items():
        count = sum(part in name.split(".") for name in names)
        if count:
            said.append(f"{count} names carry `{part}.`, which {wrapper} puts there")
    flat = sum(name.rpartition(".")[2] in {"_flat_param", "flat_param"} for name in names)
    if flat:
        said.append(f"{flat} tensors are flattened FSDP parameters, not a gathered checkpoint")
    if not said and facts.plan is not None:
        said += _shifted(facts.plan)
    return "; ".join(said)


def _shifted(plan: LoadPlan) -> Iterator[str]:
    """A prefix that all leftover names lack, or carry too much, when that pairs them with what was not filled."""
    unused, unfilled = set(plan.ledger.unused), set(plan.ledger.unfilled)
    if not unused or not unfilled:
        return
    example = min(unused)
    heads = [".".join(example.split(".")[:count]) + "." for count in (1, 2, 3)]
    for head in heads:
        if all(name.startswith(head) for name in unused) and {name.removeprefix(head) for name in unused} & unfilled:
            yield f"{len(unused)} names carry the prefix `{head}` that the model does not use"
            return
    for wanted in sorted(unfilled):
        if wanted.endswith("." + example):
            head = wanted.removesuffix(example)
            if {head + name for name in unused} <= unfilled:
                yield f"{len(unused)} names lack the prefix `{head}`"
                return
