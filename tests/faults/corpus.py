"""The corpus: every class of the failure catalogue as faults of small real checkpoints, and healthy twins beside them.

A fault names the gate that has to refuse it, words that the refusal has to say, and the first stage that can see it:
headers (no byte of a tensor read), deep (every byte read), load (a model resident, its probe replayed).
"""

from __future__ import annotations

from tests.faults.encoding_faults import ENCODING_FAULTS
from tests.faults.load_faults import LOAD_FAULTS
from tests.faults.meaning_faults import MEANING_FAULTS
from tests.faults.name_faults import NAME_FAULTS
from tests.faults.rows import DEEP, HEADERS, LOAD, Fault, Twin
from tests.faults.twins import TWINS as OTHER_TWINS
from tests.faults.value_faults import VALUE_FAULTS
from tests.faults.value_twins import VALUE_TWINS

FAULTS: tuple[Fault, ...] = (*NAME_FAULTS, *LOAD_FAULTS, *MEANING_FAULTS, *ENCODING_FAULTS, *VALUE_FAULTS)
TWINS: tuple[Twin, ...] = (*OTHER_TWINS, *VALUE_TWINS)

__all__ = ["DEEP", "FAULTS", "HEADERS", "LOAD", "TWINS", "Fault", "Twin"]
