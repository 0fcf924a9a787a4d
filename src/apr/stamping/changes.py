"""What the user wants a file to say: one typed object, checked before any file is touched."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from apr.errors import RefusedError, UsageError, in_lines, shell_word
from apr.stamping.licenses import canonical_license, checked_source

IDENTITY_FIELDS = ("architecture", "hf_architecture", "hf_model_type")
PROVENANCE_FIELDS = ("license", "data_source", "data_license")

OPTIONS: Mapping[str, str] = MappingProxyType(
    {name: "--" + name.replace("_", "-") for name in (*IDENTITY_FIELDS, *PROVENANCE_FIELDS, "tokenizer")}
)
"""Field of StampChanges to the flag of `apr stamp` that sets it."""

INSTEAD_OF_SET: Mapping[str, str] = MappingProxyType(
    {
        **OPTIONS,
        "architectures": "--hf-architecture",
        "model_type": "--hf-model-type",
    }
)
"""Keys that say who the model is or may be used by: each has a flag of its own, which checks it."""

OWNED_KEY_PREFIXES = ("apr_recorded", "hf_config", "hf_generation_config", "hf_tokenizer_files", "tokenizer.")
"""Metadata keys (or beginnings of keys) that other flags or `apr` itself look after; `--set` may not touch them."""

GGUF_KEY_PREFIXES = ("tokenizer.ggml.", "tokenizer.chat_template")
"""Beginnings of keys by which GGUF describes its tokenizer: plain values there, that `--set` may change."""

MOST_NESTING = 100
"""Levels of lists and objects in a value: far beyond any config, and within what every JSON reader takes."""

_NO_SETTINGS: Mapping[str, Any] = MappingProxyType({})


class StampChanges(NamedTuple):
    """The stamps to write; None or empty leaves what stands.

    architecture: family slug of APR metadata (`qwen2`). hf_architecture: class name. hf_model_type: model type.
    license, data_license: SPDX expressions. tokenizer: directory whose tokenizer files are embedded lossless.
    settings: container metadata key (APR) or config key (HF directory) to JSON value.
    """

    architecture: str | None = None
    hf_architecture: str | None = None
    hf_model_type: str | None = None
    license: str | None = None
    data_source: str | None = None
    data_license: str | None = None
    tokenizer: Path | None = None
    settings: Mapping[str, Any] = _NO_SETTINGS

    @property
    def is_empty(self) -> bool:
        return self == StampChanges()

    @property
    def identity(self) -> dict[str, str]:
        """The identity stamps given, by field name."""
        return {name: value for name in IDENTITY_FIELDS if (value := getattr(self, name)) is not None}

    @property
    def provenance(self) -> dict[str, str]:
        """The provenance stamps given, by field name."""
        return {name: value for name in PROVENANCE_FIELDS if (value := getattr(self, name)) is not None}


def checked_changes(changes: StampChanges) -> StampChanges:
    """`changes` with canonical licences and trimmed texts.

    Raises UsageError when there is nothing to stamp, a setting names a key that `--set` may not touch or is nested too
    deeply, and a text has no UTF-8 form; and
    RefusedError (INV-APR-PROV-003) for placeholders and licences that are not SPDX, all of them in one message.
    """
    if changes.is_empty:
        raise UsageError(
            "nothing to stamp",
            expected="at least one of " + ", ".join([*OPTIONS.values(), "--set"]),
            remedy="apr stamp --help",
        )
    _check_settings(changes.settings)
    for name, value in (changes.identity | changes.provenance).items():
        check_text(value, OPTIONS[name])
    problems: list[RefusedError] = []
    cleaned: dict[str, Any] = {name: value.strip() for name, value in changes.identity.items()}
    for name in cleaned:
        if not cleaned[name]:
            raise UsageError("an empty stamp says nothing", where=OPTIONS[name], remedy=f"give {OPTIONS[name]} a value")
    for name, value in changes.provenance.items():
        check = checked_source if name == "data_source" else canonical_license
        try:
            cleaned[name] = check(value, option=OPTIONS[name])
        except RefusedError as problem:
            problems.append(problem)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise RefusedError(
            "; ".join(problem.what for problem in problems),
            where=", ".join(str(problem.where) for problem in problems),
            expected=in_lines(*(f"{problem.where}: {problem.expected}" for problem in problems)),
            found=in_lines(*(f"{problem.where}: {problem.found}" for problem in problems)),
            remedy=in_lines(*(problem.remedy or "" for problem in problems)),
            invariant="INV-APR-PROV-003",
        )
    return changes._replace(**cleaned)


def with_identity(changes: StampChanges, identity: Mapping[str, str]) -> StampChanges:
    """`changes` with the `identity` stamps, by field name, where it has none of its own."""
    return changes._replace(
        architecture=changes.architecture or identity.get("architecture"),
        hf_architecture=changes.hf_architecture or identity.get("hf_architecture"),
        hf_model_type=changes.hf_model_type or identity.get("hf_model_type"),
    )


def parse_setting(text: str) -> tuple[str, Any]:
    """`KEY=JSON` as key and value; a value that is not JSON is an error, so that `true` and `"true"` stay apart."""
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise UsageError("a setting has the form KEY=JSON", where="--set", expected="--set KEY=JSON", found=text)
    try:
        return key, json.loads(value, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise _nested_too_deeply(key) from error
    except ValueError as error:
        raise UsageError(
            "the value of a setting is not JSON",
            where=f"--set {key}",
            expected="a JSON value; a text in double quotes",
            found=f"{value!r}: {error}",
            remedy=f"--set {shell_word(f'{key}={json.dumps(value)}', is_quoted=True)} for a text",
        ) from error


def parse_settings(texts: Iterable[str]) -> dict[str, Any]:
    """Each `KEY=JSON` of `texts`; UsageError when a key comes twice."""
    settings: dict[str, Any] = {}
    for text in texts:
        key, value = parse_setting(text)
        if key in settings:
            raise UsageError("a key is set twice", where=f"--set {key}", expected="one value for each key")
        settings[key] = value
    return settings


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _check_settings(settings: Mapping[str, Any]) -> None:
    for key in settings:
        if key in INSTEAD_OF_SET:
            remedy = f"use {INSTEAD_OF_SET[key]}"
        elif key.startswith(OWNED_KEY_PREFIXES) and not key.startswith(GGUF_KEY_PREFIXES):
            remedy = f"use {OPTIONS['tokenizer']} DIR for the tokenizer; the records of apr are not edited by hand"
        else:
            _check_value(key, settings[key])
            continue
        raise UsageError("this key cannot be set with --set", where=f"--set {key}", found=key, remedy=remedy)


def check_text(text: str, where: str) -> None:
    """Raise UsageError when `text` has no UTF-8 form; `where` is the flag that it came from."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            "the text is not Unicode, and no format of checkpoints can hold it",
            where=where,
            expected="text that has a UTF-8 form",
            found=ascii(text[max(error.start - 20, 0) : error.end + 20]),
            remedy="give the text in UTF-8, without halves of surrogate pairs",
        ) from error


def _check_value(key: str, value: Any) -> None:
    """Every text in a setting can be written, and no reader fails at its depth."""
    check_text(key, "--set")
    level, inside = 0, [value]
    while inside:
        level += 1
        if level > MOST_NESTING:
            raise _nested_too_deeply(key)
        for text in inside:
            if isinstance(text, str):
                check_text(text, f"--set {key}")
        objects = [each for each in inside if isinstance(each, Mapping)]
        lists = [each for each in inside if isinstance(each, (list, tuple))]
        inside = [item for each in objects for pair in each.items() for item in pair]
        inside += [item for each in lists for item in each]


def _nested_too_deeply(key: str) -> UsageError:
    return UsageError(
        "the value of a setting is nested too deeply",
        where=f"--set {key}",
        expected=f"at most {MOST_NESTING} levels of lists and objects",
        found="more levels",
    )
