"""Hold the atlas against checkpoints of every class under configs its generator may not have tried.

    python tools/check_atlas.py [--only TYPE,...] [--atlas FILE] [--jobs N]

For every class: small models of random configs, and of one config with one field after another set to what somebody
might write there (nothing, 0, 1, the other way round, an empty list). Each is named as its class names itself, so an
answer that contradicts it is wrong; all of them are printed, and the exit code says whether there are any.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from atlas_classes import PINNED
from atlas_models import ZooClass
from atlas_observe import Observer

RANDOM_CONFIGS = 3
TEXTS = (None, "gelu", "layer_norm", "none", "rms")


class Answer(NamedTuple):
    """The verdict on one checkpoint. what: which config it has, beside the class's own."""

    what: str
    kind: str
    reason: str


def answers(at: int, most: int | None = None, seed: int = 77) -> Iterator[Answer]:
    """What the atlas says of checkpoints of the class at that place, under up to `most` variants of its config."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from apr.identity.atlas import load_atlas
    from apr.identity.verdict import give_verdict
    from tests.identity.headers import CLASS, MODEL_TYPE, headers

    architecture = load_atlas().architectures[at]
    name, model_type = architecture.class_name, architecture.model_type
    zoo = ZooClass(getattr(transformers, name), CONFIG_MAPPING[model_type], PINNED.get(name))
    for what, values in _variants(zoo, most, seed):
        seen = zoo.observe(values)
        if seen is None:
            continue
        shapes = {each: shape for each, shape in seen.shapes.items() if each not in seen.ties}
        if not shapes or any(0 in shape for shape in shapes.values()):
            continue
        config = json.loads(zoo.configure(values).to_json_string(use_diff=True))
        verdict = give_verdict(headers(shapes, [(CLASS, name), (MODEL_TYPE, model_type)], config=config))
        yield Answer(what, verdict.kind.value, verdict.reasons[0])


def _variants(zoo: ZooClass, most: int | None, seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    observer = Observer(zoo, seed=seed)
    relevance = observer.study()
    if relevance is None:
        return
    for _ in range(RANDOM_CONFIGS):
        for sighting in observer.sightings_in(observer.random_state(relevance), relevance, (2, 3, 4), 1, broadly=True):
            yield "random", dict(sighting.values)
    found = observer.sightings_in({}, relevance, (3, 4), 1)
    if not found:
        return
    base = dict(found[0].values)
    changes = [(field, value) for field in zoo.fields for value in _unusual(zoo, field)]
    if most is not None and len(changes) > most:
        changes = random.Random(f"{seed} {zoo.model_class.__name__}").sample(changes, most)
    for field, value in changes:
        yield f"{field}={value!r}", {**base, field: value}


def _unusual(zoo: ZooClass, field: str) -> tuple[Any, ...]:
    default = zoo.default_of(field)
    if zoo.allows_boolean(field):
        return (not default,)
    if zoo.allows_integer(field):
        return (0, None, 1)
    if isinstance(default, str):
        return TEXTS
    if isinstance(default, float):
        return (default / 2, 0.0)
    return ([], None, [1], [0, 1]) if default is None or isinstance(default, list | tuple) else ()


def _check(job: tuple[int, Path | None]) -> tuple[int, list[Answer], str | None]:
    at, atlas = job
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    if atlas is not None:
        import apr.identity.atlas

        apr.identity.atlas.DATA_FILE = atlas
    try:
        return at, list(answers(at)), None
    except Exception as error:  # noqa: BLE001  (a tool that goes on with the next class)
        return at, [], f"{type(error).__name__}: {error}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="model types, separated by commas")
    parser.add_argument("--atlas", type=Path, help="another data file than the shipped one")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    from apr.identity.atlas import DATA_FILE, read_atlas

    atlas = read_atlas(options.atlas or DATA_FILE)
    wanted = options.only.split(",") if options.only else None
    jobs = [
        (at, options.atlas)
        for at, each in enumerate(atlas.architectures)
        if (wanted is None or each.model_type in wanted) and f"{each.model_type}/{each.class_name}" not in atlas.absent
    ]
    counts: Counter[str] = Counter()
    wrong = 0
    with ProcessPoolExecutor(options.jobs) as pool:
        for at, found, problem in pool.map(_check, jobs):
            counts.update(answer.kind for answer in found)
            bad = [answer for answer in found if answer.kind in ("contradiction", "unknown")]
            wrong += len(bad)
            for answer in bad:
                print(f"{atlas.architectures[at]}  {answer.what}: {answer.reason}"[:260], flush=True)
            if problem is not None:
                print(f"{atlas.architectures[at]}  not checked: {problem}"[:260], flush=True)
    print(f"{len(jobs)} classes, {sum(counts.values())} checkpoints, {wrong} wrong answers: {dict(counts)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
