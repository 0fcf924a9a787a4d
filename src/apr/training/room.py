"""Whether the disk has room for what a run will write, asked before the first step rather than after an epoch."""

from __future__ import annotations

import shutil
from pathlib import Path

from apr.errors import InputOutputError


def check_room(run_directory: Path, checkpoint_bytes: int, checkpoints: int) -> str | None:
    """Raise InputOutputError when not even one checkpoint fits where `run_directory` will stand; give a warning in
    words when one fits and all of them do not, else None."""
    place = run_directory.absolute()
    while not place.exists():
        place = place.parent
    free_bytes = shutil.disk_usage(place).free
    if free_bytes < checkpoint_bytes:
        raise InputOutputError(
            "there is no room for one checkpoint of this run",
            where=str(place),
            expected=f"{checkpoint_bytes:,} bytes free",
            found=f"{free_bytes:,} bytes",
            remedy="make room, or choose a --run-dir on another disk",
        )
    if free_bytes < checkpoint_bytes * checkpoints:
        return (
            f"{checkpoints} checkpoints of {checkpoint_bytes:,} bytes will not all fit into the {free_bytes:,} bytes "
            f"free at {place}; raise --steps-per-epoch to write fewer"
        )
    return None
