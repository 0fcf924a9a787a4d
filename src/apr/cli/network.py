"""Checkpoints on other machines for commands: addresses understood, settings from the environment, the cost shown.

`HF_ENDPOINT`: the hub that `hf://` stands for. `HF_TOKEN`: sent to that hub alone. `HTTPS_PROXY`, `NO_PROXY`: as
everywhere. Nothing here runs for local paths.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apr.cli.out import Out, human_bytes, human_count
from apr.errors import UsageError

if TYPE_CHECKING:
    from apr.formats.base import Checkpoint
    from apr.gates.road import Examination, RoadOptions
    from apr.storage.remote.address import Address
    from apr.storage.remote.client import Client
    from apr.storage.remote.proxy import Proxy
    from apr.storage.remote.traffic import Traffic


class Network:
    """One command's way to other machines: how it reads addresses, and the connections they share."""

    def __init__(self, allows_plain_http: bool) -> None:
        from apr.storage.remote.address import DEFAULT_ENDPOINT
        from apr.storage.remote.client import Client, make_token

        self.endpoint = os.environ.get("HF_ENDPOINT", "").strip() or DEFAULT_ENDPOINT
        self.allows_plain_http = allows_plain_http
        token = os.environ.get("HF_TOKEN", "").strip()
        self.client: Client = Client(
            token=make_token(token, self.endpoint) if token else None,
            allows_plain_http=allows_plain_http,
            proxies=_proxy_for,
        )

    def address(self, text: str) -> Address:
        """The address in `text`; UsageError when it is none that is read."""
        from apr.storage.remote.address import parse_address

        return parse_address(text, endpoint=self.endpoint, allows_plain_http=self.allows_plain_http)

    def examine(self, text: str, options: RoadOptions) -> tuple[Examination, Traffic]:
        """The road's header stage for the address in `text`, and what reading it cost."""
        from apr.formats.registry import open_address
        from apr.gates.road import examine
        from apr.storage.remote.traffic import Traffic

        address, traffic = self.address(text), Traffic()
        examination = examine(
            address.path,
            options._replace(download=address.download),
            opening=lambda _path: open_address(address, self.client, traffic),
        )
        examination.close()
        return examination, traffic


def _proxy_for(host: str) -> Proxy | None:
    """The proxy of the environment for an https host (`HTTPS_PROXY`, `NO_PROXY`), as everywhere."""
    from urllib.request import getproxies, proxy_bypass

    from apr.storage.remote.address import is_loopback
    from apr.storage.remote.proxy import parse_proxy

    proxies = getproxies()
    text = proxies.get("https") or proxies.get("all")
    if not text or is_loopback(host) or proxy_bypass(host):
        return None
    return parse_proxy(text)


def refuse_on_addresses(sources: Iterable[Path | str], options: Mapping[str, bool]) -> None:
    """UsageError when an option that reads more than headers is set for an address."""
    named = [name for name, is_set in options.items() if is_set]
    if not named:
        return
    for source in sources:
        if isinstance(source, str):
            address = Network(allows_plain_http=True).address(source)
            raise UsageError(
                f"{' and '.join(named)} read{'s' if len(named) == 1 else ''} more than headers, and over the network "
                "only headers and configs are read",
                where=source,
                expected="a local path",
                found="an address",
                remedy=f"{address.download.command}\nthen run again on {address.download.local}",
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

    network, traffic = Network(allows_plain_http), Traffic()
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
