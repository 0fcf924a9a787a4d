"""The way to checkpoints on other machines: addresses understood, and connections shared.

Nothing here runs for local paths. Where the hub is and who asks it is for the caller to say; proxies are those of the
system, as everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apr.gates.road import Examination, RoadOptions
    from apr.storage.remote.address import Address
    from apr.storage.remote.client import Client
    from apr.storage.remote.proxy import Proxy
    from apr.storage.remote.traffic import Traffic


class Network:
    """One caller's way to other machines: how it reads addresses, and the connections they share."""

    def __init__(
        self, *, endpoint: str | None = None, token: str | None = None, allows_plain_http: bool = False
    ) -> None:
        """endpoint: the hub that `hf://` stands for, None for huggingface.co. token: sent to that hub alone."""
        from apr.storage.remote.address import DEFAULT_ENDPOINT
        from apr.storage.remote.client import Client, make_token

        self.endpoint = endpoint or DEFAULT_ENDPOINT
        self.allows_plain_http = allows_plain_http
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
    """The proxy of the system for an https host (`HTTPS_PROXY`, `NO_PROXY`), as everywhere."""
    from urllib.request import getproxies, proxy_bypass

    from apr.storage.remote.address import is_loopback
    from apr.storage.remote.proxy import parse_proxy

    proxies = getproxies()
    text = proxies.get("https") or proxies.get("all")
    if not text or is_loopback(host) or proxy_bypass(host):
        return None
    return parse_proxy(text)
