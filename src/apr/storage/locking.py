"""Who may touch a file now: readers share it, a stamp in place has it alone (`flock`, which ends with its process).

A file system without locks goes unlocked: there nobody is kept out, and nobody is kept waiting.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path

from apr.errors import InputOutputError

READ_TIMEOUT_S = 30.0
STAMP_TIMEOUT_S = 5.0

_POLL_S = 0.01
_HELD = {errno.EWOULDBLOCK, errno.EACCES}
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EBADF}


def lock_shared(descriptor: int, path: Path, timeout_s: float = READ_TIMEOUT_S) -> None:
    """Hold `descriptor`'s file as a reader until it is closed; waits for a stamp in progress.

    Raises InputOutputError, naming who holds the file, when the wait takes longer than `timeout_s`.
    """
    _lock(descriptor, fcntl.LOCK_SH, path, timeout_s)


def lock_exclusive(descriptor: int, path: Path, timeout_s: float = STAMP_TIMEOUT_S) -> None:
    """Hold `descriptor`'s file alone until it is closed, in place of a shared hold; waits for readers.

    Raises InputOutputError, naming who holds the file, when the wait takes longer than `timeout_s`.
    """
    _lock(descriptor, fcntl.LOCK_EX, path, timeout_s)


def _lock(descriptor: int, operation: int, path: Path, timeout_s: float) -> None:
    deadline_s: float | None = None
    while True:
        try:
            fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return
            if error.errno not in _HELD:
                raise
        now_s = time.monotonic()
        if deadline_s is None:
            deadline_s = now_s + timeout_s
        if now_s >= deadline_s:
            raise _in_use(descriptor, operation, path, timeout_s)
        time.sleep(_POLL_S)


def _in_use(descriptor: int, operation: int, path: Path, timeout_s: float) -> InputOutputError:
    is_reader = operation == fcntl.LOCK_SH
    holders = _holders(descriptor)
    return InputOutputError(
        "the file is being stamped by another process" if is_reader else "the file is open in another process",
        where=str(path),
        expected=f"that it is free within {timeout_s:g} s",
        found="held by " + (", ".join(holders) or "a process that cannot be named"),
        remedy="wait until that process is done, then run again"
        + ("" if is_reader else "; or write a stamped copy with -o OUT"),
        facts={"holders": holders},
    )


def _holders(descriptor: int) -> list[str]:
    """The processes that hold a lock on the file, as `process 123 (name)`, from /proc/locks (proc_locks(5))."""
    status = os.fstat(descriptor)
    file = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        rows = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    except OSError:
        return []
    own = os.getpid()
    pids = {int(row[4]) for row in rows if len(row) > 5 and row[1] == "FLOCK" and row[5] == file}
    return [_named(pid) if pid != own else "this process" for pid in sorted(pids)]


def _named(pid: int) -> str:
    try:
        return f"process {pid} ({Path(f'/proc/{pid}/comm').read_text().strip()})"
    except OSError:
        return f"process {pid}"
