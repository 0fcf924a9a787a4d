"""A probe for a source that has none: the model loaded once through every gate, so that later loads can be proven."""

from __future__ import annotations

from apr.formats.recorded import Probe
from apr.gates.road import Examination, load


def probe_of(examination: Examination) -> Probe:
    """What the model does on the default batch, loaded on the CPU in the file's own dtype and let go again.

    The source's own probe where it has one: it is replayed here, and older proof is better. Raises RefusedError when a
    gate refuses the load, MissingExtraError without torch and transformers.
    """
    from apr.loading.probe import record_probe
    from apr.loading.zoo import require_zoo

    require_zoo()
    loaded = load(examination)
    checkpoint = examination.facts.checkpoint
    recorded = None if checkpoint is None else checkpoint.recorded.probe
    return record_probe(loaded.model) if recorded is None else recorded
