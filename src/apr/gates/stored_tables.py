"""INV-INIT-CONFIG-001, over bytes: a rotary table in the file was made with the base that its config records.

Older versions of transformers saved `rotary_emb.inv_freq` with the weights. Loaders compute it anew from the config and
leave the stored one aside, so it is never used; it is a witness of the base the model was trained with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from apr.errors import shell_word
from apr.formats.dtypes import DType
from apr.gates.facts import Gate, InitFacts, Stage
from apr.gates.finding import Finding, Status
from apr.identity.rope import is_number

if TYPE_CHECKING:
    from apr.loading.values import TensorFacts

ID = "INV-INIT-CONFIG-001"
TABLE_SUFFIX = "rotary_emb.inv_freq"
READ_DTYPES = frozenset({DType.F32, DType.BF16, DType.F64})
"""In F16 the small frequencies of a large base lose their bits."""

TOLERANCE = 0.02
"""A frequency in bfloat16 is right to 0.4 %, and the base that follows from the last one to little more."""


def _check(facts: InitFacts) -> Iterable[Finding]:
    recorded = _recorded_base(facts)
    if facts.values is None or recorded is None:
        return
    shown = {name: base for name, base in _shown_bases(facts.values.values()) if not _is_near(base, recorded)}
    if not shown:
        return
    name, base = next(iter(shown.items()))
    yield Finding(
        ID,
        Status.REFUSE,
        f"{len(shown)} rotary tables in the file were made with another base than the config records ({name})",
        expected=f"a base of {recorded:g}, as the config says",
        found=f"frequencies down to {facts.values[name].minimum:.4g}, which are those of a base of {base:.4g}",
        remedy=f"restore the base the model was trained with: "
        f"apr stamp {shell_word(facts.local_path)} --set rope_theta=VALUE "
        "--in-place",
    )


def _recorded_base(facts: InitFacts) -> float | None:
    """The one rotary base of the config; None where there are several, or the table is scaled besides."""
    rope = None if facts.config is None else facts.config.values.get("rope_parameters")
    if not isinstance(rope, Mapping) or rope.get("rope_type", "default") != "default":
        return None
    base = rope.get("rope_theta")
    return float(base) if is_number(base) and base > 1 else None


def _shown_bases(values: Iterable[TensorFacts]) -> Iterator[tuple[str, float]]:
    """Stored tables with the base they were made with: `base ** (-i / n)` for i from 0 to n - 1, and nothing else."""
    for seen in values:
        count, smallest = seen.entry.element_count, seen.minimum
        is_table = seen.entry.name.endswith(TABLE_SUFFIX) and seen.entry.dtype in READ_DTYPES
        if not is_table or count < 2 or seen.sampled_count != count or smallest is None or seen.mean is None:
            continue
        if seen.maximum != 1.0 or not 0 < smallest < 1:
            continue
        base = smallest ** (-count / (count - 1))
        mean = sum(base ** (-at / count) for at in range(count)) / count
        if abs(mean - seen.mean) <= TOLERANCE * mean:
            yield seen.entry.name, base


def _is_near(one: float, other: float) -> bool:
    return abs(one - other) <= TOLERANCE * other


GATE = Gate(ID, "stored rotary tables were made with the recorded base", Stage.VALUES, _check)
