"""What every test shares: the recorder of contract outcomes (`--record-contract-status FILE`), and Ctrl+C."""

import signal
import threading

pytest_plugins = ("apr.contracts.pytest_plugin",)


def pytest_configure() -> None:
    """A job in the background ignores SIGINT, and so would every command that a test starts and interrupts."""
    is_ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if is_ignored and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
