"""`summary.json` of a demo, and the table of measured numbers that it ends with."""

from __future__ import annotations

import os
import sys
from typing import Any

from apr import __version__
from apr.demo.biases import BIAS_SPREADS
from apr.demo.story import STEP0_TOLERANCE_RELATIVE, Story
from apr.training.devices import cpu_name
from apr.training.versions import library_versions

SCHEMA = "apr.demo/1"


def summary_document(story: Story, seconds: float) -> dict[str, Any]:
    """Everything a demo measured, with `null` for what it did not reach; `holds` is true only for a complete one."""
    expectations = story.expectations.made
    is_complete = bool(story.lineage)
    return {
        "schema": SCHEMA,
        "holds": is_complete and all(expectation.holds for expectation in expectations),
        "is_complete": is_complete,
        "directory": str(story.directory),
        "seed": story.seed,
        "size": story.size.to_json(),
        "bias_spreads": dict(BIAS_SPREADS),
        "seconds": seconds,
        "act_seconds": dict(story.act_seconds),
        "peak_memory_bytes": peak_memory_bytes(),
        "machine": {"processor": cpu_name(), "cores": os.cpu_count(), "platform": sys.platform},
        "versions": library_versions(),
        "text": {
            "files": story.text_files,
            "documents": story.corpus.get("total_documents"),
            "tokens": story.corpus.get("total_tokens"),
            "validation_tokens": (story.corpus.get("validation") or {}).get("total_tokens"),
        },
        "losses": _losses(story),
        "loaded_as_stamped": None
        if story.stamped is None
        else {
            "loaded_as": story.stamped.loaded_as,
            "loader": story.stamped.loader,
            "said": story.stamped.said,
            "unused_tensors": list(story.stamped.unused),
            "missing_tensors": list(story.stamped.missing),
            "stored_tensors": story.stamped.stored_tensors,
        },
        "refusal": None
        if story.refusal is None
        else {
            "command": story.refusal.line,
            "exit_code": story.refusal.exit_code,
            "seconds": story.refusal.seconds,
            "text": story.refusal.text,
        },
        "stamp": None
        if story.stamp is None
        else {
            "command": story.stamp.line,
            "exit_code": story.stamp.exit_code,
            "seconds": story.stamp.seconds,
            "text": story.stamp.text,
        },
        "weights_digest": story.weights_digest or None,
        "quality": {"before": story.quality_before or None, "after": story.quality_after or None},
        "second_generation": _second_generation(story),
        "expectations": [expectation.to_json() for expectation in expectations],
        "apr_version": __version__,
    }


def _losses(story: Story) -> dict[str, float | None]:
    trained, resumed = story.trained, story.resumed
    return {
        "uniform": story.uniform_loss,
        "random": None if trained is None else trained.step0.val_loss,
        "recorded": None if trained is None else trained.final_validation_loss,
        "loaded_as_stamped": None if story.stamped is None else story.stamped.validation_loss,
        "resumed_step0": None if resumed is None else resumed.step0.val_loss,
        "resumed_step0_relative_difference": None if resumed is None else story.resume_difference,
        "resumed_final": None if resumed is None else resumed.final_validation_loss,
    }


def _second_generation(story: Story) -> dict[str, Any] | None:
    inspected = story.second_generation
    if not inspected:
        return None
    return {
        "file": inspected["file"],
        "hf_architecture": inspected["metadata"]["hf_architecture"],
        "verdict": inspected["verdict"]["kind"],
        "lineage_is_complete": story.lineage.get("is_complete"),
    }


def peak_memory_bytes() -> dict[str, int] | None:
    """Largest resident size of this process so far, and a bound on that of its largest child; None where the system
    does not say. A child counts from its fork on, while it still shares the memory of this process."""
    try:
        import resource
    except ImportError:
        return None
    unit_bytes = 1 if sys.platform == "darwin" else 1024
    return {
        "own": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes,
        "largest_child_at_most": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit_bytes,
    }


def table_rows(summary: dict[str, Any]) -> list[tuple[str, str, str]]:
    """What was measured, for people: fact, number, remark. For a complete demo."""
    losses, stamped, size = summary["losses"], summary["loaded_as_stamped"], summary["size"]
    quality, stamp, refusal = summary["quality"], summary["stamp"], summary["refusal"]
    recorded = losses["recorded"]
    before, after = quality["before"], quality["after"]
    memory = summary["peak_memory_bytes"]
    rows = [
        ("knowing nothing, ln(vocabulary)", f"{losses['uniform']:.4f}", f"{size['vocabulary_size']:,} tokens"),
        ("the untrained model", f"{losses['random']:.4f}", "step 0 of the first run"),
        ("trained; recorded in the checkpoint", f"{recorded:.4f}", f"after {size['steps']} steps"),
        (
            f"the mislabelled file, as {stamped['loader']} loads it",
            f"{losses['loaded_as_stamped']:.4f}",
            f"{100 * (losses['loaded_as_stamped'] / recorded - 1):+.1f} %: {len(stamped['unused_tensors'])} of "
            f"{stamped['stored_tensors']} tensors never asked for",
        ),
        (
            "the same file, apr pretrain --init",
            f"exit {refusal['exit_code']}",
            f"no step, no run directory, {refusal['seconds']:.1f} s",
        ),
        (
            "apr stamp, the line the refusal printed",
            f"exit {stamp['exit_code']}",
            f"every tensor byte unchanged, {stamp['seconds']:.1f} s",
        ),
        ("quality score", f"{before['score']} → {after['score']}", "of 100"),
        (
            "hf_identity",
            f"{before['breakdown']['hf_identity']} → {after['breakdown']['hf_identity']}",
            "of 20",
        ),
        (
            "resumed, loss at step 0",
            f"{losses['resumed_step0']:.4f}",
            f"{_distance(losses['resumed_step0_relative_difference'])}, allowed is {STEP0_TOLERANCE_RELATIVE:g}",
        ),
        ("resumed, after training on", f"{losses['resumed_final']:.4f}", f"after {size['resumed_steps']} more steps"),
        (
            "second generation",
            summary["second_generation"]["hf_architecture"],
            "stamped right, accepted by preflight, lineage verified",
        ),
        ("time", _duration(summary["seconds"]), f"{summary['machine']['cores']} cores"),
    ]
    if memory is not None:
        own, child = (f"{value / 2**20:,.0f} MiB" for value in (memory["own"], memory["largest_child_at_most"]))
        rows.append(("peak memory", own, f"each command beside it at most {child}"))
    return rows


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 60 else f"{int(seconds // 60)} min {int(seconds % 60):02d} s"


def _distance(relative: float) -> str:
    return f"off by {relative:.1e} relative" if relative else "the recorded loss to the last digit"
