"""Licences and sources as stamps: SPDX expressions, and no placeholder that would pass for one.

Source of the grammar: SPDX 2.3 annex D, as `packaging.licenses` reads it (`LicenseRef-...` for licences that SPDX
does not list). Source of the refused words: INV-APR-PROV-003 (`docs/invariants.md`).
"""

from __future__ import annotations

import re

from apr.errors import RefusedError, shortened

PLACEHOLDERS = frozenset(
    [
        "?",
        "-",
        "--",
        "...",
        "unknown",
        "unspecified",
        "undefined",
        "undetermined",
        "none",
        "null",
        "nil",
        "na",
        "n/a",
        "tbd",
        "tba",
        "tbc",
        "todo",
        "fixme",
        "xxx",
        "placeholder",
        "change-me",
        "changeme",
        "replace-me",
        "your-license",
        "license",
        "custom",
        "other",
        "proprietary",
        "noassertion",
        "not-set",
        "not-specified",
        "no-license",
        "see-license",
        "see-readme",
    ]
)
"""Words that stand where a fact should stand (compared in lower case, spaces and underscores as hyphens)."""

MODEL_LICENSE_WORDS = frozenset(
    [
        "llama2",
        "llama3",
        "llama3.1",
        "llama3.2",
        "llama3.3",
        "llama4",
        "gemma",
        "openrail",
        "bigscience-openrail-m",
        "creativeml-openrail-m",
    ]
)
"""Hub words for model licences that SPDX does not list: to be written as `LicenseRef-<word>`."""

LICENSE_REFERENCE_PREFIX = "LicenseRef-"
_OUTSIDE_IDS = re.compile(r"[\s()]+")


LONGEST_LICENSE = 1024
"""Characters of an SPDX expression; whoever gives more has given the text of a licence."""


def is_placeholder(text: str) -> bool:
    """Whether `text` says nothing: no letter or digit, a placeholder word or a row of them, or one inside
    `LicenseRef-`, `<...>` or `[...]`. Characters that are not seen (a zero-width space) say nothing either."""
    seen = "".join(character for character in text if character.isprintable() or character.isspace())
    words = seen.lower().replace("_", " ").split()
    return _says_nothing("-".join(words)) or all(map(_says_nothing, words))


def _says_nothing(word: str) -> bool:
    word = word.removeprefix(LICENSE_REFERENCE_PREFIX.lower()).strip("<>[](){}'\".!?,;:/")
    return word in PLACEHOLDERS or not any(map(str.isalnum, word))


def canonical_license(text: str, *, option: str) -> str:
    """The SPDX expression `text` in its canonical spelling (`apache-2.0` gives `Apache-2.0`).

    option: the flag it came from (`--license`), for the message. Raises RefusedError for a placeholder and for
    anything that SPDX does not know, with the spelling that would be accepted.
    """
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    if len(text) > LONGEST_LICENSE:
        what = f"{len(text)} characters, where {LONGEST_LICENSE} name every licence"
        raise _refused(shortened(text, 80), option, what, f"{option} Apache-2.0")
    named = [word for word in _OUTSIDE_IDS.split(text) if word.lower().startswith(LICENSE_REFERENCE_PREFIX.lower())]
    if is_placeholder(text) or any(map(is_placeholder, named)):
        raise _refused(text, option, "a placeholder, which says nothing", f"{option} Apache-2.0")
    try:
        return str(canonicalize_license_expression(text.strip()))
    except InvalidLicenseExpression as error:
        raise _refused(text, option, str(error), _remedy(text, option)) from error


def checked_source(text: str, *, option: str) -> str:
    """A data source as given, without surrounding blanks; RefusedError for a placeholder."""
    if is_placeholder(text):
        raise RefusedError(
            "the data source says nothing",
            where=option,
            expected="a name, address or description of the data",
            found=repr(text),
            remedy=f"name the data, for example {option} 'bigcode/the-stack-v2 (Python)'",
            invariant="INV-APR-PROV-003",
        )
    return text.strip()


def _remedy(text: str, option: str) -> str:
    word = text.strip().lower()
    if word in MODEL_LICENSE_WORDS:
        return f"{option} {LICENSE_REFERENCE_PREFIX}{word}"
    return f"{option} with an id of https://spdx.org/licenses/, or {option} {LICENSE_REFERENCE_PREFIX}YOUR-NAME-FOR-IT"


def _refused(text: str, option: str, found: str, remedy: str) -> RefusedError:
    return RefusedError(
        "the licence is not an SPDX expression",
        where=option,
        expected="an SPDX expression such as Apache-2.0, MIT OR Apache-2.0, LicenseRef-llama3",
        found=f"{text!r}: {found}",
        remedy=remedy,
        invariant="INV-APR-PROV-003",
    )
