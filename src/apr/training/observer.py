"""What a run tells whoever watches; the core itself prints nothing."""

from __future__ import annotations

from typing import Protocol

from apr.training.metrics import EvaluationMetrics, StepMetrics


class Observer(Protocol):
    """Called as things happen; must not raise."""

    def note(self, text: str) -> None:
        """One line worth knowing: a phase begins, the data starts over, a guard or an override spoke."""

    def started(self, total_steps: int) -> None:
        """Training begins; `total_steps` updates at most."""

    def stepped(self, metrics: StepMetrics) -> None:
        """One update is done."""

    def evaluated(self, metrics: EvaluationMetrics) -> None:
        """One evaluation is done; step 0 is before any update."""


class SilentObserver:
    """Watches nothing."""

    def note(self, text: str) -> None: ...

    def started(self, total_steps: int) -> None: ...

    def stepped(self, metrics: StepMetrics) -> None: ...

    def evaluated(self, metrics: EvaluationMetrics) -> None: ...
