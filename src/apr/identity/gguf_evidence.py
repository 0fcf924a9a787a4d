"""Claim and evidence of a GGUF file: what `general.architecture` says, and which architectures explain all tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from apr.formats.base import Checkpoint
from apr.identity.candidates import explaining_entries
from apr.identity.gguf_atlas import load_gguf_atlas, slugs_by_counterpart
from apr.identity.gguf_matching import gguf_names, match_gguf
from apr.identity.latest import Latest
from apr.identity.matching import Account
from apr.identity.names import FileNames
from apr.identity.reasons import reasons_for
from apr.identity.types import Architecture, Claim, Evidence

CANONICAL = (
    *("llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi2", "phi3", "gpt2", "gptneox", "falcon", "bloom"),
    *("mpt", "starcoder2", "mamba", "mamba2", "qwen2moe", "qwen3moe", "deepseek2", "bert", "t5", "olmo2", "granitemoe"),
)
"""Architectures that a group of name twins is named after, best known first."""

_CLOSEST_TRIED = 3

_explaining: Latest[FileNames, tuple[list[Account], list[tuple[int, int]]]] = Latest()


def read_gguf_stamp(word: str) -> tuple[Architecture, ...]:
    """The GGUF architectures a normalised stamp can mean: its own name, else a Hugging Face class or model type."""
    slugs = _slugs()
    if word in slugs:
        return (slugs[word],)
    return _by_counterpart().get(word, ())


@lru_cache(maxsize=1)
def _slugs() -> Mapping[str, Architecture]:
    from apr.identity.claim import normalise

    return {normalise(each.model_type): each for each in load_gguf_atlas().architectures}


@lru_cache(maxsize=1)
def _by_counterpart() -> Mapping[str, tuple[Architecture, ...]]:
    from apr.identity.claim import normalise

    own = {each.model_type: each for each in load_gguf_atlas().architectures}
    return {normalise(name): tuple(own[slug] for slug in slugs) for name, slugs in slugs_by_counterpart().items()}


def gather_gguf_evidence(checkpoint: Checkpoint, claim: Claim) -> Evidence:
    """What the tensors of a GGUF file show, from headers alone; as `evidence.gather_evidence`, in llama.cpp's names."""
    names = gguf_names(checkpoint)
    atlas = load_gguf_atlas()
    named = [architecture for _, meanings in claim.readings for architecture in meanings]
    fitting, near = _explaining.get(names, lambda: explaining_entries(atlas, names, match_gguf))
    fitting = _by_shape_first(fitting, named)
    fitting.sort(key=lambda each: _rank(each.entry.architecture, named))
    runner_up = _runner_up(names, near, fitting, claim)
    return Evidence(
        candidates=tuple(account.candidate() for account in fitting),
        runner_up=None if runner_up is None else runner_up.candidate(),
        reasons=tuple(reasons_for(names, fitting, runner_up, lambda: _hints(names))),
    )


def described_as_gguf(names: FileNames) -> list[str]:
    """A sentence on tensors that bear llama.cpp's names in another container, as a copy of a GGUF file has them."""
    fitting = _by_shape_first(explaining_entries(load_gguf_atlas(), names, match_gguf)[0], ())
    slugs = sorted((account.entry.architecture for account in fitting), key=lambda each: _rank(each, ()))
    if not slugs:
        return ["the names are those of llama.cpp, which this container is not read by"]
    return [f"the names are those of llama.cpp; as such they are the tensors of {slugs[0]}"]


def _by_shape_first(fitting: Sequence[Account], named: Sequence[Architecture]) -> list[Account]:
    """Those whose shapes fit as well, and the claimed; what is known by names alone only where nothing else fits."""
    exact = [account for account in fitting if account.entry.is_exact]
    if not exact:
        return list(fitting)
    return [account for account in fitting if account in exact or account.entry.architecture in named]


def _rank(architecture: Architecture, named: Sequence[Architecture]) -> tuple[object, ...]:
    slug = architecture.model_type
    return (
        named.index(architecture) if architecture in named else len(named),
        CANONICAL.index(slug) if slug in CANONICAL else len(CANONICAL),
        slug,
    )


def _runner_up(
    names: FileNames, near: Sequence[tuple[int, int]], fitting: Sequence[Account], claim: Claim
) -> Account | None:
    atlas = load_gguf_atlas()
    explaining = {account.entry.architecture for account in fitting}
    if claim.architecture is not None and claim.architecture not in explaining:
        return match_gguf(atlas.entry(claim.architecture), names)
    places = [at for _, at in near if atlas.architectures[at] not in explaining]
    accounts = [match_gguf(atlas.entry_at(at), names) for at in places[:_CLOSEST_TRIED]]
    return min(accounts, key=lambda each: (each.leftovers, _rank(each.entry.architecture, ())), default=None)


def _hints(names: FileNames) -> list[str]:
    if any(name.startswith(("blk.", "enc.blk.", "dec.blk.")) for name in names.shapes):
        return []
    return ["the names are not those of llama.cpp (`blk.0.attn_q.weight`), which it goes by"]
