"""`apr lineage`: which weights did this checkpoint start from, provably?"""

from __future__ import annotations

from pathlib import Path

import click

from apr.cli.options import PATH, json_option
from apr.cli.out import Out
from apr.errors import ExitCode

COLORS = {"verified": "green", "mismatch": "red", "cycle": "red", "not found": "yellow", "start": None}


@click.command("lineage")
@click.argument("path", type=PATH, metavar="X")
@click.option("--search", type=PATH, multiple=True, metavar="DIR", help="Look here for parents that have moved.")
@click.option("--deep", is_flag=True, help="Compute every digest from the bytes, also where one is recorded.")
@json_option
@click.pass_obj
def command(out: Out, path: Path, search: tuple[Path, ...], deep: bool) -> None:
    """Follow the parents of X, nearest first, and hold each one's weights digest against what its child recorded.

    Exit 5 when a parent is not the checkpoint its child started from. A parent that cannot be found leaves the chain
    unverified from there on, which the answer says.
    """
    from apr.quality.lineage import LinkStatus, trace_lineage

    links = list(trace_lineage(path, search=search, deep=deep))
    broken = [link for link in links if link.status in (LinkStatus.MISMATCH, LinkStatus.CYCLE)]
    is_complete = not broken and links[-1].parent_digest is None and links[-1].status is not LinkStatus.NOT_FOUND
    out.document(
        "apr.lineage/1",
        {
            "file": str(path),
            "is_complete": is_complete,
            "is_refused": bool(broken),
            "links": [link.to_json() for link in links],
        },
    )
    for link in links:
        out.text(f"{link.status.value:<9} {link.path}", bold=True, color=COLORS[link.status.value])
        out.text(f"          {link.weights_digest or '-'}")
        facts = [f"step {link.step}" if link.step is not None else "", _loss(link.validation_loss), link.detail]
        out.text("          " + ", ".join(fact for fact in facts if fact))
    if is_complete:
        out.text("complete: the last one records no parent (trained from scratch, or imported)")
    if broken:
        raise click.exceptions.Exit(int(ExitCode.REFUSED))


def _loss(validation_loss: float | None) -> str:
    return "" if validation_loss is None else f"validation loss {validation_loss:.4f}"
