"""The two-way account of an adapter: what its config promises of the base's modules against the tensors of its file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from apr.gates.adapters.companions import is_companion
from apr.gates.adapters.facts import PREFIX, Adapter, LoraTensor, lora_tensors
from apr.gates.adapters.targets import modules_to_save, overlong, promised_modules, saved_modules, stated_for

Shape = tuple[int, ...]

_SPLIT_MATRICES = ("use_bdlora", "use_qalora")
"""Settings with which a matrix has a part of the width, or of the rank, that it has otherwise."""


class BaseModules(NamedTuple):
    """The modules of a base model by name, with the shape of their weight; None where it is packed or not stored.

    expert_owners: modules that hold experts one by one on disk; the zoo may merge or rename what is in them in memory,
    where PEFT looks for modules. by_tail: shapes of tensors by the end of their name, whatever stands before it.
    tied: modules whose weight is that of another one.
    """

    weights: Mapping[str, Shape | None]
    tensors: Mapping[str, Shape]
    by_tail: Mapping[str, Shape]
    expert_owners: frozenset[str]
    tied: frozenset[str]


class Account(NamedTuple):
    """What an adapter leaves over on either side of its base.

    nowhere: adapted modules the base does not have. unpromised: adapted modules the config does not name. bare:
    promised modules without tensors. unsaved: modules to train whole, without tensors. strays: tensors that no rule
    of PEFT gives a place. biases: those of the base that the config says were trained, where the file has none.
    misfits: (tensor, shape in the file, shape the base and the rank ask for). undecided: why a side could not be looked
    at, None when both were.
    """

    nowhere: tuple[str, ...] = ()
    unpromised: tuple[str, ...] = ()
    bare: tuple[str, ...] = ()
    unsaved: tuple[str, ...] = ()
    strays: tuple[str, ...] = ()
    biases: tuple[str, ...] = ()
    misfits: tuple[tuple[str, Shape, str], ...] = ()
    promised_count: int = 0
    undecided: str | None = None


def base_modules(shapes: Mapping[str, Shape], tied: Iterable[str] = ()) -> BaseModules:
    """The modules that own the tensors `shapes` (name to shape) of a base model. tied: names that share a tensor."""
    owners = {name.rpartition(".")[0] for name in shapes}
    return BaseModules(
        weights={owner: shapes.get(f"{owner}.weight") for owner in owners if owner},
        tensors=shapes,
        by_tail={_tensor_tail(name): shape for name, shape in shapes.items()},
        expert_owners=frozenset(owner.partition(".experts.")[0] for owner in owners if ".experts." in owner),
        tied=frozenset(name.rpartition(".")[0] for name in tied),
    )


def held_by(base: BaseModules, names: Iterable[str]) -> frozenset[str]:
    """Those of an adapter's `names` that are tensors of the base, held whole."""
    return frozenset(name for name in names if _tensor_tail(_plain(name)) in base.by_tail)


def account_of(adapter: Adapter, base: BaseModules) -> Account:
    """Both sides of `adapter` over `base`; names and shapes alone."""
    if (note := overlong(adapter.config)) is not None:
        return Account(undecided=f"which modules the config means cannot be told: {note}")
    tensors = lora_tensors(adapter.checkpoint.tensors)
    adapted = sorted({each.module for each in tensors})
    places, unclear = _places(adapted, base)
    seen = Account(
        nowhere=tuple(module for module in adapted if module not in places and module not in unclear),
        unsaved=_unsaved(adapter, base),
        strays=_strays(adapter, base),
        biases=_lost_biases(adapter, places, base),
        misfits=tuple(_misfits(adapter, tensors, places, base)),
    )
    if unclear or (seen.nowhere and (base.expert_owners or _is_built_anew(adapter))):
        count = len(unclear) + len(seen.nowhere)
        note = f"{count} adapted modules are not named so in the base's files, and in memory they may be"
        return seen._replace(nowhere=(), undecided=note)
    if seen.nowhere:
        return seen
    # The rule is over the names in memory, which are those of the files, or those shifted by one prefix.
    renamed = {_in_memory(place, places): place for place in base.weights}
    renamed.update(places)
    promised = promised_modules(adapter.config, renamed)
    if promised is None:
        return seen._replace(undecided="which modules the config promises to adapt cannot be told from the files")
    # PEFT adapts the other end of a tie too, which the config does not name.
    tied = base.tied if adapter.config.get("ensure_weight_tying") else frozenset()
    return seen._replace(
        unpromised=tuple(module for module in adapted if module not in promised and places[module] not in tied),
        bare=tuple(sorted(each for each in promised - set(adapted) if _must_be_adapted(renamed[each], base))),
        promised_count=len(promised),
    )


def _is_built_anew(adapter: Adapter) -> bool:
    """Whether PEFT changes the modules of the base before it adapts them."""
    return bool(adapter.config.get("target_parameters") or adapter.config.get("layer_replication"))


def _places(adapted: list[str], base: BaseModules) -> tuple[dict[str, str], frozenset[str]]:
    """Each adapted module to its module in the base's files, and those that several modules there may be.

    Names in the files may begin otherwise than those in memory (`h.0.attn` for `transformer.h.0.attn`).
    """
    places = {module: module for module in adapted if module in base.weights}
    if len(places) == len(adapted):
        return places, frozenset()
    by_tail: dict[str, list[str]] = {}
    for module in base.weights:
        by_tail.setdefault(_tail(module), []).append(module)
    found = {module: by_tail.get(_tail(module), []) for module in adapted if module not in places}
    places.update({module: others[0] for module, others in found.items() if len(others) == 1})
    return places, frozenset(module for module, others in found.items() if len(others) > 1)


def _tail(module: str) -> str:
    """The name from its first numbered list on, `layers.0.self_attn.q_proj`, or its last part."""
    parts = module.split(".")
    first = next((index for index, part in enumerate(parts) if part.isdigit()), None)
    return parts[-1] if first is None else ".".join(parts[max(first - 1, 0) :])


def _tensor_tail(name: str) -> str:
    owner, _, leaf = name.rpartition(".")
    return f"{_tail(owner)}.{leaf}"


def _plain(name: str) -> str:
    """What the base calls a tensor that an adapter's file holds whole."""
    return name.removeprefix(PREFIX).replace(".base_layer.", ".")


def _in_memory(place: str, places: Mapping[str, str]) -> str:
    """What a module of the files is called in memory, judged by the first of those that are adapted."""
    module, other = next(iter(places.items()), (place, place))
    if module != other and module.endswith(f".{other}"):
        return module.removesuffix(other) + place
    if module != other and other.endswith(f".{module}"):
        return place.removeprefix(other.removesuffix(module))
    return place


def _must_be_adapted(place: str, base: BaseModules) -> bool:
    """Whether a promised module is one that PEFT would have adapted: a matrix, and no expert that memory may merge."""
    shape = base.weights[place]
    beside_experts = any(place.startswith(f"{owner}.") for owner in base.expert_owners)
    return shape is not None and len(shape) >= 2 and not beside_experts


def _unsaved(adapter: Adapter, base: BaseModules) -> tuple[str, ...]:
    """Modules that `modules_to_save` promises and the file lacks. Of those that no file of the base has (heads that
    are new, of which the config may list several spellings) one must be there."""
    listed = modules_to_save(adapter.config)
    names = {name.removeprefix(PREFIX) for name in adapter.checkpoint.tensors}
    owners = {name.rpartition(".")[0] for name in names}
    stored = {each for each in listed if any(f".{each}." in f".{owner}." for owner in owners)}
    in_base = {each for each in listed if saved_modules({"modules_to_save": [each]}, base.weights)}
    missing = {each for each in listed if each not in stored and each in in_base}
    if listed and not stored and not missing:
        missing = set(listed)
    return tuple(sorted(missing))


def _strays(adapter: Adapter, base: BaseModules) -> tuple[str, ...]:
    """Tensors that PEFT would drop: no half of a pair, nothing a pair is saved with, and no tensor of the base."""
    known = {each.name for each in lora_tensors(adapter.checkpoint.tensors)}
    found = []
    for name in adapter.checkpoint.tensors:
        plain = _plain(name)
        is_placed = name in known or is_companion(name) or _tensor_tail(plain) in base.by_tail
        if not is_placed and not saved_modules(adapter.config, [plain.rpartition(".")[0]]):
            found.append(name)
    return tuple(sorted(found))


def _lost_biases(adapter: Adapter, places: Mapping[str, str], base: BaseModules) -> tuple[str, ...]:
    """Biases of the base's layers that `bias` says were trained, where the file holds no bias at all: PEFT saves
    those of all modules (`all`) or of the adapted ones (`lora_only`), trained or not."""
    if any(name.endswith(".bias") and not is_companion(name) for name in adapter.checkpoint.tensors):
        return ()
    biases = [name for name in base.tensors if name.endswith(".bias") and any(map(str.isdigit, name.split(".")))]
    if adapter.config.get("bias") == "all":
        return tuple(biases)
    adapted = set(places.values()) if adapter.config.get("bias") == "lora_only" else set()
    return tuple(name for name in biases if name.removesuffix(".bias") in adapted)


def _misfits(
    adapter: Adapter, tensors: Iterable[LoraTensor], places: Mapping[str, str], base: BaseModules
) -> Iterable[tuple[str, Shape, str]]:
    """LoRA tensors whose free side is not that of the module in the base, and whole tensors that are not of its width.

    A linear layer is stored `[out, in]`, an embedding and GPT-2's layers as `[in, out]`, which the file does not say:
    a pair fits one way round or the other.
    """
    pairs: dict[str, list[LoraTensor]] = {}
    for each in tensors:
        pairs.setdefault(places.get(each.module, ""), []).append(each)
    for place, pair in pairs.items():
        weight = base.weights.get(place)
        if weight is None or len(weight) < 2 or _is_built_anew(adapter) or _has_split_matrices(adapter):
            continue
        shapes = [adapter.checkpoint.tensors[each.name].shape for each in pair]
        ways = [
            [
                (each.name, shape, f"{place}.weight is {weight}")
                for each, shape in zip(pair, shapes, strict=True)
                if len(shape) < 2 or (shape[0] != outer if each.is_output else shape[1] != inner)
            ]
            for outer, inner in (weight[:2], weight[1::-1])
        ]
        yield from min(ways, key=len)
    for name, entry in adapter.checkpoint.tensors.items():
        plain = _plain(name)
        whole = base.tensors.get(plain, base.by_tail.get(_tensor_tail(plain)))
        # Rows may have become more: tokens or labels that were added.
        if whole and (len(whole) != len(entry.shape) or whole[1:] != entry.shape[1:]):
            yield name, entry.shape, f"{plain} is {whole} in the base, and only rows may be added"


def wrong_ranks(adapter: Adapter) -> tuple[tuple[tuple[str, Shape], ...], bool]:
    """LoRA tensors of another rank than the config states for their module, and whether every rank could be told."""
    tensors = adapter.checkpoint.tensors
    adapted = lora_tensors(tensors)
    stated = stated_for(adapter.config, "rank_pattern", "r", {each.module for each in adapted})
    if stated is None or _has_split_matrices(adapter):
        return (), False
    wrong, is_told = [], True
    for each in adapted:
        rank, shape = stated[each.module], tensors[each.name].shape
        if not isinstance(rank, int):
            is_told = False
        elif not shape or (shape[1] if each.is_output and len(shape) > 1 else shape[0]) != rank:
            wrong.append((each.name, shape))
    return tuple(wrong), is_told


def _has_split_matrices(adapter: Adapter) -> bool:
    return any(adapter.config.get(setting) for setting in _SPLIT_MATRICES)
