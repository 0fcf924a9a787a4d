"""Checkpoints on other machines for commands: settings from the environment, refusals, the cost shown.

`HF_ENDPOINT`: the hub that `hf://` stands for. `HF_TOKEN`: sent to that hub alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apr.cli.out import Out, human_bytes, human_count
from apr.errors import UsageError, in_lines, shell_word
from apr.library.network import Network

if TYPE_CHECKING:
    from apr.formats.base import Checkpoint
    from apr.storage.remote.traffic import Traffic


def network_of_environment(allows_plain_http: bool) -> Network:
    """The way to other machines as the environment of this command describes it."""
    return Network(
        endpoint=os.environ.get("HF_ENDPOINT", "").strip() or None,
        token=os.environ.get("HF_TOKEN", "").strip() or None,
        allows_plain_http=allows_plain_http,
    )


def refuse_on_addresses(sources: Iterable[Path | str], options: Mapping[str, bool]) -> None:
    """UsageError when an option that reads more than headers is set for an address."""
    named = [name for name, is_set in options.items() if is_set]
    if not named:
        return
    for source in sources:
        if isinstance(source, str):
            address = network_of_environment(True).address(source)
            raise UsageError(
                f"{' and '.join(named)} read{'s' if len(named) == 1 else ''} more than headers, and over the network "
                "only headers and configs are read",
                where=source,
                expected="a local path",
                found="an address",
                remedy=in_lines(address.download.command, f"then run again on {shell_word(address.download.local)}"),
            )


@contextmanager
def opened(source: Path | str, allows_plain_http: bool) -> Iterator[tuple[Checkpoint, Traffic | None]]:
    """The open checkpoint at a local path, or at an address with what reading it has cost."""
    if isinstance(source, Path):
        from apr.formats.registry import open_readable

        with open_readable(source) as checkpoint:
            yield checkpoint, None
        return
    from apr.formats.registry import open_address
    from apr.storage.remote.traffic import Traffic

    network, traffic = network_of_environment(allows_plain_http), Traffic()
    try:
        with open_address(network.address(source), network.client, traffic) as checkpoint:
            yield checkpoint, traffic
    finally:
        network.client.close()


def remote_key(traffic: Traffic | None) -> dict[str, Any]:
    """What a document about an address holds besides: `remote`; nothing for a local path."""
    return {} if traffic is None else {"remote": traffic.to_json()}


def traffic_text(traffic: Traffic) -> str:
    """`41.2 KiB in 6 requests`."""
    plural = "" if traffic.requests == 1 else "s"
    return f"{human_bytes(traffic.bytes)} in {human_count(traffic.requests)} request{plural}"


def show_traffic(out: Out, traffic: Traffic | None) -> None:
    """What an address cost, for people, at the end of an answer."""
    if traffic is not None:
        out.text(f"fetched {traffic_text(traffic)}")
