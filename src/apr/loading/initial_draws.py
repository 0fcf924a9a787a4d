"""How a class draws its matrices before training, where its config says so exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

# In the order in which the zoo's base class asks for them (`PreTrainedModel._init_weights`, transformers 5.23).
WIDTH_FIELDS = ("initializer_range", "init_std")
CUTOFF_FIELD = "initializer_cutoff_factor"
USUAL_CUTOFF = 3.0


class InitialDraw(NamedTuple):
    """A normal draw about zero. std: of the normal; cutoff: beyond how many of them a value is drawn again, or None."""

    std: float
    cutoff: float | None = None

    @property
    def width(self) -> float:
        """The standard deviation of what is drawn."""
        return self.std * math.sqrt(self._moments[0])

    @property
    def kurtosis(self) -> float:
        """Of what is drawn; 3 without a cutoff."""
        second, fourth = self._moments
        return fourth / second**2

    @property
    def _moments(self) -> tuple[float, float]:
        """Second and fourth moment of the standard normal, cut off on both sides."""
        if self.cutoff is None:
            return 1.0, 3.0
        cutoff = self.cutoff
        edge = 2 * math.exp(-(cutoff**2) / 2) / math.sqrt(2 * math.pi) / math.erf(cutoff / math.sqrt(2))
        return 1 - edge * cutoff, 3 - edge * (cutoff**3 + 3 * cutoff)


def initial_draws(config: Mapping[str, Any]) -> tuple[InitialDraw, ...]:
    """The draws that a matrix of this config may come from; none where the config does not say.

    ModernBERT and its kin cut their draws off, and draw what leads out of a block narrower the deeper the model is.
    """
    std = next((config[field] for field in WIDTH_FIELDS if _is_positive(config.get(field))), None)
    if std is None:
        return ()
    if CUTOFF_FIELD not in config:
        return (InitialDraw(std),)
    cutoff, layers = config[CUTOFF_FIELD], config.get("num_hidden_layers", 0)
    cutoff = float(cutoff) if _is_positive(cutoff) else USUAL_CUTOFF
    out = [InitialDraw(std / math.sqrt(2.0 * layers), cutoff)] if _is_positive(layers) else []
    return (InitialDraw(std, cutoff), *out)


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
