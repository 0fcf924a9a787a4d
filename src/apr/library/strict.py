"""Strict `from_pretrained`: transformers loads, and nothing is handed back that does not hold the named weights.

The patch of `strict()` is one for the whole process: while any thread is inside such a block, every thread's
`from_pretrained` is strict. What it lets through (`allowed_tensors`, ...) is the calling thread's own; a thread that
is in no block of its own gets the strictest terms. A `from_pretrained` that was looked up before the block
(`load = LlamaForCausalLM.from_pretrained`) is the original and stays unwatched.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apr.errors import AprError, RefusedError, UsageError, in_lines, shell_word
from apr.formats.peft.read import is_adapter_directory
from apr.formats.registry import open_checkpoint
from apr.gates.adapters.facts import open_adapter
from apr.gates.road import examine
from apr.gates.words import folded
from apr.identity.types import VerdictKind
from apr.library.adapters import verify_adapter
from apr.library.api import verify_loaded
from apr.library.casts import declared_dtypes
from apr.library.holding import NO_REASONS, Terms, is_own_class
from apr.library.refusal import refuse_unless_accepted
from apr.library.source import cached_source, may_be_hub_id, resolve_source
from apr.library.zoo_checks import ARCHITECTURE_ID
from apr.loading.zoo_lock import ZOO_LOCK

# Keywords that make the resident tensors something else than the files' on purpose: there is nothing to prove then.
UNVERIFIABLE = {
    "quantization_config": "it asks for quantisation while loading, so no resident tensor equals the file's",
    "gguf_file": "it names a GGUF file, whose tensors transformers dequantises and permutes",
    "fusion_config": "it fuses modules while loading",
    "variant": "it names another set of weight files than the one that would be read",
    "state_dict": "the weights come from memory, and no source is named",
}


@dataclass(frozen=True)
class StrictTerms:
    """What a strict block lets through; the fields are those of `strict`."""

    allowed_tensors: Mapping[str, str] = field(default_factory=lambda: NO_REASONS)
    allowed_gates: Mapping[str, str] = field(default_factory=lambda: NO_REASONS)
    probe: bool = True


_terms: ContextVar[StrictTerms | None] = ContextVar("apr_strict_terms", default=None)
_is_inside_a_load: ContextVar[bool] = ContextVar("apr_strict_is_inside_a_load", default=False)


def from_pretrained(
    model_class: type[Any],
    path: str | os.PathLike[str],
    *args: Any,
    allowed_tensors: Mapping[str, str] = NO_REASONS,
    allowed_gates: Mapping[str, str] = NO_REASONS,
    probe: bool = True,
    **kwargs: Any,
) -> Any:
    """`model_class.from_pretrained(path, *args, **kwargs)`, or RefusedError when the model holds anything else.

    model_class: a transformers class or auto class; or a class of PEFT, with the base model in place of path, and the
    adapter after it. path: a local directory, or a hub id. `dtype=` in kwargs declares a rounding cast.
    allowed_tensors: tensors that one side may lack, with the reason: a new head (`{"score.weight": "trained here"}`).
    allowed_gates, probe: as for `apr.verify_loaded`.

    Returns what `from_pretrained` returns. Raises RefusedError before loading when the files would be refused, and
    after it when a resident tensor is not the file's; also for a load that cannot be verified.
    """
    terms = StrictTerms(allowed_tensors, allowed_gates, probe)
    original = model_class.from_pretrained.__func__
    original = getattr(original, "original", original)
    return _load(original, model_class, terms, (path, *args), kwargs)


@contextmanager
def strict(
    *,
    allowed_tensors: Mapping[str, str] = NO_REASONS,
    allowed_gates: Mapping[str, str] = NO_REASONS,
    probe: bool = True,
) -> Iterator[None]:
    """Within the block, `from_pretrained` of every transformers model class and auto class is strict, and of PEFT's
    models, which hold the adapter to its file; a base that was loaded outside of the block is not looked at.

    The arguments are those of `apr.hf.from_pretrained`, for every load in the block; a block inside another one has
    its own. The originals are back when the last block is left, however it is left.
    """
    token = _terms.set(StrictTerms(allowed_tensors, allowed_gates, probe))
    _Patch.enter()
    try:
        yield
    finally:
        _Patch.leave()
        # A generator that holds the block may be finished in another context, which has terms of its own.
        with suppress(ValueError):
            _terms.reset(token)


class _Patch:
    """The replaced methods, counted over all threads: put in with the first block, taken out with the last."""

    lock = threading.Lock()
    depth = 0
    originals: tuple[tuple[type[Any], Any], ...] = ()

    @classmethod
    def enter(cls) -> None:
        with cls.lock:
            if cls.depth == 0:
                cls.originals = tuple((each, each.__dict__["from_pretrained"]) for each in _classes_that_load())
                for each, original in cls.originals:
                    each.from_pretrained = classmethod(_strict_version(original.__func__))
            cls.depth += 1

    @classmethod
    def leave(cls) -> None:
        with cls.lock:
            cls.depth -= 1
            if cls.depth == 0:
                for each, original in cls.originals:
                    each.from_pretrained = original


def _classes_that_load() -> list[type[Any]]:
    """The classes whose own `from_pretrained` is called: the base of all models, the auto classes (each has a copy),
    PEFT's models, and model classes that override it."""
    import transformers.models.auto.modeling_auto  # noqa: F401  # Defines the auto classes.
    from transformers import PreTrainedModel
    from transformers.models.auto.auto_factory import _BaseAutoModelClass

    pending: list[type[Any]] = [PreTrainedModel, _BaseAutoModelClass, *_classes_of_peft()]
    found: dict[type[Any], None] = {}
    while pending:
        each = pending.pop()
        if isinstance(each.__dict__.get("from_pretrained"), classmethod):
            found[each] = None
        pending.extend(each.__subclasses__())
    return list(found)


def _classes_of_peft() -> list[type[Any]]:
    """PEFT's models; imported here, as what is run in the block may import PEFT later and load with it."""
    try:
        from peft import PeftMixedModel, PeftModel
    except (ImportError, RuntimeError, AttributeError):  # One that does not fit what is installed loads nothing.
        return []
    return [PeftModel, PeftMixedModel]


def _strict_version(original: Any) -> Any:
    def strict_from_pretrained(cls: type[Any], *args: Any, **kwargs: Any) -> Any:
        return _load(original, cls, _terms.get() or StrictTerms(), args, kwargs)

    strict_from_pretrained.original = original  # type: ignore[attr-defined]
    return strict_from_pretrained


def _load(original: Any, cls: type[Any], terms: StrictTerms, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One strict load. Loads inside it (an auto class calls the class, a composite its parts) belong to it: the
    outermost model is held against the source as a whole."""
    if _is_inside_a_load.get() or _is_our_own(kwargs):
        return original(cls, *args, **kwargs)
    if issubclass(cls, tuple(_classes_of_peft())):
        return _load_adapter(original, cls, terms, args, kwargs)
    name = args[0] if args else kwargs.get("pretrained_model_name_or_path")
    _refuse_unverifiable(cls, name, kwargs)
    _refuse_no_source(cls, name)
    local = Path(str(name)).joinpath(str(kwargs.get("subfolder") or ""))
    _refuse_renamed(cls, local, kwargs.get("key_mapping"))
    if local.exists() or not may_be_hub_id(str(name)):
        _refuse_bad_files(cls, local, terms)
    token = _is_inside_a_load.set(True)
    try:
        with ZOO_LOCK:
            answer = original(cls, *args, **kwargs)
    finally:
        _is_inside_a_load.reset(token)
    source = resolve_source(str(name), **_hub_keywords(kwargs))
    _verify(answer[0] if isinstance(answer, tuple) else answer, source, terms, kwargs)
    return answer


def _load_adapter(
    original: Any, cls: type[Any], terms: StrictTerms, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """One strict load of PEFT's: `from_pretrained(model, model_id, adapter_name, ...)`. The base model is the caller's,
    and was held against its own source when it was loaded."""
    name = args[1] if len(args) > 1 else kwargs.get("model_id")
    adapter_name = args[2] if len(args) > 2 else kwargs.get("adapter_name", "default")
    _refuse_unverifiable(cls, name, {})
    _refuse_no_source(cls, name)
    token = _is_inside_a_load.set(True)
    try:
        answer = original(cls, *args, **kwargs)
    finally:
        _is_inside_a_load.reset(token)
    verify_adapter(
        answer,
        resolve_source(str(name), **_hub_keywords(kwargs)),
        adapter_name=adapter_name,
        check_base=False,
        probe=terms.probe,
        allowed_tensors=terms.allowed_tensors,
        allowed_gates=terms.allowed_gates,
    )
    return answer


def _hub_keywords(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in kwargs.items() if key in ("cache_dir", "revision", "token", "subfolder")}


def _refuse_no_source(cls: type[Any], name: object) -> None:
    if not isinstance(name, str | os.PathLike):
        raise UsageError(
            f"{cls.__name__}.from_pretrained names no source",
            expected="a path or a hub id",
            found=type(name).__name__,
            remedy="give the path of a checkpoint first; for a class of PEFT, after the model",
        )


def _is_our_own(kwargs: Mapping[str, Any]) -> bool:
    """Whether `apr`'s own road is loading: it hands over planned tensors and writes the receipt itself."""
    from apr.loading.materialise import PlannedTensor

    state = kwargs.get("state_dict") or {}
    return bool(state) and all(isinstance(value, PlannedTensor) for value in state.values())


def _refuse_unverifiable(cls: type[Any], name: object, kwargs: Mapping[str, Any]) -> None:
    reasons = [f"{key}: {why}" for key, why in UNVERIFIABLE.items() if kwargs.get(key) is not None]
    if name is None:
        reasons.append("no source is named")
    if reasons:
        raise RefusedError(
            f"{cls.__name__}.from_pretrained cannot be verified here",
            where=str(name),
            expected="a local directory or hub id, loaded as it is",
            found=in_lines(*reasons),
            remedy="load it outside of the strict block, and check it with apr.verify_loaded if its weights are plain",
            invariant="INV-INIT-RECEIPT-001",
        )


def _refuse_renamed(cls: type[Any], path: Path, key_mapping: Mapping[str, str] | None) -> None:
    """Refuse a `key_mapping` that renames a stored tensor: then the file is not named as the class that it claims."""
    if not key_mapping or not path.exists():
        return
    try:
        checkpoint = open_checkpoint(path)
    except AprError:
        return  # The files speak for themselves in a moment.
    with checkpoint:
        renamed = [name for name in checkpoint.tensors if any(re.search(pattern, name) for pattern in key_mapping)]
    if renamed:
        raise RefusedError(
            f"{cls.__name__}.from_pretrained with this key_mapping cannot be verified here",
            where=str(path),
            expected="tensors that have the names of the class they claim",
            found=f"key_mapping renames {len(renamed)} of them: {folded(tuple(renamed))}",
            remedy=in_lines(
                f"rename them once, in a copy: apr import {shell_word(path)} --unwrap -o OUT",
                "or load outside of the strict block, and prove what was loaded: apr.verify_loaded(model, path, "
                f"allowed_gates={{'{ARCHITECTURE_ID}': 'REASON'}})",
            ),
            invariant=ARCHITECTURE_ID,
        )


def _refuse_bad_files(cls: type[Any], path: Path, terms: StrictTerms) -> None:
    """Refuse before transformers reads a byte where headers alone show a lie, or cannot be read.

    Everything else waits for the resident model: only that shows which tensors the asked class takes.
    """
    if is_adapter_directory(path):
        return
    for allowed in ({}, terms.allowed_tensors):
        options = Terms(allowed_tensors=allowed, allowed_gates=terms.allowed_gates).road_options()
        examination = examine(path, options)
        examination.close()
        verdict, checkpoint = examination.facts.verdict, examination.facts.checkpoint
        if verdict is not None and verdict.kind is not VerdictKind.CONTRADICTION:
            return
        if checkpoint is not None and is_own_class(cls, checkpoint):
            return
    if examination.facts.checkpoint is None or ARCHITECTURE_ID in {finding.id for finding in examination.refusals}:
        refuse_unless_accepted(examination)


def _verify(model: Any, source: Path, terms: StrictTerms, kwargs: Mapping[str, Any]) -> None:
    adapter = None
    if is_adapter_directory(source):
        adapter = source
        opened = open_adapter(source, find_base=cached_source)
        opened.checkpoint.close()
        if opened.base is None:
            raise RefusedError(
                f"the model cannot be verified: {opened.base_note}",
                where=str(source),
                remedy="download the base model first",
                invariant="FALSIFY-APR-PRETRAIN-INIT-003",
            )
        source = opened.base
    verify_loaded(
        model,
        source,
        dtype=declared_dtypes(kwargs.get("dtype", kwargs.get("torch_dtype"))),
        adapter=adapter,
        probe=terms.probe,
        allowed_tensors=terms.allowed_tensors,
        allowed_gates=terms.allowed_gates,
    )
