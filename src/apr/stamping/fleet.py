"""Stamping many checkpoints: find them, stamp them on all cores, tell of each one, and go on after a failure."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from apr.errors import AprError, InputOutputError, NotFoundError, UsageError, unexpected_error
from apr.stamping.worker_life import begin, task

if TYPE_CHECKING:
    from apr.stamping.result import StampResult

CHECKPOINT_SUFFIXES = (".apr", ".safetensors", ".gguf")
GLOB_CHARACTERS = frozenset("*?[")


class Status(StrEnum):
    """How one checkpoint of a fleet ended."""

    STAMPED = "stamped"
    RIGHT = "right already"
    WOULD_STAMP = "would stamp"
    FAILED = "failed"


class Outcome(NamedTuple):
    """What became of `path`. answer: the document of the stamp, or of the error; plain JSON values."""

    path: str
    status: Status
    answer: dict[str, Any]


Stamper = Callable[[Path], "StampResult"]
Describe = Callable[["StampResult"], dict[str, Any]]


def find_checkpoints(names: Iterable[str]) -> list[Path]:
    """The checkpoints that `names` mean, each once, in order: files, checkpoint directories, patterns, folders of them.

    A folder is searched to any depth; a directory that is a checkpoint counts as one, as does a GGUF model in several
    files. Raises NotFoundError for a name
    or pattern that means nothing.
    """
    found: dict[str, Path] = {}
    for name in names:
        paths = list(_meant(name))
        if not paths:
            raise NotFoundError(
                "no checkpoint is found there",
                where=name,
                expected="an .apr, .safetensors or .gguf file, a Hugging Face directory, or a folder with some",
                remedy="check the path",
            )
        for path in paths:
            found.setdefault(os.path.realpath(_stamped_for(path)), path)
    return list(found.values())


def _stamped_for(path: Path) -> Path:
    """What is stamped when `path` is named: of a GGUF model in parts the first."""
    if path.suffix != ".gguf":
        return path
    from apr.formats.gguf.parts import first_part_of

    return first_part_of(path)


def is_folder_of_checkpoints(path: Path) -> bool:
    """Whether the directory `path` is no checkpoint itself and holds some."""
    return not _is_checkpoint_directory(path) and next(_at(path), None) is not None


def stamp_fleet(
    paths: Sequence[Path], stamp: Stamper, describe: Describe, worker_count: int | None = None
) -> Iterator[Outcome]:
    """Stamp each of `paths`, several at once, and yield each outcome as it comes; no failure ends the others.

    worker_count: processes to use, None for one per core.
    """
    count = min(worker_count or _core_count(), len(paths))
    if count <= 1:
        yield from (_outcome(path, stamp, describe) for path in paths)
        return
    yield from _in_processes(paths, stamp, describe, count)


_job: tuple[Stamper, Describe] | None = None


def _in_processes(paths: Sequence[Path], stamp: Stamper, describe: Describe, count: int) -> Iterator[Outcome]:
    """Forked workers find the job where it stood when they were made, so nothing but paths and outcomes is sent."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from concurrent.futures.process import BrokenProcessPool

    global _job
    _job = (stamp, describe)
    context = multiprocessing.get_context("fork")
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(count, mp_context=context, initializer=begin, initargs=(os.getpid(),)) as pool:
        waiting = {pool.submit(_work, str(path)): path for path in paths}
        try:
            for future in as_completed(waiting):
                try:
                    yield future.result()
                except BrokenProcessPool:
                    error = InputOutputError(
                        "a worker process was killed before this checkpoint was done",
                        where=str(waiting[future]),
                        remedy="run again: what is right already is skipped",
                    )
                    yield Outcome(str(waiting[future]), Status.FAILED, error.to_json())
        except (KeyboardInterrupt, GeneratorExit):
            for worker in set(multiprocessing.active_children()) - others:
                worker.terminate()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _work(path: str) -> Outcome:
    if _job is None:
        raise AprError("a worker has no job")
    with task():
        return _outcome(Path(path), *_job)


def _outcome(path: Path, stamp: Stamper, describe: Describe) -> Outcome:
    try:
        result = stamp(path)
        answer = describe(result)
    except AprError as error:
        return Outcome(str(path), Status.FAILED, error.to_json())
    except OSError as error:
        failure = InputOutputError(f"the operating system refused: {error.strerror or error}", where=str(path))
        return Outcome(str(path), Status.FAILED, failure.to_json())
    except Exception as error:  # noqa: BLE001 - a checkpoint that nobody foresaw does not end the others
        return Outcome(str(path), Status.FAILED, unexpected_error(error).to_json())
    if not result.changes:
        status = Status.RIGHT
    else:
        status = Status.WOULD_STAMP if result.is_dry_run else Status.STAMPED
    return Outcome(str(path), status, answer)


def _meant(name: str) -> Iterator[Path]:
    if not name:
        # pathlib would take it for the current directory.
        raise UsageError(
            "the path of a checkpoint is empty",
            expected="a file, a directory or a pattern",
            found="an empty text, as of a variable that is not set",
        )
    path = Path(name)
    if not os.path.lexists(path) and GLOB_CHARACTERS & set(name):
        from glob import glob

        for match in sorted(glob(name, recursive=True)):
            yield from _at(Path(match))
    else:
        yield from _at(path, is_named=True)


def _at(path: Path, *, is_named: bool = False) -> Iterator[Path]:
    """The checkpoints at `path`: itself, or those below a folder. A file that was named counts whatever its suffix.

    A folder that several links lead to is searched once, also where one leads back to a folder it lies in.
    """
    waiting = [path]
    searched: set[tuple[int, int]] = set()
    while waiting:
        here = waiting.pop()
        if not here.is_dir():
            if (is_named and here is path) or here.suffix in CHECKPOINT_SUFFIXES:
                yield here
            continue
        if _is_checkpoint_directory(here):
            yield here
            continue
        with suppress(PermissionError, FileNotFoundError):
            found = here.stat()
            if (found.st_dev, found.st_ino) not in searched:
                searched.add((found.st_dev, found.st_ino))
                names = sorted((name for name in os.listdir(here) if not name.startswith(".")), reverse=True)
                waiting += [here / name for name in names]


def _is_checkpoint_directory(path: Path) -> bool:
    return (path / "config.json").is_file() and any(
        (path / name).is_file() for name in ("model.safetensors", "model.safetensors.index.json")
    )


def _core_count() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
