"""What reading one address cost, and which commit of a repository it came from."""

from __future__ import annotations

import threading

from apr.errors import InputOutputError


class Traffic:
    """Counts for one address, from all threads that read it. requests: all that were sent, redirects and repeats too.

    bytes: bodies received, without headers. revision: the commit that the hub names, None where none is named.
    """

    def __init__(self) -> None:
        self.requests = 0
        self.bytes = 0
        self.revision: str | None = None
        self._lock = threading.Lock()

    def add_request(self) -> None:
        with self._lock:
            self.requests += 1

    def add_bytes(self, count: int) -> None:
        with self._lock:
            self.bytes += count

    def see_revision(self, revision: str | None, where: str) -> None:
        """Raise InputOutputError when an answer comes from another commit than those before it."""
        if revision is None:
            return
        with self._lock:
            seen = self.revision = self.revision or revision
        if seen != revision:
            raise InputOutputError(
                "the repository changed while it was read, so its files do not belong together",
                where=where,
                expected=f"commit {seen}, as for the first file",
                found=f"commit {revision}",
                remedy="run again, or name the commit: hf://org/name@COMMIT",
            )

    def to_json(self) -> dict[str, object]:
        return {"requests": self.requests, "bytes": self.bytes, "revision": self.revision}
