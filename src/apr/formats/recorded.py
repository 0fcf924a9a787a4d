"""What `apr` itself records beside weights and config: training record, probe, digests, stamp history.

The same JSON stands in an `.apr` (metadata key `apr_recorded`) and in a Hugging Face directory (`apr.json`), so that
a chain of custody survives conversion.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from apr.errors import DamagedFileError

RECORDED_SCHEMA = "apr.recorded/1"
RECORDED_METADATA_KEY = "apr_recorded"
RECORDED_FILE_NAME = "apr.json"

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Probe(NamedTuple):
    """A fixed token batch with the behaviour the saved model showed on it.

    tokens: rows of equal length. loss: mean next-token cross-entropy in nats. top_ids, top_logits: for each row, the
    largest logits at the last position, descending. dtype, device: of the recording model.
    """

    tokens: tuple[tuple[int, ...], ...]
    loss: float
    top_ids: tuple[tuple[int, ...], ...]
    top_logits: tuple[tuple[float, ...], ...]
    dtype: str
    device: str


class TrainingRecord(NamedTuple):
    """What the run that wrote a checkpoint measured and used; None where it was not measured.

    validation_loss: nats per token on the validation set named by `validation_set_hash`. parent_digest: weights
    digest of the receipt this run started from, None for a run from scratch. step, tokens_seen: of this run.
    """

    step: int | None = None
    epoch: int | None = None
    tokens_seen: int | None = None
    train_loss: float | None = None
    validation_loss: float | None = None
    validation_set_hash: str | None = None
    tokenizer_hash: str | None = None
    dataset_fingerprint: str | None = None
    parent_digest: str | None = None
    parent_path: str | None = None
    seed: int | None = None
    sequence_length: int | None = None
    device: str | None = None
    dtype: str | None = None
    versions: Mapping[str, str] = _NOTHING


class Recorded(NamedTuple):
    """Everything `apr` recorded in a checkpoint; each part is None or empty when it was not recorded.

    tensor_digests: stored name to blake3 hex of the stored bytes. history: stamp changes, oldest first. provenance:
    `license`, `data_source`, `data_license` where the container has no keys of its own for them (`apr.json`).
    config_facts: what the config said of the mathematics when the weights were saved (`loading/pinned.py`).
    """

    training: TrainingRecord | None = None
    probe: Probe | None = None
    tensor_digests: Mapping[str, str] = _NOTHING
    weights_digest: str | None = None
    history: tuple[Mapping[str, Any], ...] = ()
    provenance: Mapping[str, str] = _NOTHING
    config_facts: Mapping[str, Any] = _NOTHING

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": RECORDED_SCHEMA,
            "training": None if self.training is None else _plain(self.training),
            "probe": None if self.probe is None else _plain(self.probe),
            "tensor_digests": dict(self.tensor_digests),
            "weights_digest": self.weights_digest,
            "history": [dict(change) for change in self.history],
            "provenance": dict(self.provenance),
            **({"config_facts": dict(self.config_facts)} if self.config_facts else {}),
        }


NOTHING_RECORDED = Recorded()


def recorded_from_json(document: object, *, where: str) -> Recorded:
    """The record in `document`; raises DamagedFileError naming `where` and the key when a part has another form."""
    if not isinstance(document, dict):
        raise _damaged(where, "a JSON object", type(document).__name__)
    if document.get("schema") != RECORDED_SCHEMA:
        raise _damaged(f"{where}: schema", RECORDED_SCHEMA, repr(document.get("schema")))
    training, probe = document.get("training"), document.get("probe")
    digests = document.get("tensor_digests") or {}
    history = document.get("history") or []
    provenance = document.get("provenance") or {}
    config_facts = document.get("config_facts") or {}
    if not isinstance(config_facts, dict):
        raise _damaged(f"{where}: config_facts", "an object", type(config_facts).__name__)
    if not isinstance(provenance, dict) or not all(isinstance(value, str) for value in provenance.values()):
        raise _damaged(f"{where}: provenance", "an object of strings", type(provenance).__name__)
    if not isinstance(digests, dict) or not all(isinstance(value, str) for value in digests.values()):
        raise _damaged(f"{where}: tensor_digests", "an object of strings", type(digests).__name__)
    if not isinstance(history, list) or not all(isinstance(change, dict) for change in history):
        raise _damaged(f"{where}: history", "a list of objects", type(history).__name__)
    weights_digest = document.get("weights_digest")
    if weights_digest is not None and not isinstance(weights_digest, str):
        raise _damaged(f"{where}: weights_digest", "a string", type(weights_digest).__name__)
    return Recorded(
        training=None if training is None else _training_from_json(training, f"{where}: training"),
        probe=None if probe is None else _probe_from_json(probe, f"{where}: probe"),
        tensor_digests=MappingProxyType(digests),
        weights_digest=weights_digest,
        history=tuple(MappingProxyType(change) for change in history),
        provenance=MappingProxyType(provenance),
        config_facts=MappingProxyType(config_facts),
    )


def _training_from_json(document: object, where: str) -> TrainingRecord:
    if not isinstance(document, dict):
        raise _damaged(where, "a JSON object", type(document).__name__)
    known = set(TrainingRecord._fields)
    unknown = sorted(set(document) - known)
    if unknown:
        raise _damaged(where, f"keys among {sorted(known)}", f"unknown keys {unknown}")
    integers = {"step", "epoch", "tokens_seen", "seed", "sequence_length"}
    numbers = {"train_loss", "validation_loss"}
    for key, value in document.items():
        if value is None:
            continue
        if key in integers:
            is_valid = isinstance(value, int) and not isinstance(value, bool)
        elif key in numbers:
            is_valid = isinstance(value, (int, float)) and not isinstance(value, bool)
        elif key == "versions":
            is_valid = isinstance(value, dict)
        else:
            is_valid = isinstance(value, str)
        if not is_valid:
            raise _damaged(f"{where}.{key}", "an integer, number or text as documented", repr(value)[:80])
    return TrainingRecord(**document)


def _probe_from_json(document: object, where: str) -> Probe:
    if not isinstance(document, dict):
        raise _damaged(where, "a JSON object", type(document).__name__)
    try:
        tokens = tuple(tuple(int(token) for token in row) for row in document["tokens"])
        top_ids = tuple(tuple(int(token) for token in row) for row in document["top_ids"])
        top_logits = tuple(tuple(float(value) for value in row) for row in document["top_logits"])
        probe = Probe(
            tokens, float(document["loss"]), top_ids, top_logits, str(document["dtype"]), str(document["device"])
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise _damaged(where, "tokens, loss, top_ids, top_logits, dtype, device", repr(error)) from error
    lengths = {len(row) for row in tokens}
    if len(lengths) != 1 or 0 in lengths or not len(tokens) == len(top_ids) == len(top_logits):
        raise _damaged(where, "rows of one length, as many answers as rows", f"row lengths {sorted(lengths)}")
    return probe


def _plain(part: TrainingRecord | Probe) -> dict[str, Any]:
    return {name: _plain_value(value) for name, value in part._asdict().items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain_value(item) for item in value]
    return dict(value) if isinstance(value, Mapping) else value


def _damaged(where: str, expected: str, found: str) -> DamagedFileError:
    return DamagedFileError(
        "the apr record cannot be read",
        where=where,
        expected=expected,
        found=found,
        invariant="INV-FILE-INTEGRITY-001",
        remedy="fetch or write the checkpoint again from an intact source",
    )
