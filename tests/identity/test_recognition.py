"""Every exact entry of the atlas: its tensors are recognised as its own or as a declared twin's, and solved back.

What an exact entry says its class saves is held against the class itself in `test_every_class.py`; here the whole atlas
is the rival, and the zoo is not needed.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from apr.errors import AprError
from apr.identity.atlas import load_atlas, symbolic_tensors, uses_unexpressed_value
from apr.identity.entries import Entry, resolve_fields
from apr.identity.types import VerdictKind
from apr.identity.verdict import give_verdict
from tests.identity.headers import CLASS, MODEL_TYPE, Shapes, headers

ATLAS = load_atlas()
EXACT = [at for at in range(len(ATLAS.architectures)) if ATLAS.entry_at(at).is_exact]
COUNT = re.compile(r"(^|_)((num|n)_)?(hidden_|encoder_|decoder_)?layers?$|^n_layer$|(^|_)(num|n|routed)_.*experts$")


def small(entry: Entry) -> dict[str, Any]:
    """The defaults of the class, less deep; every other field as it is."""
    return {
        name: min(value, 8)
        for name, value in entry.defaults.items()
        if COUNT.search(name) and isinstance(value, int) and not isinstance(value, bool)
    }


def stored(entry: Entry, config: dict[str, Any]) -> Shapes:
    tensors = symbolic_tensors(entry, config)
    return {name: each.shape for name, each in tensors.items() if each.tied_to is None and not each.is_optional}


def key(at: int) -> str:
    architecture = ATLAS.architectures[at]
    return f"{architecture.model_type}-{architecture.class_name}"


@pytest.mark.slow
@pytest.mark.parametrize("at", EXACT, ids=key)
def test_the_tensors_of_an_entry_are_recognised_as_its_own_or_a_twins(at: int) -> None:
    entry = ATLAS.entry_at(at)
    for config in (small(entry), {}):
        try:
            shapes = stored(entry, config)
        except AprError as error:
            shapes, why = {}, str(error)
            continue
        if len(shapes) < 3000 and not uses_unexpressed_value(entry, config):
            break
    else:
        pytest.skip(f"the defaults of the class describe no model: {why if not shapes else 'many tensors'}")
    own = entry.architecture
    verdict = give_verdict(headers(shapes, [(CLASS, own.class_name), (MODEL_TYPE, own.model_type)], config=config))
    assert verdict.kind in (VerdictKind.MATCH, VerdictKind.AMBIGUOUS), verdict.reasons
    assert verdict.claim.architecture == own
    assert verdict.evidence.candidates[0].architecture == own
    fields = resolve_fields(entry, config)
    common = {alias: name for name, alias in entry.aliases.items()}
    for name, value in verdict.evidence.candidates[0].dimensions.items():
        known = [fields.get(each) for each in (name, entry.aliases.get(name), common.get(name)) if each is not None]
        assert value in known or all(each is None or each == -1 for each in known), name


@pytest.mark.slow
@pytest.mark.parametrize("at", EXACT[::7], ids=key)
def test_the_tensors_of_an_entry_under_the_name_of_another_are_refused_or_a_twins(at: int) -> None:
    entry = ATLAS.entry_at(at)
    try:
        shapes = stored(entry, small(entry))
    except AprError:
        pytest.skip("the defaults of the class describe no model")
    if len(shapes) > 3000:
        pytest.skip("many tensors")
    for class_name, model_type in (("LlamaForCausalLM", "llama"), ("BertForMaskedLM", "bert"), ("T5Model", "t5")):
        verdict = give_verdict(headers(shapes, [(CLASS, class_name), (MODEL_TYPE, model_type)]))
        fitting = [(each.architecture.class_name, each.architecture.model_type) for each in verdict.evidence.candidates]
        if (class_name, model_type) in fitting:
            assert verdict.kind is VerdictKind.AMBIGUOUS or model_type == entry.architecture.model_type
        else:
            assert verdict.kind is VerdictKind.CONTRADICTION
