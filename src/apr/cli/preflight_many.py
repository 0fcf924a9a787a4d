"""Many checkpoints for `apr preflight`: asked side by side, answered in order, one line each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from apr.cli.out import Out
from apr.cli.walking import Walk, document_of, walked
from apr.errors import AprError, ExitCode

if TYPE_CHECKING:
    from apr.gates.road import Examination
    from apr.storage.remote.traffic import Traffic

# Starting processes costs more than reading this many headers.
FEWEST_PATHS_FOR_PROCESSES = 8

# Waiting for servers is the work; each address in flight asks for several of its files at once.
ADDRESSES_AT_A_TIME = 8


def expand_patterns(paths: Iterable[Path | str]) -> tuple[Path | str, ...]:
    """Each path as it is, or in place of a pattern that names nothing itself the sorted paths it matches.

    A pattern without any match stays, so that it is reported as not found. An address is never a pattern.
    """
    expanded: list[Path | str] = []
    for path in paths:
        if isinstance(path, str):
            expanded.append(path)
            continue
        is_pattern = any(character in str(path) for character in "*?[") and not path.exists()
        expanded += sorted(map(Path, glob(str(path)))) if is_pattern else []
        if not is_pattern or not glob(str(path)):
            expanded.append(path)
    return tuple(expanded)


class Answer(NamedTuple):
    """What one path of several came to, as plain data that travels between processes."""

    document: dict[str, Any]
    row: list[object]
    is_accepted: bool


def answer_many(out: Out, paths: tuple[Path | str, ...], walk: Walk) -> ExitCode:
    """Answer for each of `paths`, in order; REFUSED unless all are accepted."""
    worst = ExitCode.DONE
    rows: list[list[object]] = []
    ask = partial(answer_of, walk=walk)
    with out.progress("preflight", len(paths), "checkpoints") as progress, _workers(len(paths), walk) as work:
        for path, answer in zip(paths, work(ask, paths), strict=True):
            worst = worst if answer.is_accepted else ExitCode.REFUSED
            out.document_line(answer.document.pop("schema"), answer.document)
            rows.append(answer.row)
            progress.advance(1, path if isinstance(path, str) else path.name)
    fetched = ["fetched"] if walk.network is not None else []
    out.table(["path", "format", "claimed", "verdict", "answer", *fetched], [row[: 5 + len(fetched)] for row in rows])
    return worst


@contextmanager
def _workers(count: int, walk: Walk) -> Iterator[Callable[..., Iterable[Answer]]]:
    """Something that maps in order: over threads where servers are waited for, over processes where reading headers
    is the work, else one after the other.

    Deep reading uses all cores by itself, and a loaded model the memory.
    """
    from apr.identity.atlas import load_atlas
    from apr.storage.digests import usable_cores

    if walk.network is not None:
        from concurrent.futures import ThreadPoolExecutor

        load_atlas()
        threads = ThreadPoolExecutor(ADDRESSES_AT_A_TIME)
        try:
            yield threads.map
        except BaseException:
            walk.network.client.close()  # Nobody waits for servers after Ctrl-C.
            raise
        finally:
            threads.shutdown(cancel_futures=True)
        return
    if walk.is_deep or walk.is_loaded or count < FEWEST_PATHS_FOR_PROCESSES or usable_cores() == 1:
        yield map
        return
    from concurrent.futures import ProcessPoolExecutor

    # Read before the processes part, so that they share it.
    load_atlas()
    with ProcessPoolExecutor(usable_cores()) as pool:
        yield partial(pool.map, chunksize=8)


def answer_of(path: Path | str, walk: Walk) -> Answer:
    """The answer for one of several paths; what cannot be read is an answer too, so that the others get theirs."""
    try:
        examination, traffic = walked(path, walk)
    except AprError as error:
        from apr.gates.document import SCHEMA

        document = {"schema": SCHEMA, "path": str(path), "accepted": False, "error": error.to_json()}
        return Answer(document, [path, None, None, None, f"error: {error.what}", None], is_accepted=False)
    row = [path, *_row(examination), _fetched(traffic)]
    return Answer(document_of(path, examination, traffic), row, examination.is_accepted)


def _fetched(traffic: Traffic | None) -> str | None:
    if traffic is None:
        return None
    from apr.cli.network import traffic_text

    return traffic_text(traffic)


def _row(examination: Examination) -> list[object]:
    facts, refusals = examination.facts, examination.refusals
    claimed = facts.verdict.claim.architecture if facts.verdict is not None else None
    ids = list(dict.fromkeys(finding.id for finding in refusals))
    more = f" and {len(ids) - 1} more" if len(ids) > 1 else ""
    return [
        facts.checkpoint.format.value if facts.checkpoint is not None else None,
        claimed.short_name if claimed is not None else None,
        facts.verdict.kind.value if facts.verdict is not None else None,
        "accepted" if examination.is_accepted else f"refused: {ids[0]}{more}",
    ]
