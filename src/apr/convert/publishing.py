"""A result appears under its name only when it is complete and checked: written beside, verified, then renamed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from apr.errors import InputOutputError, NotFoundError, RefusedError, UsageError, shell_word
from apr.storage import operations
from apr.storage.journal import aside_of
from apr.storage.reading import is_put_back


def check_output(source: Path, output: Path, *, force: bool) -> None:
    """Raise before any work is done when `output` cannot be published.

    UsageError when it is the source itself, lies inside it or holds it, RefusedError when it exists and `force` is off
    or it is a directory that is no checkpoint, NotFoundError when its parent does not exist.
    """
    real_source, real_output = Path(os.path.realpath(source)), Path(os.path.realpath(output))
    if real_output == real_source or real_source in real_output.parents or real_output in real_source.parents:
        raise UsageError(
            "the output is the input, or one holds the other",
            where=str(output),
            expected="another path",
            found=str(source),
            remedy="name another path with -o; `apr stamp --in-place` changes a checkpoint where it stands",
        )
    if not output.parent.is_dir():
        raise NotFoundError(
            "the directory of the output does not exist",
            where=str(output.parent),
            remedy=f"mkdir -p {shell_word(output.parent)}",
        )
    if not (os.path.lexists(output) or is_put_back(output)):
        return
    if not force:
        raise RefusedError(
            "the output exists already",
            where=str(output),
            expected="a path that does not exist",
            found="a directory" if output.is_dir() else "a file",
            remedy="name another path with -o, or add --force to replace it",
        )
    if output.is_dir() and not (output / "config.json").is_file() and any(output.iterdir()):
        raise RefusedError(
            "the output is a directory that is no checkpoint, and is not replaced even with --force",
            where=str(output),
            expected="a checkpoint directory (it holds config.json), or an empty one",
            found=f"a directory with {sum(1 for _ in output.iterdir())} entries and no config.json",
            remedy="name another path with -o",
        )


def check_writable(target: Path) -> None:
    """Raise InputOutputError unless `target` and its directory may be written (a rename would go past its mode)."""
    is_read_only = not target.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
    if is_read_only or not os.access(target, os.W_OK):
        raise InputOutputError(
            "the file is read-only", where=str(target), remedy=f"chmod u+w {shell_word(target)}, or use -o OUT"
        )
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise InputOutputError(
            "the directory of the file is read-only",
            where=str(target.parent),
            remedy=f"chmod u+w {shell_word(target.parent)}",
        )


@contextmanager
def published(target: Path) -> Iterator[Path]:
    """Yield a free path beside `target`; what the body writes there (file or directory) becomes `target` at the end.

    An existing file, empty directory or checkpoint directory at `target` is replaced, its file mode kept. On any
    exception what the body wrote is removed and `target` stays as it was.
    """
    beside = target.parent / f".apr-{os.urandom(6).hex()}.tmp"
    try:
        yield beside
        _rename(beside, target)
    except OSError as error:
        raise _refused_by_system(error, target) from error
    finally:
        _remove(beside)


def _rename(beside: Path, target: Path) -> None:
    if target.is_dir() and not target.is_symlink():
        _exchange(beside, target)
    else:
        if target.is_file():
            beside.chmod(stat.S_IMODE(target.stat().st_mode))
        beside.replace(target)
    operations.sync_directory(target.parent)


def _exchange(beside: Path, target: Path) -> None:
    """Directories change places in one step, where the system can; the old one is removed as what stands beside.

    Where it cannot, the old one stands aside for an instant, and whoever opens `target` then puts it back
    (`apr.storage.recovery.restore_directory`).
    """
    try:
        operations.exchange(beside, target)
    except operations.NotOfferedError:
        from apr.storage.recovery import restore_directory

        aside = aside_of(target)
        _remove(aside)
        for source, name in ((target, aside), (beside, target)):
            try:
                operations.rename(source, name)
            except BaseException:
                restore_directory(target)
                raise
            operations.sync_directory(target.parent)
        _remove(aside)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        import shutil

        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _refused_by_system(error: OSError, target: Path) -> InputOutputError:
    return InputOutputError(
        f"cannot write the result: {error.strerror or error}",
        where=str(error.filename or target),
        remedy="make room or change the rights, then run again; nothing was changed",
    )
