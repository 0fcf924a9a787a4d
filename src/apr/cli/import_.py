"""`apr import` (and `apr convert`): a Hugging Face directory or safetensors file to one self-contained `.apr`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from apr.cli.byte_progress import byte_progress
from apr.cli.options import PATH, allow_gate_option, force_option, json_option, parse_reasons
from apr.cli.out import Out, human_bytes
from apr.errors import shell_word

if TYPE_CHECKING:
    from apr.convert.checks import LedgerLine
    from apr.convert.importing import ImportResult


@click.command("import")
@click.argument("source", type=PATH, metavar="SRC")
@click.option("-o", "--output", type=PATH, metavar="X.apr", help="Default: the name of SRC with .apr, beside it.")
@click.option("--config", "config_path", type=PATH, metavar="FILE", help="config.json of a single .safetensors file.")
@click.option(
    "--probe",
    "with_probe",
    is_flag=True,
    help="Load the model once, and record what it does, so that later loads are held against it (needs apr[train]).",
)
@click.option(
    "--unwrap",
    "unwraps",
    is_flag=True,
    help="Take out of tensor names what DDP, torch.compile, FSDP or a prefix put there, if that is one to one.",
)
@allow_gate_option(" in the file")
@force_option
@json_option
@click.pass_obj
def command(
    out: Out,
    source: Path,
    output: Path | None,
    config_path: Path | None,
    with_probe: bool,
    unwraps: bool,
    allowed_gates: tuple[str, ...],
    force: bool,
) -> None:
    """Bring SRC into one .apr file that carries weights, config, tokenizer and records.

    SRC is a Hugging Face directory or a .safetensors file. Bytes of tensors and tokenizer files stay as they are;
    the identity comes from config.json and is never invented. A source whose stamps contradict its tensors is refused.
    """
    from apr.convert.importing import import_checkpoint

    allowed = parse_reasons(allowed_gates, "--allow-gate")
    with byte_progress(out, "importing") as report:
        result = import_checkpoint(
            source,
            output,
            config_path=config_path,
            allowed_gates=allowed,
            with_probe=with_probe,
            unwraps=unwraps,
            force=force,
            report=report,
        )
    out.document("apr.import/1", import_document(result))
    out.text(f"imported {result.output}", bold=True)
    out.pairs(
        [
            ("architecture", result.architecture),
            ("tensors", f"{len(result.ledger)}, every byte as in the source"),
            ("size", human_bytes(result.output_bytes)),
            ("weights digest", result.weights_digest),
            ("probe", "none (--probe records one)" if result.probe_loss is None else f"loss {result.probe_loss:.4f}"),
        ]
    )
    out.findings(result.findings)
    for note in result.notes:
        out.warning(note)
    out.hint(f"apr preflight {shell_word(result.output)}")


def import_document(result: ImportResult) -> dict[str, Any]:
    """The JSON answer: the founding project's keys (`score` is not measured here, so null), then ours."""
    return {
        "source": str(result.source),
        "output": str(result.output),
        "architecture": result.architecture,
        "validation": [finding.to_json() for finding in result.findings],
        "quantize": None,
        "score": None,
        "grade": None,
        "status": "warnings" if result.notes else "ok",
        "source_format": result.source_format.value,
        "output_bytes": result.output_bytes,
        "tensor_count": len(result.ledger),
        "weights_digest": result.weights_digest,
        "probe_loss": result.probe_loss,
        "stamps": [{"place": stamp.place, "value": stamp.value} for stamp in result.stamps],
        "ledger": ledger_document(result.ledger),
        "notes": list(result.notes),
    }


def ledger_document(ledger: tuple[LedgerLine, ...]) -> dict[str, Any]:
    """Counts for each fate, and the lines that are more than a plain copy."""
    counts: dict[str, int] = {}
    for line in ledger:
        counts[line.fate.value] = counts.get(line.fate.value, 0) + 1
    lines = [
        {"tensor": line.name, "fate": line.fate.value, "reason": line.reason}
        for line in ledger
        if line.reason is not None
    ]
    return {"counts": counts, "lines": lines}
