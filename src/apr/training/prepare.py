"""Everything a run needs, brought together and checked before a run directory exists or a step is taken."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from apr.errors import RefusedError
from apr.formats.dtypes import DType
from apr.gates.facts import TokenizerFacts
from apr.gates.finding import Finding, Status
from apr.gates.road import Examination, RoadOptions, examine, load, refuse_unless_accepted, refuse_unloadable
from apr.identity.types import Architecture, Kind
from apr.loading.model_digest import model_digest
from apr.loading.on_disk import on_disk_state_dict
from apr.loading.zoo import require_zoo
from apr.training.budget import ID as BUDGET_ID
from apr.training.budget import check_budget
from apr.training.corpus_checks import CHECKS, CorpusReport, check_corpus
from apr.training.data import RunData, open_data
from apr.training.devices import Device, choose_device
from apr.training.fit import causal, causal_from_scratch, check_positions, check_rows
from apr.training.observer import Observer
from apr.training.options import PretrainOptions, Settings, resolve_settings
from apr.training.recorded_config import recorded_config, text_values
from apr.training.room import check_room
from apr.training.run_tokenizer import RunTokenizer, read_run_tokenizer
from apr.training.scratch import ScratchRequest, build_model, scratch_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class Prepared:
    """A run that may start. config: full Hugging Face config, as every checkpoint of the run will record it.

    examination: of the checkpoint it starts from, None from scratch. initial_digest: weights digest of the model
    before step 1. findings: all that was checked so far, in order.
    """

    options: PretrainOptions
    settings: Settings
    device: Device
    tokenizer: RunTokenizer
    model: PreTrainedModel
    architecture: Architecture
    config: dict[str, Any]
    generation_config: Mapping[str, Any] | None
    data: RunData
    dataset_fingerprint: str
    examination: Examination | None
    initial_digest: str
    vocabulary_rows: int
    findings: tuple[Finding, ...]


def prepare(options: PretrainOptions, observer: Observer) -> Prepared:
    """Check flags, device, checkpoint, budget and corpus, then load or build the model.

    Nothing is written. Raises UsageError, NotFoundError, DamagedFileError or RefusedError with all findings of the
    part that refused.
    """
    settings = resolve_settings(options)
    require_zoo()
    device = choose_device(options.device)
    tokenizer = read_run_tokenizer(options.tokenizer)
    way = _from_scratch if options.init is None else _from_checkpoint
    prepared = way(options, settings, device, tokenizer, observer)
    for finding in prepared.findings:
        if finding.status is Status.UNCHECKED:
            observer.note(f"unchecked: {finding.id}: {finding.message}")
        elif finding.id == BUDGET_ID and prepared.examination is not None and settings.steps:
            observer.note(finding.message)
    checkpoints = -(-settings.steps // settings.steps_per_epoch)
    if checkpoints:
        size_bytes = sum(tensor.nbytes for tensor in on_disk_state_dict(prepared.model).values())
        warning = check_room(options.run_directory, size_bytes, checkpoints)
        if warning is not None:
            observer.note(warning)
    return prepared


def _from_checkpoint(
    options: PretrainOptions, settings: Settings, device: Device, tokenizer: RunTokenizer, observer: Observer
) -> Prepared:
    assert options.init is not None
    observer.note(f"examining {options.init}")
    examination = _examine(options, tokenizer)
    try:
        refuse_unless_accepted(examination)
        refuse_unloadable(examination)
        facts = examination.facts
        assert facts.checkpoint is not None
        assert facts.config is not None
        config = text_values(facts.config.values)
        rows = int(config["vocab_size"])
        check_rows(options, tokenizer.rows, rows)
        check_positions(options, config)
        budget = check_budget(
            parameters=facts.checkpoint.parameter_count,
            tokens_per_step=settings.tokens_per_step,
            steps=settings.steps,
            is_from_checkpoint=True,
            is_forced=options.force_under_provisioned,
        )
        corpus, data, fingerprint = _open_corpus(options, tokenizer, rows, [budget])
        observer.note(f"reading every byte of {options.init}")
        loaded = load(examination, device=device.name)
        examination = loaded.examination
    finally:
        examination.close()
    return Prepared(
        options=options,
        settings=settings,
        device=device,
        tokenizer=tokenizer,
        model=loaded.model,
        architecture=facts.config.architecture,
        config=recorded_config(dict(facts.config.values), facts.config.architecture, loaded.model),
        generation_config=facts.checkpoint.generation_config,
        data=data,
        dataset_fingerprint=fingerprint,
        examination=examination,
        initial_digest=loaded.receipt.weights_digest,
        vocabulary_rows=rows,
        findings=(*examination.findings, budget, *corpus, causal(loaded.model)),
    )


def _from_scratch(
    options: PretrainOptions, settings: Settings, device: Device, tokenizer: RunTokenizer, observer: Observer
) -> Prepared:
    import torch

    rows_wanted = tokenizer.rows if options.vocabulary_size is None else options.vocabulary_size
    request = ScratchRequest(
        architecture=options.architecture,
        config_file=options.config_file,
        changes=options.config_changes,
        vocabulary_rows=rows_wanted,
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
    )
    class_name, config = scratch_config(request)
    values = config.to_dict()
    rows = int(text_values(values)["vocab_size"])
    check_rows(options, tokenizer.rows, rows)
    check_positions(options, text_values(values))
    corpus, data, fingerprint = _open_corpus(options, tokenizer, rows, [])
    observer.note(f"building {class_name}")
    dtype = torch.bfloat16 if options.dtype == "bfloat16" else torch.float32
    model = build_model(class_name, config, seed=options.seed, dtype=dtype).to(device.name)
    architecture = Architecture(class_name, config.model_type, Kind.DECODER)
    return Prepared(
        options=options,
        settings=settings,
        device=device,
        tokenizer=tokenizer,
        model=model,
        architecture=architecture,
        config=recorded_config(model.config.to_dict(), architecture, model),
        generation_config=None,
        data=data,
        dataset_fingerprint=fingerprint,
        examination=None,
        initial_digest=model_digest(model),
        vocabulary_rows=rows,
        findings=(*corpus, causal_from_scratch(model)),
    )


def _examine(options: PretrainOptions, tokenizer: RunTokenizer) -> Examination:
    """The headers of the checkpoint; one that would be resident in a dtype nobody trains in is planned as float32."""
    assert options.init is not None
    dtypes = {"float32": DType.F32, "bfloat16": DType.BF16}
    examination = examine(options.init, _road_options(options, tokenizer, dtypes.get(options.dtype)))
    plan = examination.facts.plan
    if plan is None or plan.dtype in dtypes.values():
        return examination
    examination.close()
    return examine(options.init, _road_options(options, tokenizer, DType.F32))


def _road_options(options: PretrainOptions, tokenizer: RunTokenizer, dtype: DType | None) -> RoadOptions:
    required = ("--dataset", options.dataset, "--tokenizer", options.tokenizer, "--run-dir", options.run_directory)
    words = options.retry_words or tuple(map(str, required))
    return RoadOptions(
        run_kind=Kind.DECODER,
        dtype=dtype,
        may_use_zoo=True,
        tokenizer=TokenizerFacts(str(options.tokenizer), tokenizer.rows, tokenizer.output_hash),
        allowed_tensors=options.allowed_tensors,
        allowed_gates={key: reason for key, reason in options.allowed_gates.items() if key not in CHECKS},
        retry_command="apr pretrain --init {path} " + shlex.join(words),
    )


def _open_corpus(
    options: PretrainOptions, tokenizer: RunTokenizer, rows: int, findings: list[Finding]
) -> tuple[tuple[Finding, ...], RunData, str]:
    """Corpus findings, data and fingerprint; refuses with `findings` and the corpus's own together."""
    report = check_corpus(
        options.dataset,
        tokenizer_files=tokenizer.files,
        tokenizer_place=str(options.tokenizer),
        model_rows=rows,
        validation_directory=options.validation_shards,
        allowed=options.allowed_gates,
    )
    findings = [*findings, *report.findings]
    _refuse(options, findings)
    return report.findings, _open_windows(options, report), report.fingerprint


def _open_windows(options: PretrainOptions, report: CorpusReport) -> RunData:
    return open_data(
        options.dataset,
        sequence_length=options.sequence_length,
        seed=options.seed,
        fingerprint=report.fingerprint,
        validation_shards=options.validation_shards,
        validation_windows=options.validation_windows,
    )


def _refuse(options: PretrainOptions, findings: list[Finding]) -> None:
    refusals = [finding for finding in findings if finding.status is Status.REFUSE]
    if refusals:
        raise RefusedError(
            f"the run cannot start: {len(refusals)} finding" + ("s" if len(refusals) != 1 else ""),
            where=str(options.dataset),
            invariant=refusals[0].id,
            findings=tuple(finding.to_json() for finding in refusals),
        )
