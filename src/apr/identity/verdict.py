"""The verdict: the claim held against the evidence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

from apr.errors import AprError, shell_word, shown_value
from apr.formats.base import Checkpoint
from apr.identity.atlas import expected_tensors, load_atlas, uses_unexpressed_value
from apr.identity.claim import claimed_architectures, read_claim
from apr.identity.entries import Entry, own_name
from apr.identity.evidence import gather_evidence, model_tensors
from apr.identity.gguf_atlas import atlas_of
from apr.identity.renaming import as_the_class_names_them
from apr.identity.settings import may_be_absent
from apr.identity.types import Architecture, Candidate, Claim, Evidence, Naming, Verdict, VerdictKind

# A config may ask for this many times the tensors the file holds before nobody looks any further.
MOST_TENSORS_PER_STORED_TENSOR = 4


def give_verdict(checkpoint: Checkpoint) -> Verdict:
    """What `checkpoint` claims to be against what its tensors show, from headers alone.

    MATCH: only the claimed model type explains all tensors. AMBIGUOUS: others explain them as well, or the atlas does
    not say exactly what the claimed class holds under its config. CONTRADICTION: the claim does not explain them.
    UNKNOWN: no claim, a claim that contradicts itself, or one that is not in the atlas; the evidence then still says
    what the tensors suggest.
    """
    claim = read_claim(checkpoint)
    evidence = gather_evidence(checkpoint, claim)
    if claim.architecture is None:
        return Verdict(VerdictKind.UNKNOWN, claim, evidence, _without_claim(claim, evidence))
    claimed = claimed_architectures(claim)
    fitting = [candidate for candidate in evidence.candidates if candidate.architecture in claimed]
    if not fitting and _is_as_its_config_says(checkpoint, claim.architecture):
        own = Candidate(claim.architecture, (), (), (), MappingProxyType({}))
        evidence = evidence._replace(candidates=(own, *evidence.candidates))
        fitting = [own]
    if not fitting:
        if _may_still_be(checkpoint, claim.architecture, evidence):
            return Verdict(VerdictKind.AMBIGUOUS, claim, evidence, _undecided(claim, evidence))
        return Verdict(VerdictKind.CONTRADICTION, claim, evidence, _contradiction(claim, evidence))
    if claim.architecture not in [candidate.architecture for candidate in fitting]:
        # The stamps name a model type, which has several heads; the tensors say which of them it is.
        claim = claim._replace(architecture=fitting[0].architecture)
    assert claim.architecture is not None
    model_type = claim.architecture.model_type
    twins = [candidate for candidate in evidence.candidates if not _computes_the_same(candidate, claim.architecture)]
    if twins:
        reason = (
            f"the tensors fit {model_type} as claimed, and as well its name twins {_types(twins)}: same names, same "
            "shapes; values, the probe or the loss at step 0 have to tell them apart"
        )
        return Verdict(VerdictKind.AMBIGUOUS, claim, evidence, (reason, *evidence.reasons))
    reason = f"the tensors are those of {claim.architecture}, and of no other model type"
    return Verdict(VerdictKind.MATCH, claim, evidence, (reason, *evidence.reasons))


SAME_COMPUTATION = (frozenset({"qwen2", "seed_oss"}),)
"""Model types whose classes turn equal weights and equal config fields into equal logits (tested bit for bit)."""


def _computes_the_same(candidate: Candidate, claimed: Architecture) -> bool:
    """Whether it makes no difference which of the two is built: one class, one model type, or one computation.

    Under the base model's names it is the base model's class that two model types have in common.
    """
    other = candidate.architecture
    types = {other.model_type, claimed.model_type}
    is_one_class = other.naming is Naming.HUGGING_FACE and (
        other.class_name == claimed.class_name or atlas_of(claimed).serves(other.class_name, claimed.model_type)
    )
    return is_one_class or len(types) == 1 or any(types <= group for group in SAME_COMPUTATION)


def _without_claim(claim: Claim, evidence: Evidence) -> tuple[str, ...]:
    reasons = [
        f"{one.place} says {shown_value(one.value)}, but {two.place} says {shown_value(two.value)}"
        for one, two in claim.disagreements
    ]
    reasons += [f"{stamp.place} says {shown_value(stamp.value)}, which is not in the atlas" for stamp in claim.unknown]
    if not reasons:
        reasons.append("the checkpoint does not say what it is")
    if evidence.candidates:
        best = evidence.candidates[0].architecture
        places = [stamp.place for stamp, meanings in claim.readings if best in meanings]
        reasons.append(f"its tensors suggest {best}" + (f", as {' and '.join(places)} says" if places else ""))
    return (*reasons, *evidence.reasons)


def _is_as_its_config_says(checkpoint: Checkpoint, architecture: Architecture) -> bool:
    """Whether the tensors are exactly those of the claimed class under the recorded config.

    Matching by tensors alone does not know every flag; where the config holds it, it speaks for the claim.
    """
    if checkpoint.config is None or architecture.naming is Naming.GGUF:
        return False
    entry = load_atlas().entry(architecture)
    tensors = as_the_class_names_them(entry, model_tensors(checkpoint))
    most = MOST_TENSORS_PER_STORED_TENSOR * len(tensors.shapes)
    try:
        expected = expected_tensors(entry, checkpoint.config, max_tensors=most)
    except AprError:
        return False
    if expected is None or not tensors.shapes.keys() <= expected.keys():
        return False
    return all(
        each.is_optional or (each.tied_to in tensors.shapes and name not in tensors.shapes)
        if name not in tensors.shapes or each.is_optional
        else tensors.shapes[name] == each.shape
        for name, each in expected.items()
    )


def _may_still_be(checkpoint: Checkpoint, architecture: Architecture, evidence: Evidence) -> bool:
    """Whether the claim, which does not explain the tensors as far as the atlas knows it, can be right for all that.

    The atlas does not know every class exactly, nor what every config value does to a class. Where it does not, the
    claim stands if nothing else explains the tensors. Beside another explanation it stands only under a config value
    whose effect is not known, for a class that has all names of the file: the value may take the others away.
    """
    entry = atlas_of(architecture).entry(architecture)
    claimed = evidence.runner_up
    if not evidence.candidates and claimed is not None and claimed.architecture != architecture:
        return False  # The file is an incomplete one of another class.
    if not evidence.candidates and _lacks_embedding(checkpoint, entry):
        return False
    try:
        is_unexpressed = uses_unexpressed_value(entry, checkpoint.config or {})
    except AprError:
        is_unexpressed = False
    if not evidence.candidates:
        return is_unexpressed or not entry.is_exact
    return is_unexpressed and claimed is not None and claimed.architecture == architecture and not claimed.unused


EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embeddings.weight")
"""How the names of input embeddings end."""


def _lacks_embedding(checkpoint: Checkpoint, entry: Entry) -> bool:
    """Whether the file cannot hold the input embedding that its class has under every config.

    What an inexact entry wants beside it may be absent under configs that were never tried. The embedding is not: its
    name is gone then, and no tensor of the file has a row for each id of the recorded vocabulary.
    """
    config = checkpoint.config or {}
    size = next((value for key, value in config.items() if own_name(entry, key) == own_name(entry, "vocab_size")), None)
    if not isinstance(size, int) or size < 2 or "quantization_config" in config:
        return False
    wanted = [
        each.pattern
        for each in entry.templates
        if each.pattern.endswith(EMBEDDINGS) and not (each.when or each.where or each.loops or may_be_absent(each))
    ]
    names = model_tensors(checkpoint)
    stored = names.shapes.keys() | names.placeholders
    return (
        bool(wanted) and not stored.intersection(wanted) and not any(size in shape for shape in names.shapes.values())
    )


def _undecided(claim: Claim, evidence: Evidence) -> tuple[str, ...]:
    others = _types(evidence.candidates)
    reason = (
        f"the atlas does not say exactly what {claim.architecture} holds"
        + (
            f" under this config; {others} would explain the tensors"
            if others
            else ", and nothing else explains the tensors"
        )
        + "; the class itself has to be built to account for them"
    )
    return (reason, *evidence.reasons)


def _contradiction(claim: Claim, evidence: Evidence) -> tuple[str, ...]:
    if evidence.candidates:
        shown = f"the tensors show {evidence.candidates[0].architecture}"
    else:
        shown = "its tensors are not those of that architecture, nor of any known one"
    return (f"the stamps say {claim.architecture}, but {shown}", *evidence.reasons)


def _types(candidates: Sequence[Candidate]) -> str:
    return ", ".join(dict.fromkeys(candidate.architecture.model_type for candidate in candidates))


def stamp_recipe(checkpoint_path: Path, architecture: Architecture, output: Path) -> str:
    """The exact command that writes the checkpoint, stamped as `architecture`, to `output`."""
    if architecture.naming is Naming.GGUF:
        named = f"--architecture {architecture.model_type}"
        return f"apr stamp {shell_word(checkpoint_path)} {named} -o {shell_word(output)}"
    return (
        f"apr stamp {shell_word(checkpoint_path)} --architecture {architecture.model_type} "
        f"--hf-architecture {architecture.class_name} --hf-model-type {architecture.model_type} "
        f"-o {shell_word(output)}"
    )
