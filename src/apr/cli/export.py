"""`apr export`: an `.apr` to a Hugging Face directory or a single safetensors file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from apr.cli.byte_progress import byte_progress
from apr.cli.options import PATH, allow_gate_option, force_option, json_option, parse_reasons
from apr.cli.out import Out, human_bytes

if TYPE_CHECKING:
    from apr.convert.exporting import ExportResult


@click.command("export")
@click.argument("source", type=PATH, metavar="X")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["hf", "safetensors"]),
    default="hf",
    show_default=True,
    help="A Hugging Face directory, or one bare .safetensors file.",
)
@click.option("-o", "--output", type=PATH, metavar="DIR", required=True, help="New directory (hf) or file.")
@click.option(
    "--dequantize",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    help="Turn block-quantised tensors into this dtype; without it they are refused.",
)
@allow_gate_option(" in the result")
@force_option
@json_option
@click.pass_obj
def command(
    out: Out,
    source: Path,
    format_: str,
    output: Path,
    dequantize: str | None,
    allowed_gates: tuple[str, ...],
    force: bool,
) -> None:
    """Write the checkpoint X so that transformers opens it at once; every tensor is accounted for.

    Config, generation config, tokenizer files and records go along; tensors keep their names, dtypes and bytes.
    """
    from apr.convert.export_plan import ExportFormat
    from apr.convert.exporting import export_checkpoint

    allowed = parse_reasons(allowed_gates, "--allow-gate")
    with byte_progress(out, "exporting") as report:
        result = export_checkpoint(
            source,
            output,
            ExportFormat(format_),
            dequantize=dequantize,
            allowed_gates=allowed,
            force=force,
            report=report,
        )
    document = export_document(result)
    out.document("apr.export/1", document)
    out.text(f"exported {result.output}", bold=True)
    counts = ", ".join(f"{count} {fate}" for fate, count in document["ledger"]["counts"].items())
    out.pairs(
        [
            ("tensors", counts),
            ("size", human_bytes(result.output_bytes)),
            ("weights digest", result.weights_digest),
        ]
    )
    for line in document["ledger"]["lines"]:
        out.text(f"  {line['fate']}: {line['tensor']}: {line['reason']}")
    out.findings(result.findings)
    for note in result.notes:
        out.warning(note)


def export_document(result: ExportResult) -> dict[str, Any]:
    """The JSON answer: the founding project's keys, then ours."""
    from apr.cli.import_ import ledger_document
    from apr.convert.checks import Fate

    return {
        "status": "success",
        "original_size": result.input_bytes,
        "exported_size": result.output_bytes,
        "tensor_count": sum(line.fate is not Fate.DROPPED for line in result.ledger),
        "format": result.format.value,
        "quantization": result.quantization,
        "source": str(result.source),
        "output": str(result.output),
        "weights_digest": result.weights_digest,
        "ledger": ledger_document(result.ledger),
        "validation": [finding.to_json() for finding in result.findings],
        "notes": list(result.notes),
    }
