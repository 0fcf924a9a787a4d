"""An adapter that lies over the model whose base is held against its file: what the adapter answers for itself."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from apr.errors import AprError
from apr.gates import receipt
from apr.gates.adapters.facts import PREFIX, Adapter, open_adapter
from apr.gates.facts import Gate, InitFacts
from apr.gates.finding import Finding, Status
from apr.library.owners import owner_of
from apr.library.wrappers import Unwrapped, is_instance
from apr.loading.ledger import LoadPlan, Rule, Ruling

if TYPE_CHECKING:
    from apr.library.holding import Terms
    from apr.library.resident import ResidentModel

# Tasks whose model has another head than the causal language model that adapters are mostly trained over.
_OTHER_HEADS = frozenset({"SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION"})

# Values of `init_lora_weights` that take the beginning of the adapter out of the base weights (PEFT 0.21,
# `LoraLayer.update_layer`), and those of them that PEFT can convert to a plain adapter when it saves.
_CHANGING_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_CONVERTIBLE = ("pissa", "olora", "corda")


class OverBase(NamedTuple):
    """An adapter over a model. held: names, as the base has them, of tensors that the adapter's file holds whole, such
    as biases that were trained and embeddings that grew; task_type: as its config has it."""

    path: Path
    held: frozenset[str]
    task_type: str | None


def with_adapter(terms: Terms, adapter: Adapter) -> Terms:
    """`terms` for a base that `adapter` lies over: what its file holds whole is proven with it, not with the base."""
    held = frozenset(name.removeprefix(PREFIX).replace(".base_layer.", ".") for name in adapter.checkpoint.tensors)
    return replace(terms, over=OverBase(adapter.path, held, adapter.config.get("task_type")))


def with_adapter_in(terms: Terms, path: Path) -> Terms:
    """As `with_adapter`, of a directory; `terms` as they are when nothing can be read there, which is said later."""
    try:
        adapter = open_adapter(path)
    except AprError:
        return terms
    with adapter.checkpoint:
        return with_adapter(terms, adapter)


def settled(plan: LoadPlan, over: OverBase, resident: ResidentModel, label: Callable[[str], str]) -> LoadPlan:
    """`plan` of the base without what the adapter answers for, each such tensor under a rule that says so.

    A module that PEFT trains whole (`modules_to_save`) is a copy: the base's own lies beside it, and is held against
    the file as long as it has the file's shape. label: on-disk name of a resident tensor to its name in the plan.
    """
    copies = {_as_in_base(name) for name in resident.adapter_names if ".modules_to_save." in name}
    groups = {name: group for group in resident.tied for name in group}
    held = {label(each) for name in over.held for each in groups.get(name, (name,))}
    copied = {label(each) for name in copies for each in groups.get(name, (name,))}
    replaced = held - copied
    ledger = plan.ledger
    heads = _of_other_heads(plan, over, resident)
    changed = [each.model_name for each in plan.assignments if each.model_name in replaced]
    changed += [each.name for each in ledger.shape_conflicts if each.name in held]
    changed += [name for name in ledger.unfilled if name in held]
    ruled = [Ruling(name, Rule.OF_THE_ADAPTER, reason=f"the adapter in {over.path} holds it") for name in changed]
    ruled += [
        Ruling(name, Rule.OF_THE_ADAPTER, reason=f"a {over.task_type} adapter has no such head") for name in heads
    ]
    return plan._replace(
        assignments=tuple(each for each in plan.assignments if each.model_name not in replaced),
        ledger=ledger._replace(
            filled=tuple(name for name in ledger.filled if name not in replaced),
            unfilled=tuple(name for name in ledger.unfilled if name not in held),
            unused=tuple(name for name in ledger.unused if name not in heads),
            shape_conflicts=tuple(each for each in ledger.shape_conflicts if each.name not in held),
            ruled=(*ledger.ruled, *ruled),
        ),
    )


def _as_in_base(name: str) -> str:
    """`lm_head.modules_to_save.default.weight` as the base has it, `lm_head.weight`."""
    module, _, rest = name.partition(".modules_to_save.")
    return f"{module}.{rest.partition('.')[2]}"


def _of_other_heads(plan: LoadPlan, over: OverBase, resident: ResidentModel) -> frozenset[str]:
    """Tensors of the file outside the base model proper, where the adapter was trained with another head."""
    prefix = getattr(resident.module, "base_model_prefix", "") or ""
    if over.task_type not in _OTHER_HEADS or not prefix:
        return frozenset()
    stored = {each.stored_name for each in plan.assignments}
    if not any(name.startswith(f"{prefix}.") for name in stored):
        return frozenset()
    return frozenset(name for name in plan.ledger.unused if not name.startswith(f"{prefix}."))


def with_vocabulary_of(gate: Gate, over: OverBase, resident: ResidentModel) -> Gate:
    """`gate` on the config, with the vocabulary of the embedding that the adapter's file holds in place of the file's.

    That embedding is proven with the adapter, row for row.
    """
    module: Any = resident.module
    embedding = module.get_input_embeddings()
    size = getattr(module.config, "vocab_size", None)
    names = {name.removesuffix(".weight") for name in over.held}
    own = {name for name, each in module.named_modules() if each is embedding}

    def check(facts: InitFacts) -> Iterable[Finding]:
        if facts.config is None or not isinstance(size, int) or "vocab_size" not in facts.config.values:
            return gate.check(facts)
        config = facts.config._replace(values={**facts.config.values, "vocab_size": size})
        return gate.check(facts._replace(config=config))

    return gate._replace(check=check) if own & names else gate


def explained(findings: Collection[Finding], unwrapped: Unwrapped) -> tuple[Finding, ...]:
    """`findings`, those on base weights that PEFT changed when it began an adapter with their reason and a way out."""
    owner = owner_of(unwrapped)
    inits = {} if owner is None else {name: _init_of(config) for name, config in owner.peft_config.items()}
    changing = {name: init for name, init in inits.items() if init.startswith(_CHANGING_THE_BASE)}
    if not changing:
        return tuple(findings)
    adapted = {
        prefix
        for prefix, layer in unwrapped.module.named_modules()
        if is_instance(layer, "peft.tuners.tuners_utils", "BaseTunerLayer")
    }
    return tuple(_explained(each, adapted, changing) for each in findings)


def _explained(finding: Finding, adapted: Collection[str], changing: dict[str, str]) -> Finding:
    module = finding.message.partition(" ")[0].removesuffix(".weight")
    if finding.id != receipt.ID or finding.status is not Status.REFUSE or module not in adapted:
        return finding
    name, init = next(iter(changing.items()))
    way_out = "hold the adapter alone: apr.verify_adapter(model, ADAPTER, check_base=False)"
    if init.startswith(_CONVERTIBLE):
        way_out += (
            "; or save it as a plain adapter, which leaves the base as it is: "
            "model.save_pretrained(DIR, path_initial_model_for_weight_conversion=UNTRAINED_ADAPTER)"
        )
    return finding._replace(
        message=f"{finding.message}: the adapter {name!r} began as {init!r}, and PEFT takes such a beginning out "
        "of the base weights",
        remedy=way_out,
    )


def _init_of(config: Any) -> str:
    init = getattr(config, "init_lora_weights", "")
    return init.lower() if isinstance(init, str) else ""
