"""Which files a corpus consists of, in an order that depends on their names alone."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from apr.errors import InputOutputError, NotFoundError, RefusedError, UsageError

# Extensions a source tree is searched for when no --glob is given: text that people write.
TREE_EXTENSIONS = (
    frozenset([".c", ".cc", ".cpp", ".cs", ".go", ".h", ".hpp", ".java", ".js", ".jsx", ".kt", ".lua", ".php", ".pl"])
    | frozenset([".py", ".pyi", ".r", ".rb", ".rs", ".scala", ".sh", ".sql", ".swift", ".ts", ".tsx"])
    | frozenset([".cfg", ".css", ".html", ".ini", ".md", ".rst", ".tex", ".toml", ".txt", ".xml", ".yaml", ".yml"])
    | frozenset([".jsonl", ".ndjson", ".parquet"])
)


class InputFormat(StrEnum):
    """How documents lie in a file."""

    JSONL = "jsonl"
    PARQUET = "parquet"
    TEXT = "text"


FORMAT_OF_EXTENSION = {
    ".jsonl": InputFormat.JSONL,
    ".ndjson": InputFormat.JSONL,
    ".json": InputFormat.JSONL,
    ".parquet": InputFormat.PARQUET,
}


@dataclass(frozen=True, slots=True)
class CorpusFile:
    """One input file. is_from_tree: found by searching a directory, so a file that is no text may be passed over."""

    path: Path
    format: InputFormat
    size_bytes: int
    is_from_tree: bool


def corpus_files(corpora: Sequence[Path], globs: Sequence[str] = ()) -> tuple[CorpusFile, ...]:
    """The files of `corpora` (files or directories) in the given order, each directory's sorted by relative path.

    globs: patterns for paths inside directories (`*.py`, `docs/**`), replacing the default extensions. Hidden
    entries and `__pycache__` are passed over; links to directories are not followed. Raises NotFoundError, UsageError
    for a file named twice, RefusedError (INV-CORPUS-EMPTY-001) when no file is left.
    """
    if not corpora:
        raise UsageError("no corpus was named", expected="at least one --corpus", remedy="add --corpus PATH")
    found: list[CorpusFile] = []
    for corpus in corpora:
        if corpus.is_dir():
            found.extend(_files_of_tree(corpus, globs))
        else:
            found.append(_corpus_file(corpus, is_from_tree=False))
    if not found:
        raise RefusedError(
            "the corpus is empty: no file was found",
            where=", ".join(map(str, corpora)),
            expected=f"files matching {', '.join(globs)}" if globs else "files with a known text extension",
            found="none",
            remedy="name a file, or choose files with --glob '*.EXT'",
            invariant="INV-CORPUS-EMPTY-001",
        )
    seen: set[Path] = set()
    for file in found:
        resolved = file.path.resolve()
        if resolved in seen:
            raise UsageError(
                "a corpus file is named twice", where=str(file.path), remedy="remove one of the --corpus arguments"
            )
        seen.add(resolved)
    return tuple(found)


def _corpus_file(path: Path, *, is_from_tree: bool) -> CorpusFile:
    try:
        size_bytes = path.stat().st_size
    except FileNotFoundError as error:
        raise NotFoundError("no such corpus", where=str(path), remedy="check --corpus") from error
    except OSError as error:
        raise InputOutputError(f"cannot read the corpus: {error.strerror}", where=str(path)) from error
    return CorpusFile(path, FORMAT_OF_EXTENSION.get(path.suffix.lower(), InputFormat.TEXT), size_bytes, is_from_tree)


def _files_of_tree(root: Path, globs: Sequence[str]) -> list[CorpusFile]:
    def refuse(error: OSError) -> None:
        raise InputOutputError(f"cannot list the directory: {error.strerror}", where=str(error.filename)) from error

    relative_paths: list[str] = []
    for folder, subfolders, names in os.walk(root, onerror=refuse):
        subfolders[:] = [name for name in subfolders if not name.startswith(".") and name != "__pycache__"]
        inside = os.path.relpath(folder, root)
        relative_paths += [os.path.normpath(os.path.join(inside, name)) for name in names if not name.startswith(".")]
    chosen = sorted((path for path in relative_paths if _is_chosen(path, globs)), key=os.fsencode)
    return [_corpus_file(root / path, is_from_tree=True) for path in chosen if (root / path).is_file()]


def _is_chosen(relative_path: str, globs: Sequence[str]) -> bool:
    if not globs:
        return os.path.splitext(relative_path)[1].lower() in TREE_EXTENSIONS
    name = os.path.basename(relative_path)
    return any(fnmatch.fnmatchcase(relative_path, glob) or fnmatch.fnmatchcase(name, glob) for glob in globs)
