"""Proxies that https goes through: the server is reached by CONNECT, so the proxy sees no content and no token."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from apr.errors import UsageError

_USUAL_PORT = 3128


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where a proxy listens, and what it is told who asks, which is never shown."""

    host: str
    port: int
    credentials: str | None = field(default=None, repr=False)

    def headers(self) -> dict[str, str]:
        if self.credentials is None:
            return {}
        return {"Proxy-Authorization": "Basic " + b64encode(self.credentials.encode()).decode()}


Proxies = Callable[[str], Proxy | None]
"""From a host to the proxy it is reached through, None for a direct connection."""


def no_proxies(host: str) -> None:
    """Every host directly."""


def parse_proxy(text: str) -> Proxy:
    """The proxy in `http://[user:password@]host[:port]`; UsageError, without the password, for anything else."""
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
        parts = urlsplit("")
    if parts.scheme != "http" or not host:
        raise UsageError(
            "the proxy in HTTPS_PROXY is none that is used",
            expected="http://host:port",
            found=f"a proxy of kind {parts.scheme!r}" if parts.scheme else "an address that cannot be read",
            remedy="set HTTPS_PROXY to an http proxy, or NO_PROXY to the hosts that need none",
        )
    credentials = None
    if parts.username is not None:
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return Proxy(host, port or _USUAL_PORT, credentials)
