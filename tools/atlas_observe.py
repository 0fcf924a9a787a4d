"""Which config fields matter to a class's tensors, and observations of the class under many configs."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import Any

from atlas_classes import NULLABLE, TEXT_VALUES, WORDS_MATTER_WITH
from atlas_models import (
    ACTIVATION_FIELD,
    DEPTH_FIELD,
    EVERY_FIELD,
    FROM_FIELD,
    HEADS_FIELD,
    HIDDEN_FIELD,
    IRRELEVANT_FIELD,
    KEY_VALUE_FIELD,
    LAYERS_FIELD,
    VOCABULARY_FIELD,
    Observed,
    Sampler,
    ZooClass,
)

OBSERVATIONS_AT_LEAST = 14
MOST_TOGGLES_COMBINED = 4
RANDOM_STATES = 24
MOST_KINDS_OF_WORDS = 4
STATES_OF_WORDS = 3
"""So many random states for every combination of a word with the switches it needs: rules over three fields at once."""
DERIVATION_CHECKS = 3
COUPLED_SHARE = 0.4
MOST_REFUSALS = 6
"""So many refusals in a row, and none built: the class wants its widths, its depths or its heads to be equal."""

State = Mapping[str, Any]


@dataclass
class Relevance:
    """Fields by what they do to the tensors. toggles: field to its settings, the default's first: two, of words more.

    matters_with: for integers without effect in the usual setting, a setting in which they have one.
    tie_toggles: toggles that only decide which tensors share bytes. derived: what the model itself puts in the place
    of an integer that the config leaves unset. lists: lists over layers with the kinds they may hold; no kinds for
    lists of layer numbers. texts: words a field may hold, each with the word that stands for it (same tensors).
    """

    integers: list[str] = field(default_factory=list)
    harmless_integers: list[str] = field(default_factory=list)
    toggles: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    tie_toggles: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    derived: dict[str, str] = field(default_factory=dict)
    matters_with: dict[str, dict[str, Any]] = field(default_factory=dict)
    harmless_toggles: list[str] = field(default_factory=list)
    harmless_lists: list[str] = field(default_factory=list)
    lists: dict[str, tuple[str, ...]] = field(default_factory=dict)
    texts: dict[str, dict[str, str]] = field(default_factory=dict)
    fixed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Sighting:
    """One observation with the setting of every relevant toggle and the values the config was made of."""

    state: State
    observed: Observed
    values: Mapping[str, Any]

    def features(self, integers: Sequence[str]) -> dict[str, bool]:
        """Facts beyond toggles that can decide whether a tensor exists: a size that is 0, two sizes that are equal."""
        numbers = {name: self.observed.attributes.get(name) for name in integers}
        found = {f"{name}==0": not numbers[name] for name in integers}
        for one, two in combinations(integers, 2):
            found[f"{one}=={two}"] = numbers[one] == numbers[two]
        return found


class Observer:
    """Studies one class: first what matters, then observations over all settings that matter."""

    def __init__(self, zoo: ZooClass, seed: int = 1) -> None:
        self.zoo = zoo
        self.random = random.Random(seed)
        self._uncoupled_refusals = 0
        self.integers = [
            name
            for name in zoo.fields
            if zoo.allows_integer(name)
            and not IRRELEVANT_FIELD.search(name)
            and name not in zoo.pinned
            and name not in zoo.dependent
            and name not in zoo.unexplored
        ]
        self.token_ids = {
            name: 1 for name in zoo.fields if name.endswith("token_id") and isinstance(zoo.default_of(name), int)
        }

    def study(self) -> Relevance | None:
        """What each field does, found by changing one at a time; None when no config builds."""
        zoo = self.zoo
        relevance = Relevance(fixed=sorted(zoo.unexplored & zoo.fields.keys()))
        base_values = self._base(relevance)
        if base_values is None:
            return None
        base = zoo.observe(base_values)
        assert base is not None
        base_values, base = self._with_both_kinds_of_layers(base_values, base, relevance)
        for name in [each for each in self.integers if each not in relevance.integers]:
            self._study_integer(name, base_values, base, relevance)
        for name in NULLABLE.intersection(relevance.integers):
            without = zoo.observe({**base_values, name: None})
            if zoo.default_of(name) is not None and without is not None and without.shapes != base.shapes:
                relevance.toggles[name] = ("set", None)
        numbers = {
            name: zoo.default_of(name) / 2 or 0.5
            for name in zoo.fields
            if isinstance(zoo.default_of(name), float) and not IRRELEVANT_FIELD.search(name)
        }
        hidden = {*zoo.dependent, *zoo.unexplored}
        together = zoo.observe({**base_values, **numbers})
        for name in zoo.fields:
            if name in self.integers or name in zoo.pinned or IRRELEVANT_FIELD.search(name) or name in hidden:
                continue
            if name in relevance.lists or name in relevance.fixed or name in relevance.harmless_lists:
                continue
            if name in numbers and together is not None and together.shapes == base.shapes:
                continue
            self._study_other(name, base_values, base, relevance)
        self._study_needed(base_values, relevance)
        self._study_flipped(base_values, relevance)
        for name in list(relevance.integers):
            self._study_unset(name, base_values, relevance)
        return relevance

    def _with_both_kinds_of_layers(
        self, base_values: dict[str, Any], base: Observed, relevance: Relevance
    ) -> tuple[dict[str, Any], Observed]:
        """Lists of layer numbers that are empty by default, and a base in which they are not: else the fields of the
        layers they name would look as if they did nothing."""
        everywhere = {name: 1 for name in self.integers if EVERY_FIELD.search(name)}
        everywhere |= {name: 0 for name in self.integers if FROM_FIELD.search(name) and name not in everywhere}
        dense_values = {**base_values, **everywhere}
        dense = self.zoo.observe(dense_values)
        for name in self.zoo.fields:
            if self.zoo.allows_list_of_integers(name) and not base.attributes.get(name):
                self._study_numbers(name, [], base_values, base, relevance)
                if dense is not None and name not in {*relevance.lists, *relevance.fixed}:
                    self._study_numbers(name, [], dense_values, dense, relevance)
                if name not in {*relevance.lists, *relevance.fixed}:
                    relevance.harmless_lists.append(name)
        filled = {**base_values, **{name: [1] for name in relevance.lists}}
        seen = self.zoo.observe(filled)
        return (base_values, base) if seen is None else (filled, seen)

    def _study_flipped(self, base_values: dict[str, Any], relevance: Relevance) -> None:
        """Integers that matter only when a switch is not as usual: looked for in each setting, all at once first."""
        for name, other in [(name, other) for name, (_, *others) in relevance.toggles.items() for other in others]:
            values = {**base_values, name: other}
            base = self.zoo.observe(values)
            if base is None or other == "set":
                continue
            changed = Sampler(self.zoo, relevance.harmless_integers, 5).sample()
            seen = self.zoo.observe({**values, **changed})
            if seen is not None and seen.shapes == base.shapes:
                continue
            for integer, number in changed.items():
                seen = self.zoo.observe({**values, integer: number})
                if seen is not None and seen.shapes != base.shapes:
                    relevance.integers.append(integer)
                    relevance.harmless_integers.remove(integer)
                    relevance.matters_with[integer] = {name: other}

    def _base(self, relevance: Relevance) -> dict[str, Any] | None:
        roles = [
            name
            for name in self.integers
            if any(
                each.search(name)
                for each in (LAYERS_FIELD, HEADS_FIELD, KEY_VALUE_FIELD, HIDDEN_FIELD, VOCABULARY_FIELD)
            )
            or "intermediate" in name
            or "ffn" in name
        ]
        layers = [name for name in roles if LAYERS_FIELD.search(name)]
        sizes = [name for name in roles if HIDDEN_FIELD.search(name) or VOCABULARY_FIELD.search(name)]
        counts = [name for name in self.integers if "expert" in name and "per_tok" not in name]
        for chosen, others in (
            (roles, [name for name in self.integers if name not in roles]),
            (roles, counts),
            (roles, []),
            ([*layers, *sizes], counts),
            ([*layers, *sizes], []),
            (layers, counts),
            (layers, []),
            ([], counts),
            ([], []),
        ):
            for seed in range(3):
                sampler = Sampler(self.zoo, [*chosen, *others], seed)
                sampler.layer_choices = (8,) if any(map(DEPTH_FIELD.search, self.zoo.fields)) else (2, 3, 4)
                values = {**self.token_ids, **sampler.sample()}
                if self.zoo.observe(values) is not None:
                    relevance.integers = list(chosen)
                    return values
        return None

    def _study_integer(self, name: str, base_values: dict[str, Any], base: Observed, relevance: Relevance) -> None:
        harmless_values = 0
        for seed in range(5):
            value = Sampler(self.zoo, [name], seed).sample()[name]
            seen = None if value == base.attributes.get(name) else self.zoo.observe({**base_values, name: value})
            if seen is None:
                continue
            if seen.shapes != base.shapes:
                relevance.integers.append(name)
                return
            harmless_values += 1
            if harmless_values == 2:
                break
        if harmless_values:
            relevance.harmless_integers.append(name)
        elif name not in self.zoo.unlisted:
            relevance.fixed.append(name)

    def _study_unset(self, name: str, base_values: dict[str, Any], relevance: Relevance) -> None:
        """A nullable integer that the config class leaves unset: the model derives it, or it is a toggle."""
        default = self.zoo.default_of(name)
        if not (default is None or is_negative(default)) or name not in relevance.integers:
            return
        base_values = {**base_values, **relevance.matters_with.get(name, {})}
        unset = self.zoo.observe({key: value for key, value in base_values.items() if key != name})
        if unset is None or not (unset.attributes.get(name) is None or is_negative(unset.attributes[name])):
            return
        derivation = self._derivation(name, relevance)
        if derivation is None:
            relevance.toggles[name] = (None, "set")
        else:
            relevance.derived[name] = derivation

    def _derivation(self, name: str, relevance: Relevance) -> str | None:
        """The expression whose value gives the same tensors as leaving `name` unset."""
        from apr.identity.shapes import evaluate

        others = [each for each in relevance.integers if each != name]
        hidden = [each for each in others if HIDDEN_FIELD.search(each)]
        heads = [each for each in others if HEADS_FIELD.search(each)]
        candidates = [f"{one}//{two}" for one in hidden for two in heads]
        candidates += [f"{factor}*{each}" for each in hidden for factor in (4, 2, 3)] + others
        for candidate in candidates:
            checks = 0
            for seed in range(2 * DERIVATION_CHECKS):
                values = {**self.token_ids, **Sampler(self.zoo, others, 1000 + seed).sample()}
                values |= relevance.matters_with.get(name, {})
                unset = self.zoo.observe(values)
                if unset is None:
                    continue
                explicit = self.zoo.observe({**values, name: evaluate(candidate, {**unset.attributes, **values})})
                if explicit is None or explicit.shapes != unset.shapes:
                    break
                checks += 1
                if checks == DERIVATION_CHECKS:
                    return candidate
        return None

    def _study_other(self, name: str, base_values: dict[str, Any], base: Observed, relevance: Relevance) -> None:
        default, resolved = self.zoo.default_of(name), base.attributes.get(name)
        if self.zoo.allows_boolean(name):
            if name == "is_decoder" and getattr(self.zoo.config_class, "is_encoder_decoder", False) is True:
                relevance.fixed.append(name)
                return
            usual = bool(default if isinstance(default, bool) else resolved)
            seen = self.zoo.observe({**base_values, name: not usual})
            if seen is None:
                relevance.fixed.append(name)
            elif seen.shapes != base.shapes:
                relevance.toggles[name] = (usual, not usual)
            elif seen.ties != base.ties:
                relevance.tie_toggles[name] = (usual, not usual)
            else:
                relevance.harmless_toggles.append(name)
        elif isinstance(default, float):
            seen = self.zoo.observe({**base_values, name: default / 2 if default else 0.5})
            if seen is not None and seen.shapes != base.shapes:
                relevance.fixed.append(name)
        elif isinstance(resolved, list | tuple):
            self._study_list(name, list(resolved), base_values, base, relevance)
        elif isinstance(default, str) or name in WORDS_MATTER_WITH:
            self._study_text(name, base_values, base, relevance)
        elif isinstance(resolved, dict) or hasattr(resolved, "to_dict"):
            relevance.fixed.append(name)

    def _study_list(
        self, name: str, items: list[Any], base_values: dict[str, Any], base: Observed, relevance: Relevance
    ) -> None:
        if not items or all(isinstance(item, int) for item in items):
            self._study_numbers(name, items, base_values, base, relevance)
            return
        if all(isinstance(item, float) for item in items):
            seen = self.zoo.observe({**base_values, name: [item / 2 or 0.5 for item in items]})
            if seen is None or seen.shapes != base.shapes:
                relevance.fixed.append(name)
            return
        if not all(isinstance(item, str) for item in items):
            relevance.fixed.append(name)
            return
        kinds = {*items, *self._default_items(name)}
        if kinds <= {"full_attention", "sliding_attention"}:
            kinds = {"full_attention", "sliding_attention"}
        for shift in range(3):
            others = [sorted(kinds)[(at + shift) % len(kinds)] for at in range(len(items))]
            seen = self.zoo.observe({**base_values, name: others})
            if seen is not None and seen.shapes != base.shapes:
                relevance.lists[name] = tuple(sorted(kinds))
                return
        if len(kinds) == 1 and kinds != {"full_attention"}:
            relevance.fixed.append(name)

    def _default_items(self, name: str) -> list[str]:
        """What the list holds in a model of default depth: small models may not show every kind of layer."""
        try:
            items = getattr(self.zoo.configure({}), name)
        except Exception:  # noqa: BLE001
            return []
        return [item for item in items if isinstance(item, str)] if isinstance(items, list | tuple) else []

    def _study_numbers(
        self, name: str, items: list[Any], base_values: dict[str, Any], base: Observed, relevance: Relevance
    ) -> None:
        """A list of integers: layer numbers when it decides which layers are which, fixed when it does more."""
        seen = [self.zoo.observe({**base_values, name: numbers}) for numbers in ([0], [1], [0, 1])]
        if all(each is not None and each.shapes == base.shapes for each in seen):
            return
        empty = self.zoo.observe({**base_values, name: []})
        if not items and None not in seen and empty is not None and empty.shapes == base.shapes:
            relevance.lists[name] = ()
        else:
            same = self.zoo.observe({**base_values, name: [1 - bool(item) for item in items]})
            if same is None or same.shapes != base.shapes:
                relevance.fixed.append(name)

    def _study_text(self, name: str, base_values: dict[str, Any], base: Observed, relevance: Relevance) -> None:
        if ACTIVATION_FIELD.search(name):
            seen = self.zoo.observe({**base_values, name: "relu"})
            if seen is not None and seen.shapes == base.shapes:
                return
        if name not in TEXT_VALUES or not self._study_words(name, base_values, relevance):
            relevance.fixed.append(name)

    def _study_words(self, name: str, base_values: dict[str, Any], relevance: Relevance) -> bool:
        """Which of the usual words give the same tensors; False where there are too many kinds of them."""
        default = self.zoo.default_of(name) or ""
        needed = {each: value for each, value in WORDS_MATTER_WITH.get(name, {}).items() if each in self.zoo.fields}
        kinds: dict[str, Any] = {}
        words: dict[str, str] = {}
        for word in dict.fromkeys((default, *TEXT_VALUES[name])):
            seen = self.zoo.observe({**base_values, **needed, name: word})
            if seen is None:
                continue
            same = next((other for other, shapes in kinds.items() if shapes == seen.shapes), word)
            kinds[same] = seen.shapes
            words[word] = same
        if len(kinds) > (MOST_KINDS_OF_WORDS if needed else 2) or default not in words:
            return False
        if len(kinds) > 1:
            relevance.toggles[name] = (default, *(word for word in kinds if word != default))
        relevance.texts[name] = words
        return True

    def _study_needed(self, base_values: dict[str, Any], relevance: Relevance) -> None:
        """Switches that do something only beside a word: looked for with each of its kinds, the others as needed."""
        for word_field, needed in WORDS_MATTER_WITH.items():
            for name in [each for each in needed if each in relevance.harmless_toggles]:
                for word in relevance.toggles.get(word_field, ())[1:]:
                    values = {**base_values, **needed, word_field: word}
                    one, other = (self.zoo.observe({**values, name: setting}) for setting in (False, True))
                    if one is not None and other is not None and one.shapes != other.shapes:
                        usual = bool(self.zoo.default_of(name))
                        relevance.toggles[name] = (usual, not usual)
                        relevance.harmless_toggles.remove(name)
                        break

    def sightings(self, relevance: Relevance, layer_choices: tuple[int, ...], each_state: int) -> list[Sighting]:
        """Observations in every setting of the toggles that matter (or, when those are many, up to two flips)."""
        states = _states(relevance.toggles, self.random)
        rounds = max(each_state, OBSERVATIONS_AT_LEAST // len(states))
        found = []
        for state in states * rounds:
            found += self.sightings_in(self._with_ties(state, relevance), relevance, layer_choices, 1)
        return found

    def random_state(self, relevance: Relevance) -> State:
        state = {name: self.random.choice(settings) for name, settings in relevance.toggles.items()}
        return self._with_ties(state, relevance)

    def _with_ties(self, state: State, relevance: Relevance) -> State:
        return {**state, **{name: self.random.choice(each) for name, each in relevance.tie_toggles.items()}}

    def sightings_in(
        self, state: State, relevance: Relevance, layer_choices: tuple[int, ...], wanted: int, broadly: bool = False
    ) -> list[Sighting]:
        """Up to `wanted` observations in one state; `broadly` also changes every field found harmless."""
        found: list[Sighting] = []
        for _ in range(3 * wanted):
            is_coupled = self._uncoupled_refusals >= MOST_REFUSALS or self.random.random() < COUPLED_SHARE
            values = self._values(state, relevance, layer_choices, broadly, is_coupled)
            observed = self.zoo.observe(values)
            if observed is None and relevance.lists:
                values = {key: value for key, value in values.items() if key not in relevance.lists}
                observed = self.zoo.observe(values)
            if not is_coupled:
                self._uncoupled_refusals = self._uncoupled_refusals + 1 if observed is None else -(10**6)
            if observed is not None:
                found.append(Sighting(state, _with_derived(observed, relevance), values))
            if len(found) == wanted or (not found and _ >= wanted + 1):
                break
        return found

    def _values(
        self, state: State, relevance: Relevance, layer_choices: tuple[int, ...], broadly: bool, is_coupled: bool
    ) -> dict[str, Any]:
        integers = [*relevance.integers, *(relevance.harmless_integers if broadly else ())]
        sampler = Sampler(self.zoo, integers, self.random.randrange(10**9))
        sampler.layer_choices, sampler.is_coupled = layer_choices, is_coupled
        values = {**self.token_ids, **sampler.sample()}
        for name in integers:
            if name not in state and _is_often_unset(self.zoo.default_of(name)) and self.random.random() < 0.3:
                values.pop(name)
        for name, setting in state.items():
            if setting == "set":
                continue
            if setting is None and self.zoo.default_of(name) is None:
                values.pop(name, None)
            else:
                values[name] = setting
        self._fill_lists(values, relevance)
        if broadly:
            for name in relevance.harmless_toggles:
                if self.random.random() < 0.2:
                    values[name] = not self.zoo.default_of(name)
            for name in relevance.harmless_lists:
                if self.random.random() < 0.3:
                    values[name] = [layer for layer in range(layer_choices[0]) if self.random.random() < 0.5]
        return values

    def _fill_lists(self, values: dict[str, Any], relevance: Relevance) -> None:
        """Random lists over layers in most samples; in the others the config class makes its own."""
        layers = next((values[name] for name in values if LAYERS_FIELD.search(name)), 2)
        for name, kinds in relevance.lists.items():
            if self.random.random() < 0.3:
                continue
            if kinds:
                values[name] = [self.random.choice(kinds) for _ in range(layers)]
            else:
                values[name] = [layer for layer in range(layers) if self.random.random() < 0.4]


def is_negative(value: object) -> bool:
    """Whether a config field holds the number that some classes write for unset."""
    return isinstance(value, int) and not isinstance(value, bool) and value < 0


def _is_often_unset(default: object) -> bool:
    return default in (None, "auto") or is_negative(default)


def _states(toggles: Mapping[str, tuple[Any, ...]], draw: random.Random) -> list[State]:
    names = list(toggles)
    if len(names) <= MOST_TOGGLES_COMBINED:
        return [dict(zip(names, settings, strict=True)) for settings in product(*(toggles[name] for name in names))]
    base = {name: settings[0] for name, settings in toggles.items()}
    states: list[State] = [base, *({**base, name: other} for name in names for other in toggles[name][1:])]
    free = [toggles] * RANDOM_STATES
    for word_field in WORDS_MATTER_WITH.keys() & toggles.keys():
        crossed = [name for name in (word_field, *WORDS_MATTER_WITH[word_field]) if name in toggles]
        for settings in product(*(toggles[name] for name in crossed)):
            pinned = {name: (setting,) for name, setting in zip(crossed, settings, strict=True)}
            free += [{**toggles, **pinned}] * STATES_OF_WORDS
    states += [{name: draw.choice(settings) for name, settings in each.items()} for each in free]
    return states


def _with_derived(observed: Observed, relevance: Relevance) -> Observed:
    """The observation with the fields filled in that the model derives by itself."""
    from apr.identity.shapes import evaluate

    attributes = dict(observed.attributes)
    for name, expression in relevance.derived.items():
        if attributes.get(name) is None or is_negative(attributes[name]):
            attributes[name] = evaluate(expression, attributes)
    return Observed(observed.shapes, observed.ties, attributes)
