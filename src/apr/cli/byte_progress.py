"""Progress of commands that pass over the bytes of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from apr.cli.out import Out
from apr.cli.progress import Progress


@contextmanager
def byte_progress(out: Out, description: str) -> Iterator[Callable[[int, int], None]]:
    """A report for the core (`apr.convert.metering.Report`), shown once the first bytes are done and it takes long."""
    with ExitStack() as stack:
        shown: list[Progress] = []

        def report(done_bytes: int, total_bytes: int) -> None:
            if not shown:
                shown.append(stack.enter_context(out.progress(description, total_bytes, "bytes")))
            shown[0].advance(done_bytes)

        yield report
