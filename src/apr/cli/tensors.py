"""`apr tensors`: the table of tensors, with exact statistics if asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from apr.cli.options import SOURCE, json_option, plain_http_option
from apr.cli.out import Out, human_bytes, human_count
from apr.formats.base import TensorEntry

STATISTICS_COLUMNS = ("mean", "std", "min", "max", "nan", "inf", "zero")


@click.command("tensors")
@click.argument("path", type=SOURCE, metavar="X")
@click.option(
    "--stats", "with_statistics", is_flag=True, help="Read every listed tensor: mean, std, min, max, NaN, Inf."
)
@click.option("--filter", "pattern", metavar="PATTERN", help="Names containing this text, or a glob with * or ?.")
@click.option("--limit", type=click.IntRange(min=0), default=0, show_default="all", help="List at most this many.")
@plain_http_option
@json_option
@click.pass_obj
def command(
    out: Out, path: Path | str, with_statistics: bool, pattern: str | None, limit: int, allows_plain_http: bool
) -> None:
    """List the tensors of X (an .apr, .safetensors or .gguf file, a Hugging Face directory) by name.

    X may be the address of one (hf://org/name, https://...): then only headers are fetched.
    """
    from apr.cli.network import opened, refuse_on_addresses, remote_key, show_traffic

    refuse_on_addresses([path], {"--stats": with_statistics})
    with opened(path, allows_plain_http) as (checkpoint, traffic):
        chosen = [entry for name, entry in sorted(checkpoint.tensors.items()) if _is_wanted(name, pattern)]
        shown = chosen[:limit] if limit else chosen
        rows = [_row(entry) for entry in shown]
        if with_statistics:
            with out.progress("statistics", sum(entry.size_bytes for entry in shown), "bytes") as progress:
                for row, entry in zip(rows, shown, strict=True):
                    row.update(_statistics(entry))
                    progress.advance(entry.size_bytes, entry.name)
        out.document(
            "apr.tensors/1",
            {
                "file": str(path),
                "format": checkpoint.format.value,
                "format_version": "v2" if checkpoint.format.value == "apr2" else None,
                "tensor_count": len(checkpoint.tensors),
                "matching_count": len(chosen),
                "total_size_bytes": sum(entry.size_bytes for entry in checkpoint.tensors.values()),
                "tensors": rows,
                **remote_key(traffic),
            },
        )
        _show_table(out, rows, with_statistics)
        hidden = len(chosen) - len(shown)
        out.text(
            f"{human_count(len(shown))} of {human_count(len(checkpoint.tensors))} tensors"
            + (f", {human_count(hidden)} more match" if hidden else "")
        )
        show_traffic(out, traffic)


def _is_wanted(name: str, pattern: str | None) -> bool:
    if pattern is None:
        return True
    if "*" in pattern or "?" in pattern:
        from fnmatch import fnmatchcase

        return fnmatchcase(name, pattern.replace("[", "[[]"))
    return pattern in name


def _row(entry: TensorEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "shape": list(entry.shape),
        "dtype": entry.dtype.value,
        "size_bytes": entry.size_bytes,
        "file": entry.file.path.name,
        "offset_bytes": entry.offset_bytes,
    }


def _statistics(entry: TensorEntry) -> dict[str, Any]:
    from apr.quality.statistics import tensor_statistics

    found = tensor_statistics(entry)
    return {
        "mean": found.mean,
        "std": found.std,
        "min": found.minimum,
        "max": found.maximum,
        "nan_count": found.nan_count,
        "inf_count": found.inf_count,
        "zero_count": found.zero_count,
        "statistics_problem": found.problem,
    }


def _show_table(out: Out, rows: list[dict[str, Any]], with_statistics: bool) -> None:
    if out.is_json:
        return
    columns = ["name", "shape", "dtype", "size", *(STATISTICS_COLUMNS if with_statistics else ())]
    cells: list[list[object]] = []
    for row in rows:
        shape = "[" + ", ".join(map(str, row["shape"])) + "]"
        line: list[object] = [row["name"], shape, row["dtype"], human_bytes(row["size_bytes"])]
        if with_statistics:
            line += [_short(row[key]) for key in ("mean", "std", "min", "max")]
            line += [row["nan_count"], row["inf_count"], row["zero_count"]]
        cells.append(line)
    out.table(columns, cells, right=["size", *STATISTICS_COLUMNS])


def _short(value: float | None) -> str | None:
    return None if value is None else f"{value:.4g}"
