"""The calls of `import apr`: preflight a path, load with proof, prove a model that somebody else loaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from apr.errors import UsageError
from apr.formats.peft.read import is_adapter_directory
from apr.gates.adapters.road import AdapterOptions, bytes_of_base, examine_adapter
from apr.gates.facts import TokenizerFacts
from apr.gates.road import Examination, RoadOptions, deepen, examine
from apr.identity.types import Kind
from apr.library.casts import declared_dtypes, one_dtype
from apr.library.holding import NO_REASONS, Terms
from apr.library.naming import NameMap
from apr.library.refusal import refuse_unless_accepted
from apr.library.source import cached_source, resolve_source

if TYPE_CHECKING:
    import torch

    from apr.loading.receipt import Receipt

PathLike: TypeAlias = str | os.PathLike[str]


def preflight(
    path: PathLike,
    *,
    deep: bool = False,
    tokenizer: PathLike | None = None,
    kind: str | None = None,
    base: PathLike | None = None,
    fresh_adapter: bool = False,
    endpoint: str | None = None,
    token: str | None = None,
    allowed_tensors: Mapping[str, str] = NO_REASONS,
    allowed_gates: Mapping[str, str] = NO_REASONS,
) -> Examination:
    """Would training that starts from `path` start from the weights it names? For scripts that want to ask, not fail.

    path: an .apr or .safetensors file, a Hugging Face directory, a directory with a PEFT adapter, or an address
    (`hf://org/name`, `https://...`), of which headers and configs are fetched. deep: read every byte as well, not only
    headers; of local paths. tokenizer: directory of the tokenizer the run will use. kind: what the run trains,
    "decoder", "encoder", "seq2seq" or "classification"; None asks of no run in particular. base: the model under an
    adapter, None for the one that it names. fresh_adapter: a zero `lora_B` is meant to be there. endpoint, token: the
    hub that `hf://` stands for (None: huggingface.co), and what is sent to it alone. allowed_tensors, allowed_gates:
    name or id to the reason why it is let through.

    The answer's `is_accepted`, `refusals` and `findings` say what every gate said; `facts` holds checkpoint headers,
    verdict, load plan with its ledger, and after `deep` the values. Its files are closed. A bad checkpoint raises
    nothing; `apr.errors.UsageError` is raised for an override that names no gate.
    """
    terms = Terms(allowed_tensors=allowed_tensors, allowed_gates=allowed_gates)
    if isinstance(path, str) and "://" in path:
        if deep or base is not None:
            raise _not_over_the_network(path, "deep=True" if deep else "base")
        return _examined_there(path, _options(terms, kind, tokenizer), endpoint, token)
    path = Path(path)
    if is_adapter_directory(path):
        adapter_options = AdapterOptions(
            base=None if base is None else Path(base),
            find_base=cached_source,
            is_fresh=fresh_adapter,
            fresh_words="fresh_adapter=True",
        )
        return examine_adapter(path, terms.road_options(), adapter_options, bytes_of_base if deep else None)
    if base is not None:
        raise UsageError("a base model is named for an adapter only", found=f"{path} is no adapter directory")
    examination = examine(path, _options(terms, kind, tokenizer))
    try:
        return deepen(examination) if deep else examination
    finally:
        examination.close()


def _examined_there(address: str, options: RoadOptions, endpoint: str | None, token: str | None) -> Examination:
    from apr.library.network import Network

    network = Network(endpoint=endpoint, token=token)
    try:
        return network.examine(address, options)[0]
    finally:
        network.client.close()


def _not_over_the_network(address: str, found: str) -> UsageError:
    return UsageError(
        "over the network only headers and configs are read",
        where=address,
        expected="neither deep=True nor base",
        found=found,
        remedy="fetch the checkpoint, and give its local path",
    )


def _options(terms: Terms, kind: str | None, tokenizer: PathLike | None) -> RoadOptions:
    facts = None if tokenizer is None else _tokenizer_facts(Path(tokenizer))
    return terms.road_options(None if kind is None else _kind(kind))._replace(tokenizer=facts)


def load_verified(
    model_or_class: type[Any] | torch.nn.Module | Callable[..., Any] | None,
    path: PathLike,
    *,
    dtype: torch.dtype | str | None = None,
    device: str | None = None,
    name_map: NameMap | None = None,
    config: Any = None,
    attention: str | None = None,
    allowed_tensors: Mapping[str, str] = NO_REASONS,
    allowed_gates: Mapping[str, str] = NO_REASONS,
) -> tuple[Any, Receipt]:
    """A model that holds the tensors of `path` and nothing else, with the proof of it.

    model_or_class: None for the class the checkpoint names; a transformers class or auto class, which has to be that
    one; a torch module, filled in place; or a function that makes one (it gets `config` when one is given), which
    also lets derived buffers be compared with a fresh module's. path: as for `preflight`, or a Hugging Face hub id
    that is in the local cache. dtype: of the floating-point parameters; None keeps the file's (or the module's, as
    long as that rounds nothing). device: where the model goes; None is the CPU, and for a module where it is.
    name_map: checkpoint name to module name, a mapping or a function, for a module of your own. config: the config of
    a checkpoint that holds tensors alone. attention: transformers' attention implementation.

    Returns (model, Receipt). Raises RefusedError with every finding before a single parameter of your module is
    changed, and afterwards when reading back finds anything else than the file's bytes; NotFoundError and
    DamagedFileError when there is nothing to read.
    """
    from apr.library import own_modules, zoo_loads

    source = resolve_source(path)
    terms = _terms(allowed_tensors, allowed_gates, name_map, dtype)
    resident_dtype = None if dtype is None or dtype == "auto" else one_dtype(dtype)
    _refuse_absent(device)
    zoo_class = zoo_loads.as_zoo_class(model_or_class)
    if zoo_class is not None or model_or_class is None:
        if name_map is not None:
            raise UsageError(
                "a name map is for modules of your own; transformers' classes know their names on disk",
                remedy="leave name_map out, or give a module in place of the class",
            )
        return zoo_loads.load_zoo_model(
            zoo_class, source, terms, dtype=resident_dtype, device=device, config=config, attention=attention
        )
    return own_modules.load_module(model_or_class, source, terms, dtype=resident_dtype, device=device, config=config)


def verify_loaded(
    model: torch.nn.Module,
    path: PathLike,
    *,
    name_map: NameMap | None = None,
    dtype: torch.dtype | str | None = None,
    adapter: PathLike | None = None,
    fresh_adapter: bool = False,
    probe: bool = True,
    allowed_tensors: Mapping[str, str] = NO_REASONS,
    allowed_gates: Mapping[str, str] = NO_REASONS,
) -> Receipt:
    """Proof that `model`, which somebody else loaded, holds the tensors of `path` and nothing else.

    Every resident tensor is read back and held against the file: both ways, exact shapes, ties, derived buffers, class
    and config, values, and the recorded probe if there is one (probe=False leaves it out). The model may be wrapped
    in DataParallel, DistributedDataParallel, torch.compile, FSDP or PEFT; where it is sharded, every process calls
    this. dtype: the dtype the values may have been rounded to; widening needs no word, any other cast is refused.
    adapter: the PEFT adapter directory that lies over the model; without it an adapter has to be an identity (zero
    `lora_B`), or of a kind of which that cannot be told, and declared with fresh_adapter=True. name_map,
    allowed_tensors, allowed_gates: as for `load_verified`.

    Returns the Receipt. Raises RefusedError with every finding, NotFoundError, DamagedFileError.
    """
    from apr.library.adapters import verify_adapter
    from apr.library.over_base import explained, with_adapter_in
    from apr.library.unnamed_adapters import refuse_unnamed_adapters
    from apr.library.verifying import examine_model, open_or_refuse

    terms = _terms(allowed_tensors, allowed_gates, name_map, dtype)
    if adapter is not None:
        terms = with_adapter_in(terms, Path(adapter))
    checkpoint = open_or_refuse(resolve_source(path), terms)
    try:
        resident, examination = examine_model(model, checkpoint, terms, replay_probe=probe)
    finally:
        checkpoint.close()
    examination = examination._replace(findings=explained(examination.findings, resident.unwrapped))
    refuse_unless_accepted(examination, "the model in memory does not hold the weights of the named source")
    if adapter is not None:
        verify_adapter(model, adapter, fresh=fresh_adapter, check_base=False, allowed_gates=allowed_gates)
    else:
        refuse_unnamed_adapters(resident, is_declared_fresh=fresh_adapter, allowed_gates=allowed_gates)
    assert examination.facts.receipt is not None
    return examination.facts.receipt


def _terms(
    allowed_tensors: Mapping[str, str],
    allowed_gates: Mapping[str, str],
    name_map: NameMap | None = None,
    dtype: Any = None,
) -> Terms:
    return Terms(
        name_map=name_map,
        declared=frozenset() if dtype is None else declared_dtypes(dtype),
        allowed_tensors=allowed_tensors,
        allowed_gates=allowed_gates,
    )


def _refuse_absent(device: Any) -> None:
    """UsageError for a device that this torch does not know or has no memory on, before a byte of weights is read."""
    import torch

    if device is None or device == "meta":
        return
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError, TypeError) as error:
        raise UsageError(
            "the model cannot go to this device",
            expected='one device that is there, as "cpu" or "cuda:0"',
            found=f"{device!r}: {str(error).strip().partition(chr(10))[0][:200]}",
        ) from error


def _kind(kind: str) -> Kind:
    try:
        return Kind(kind)
    except ValueError as error:
        raise UsageError("no such kind of run", expected=", ".join(Kind), found=repr(kind)) from error


def _tokenizer_facts(directory: Path) -> TokenizerFacts:
    from apr.loading.tokenizer import build_tokenizer, read_tokenizer_files, tokenizer_output_hash, vocabulary_size

    files = read_tokenizer_files(directory)
    size = vocabulary_size(build_tokenizer(files, where=str(directory)))
    return TokenizerFacts(str(directory), size, tokenizer_output_hash(files))
