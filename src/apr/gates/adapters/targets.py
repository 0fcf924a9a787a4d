"""Which modules of a base model an adapter's config promises to adapt, with which rank and alpha: PEFT's own rules.

The rules are those of PEFT 0.17 and later (`tuners_utils.check_target_module_exists`, `other.get_pattern_key`): a list
holds whole names or their last parts, a text is a regular expression over the whole name. What cannot be told from the
files alone is None, never a guess.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

LONGEST_MATCHING_S = 5.0
"""An expression from a file may take for ever; a process of its own is stopped after this time."""

# Experts that are adapted one by one are named in tens of thousands; the parts that are trained whole are a few.
_LISTS = {
    "target_modules": 1_000_000,
    "exclude_modules": 1_000_000,
    "layers_to_transform": 10_000,
    "layers_pattern": 100,
    "modules_to_save": 1_000,
}

_LONGEST_TAIL = 32

_PLAIN = re.compile(r"[\w.]+")
# The first numbered part of a name is its layer, as PEFT reads it without `layers_pattern`.
_LAYER = re.compile(r".*?\.(?P<parent>[^.]*)\.(?P<index>\d+)\.")

_MATCHER = """
import json, re, sys
patterns, names = json.load(sys.stdin)
json.dump([[name for name in names if re.fullmatch(pattern, name)] for pattern in patterns], sys.stdout)
"""


def promised_modules(config: Mapping[str, Any], modules: Collection[str]) -> frozenset[str] | None:
    """Those of the base's `modules` that the config adapts; None when that cannot be told from the config."""
    if config.get("target_parameters") or config.get("layer_replication"):
        return None
    wanted = _matching(config.get("target_modules"), modules)
    excluded = _matching(config.get("exclude_modules") or [], modules)
    if wanted is None or excluded is None:
        return None
    kept = wanted - excluded - saved_modules(config, modules)
    return _in_layers(config, kept) if isinstance(config.get("target_modules"), list) else kept


def saved_modules(config: Mapping[str, Any], modules: Collection[str]) -> frozenset[str]:
    """Those of `modules` that `modules_to_save` trains whole; they are never adapted."""
    saved = [f".{each}." for each in modules_to_save(config)]
    return frozenset(module for module in modules if any(each in f".{module}." for each in saved))


def modules_to_save(config: Mapping[str, Any]) -> list[str]:
    """The names in `modules_to_save`; none where it is anything else than a list."""
    listed = config.get("modules_to_save")
    return list(dict.fromkeys(each for each in listed if isinstance(each, str))) if isinstance(listed, list) else []


def stated_for(
    config: Mapping[str, Any], patterns_field: str, default_field: str, modules: Collection[str]
) -> dict[str, Any] | None:
    """What the config states for each of `modules`: of the first pattern in `patterns_field` (`rank_pattern`,
    `alpha_pattern`) that fits its name or the end of it, otherwise of `default_field`.

    None where that cannot be told: parameters are adapted, the field is no mapping or far too long a one, an expression
    cannot be matched.
    """
    patterns = config.get(patterns_field) or {}
    if config.get("target_parameters") or not isinstance(patterns, Mapping) or overlong(config) is not None:
        return None
    expressions = [key for key in patterns if not _PLAIN.fullmatch(_unescaped(key))]
    matched = _fully_matching([rf"(.*\.)?({key})" for key in expressions], modules) if expressions else []
    if matched is None:
        return None
    fitting = dict(zip(expressions, matched, strict=True))
    default = config.get(default_field)
    return {
        module: next((value for key, value in patterns.items() if _fits(module, key, fitting)), default)
        for module in modules
    }


def _fits(module: str, key: str, fitting: Mapping[str, frozenset[str]]) -> bool:
    if key in fitting:
        return module in fitting[key]
    plain = _unescaped(key)
    return module == plain or (module.endswith(f".{plain}") and not key.startswith("^"))


def _unescaped(key: str) -> str:
    return key.removeprefix("^").replace("\\.", ".")


def overlong(config: Mapping[str, Any]) -> str | None:
    """What in the config has more entries than are matched against the modules of a base, None where nothing has."""
    counts = {name: len(config[name]) for name in _LISTS if isinstance(config.get(name), (list, dict))}
    counts["modules_to_save"] = len(modules_to_save(config))
    name = next((name for name, count in counts.items() if count > _LISTS[name]), None)
    return None if name is None else f"{name} has {counts[name]} entries, more than are looked up ({_LISTS[name]})"


def _matching(wanted: Any, modules: Collection[str]) -> frozenset[str] | None:
    if isinstance(wanted, str):
        if wanted == "all-linear":
            return None
        matched = _fully_matching([wanted], modules)
        return None if matched is None else matched[0]
    if isinstance(wanted, list) and all(isinstance(each, str) for each in wanted):
        whole = frozenset(wanted)
        return frozenset(module for module in modules if not whole.isdisjoint(_endings(module)))
    return None


def _endings(module: str) -> list[str]:
    """`a.b.c`, `b.c` and `c`: what a list may hold to mean the module `a.b.c`."""
    parts = module.split(".")
    return [module, *(".".join(parts[start:]) for start in range(max(1, len(parts) - _LONGEST_TAIL), len(parts)))]


def _fully_matching(patterns: Sequence[str], modules: Collection[str]) -> list[frozenset[str]] | None:
    """Of each expression the modules whose whole name it fits; None when one is none, or takes too long."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _MATCHER],
            input=json.dumps([list(patterns), sorted(modules)]),
            capture_output=True,
            text=True,
            timeout=LONGEST_MATCHING_S,
            check=True,
        )
        return [frozenset(each) for each in json.loads(done.stdout)]
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _in_layers(config: Mapping[str, Any], modules: frozenset[str]) -> frozenset[str] | None:
    """Those of `modules` in the layers that the config names (`layers_to_transform`, `layers_pattern`)."""
    asked = config.get("layers_to_transform")
    if asked is None or asked == []:
        return modules
    indices = asked if isinstance(asked, list) else [asked]
    patterns = config.get("layers_pattern") or []
    patterns = [patterns] if isinstance(patterns, str) else patterns
    if not _are_plain(patterns) or not all(isinstance(index, int) for index in indices):
        return None
    wanted = frozenset(indices)
    return frozenset(module for module in modules if _layer_index(module, patterns) in wanted)


def _are_plain(patterns: Any) -> bool:
    return isinstance(patterns, list) and all(isinstance(each, str) and _PLAIN.fullmatch(each) for each in patterns)


def _layer_index(module: str, patterns: Sequence[str]) -> int | None:
    if not patterns:
        match = _LAYER.match(module)
        return None if match is None else int(match["index"])
    for pattern in patterns:
        found = re.match(rf"(?:^|.*?\.){re.escape(pattern)}\.(?P<index>\d+)\.", module)
        if found is not None:
            return int(found["index"])
    return None
