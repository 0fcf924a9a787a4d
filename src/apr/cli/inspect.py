"""`apr inspect`: what a checkpoint is, from headers alone: claims, verdict, config, records, quality score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from apr.cli.options import SOURCE, json_option, plain_http_option
from apr.cli.out import Out, human_bytes, human_count

VERDICT_COLORS = {"match": "green", "contradiction": "red", "ambiguous": "yellow", "unknown": "yellow"}
VOCABULARY_ROWS_SHOWN = 40


@click.command("inspect")
@click.argument("path", type=SOURCE, metavar="X")
@click.option("--quality", "with_quality", is_flag=True, help="Add the quality score, with the reason for every point.")
@click.option(
    "--deep", is_flag=True, help="Read every byte: checksums, finite values (with --quality: counts in physics)."
)
@click.option("--vocab", "with_vocabulary", is_flag=True, help="List the tokens of the recorded tokenizer.")
@plain_http_option
@json_option
@click.pass_obj
def command(
    out: Out, path: Path | str, with_quality: bool, deep: bool, with_vocabulary: bool, allows_plain_http: bool
) -> None:
    """Show what X is (an .apr, .safetensors or .gguf file, a Hugging Face directory, a PEFT adapter), headers alone.

    X may be the address of one (hf://org/name, https://...): then only headers and configs are fetched. The score
    never changes the exit code: `apr preflight` and `apr validate` are the commands that refuse.
    """
    from apr.cli.network import opened, refuse_on_addresses, remote_key, show_traffic
    from apr.quality.inspection import inspect_checkpoint

    refuse_on_addresses([path], {"--quality": with_quality, "--deep": deep, "--vocab": with_vocabulary})
    with opened(path, allows_plain_http) as (checkpoint, traffic):
        document = inspect_checkpoint(
            checkpoint, with_quality=with_quality, with_vocabulary=with_vocabulary, deep=deep, shown_path=str(path)
        )
    out.document("apr.inspect/1", document | remote_key(traffic))
    if not out.is_json:
        _show(out, document)
        show_traffic(out, traffic)


def _show(out: Out, document: dict[str, Any]) -> None:
    dtypes = ", ".join(f"{dtype} {count}" for dtype, count in document["dtypes"].items())
    out.pairs(
        [
            ("file", document["file"]),
            ("format", document["format"]),
            ("size", human_bytes(document["size_bytes"])),
            ("tensors", f"{human_count(document['tensor_count'])} ({dtypes})"),
            ("parameters", human_count(document["parameter_count"])),
            ("intact", _intact(document)),
        ]
    )
    if "adapter" in document:
        _show_adapter(out, document["adapter"])
    else:
        _show_model(out, document)
    if "quality" in document:
        _show_quality(out, document["quality"])
    if "vocabulary" in document:
        rows = [[row["id"], row["token"]] for row in document["vocabulary"][:VOCABULARY_ROWS_SHOWN]]
        out.table(["id", "token"], rows, right=["id"])
        out.text(f"{len(rows)} of {human_count(len(document['vocabulary']))} tokens (--json lists all)")


def _show_model(out: Out, document: dict[str, Any]) -> None:
    _show_identity(out, document)
    stated = [(name, document[name]) for name in ("hidden_size", "num_layers", "num_heads", "vocab_size")]
    config = document["config"]
    out.pairs([("recorded in", config["place"]), *stated], title="Config")
    if config["missing"]:
        out.text(f"  not recorded: {', '.join(config['missing'])}", color="yellow")
    _show_records(out, document)


def _show_adapter(out: Out, adapter: dict[str, Any]) -> None:
    out.text(f"A PEFT adapter ({adapter['kind'] or 'of unknown kind'}), no model by itself", bold=True)
    adapted = ", ".join(f"{count} {name}" for name, count in adapter["adapted_modules"].items())
    targets, saved = adapter["target_modules"], adapter["modules_to_save"]
    out.pairs(
        [
            ("base model", adapter["base_model"] or "not named"),
            ("task", adapter["task"]),
            ("rank", adapter["rank"]),
            ("alpha", adapter["alpha"]),
            ("adapts", ", ".join(map(str, targets)) if isinstance(targets, list) else targets),
            ("trains whole", ", ".join(map(str, saved)) if isinstance(saved, list) else saved),
            ("modules in the file", adapted or None),
            ("whole tensors", adapter["whole_tensors"] or None),
        ]
    )


def _intact(document: dict[str, Any]) -> str:
    if document["problems"]:
        return "NO: " + "; ".join(problem["what"] for problem in document["problems"][:3])
    return "every byte read and checked" if document["deep"] else "headers are consistent (--deep reads every byte)"


def _show_identity(out: Out, document: dict[str, Any]) -> None:
    out.pairs([(claim["place"], claim["value"]) for claim in document["claims"]], title="Claims")
    if not document["claims"]:
        out.text("  none: this file does not say what it is")
    verdict = document["verdict"]
    out.text("Verdict", bold=True)
    names = ", ".join(each["class_name"] for each in verdict["candidates"])
    shown = f": the tensors are {names}" if names else ""
    out.text(f"  {verdict['kind']}{shown}", color=VERDICT_COLORS[verdict["kind"]], bold=True)
    for reason in verdict["reasons"]:
        out.text(f"  {reason}")


def _show_records(out: Out, document: dict[str, Any]) -> None:
    training, recorded = document["recorded"]["training"] or {}, document["recorded"]
    tokenizer, metadata = document["tokenizer"], document["metadata"]
    rows = [(label, training.get(key)) for key, label in (("step", "step"), ("validation_loss", "validation loss"))]
    shown = ", ".join(tokenizer["files"]) or None
    if tokenizer["row_count"] is not None:
        shown = f"{human_count(tokenizer['row_count'])} tokens" + (
            "" if tokenizer["usable"] else f": {tokenizer['problem']}"
        )
    out.pairs(
        [
            *rows,
            ("weights digest", recorded["weights_digest"]),
            ("parent", recorded["parent_digest"]),
            ("probe", recorded["probe"] is not None),
            ("tokenizer", shown),
            *((name, metadata[name]) for name in ("license", "data_source", "data_license")),
        ],
        title="Records",
    )


def _show_quality(out: Out, quality: dict[str, Any]) -> None:
    color = "green" if quality["ship_ready"] else "yellow"
    ready = "ship-ready" if quality["ship_ready"] else f"not ship-ready (needs {quality['threshold']})"
    out.text("Quality", bold=True)
    out.text(f"  {quality['score']} of 100, {ready}", bold=True, color=color)
    if quality["cap"] is not None:
        out.text(
            f"  capped at {quality['cap']}: a claim is contradicted by the tensors or by another claim", color="red"
        )
    rows = [
        [item["part"], item["name"], f"{item['points']}/{item['maximum']}", item["reason"]] for item in quality["items"]
    ]
    out.table(["  part", "fact", "points", "why"], [[f"  {row[0]}", *row[1:]] for row in rows], right=["points"])
