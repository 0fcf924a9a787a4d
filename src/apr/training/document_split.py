"""The split into training and validation: by the hash of a document's text, so that equal documents stay together."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

from apr.errors import RefusedError
from apr.training.corpus_files import CorpusFile
from apr.training.corpus_manifest import DOCUMENT_HASH_BYTES, SideRow
from apr.training.documents import ReadingTally, read_documents
from apr.training.encode_options import EncodeOptions

HASH_RANGE = 1 << (8 * DOCUMENT_HASH_BYTES)


def document_hash(text: str) -> bytes:
    """16 bytes of blake3 over the UTF-8 text: the identity of a document for splits and overlap checks."""
    from blake3 import blake3

    return blake3(text.encode()).digest(length=DOCUMENT_HASH_BYTES)


def validation_threshold(options: EncodeOptions, files: Sequence[CorpusFile]) -> int | None:
    """Documents whose hash, read as a number, lies below this go to the validation side; None: no split.

    For a wanted count this is a first pass over the texts that keeps the smallest different hashes.
    """
    if options.validation_fraction is not None:
        return int(options.validation_fraction * HASH_RANGE)
    if options.validation_documents is None:
        return None
    documents = read_documents(
        files, content_field=options.content_field, normalization=options.normalization, tally=ReadingTally()
    )
    different = {int.from_bytes(document_hash(document.text), "big") for document in documents}
    smallest = heapq.nsmallest(options.validation_documents, different)
    return smallest[-1] + 1 if smallest else 0


def check_sides(options: EncodeOptions, training: SideRow, validation: SideRow | None) -> None:
    """Raise RefusedError when a side that was asked for is empty."""
    for name, side in (("training", training), ("validation", validation)):
        if side is not None and side.total_documents == 0:
            raise RefusedError(
                f"the {name} side of the split is empty",
                where=", ".join(map(str, options.corpora)),
                expected="at least one document on each side",
                found=f"{training.total_documents} training documents, "
                f"{validation.total_documents if validation else 0} validation documents",
                remedy="choose another --validation-fraction, or a number of documents with --validation-docs",
                invariant="INV-CORPUS-SPLIT-001",
            )


def split_to_json(options: EncodeOptions) -> dict[str, Any] | None:
    """How the split was asked for, as the manifest records it; None without one."""
    if options.validation_fraction is None and options.validation_documents is None:
        return None
    return {
        "by": "blake3 of the document text",
        "fraction": options.validation_fraction,
        "documents": options.validation_documents,
    }
