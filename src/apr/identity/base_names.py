"""Files saved from the base model inside a class: every name lacks the base's prefix, and there is no head.

`GPT2Model.save_pretrained` writes `h.0.ln_1.weight` where `GPT2LMHeadModel` writes `transformer.h.0.ln_1.weight`;
the published GPT-2 and BLOOM files are of this kind. The zoo puts the prefix back for every name alike.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from apr.formats.base import Checkpoint
from apr.identity.atlas import load_atlas
from apr.identity.matching import match
from apr.identity.names import file_names
from apr.identity.types import Architecture, Naming

INTERNAL_PREFIXES = ("__training__.", "__apr__.")
"""Names a container keeps for itself: training state of upstream's trainer, files that `apr` embeds."""


def base_prefix_lacking(checkpoint: Checkpoint, architecture: Architecture | None) -> str:
    """The prefix, `transformer.`, with which the names of `checkpoint` are exactly those of `architecture`, else "".

    Only where all names lack it, the file holds no tensor outside the base model, a config is recorded, and with the
    prefix nothing is left over on either side: a bijection, so that nothing is guessed.
    """
    if architecture is None or architecture.naming is Naming.GGUF or checkpoint.config is None:
        return ""
    entry = load_atlas().find_class(architecture.class_name, architecture.model_type)
    if entry is None or not entry.base_prefix:
        return ""
    prefix = entry.base_prefix + "."
    outside = {each.pattern for each in entry.templates if not each.pattern.startswith(prefix)}
    names = [name for name in checkpoint.tensors if not name.startswith(INTERNAL_PREFIXES)]
    if any(name.startswith(prefix) or name in outside for name in names):
        return ""
    shapes = {prefix + name: checkpoint.tensors[name].shape for name in names}
    return prefix if match(entry, file_names(shapes), recorded=checkpoint.config).explains_all else ""


def with_prefix(checkpoint: Checkpoint, prefix: str) -> Checkpoint:
    """A view of `checkpoint` under the names its class uses; every entry keeps the name it is stored under."""
    if not prefix:
        return checkpoint
    renamed = {
        name if name.startswith(INTERNAL_PREFIXES) else prefix + name: entry
        for name, entry in checkpoint.tensors.items()
    }
    return replace(checkpoint, tensors=MappingProxyType(renamed))
