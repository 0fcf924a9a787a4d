"""The entry of `apr`: runs one command and turns every way it can end into a text and an exit code."""

from __future__ import annotations

import errno
import gc
import os
import sys
from collections.abc import Sequence

import click

from apr import __version__
from apr.cli.options import json_option
from apr.cli.out import Mode, Out
from apr.cli.table import TableGroup
from apr.errors import (
    AprError,
    ExitCode,
    InputOutputError,
    InterruptedRunError,
    NotFoundError,
    UsageError,
    unexpected_error,
)

# Headers of thousands of tensors are thousands of small lasting objects; the default (700) walks them again and again.
_GARBAGE_THRESHOLDS = (50_000, 20, 100)
COMPLETION_VARIABLE = "_APR_COMPLETE"
HELP = """Know that a model really starts from the weights you named.

Checkpoints are .apr, .safetensors and .gguf files or Hugging Face directories. Start with `apr preflight X`: it says
whether training from X would start from the right weights, and what to do if not.
"""


@click.group(
    name="apr",
    cls=TableGroup,
    help=HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="apr", message="%(prog)s %(version)s")
@json_option
def cli() -> None:
    """The group itself does nothing; its help is HELP."""


def main() -> int:
    """The console script: `run` on the process's own arguments, with libraries kept quiet unless APR_DEBUG is set."""
    if not _is_debug():
        _silence_libraries()
    _open_streams()
    gc.set_threshold(*_GARBAGE_THRESHOLDS)
    instruction = os.environ.get(COMPLETION_VARIABLE)
    if instruction:
        from click.shell_completion import shell_complete

        return shell_complete(cli, {}, "apr", COMPLETION_VARIABLE, instruction)
    _meet_termination_as_interrupt()
    code = run(sys.argv[1:])
    # The process ends here: a last collection over everything it imported would find nothing worth its 10 ms.
    gc.freeze()
    return code


def _meet_termination_as_interrupt() -> None:
    """SIGTERM ends a command as Ctrl+C does, so that what was half done is taken back; who ignored it, ignores it."""
    import signal
    from types import FrameType

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, interrupt)


def _open_streams() -> None:
    """stdout and stderr that always take text: closed ones lead nowhere, what an encoding lacks is escaped."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - open until the process ends
        getattr(sys, name).reconfigure(errors="backslashreplace")


def run(arguments: Sequence[str]) -> int:
    """Run `apr ARGUMENTS` in this process and give its exit code; no exception of a command escapes."""
    out = Out(Mode.JSON if "--json" in _before_dashes(arguments) else Mode.HUMAN)
    try:
        return _invoke(out, arguments)
    except BrokenPipeError:
        _write_to_nowhere()
        return int(ExitCode.INPUT_OUTPUT)
    except (KeyboardInterrupt, click.Abort):
        return _report(out, InterruptedRunError("interrupted"))
    except AprError as error:
        return _report(out, error)
    except click.ClickException as error:
        return _report(out, _usage_error(error))
    except OSError as error:
        return _report(out, _operating_system_error(error))
    except Exception as error:  # noqa: BLE001 - the last line of defence: no traceback reaches a user unasked
        return _report(out, unexpected_error(error))


def _invoke(out: Out, arguments: Sequence[str]) -> int:
    """The command's own exit code; flushed here, so that a closed pipe is met inside `run`."""
    code = int(ExitCode.DONE)
    try:
        with cli.make_context("apr", list(arguments), obj=out) as context:
            cli.invoke(context)
    except click.exceptions.Exit as ending:
        code = ending.exit_code
    sys.stdout.flush()
    return code


def _report(out: Out, error: AprError) -> int:
    if _is_debug():
        import traceback

        traceback.print_exc()
    try:
        out.error(error)
        sys.stdout.flush()
    except OSError:
        # Nobody can be told: a full disk or a closed pipe behind stdout or stderr. The exit code still tells.
        _write_to_nowhere()
    return int(error.exit_code)


def _usage_error(error: click.ClickException) -> AprError:
    context = getattr(error, "ctx", None)
    if isinstance(error, click.exceptions.NoArgsIsHelpError) and context is not None:
        return UsageError(
            f"`{context.command_path}` needs a command or arguments", remedy=f"{context.command_path} --help"
        )
    path = context.command_path if context is not None else "apr"
    return UsageError(error.format_message(), remedy=f"{path} --help")


def _operating_system_error(error: OSError) -> AprError:
    where = os.fspath(error.filename) if isinstance(error.filename, (str, os.PathLike)) else None
    if error.errno == errno.ENOENT:
        return NotFoundError("no such file or directory", where=where, remedy="check the path")
    remedies = {
        errno.ENOSPC: "make room on the disk, then run again",
        errno.EACCES: "change the rights, then run again",
    }
    reason = error.strerror or type(error).__name__
    return InputOutputError(
        f"the operating system refused: {reason}", where=where, remedy=remedies.get(error.errno or 0, "run again")
    )


def _write_to_nowhere() -> None:
    """Let the interpreter flush what is left of stdout and stderr into nowhere, without a word at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())


def _before_dashes(arguments: Sequence[str]) -> Sequence[str]:
    return arguments[: arguments.index("--")] if "--" in arguments else arguments


def _is_debug() -> bool:
    return os.environ.get("APR_DEBUG", "") not in ("", "0")


def _silence_libraries() -> None:
    """No warnings, advisory logs, telemetry or look-ups on the net from libraries, unless the user set otherwise."""
    import warnings

    warnings.simplefilter("ignore")
    for name, value in (
        ("TRANSFORMERS_VERBOSITY", "error"),
        ("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1"),
        ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
        ("HF_HUB_DISABLE_TELEMETRY", "1"),
        ("HF_HUB_OFFLINE", "1"),
    ):
        os.environ.setdefault(name, value)


if __name__ == "__main__":
    sys.exit(main())
