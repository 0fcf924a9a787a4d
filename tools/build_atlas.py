"""Generate the atlas from the installed transformers: `python tools/build_atlas.py [--only TYPE,...] [--out FILE]`.

For every class: small configs on the meta device, names as saved on disk, shapes as expressions of config fields,
the conditions under which tensors appear, and a verification against further random configs. A class that the
templates do not reproduce exactly is kept for identification and marked `exact: false`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import signal
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from atlas_classes import OTHER_FIELD_NAMES, PINNED, class_table, saved_buffer_rows
from atlas_observe import Observer, Relevance, Sighting
from atlas_packing import digit_pattern, is_certain, kept_entries, pack
from atlas_templates import TemplateFitter, UnfittedError

VERIFICATIONS = 24
REPAIRS = 4
FALLBACK_STATES = 12
MOST_SECONDS = 15
OUT_OF_TIME = f"not understood within {MOST_SECONDS} s of computing"
MOST_MEMORY_BYTES = 8 << 30
OUTPUT = Path(__file__).parent.parent / "src" / "apr" / "identity" / "data" / "atlas.json.gz"


class OutOfTime(BaseException):
    """Raised by the timer; no child of Exception, so that no attempt to build a model swallows it."""


def build_entry(class_name: str, model_type: str, kind: str) -> dict[str, Any]:
    """One atlas entry; its `exact` says whether random configs were reproduced, `note` why not."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from apr.identity.entries import LABELS, USUAL_LABELS
    from atlas_models import ZooClass

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    model_class, config_class = getattr(transformers, class_name), CONFIG_MAPPING[model_type]
    zoo = ZooClass(model_class, config_class, PINNED.get(class_name))
    observer = Observer(zoo)
    relevance = observer.study()
    if relevance is None:
        return {"class": class_name, "model_type": model_type, "kind": kind, "absent": _refusal(zoo)}
    sightings: list[Sighting] = []
    try:
        rows, note = _fit(observer, relevance, sightings)
    except OutOfTime:
        states = [{}, *(observer.random_state(relevance) for _ in range(FALLBACK_STATES))]
        rows = _fallback_rows([each for state in states for each in observer.sightings_in(state, relevance, (2, 3), 1)])
        note = OUT_OF_TIME
    entry: dict[str, Any] = {
        "class": class_name,
        "model_type": model_type,
        "kind": kind,
        "exact": False,
        "note": note,
        "base_prefix": _base_prefix(model_class),
        "rope": _rope(zoo),
        "defaults": {
            **_defaults(zoo),
            **{name: [] for name, kinds in relevance.lists.items() if not kinds},
            **{name: usual for name, (usual, *_) in _switches(relevance).items() if name in zoo.unlisted},
        },
        "aliases": {**(getattr(config_class, "attribute_map", None) or {}), **OTHER_FIELD_NAMES.get(model_type, {})},
        "derived": _derived(zoo, observer, relevance),
        "fixed": sorted(relevance.fixed),
        "texts": relevance.texts,
        "tensors": rows,
    }
    labels = getattr(zoo.configure({}), LABELS, None)
    if LABELS in zoo.unlisted and labels != USUAL_LABELS:
        entry["labels"] = labels
    entry["tensors"] = rows + saved_buffer_rows(model_type, rows)
    # A class that takes one count of labels only (a span has two ends) refuses every other by itself.
    entry["fixed"] = [name for name in entry["fixed"] if name != LABELS]
    unvaried = sorted(set(entry["fixed"]) & set(observer.integers) - zoo.unlisted - zoo.unexplored)
    if note is None and zoo.config_class.sub_configs_defaults:
        entry["note"] = f"nested configs are not explored: {', '.join(sorted(zoo.config_class.sub_configs_defaults))}"
    elif note is None and unvaried:
        entry["note"] = f"these fields could not be varied: {', '.join(unvaried)}"
    elif note is None:
        entry["note"] = _proven(entry, observer, relevance, sightings)
        entry["exact"] = entry["note"] is None
    if not entry["exact"]:
        entry["tensors"] = _loosened(entry["tensors"])
    return entry


def _switches(relevance: Relevance) -> dict[str, tuple[Any, ...]]:
    """Both settings of every boolean that matters; a class may turn on what it does not list (tied embeddings)."""
    switches = {**relevance.toggles, **relevance.tie_toggles}
    return {name: settings for name, settings in switches.items() if isinstance(settings[0], bool)}


def _fit(observer: Observer, relevance: Relevance, sightings: list[Sighting]) -> tuple[list[Any], str | None]:
    """Rows that explain every sighting, which are left in `sightings`, else names alone and what could not be told."""
    note = None
    for layer_choices, each_state in (((2, 3, 4), 2), ((5, 6, 8, 9, 11), 6)):
        sightings[:] = observer.sightings(relevance, layer_choices, each_state)
        try:
            return TemplateFitter(sightings, relevance).rows(), None
        except UnfittedError as error:
            note = str(error)
    return _fallback_rows(sightings), note


def _fallback_rows(sightings: list[Sighting]) -> list[Any]:
    """Names alone: enough to recognise a class, never to load it."""
    seen = {digit_pattern(name) for sighting in sightings for name in sighting.observed.shapes}
    counts = dict.fromkeys(seen, 0)
    for sighting in sightings:
        for name in {digit_pattern(name) for name in sighting.observed.shapes.keys() - sighting.observed.ties.keys()}:
            counts[name] += 1
    return [_loose_row(name, is_required=count == len(sightings)) for name, count in sorted(counts.items())]


def _loosened(rows: list[Any]) -> list[Any]:
    """The rows of an inexact entry by name alone, so that no healthy file is judged by a shape that may be wrong."""
    certain: dict[str, bool] = {}
    for row in rows:
        name = digit_pattern(row[0])
        certain[name] = certain.get(name, False) or is_certain(row)
    return [_loose_row(name, is_required) for name, is_required in sorted(certain.items())]


def _loose_row(name: str, is_required: bool) -> list[Any]:
    return [name, [], {"loose": True} if is_required else {"loose": True, "optional": True}]


def _base_prefix(model_class: Any) -> str:
    """The attribute that holds the base model, empty when the class is the base model."""
    prefix = getattr(model_class, "base_model_prefix", "") or ""
    return prefix if ("For" in model_class.__name__ or "LM" in model_class.__name__) else ""


def _rope(zoo: Any) -> Any:
    """Rotary parameters of the default config, None where the class has none or they cannot be told."""
    try:
        rope = getattr(zoo.configure({}), "rope_parameters", None)
    except Exception:  # noqa: BLE001
        return None
    return json.loads(json.dumps(rope, default=str)) if rope else None


def _defaults(zoo: Any) -> dict[str, Any]:
    defaults = {}
    for name in zoo.fields:
        if name in zoo.unlisted:
            continue
        value = zoo.default_of(name)
        if isinstance(value, tuple):
            value = list(value)
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            continue
        defaults[name] = value
    return defaults


def _derived(zoo: Any, observer: Observer, relevance: Relevance) -> list[list[str]]:
    """For integer fields left unset: the expression that the config class fills in."""
    from apr.identity.entries import LABELS
    from atlas_fit import ExpressionFitter
    from atlas_models import Sampler

    derived = [[name, expression] for name, expression in relevance.derived.items()]
    for name in zoo.fields:
        if name not in observer.integers or name == LABELS or zoo.default_of(name) not in (None, "auto"):
            continue
        others = [each for each in relevance.integers if each != name]
        seen: list[dict[str, Any]] = []
        for seed in range(30):
            try:
                config = zoo.configure({**observer.token_ids, **Sampler(zoo, others, seed).sample()})
            except Exception:  # noqa: BLE001
                continue
            seen.append({each: getattr(config, each, None) for each in [name, *others]})
            if len(seen) == 10:
                break
        values = [each[name] for each in seen]
        if len(seen) < 5 or not all(isinstance(value, int) for value in values):
            continue
        fields = {
            each: tuple(row[each] for row in seen) for each in others if all(type(row[each]) is int for row in seen)
        }
        expression = ExpressionFitter(fields).fit(tuple(values))
        if expression is not None:
            derived.append([name, expression])
    return derived


def _proven(entry: dict[str, Any], observer: Observer, relevance: Relevance, sightings: list[Sighting]) -> str | None:
    """None when the entry's templates reproduce random configs, where needed after they were fitted to those that
    an earlier guess did not reproduce; else what is still wrong."""
    note = None
    for _ in range(1 + REPAIRS):
        note, wrong = _verify(entry, observer, relevance)
        if note is None or not wrong:
            return note
        sightings += wrong
        try:
            rows = TemplateFitter(sightings, relevance).rows()
        except UnfittedError as error:
            return str(error)
        except OutOfTime:
            return OUT_OF_TIME
        entry["tensors"] = rows + saved_buffer_rows(entry["model_type"], rows)
    return note


def _verify(entry: dict[str, Any], observer: Observer, relevance: Relevance) -> tuple[str | None, list[Sighting]]:
    """None when the templates reproduce random configs, built from sparse and from complete config files; else what
    is wrong, and the sightings that show it."""
    from apr.errors import AprError
    from apr.identity.atlas import symbolic_tensors
    from apr.identity.entries import entry_from_json

    typed = entry_from_json(entry)
    checked = 0
    note, wrong = None, []
    for _ in range(VERIFICATIONS):
        state = observer.random_state(relevance)
        for sighting in observer.sightings_in(state, relevance, (2, 3, 5), 1, broadly=True):
            wanted = {
                name: (shape, sighting.observed.ties.get(name)) for name, shape in sighting.observed.shapes.items()
            }
            complete = observer.zoo.configure(sighting.values).to_dict()
            for config in (complete, {**sighting.values} if not relevance.lists else complete):
                try:
                    found = symbolic_tensors(typed, json.loads(json.dumps(config, default=str)))
                except AprError as error:
                    return f"evaluation failed: {error}", []
                got = {name: (tensor.shape, tensor.tied_to) for name, tensor in found.items() if not tensor.is_optional}
                if got != wanted:
                    examples = sorted(set(got.items()) ^ set(wanted.items()), key=str)[:3]
                    note = note or f"not reproduced in {state}: {examples}"
                    wrong.append(sighting)
                    break
            checked += 1
    return note or (None if checked >= 3 else f"only {checked} random configs could be built"), wrong


def _refusal(zoo: Any) -> str:
    try:
        zoo.model_class(zoo.configure({}))
    except Exception as error:  # noqa: BLE001
        return f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"
    return "no small config builds"


def _safe_build(job: tuple[str, str, str]) -> dict[str, Any]:
    started = time.perf_counter()

    def stop(*_: object) -> None:
        raise OutOfTime

    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY_BYTES, MOST_MEMORY_BYTES))
    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
    try:
        entry = build_entry(*job)
    except Exception as error:  # noqa: BLE001
        reason = f"{type(error).__name__}: {error}"[:200]
        entry = {"class": job[0], "model_type": job[1], "kind": job[2], "absent": reason}
    except OutOfTime:
        entry = {"class": job[0], "model_type": job[1], "kind": job[2], "absent": OUT_OF_TIME}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    entry["seconds"] = round(time.perf_counter() - started, 1)
    entry["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return entry


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="model types, separated by commas")
    parser.add_argument("--out", type=Path, default=OUTPUT)
    parser.add_argument(
        "--keep", type=Path, metavar="FILE", help="with --only: take the other model types from this data file"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    import transformers

    started = time.perf_counter()
    wanted = options.only.split(",") if options.only else None
    jobs = [job for job in class_table() if wanted is None or job[1] in wanted]
    entries = []
    with ProcessPoolExecutor(options.jobs) as pool:
        for done in as_completed([pool.submit(_safe_build, job) for job in jobs]):
            entry = done.result()
            entries.append(entry)
            seconds, memory = entry.pop("seconds"), entry.pop("memory")
            state = "absent" if "absent" in entry else ("exact" if entry["exact"] else "INEXACT")
            note = entry.get("absent") or entry.get("note") or ""
            line = f"{entry['model_type']:28} {entry['class']:40} {state:8} {seconds:6.1f}s {memory:6} MiB {note}"
            print(line[:260], flush=True)
    table = class_table()
    if options.keep:
        entries += kept_entries(options.keep.read_bytes(), {(row[0], row[1]) for row in table if row not in jobs})
    order = {(class_name, model_type): at for at, (class_name, model_type, _) in enumerate(table)}
    entries.sort(key=lambda entry: order[entry["class"], entry["model_type"]])
    packed = pack(entries, f"transformers {transformers.__version__}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_bytes(packed)
    exact = sum(entry.get("exact", False) for entry in entries)
    print(f"{len(entries)} classes, {exact} exact, {len(packed)} bytes, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
