"""A command that is asked to end takes back what it has half done, as at Ctrl+C, and ends with the same exit code."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_models import save_tiny

# A stamp that waits where its changed copy is half written, or before its bytes are.
WAITING = """
import sys, time
from apr.storage import operations
def wait(*_):
    print("waiting", flush=True)
    time.sleep(60)
setattr(operations, sys.argv.pop(1), wait)
from apr.cli.main import main
sys.exit(main())
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "model", "qwen2")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("operation", "destination"), [("rename", ["--in-place"]), ("resize", ["-o", "out"])], ids=["in place", "a copy"]
)
def test_sigterm_is_met_as_ctrl_c(
    model: Path, tmp_path: Path, operation: str, destination: list[str], number: signal.Signals
) -> None:
    work = tmp_path / "model"
    shutil.copytree(model, work)
    before = {path.name: path.read_bytes() for path in work.iterdir()}
    command = [sys.executable, "-c", WAITING, operation, "stamp", "model", "--license", "MIT", *destination]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(number)
        _, messages = process.communicate(timeout=60)
    assert process.returncode == 130
    assert messages == "error: interrupted\n"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert {path.name: path.read_bytes() for path in work.iterdir()} == before


def test_who_ignores_sigterm_goes_on_ignoring_it() -> None:
    code = (
        "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "import sys\nsys.argv = ['apr', '--version']\n"
        "from apr.cli.main import main\nmain()\n"
        "print(signal.getsignal(signal.SIGTERM) is signal.SIG_IGN)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1] == "True"
