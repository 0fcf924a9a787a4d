"""What the demo tells whoever watches, and how far it is."""

from __future__ import annotations

from typing import Protocol

from apr.training.metrics import EvaluationMetrics, StepMetrics


class DemoWatcher(Protocol):
    """Called as the demo goes on; must not raise."""

    def note(self, text: str) -> None:
        """One line worth knowing."""

    def advanced(self, units: int, detail: str) -> None:
        """`units` more of the units that `started` announced are done."""

    def started(self, units: int) -> None:
        """The demo begins; it has about `units` units of work, all of about the same duration."""


class SilentWatcher:
    """Watches nothing."""

    def note(self, text: str) -> None: ...

    def advanced(self, units: int, detail: str) -> None: ...

    def started(self, units: int) -> None: ...


class RunObserver:
    """Passes what a training run says on to the watcher of the demo: each step is a unit of work."""

    def __init__(self, watcher: DemoWatcher) -> None:
        self._watcher = watcher

    def note(self, text: str) -> None: ...

    def started(self, total_steps: int) -> None: ...

    def stepped(self, metrics: StepMetrics) -> None:
        self._watcher.advanced(1, f"loss {metrics.train_loss:.3f}, {metrics.tokens_per_sec:,.0f} tokens/s")

    def evaluated(self, metrics: EvaluationMetrics) -> None:
        self._watcher.note(f"  step {metrics.step}: validation loss {metrics.val_loss:.4f}")
