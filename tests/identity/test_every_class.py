"""The atlas against the real classes, on configs that its generator has not seen."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import pytest

from apr.identity.atlas import load_atlas, symbolic_tensors

sys.path.append(str(Path(__file__).parents[2] / "tools"))

ATLAS = load_atlas()
KNOWN = [
    at for at, each in enumerate(ATLAS.architectures) if f"{each.model_type}/{each.class_name}" not in ATLAS.absent
]
EXACT = [at for at in range(len(load_atlas().architectures)) if load_atlas().entry_at(at).is_exact]


@pytest.mark.slow
@pytest.mark.parametrize("at", EXACT, ids=lambda at: "-".join(map(str, _key(at))))
def test_an_exact_entry_predicts_what_the_class_saves(at: int) -> None:
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from atlas_classes import PINNED
    from atlas_models import ZooClass
    from atlas_observe import Observer

    logging.disable(logging.CRITICAL)
    entry = load_atlas().entry_at(at)
    class_name, model_type = _key(at)
    zoo = ZooClass(getattr(transformers, class_name), CONFIG_MAPPING[model_type], PINNED.get(class_name))
    observer = Observer(zoo, seed=20_261_122)
    relevance = observer.study()
    assert relevance is not None
    sightings = [
        sighting
        for _ in range(4)
        for sighting in observer.sightings_in(
            observer.random_state(relevance), relevance, (2, 3, 4, 6), 1, broadly=True
        )
    ]
    assert sightings
    for sighting in sightings:
        config = json.loads(json.dumps(zoo.configure(sighting.values).to_dict(), default=str))
        wanted = {name: each for name, each in symbolic_tensors(entry, config).items() if not each.is_optional}
        assert {name: each.shape for name, each in wanted.items()} == dict(sighting.observed.shapes)
        ties = {name: each.tied_to for name, each in wanted.items() if each.tied_to is not None}
        assert ties == dict(sighting.observed.ties)


@pytest.mark.slow
@pytest.mark.parametrize("at", KNOWN[::5], ids=lambda at: "-".join(map(str, _key(at))))
def test_no_class_is_contradicted_by_a_checkpoint_of_its_own(at: int) -> None:
    """Whatever its config says, the answer is the claimed class or that nobody can tell; `tools/check_atlas.py` is the
    same with every field of every class."""
    from check_atlas import answers

    logging.disable(logging.CRITICAL)
    wrong = [each for each in answers(at, most=6) if each.kind in ("contradiction", "unknown")]
    assert not wrong


def _key(at: int) -> tuple[str, str]:
    architecture = load_atlas().architectures[at]
    return architecture.class_name, architecture.model_type
