"""Ranges of files over http(s), with redirects and further tries, both bounded."""

from __future__ import annotations

import ssl
import threading
import time
from typing import NamedTuple
from urllib.parse import quote, urljoin, urlsplit

from apr.errors import UsageError
from apr.storage.remote.address import KEPT_CHARACTERS, check_url, is_loopback, shown
from apr.storage.remote.answers import Part, part_in, untrusted
from apr.storage.remote.exchange import Connections, Limits, Reply, TryAgainError, origin_of
from apr.storage.remote.proxy import Proxies, no_proxies
from apr.storage.remote.traffic import Traffic

REVISION_HEADER = "X-Repo-Commit"
"""The commit that the hub serves a file from; a branch may move while a checkpoint is read."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_IN_FLIGHT = 16
_LIMITS = Limits()


class Token(NamedTuple):
    """A bearer token and the one origin (`https://host[:port]`) that it is sent to; never shown."""

    origin: str
    value: str

    def __repr__(self) -> str:
        return f"Token({self.origin})"


def make_token(value: str, endpoint: str) -> Token | None:
    """The token for the hub at `endpoint`; None for an endpoint that it would reach unencrypted over a network.

    UsageError, without the value, for text that no header can carry.
    """
    value = value.strip()
    parts = urlsplit(endpoint)
    if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
        return None
    if not (value.isascii() and value.isprintable() and " " not in value):
        raise UsageError("HF_TOKEN holds characters that no token has", remedy="set HF_TOKEN again, without quotes")
    return Token(origin_of(endpoint), value)


class Client:
    """Reads ranges of files; safe to use from many threads. Close it when nothing is left to read."""

    def __init__(
        self,
        *,
        token: Token | None = None,
        allows_plain_http: bool = False,
        limits: Limits = _LIMITS,
        context: ssl.SSLContext | None = None,
        proxies: Proxies = no_proxies,
    ) -> None:
        self._token = token
        self._allows_plain_http = allows_plain_http
        self._limits = limits
        self._connections = Connections(limits, context, proxies)
        self._in_flight = threading.BoundedSemaphore(_MOST_IN_FLIGHT)

    def close(self) -> None:
        """Also ends what other threads are reading: they get the error of a connection that broke off."""
        self._connections.close()

    def read_range(
        self, url: str, offset_bytes: int, size_bytes: int, traffic: Traffic, *, most_whole_bytes: int | None
    ) -> Part | None:
        """`size_bytes` (at least 1) from `offset_bytes`, fewer where the file ends; None when there is no such file.

        most_whole_bytes: how large a file may be that a server sends whole, because it does not serve ranges; None
        takes only what was asked for of any file, and the size of the part is then not known.
        Raises InputOutputError when the server cannot be reached, fails or denies; RefusedError when its answer cannot
        be trusted: no ranges of a large file, sizes that contradict each other, redirects without end or to elsewhere.
        """
        wait_s = self._limits.wait_s
        for tries_left in reversed(range(self._limits.tries)):
            try:
                with self._in_flight:
                    return self._read_once(url, offset_bytes, size_bytes, traffic, most_whole_bytes)
            except TryAgainError as failure:
                if not tries_left or self._connections.is_closed:
                    raise failure.final from failure
                time.sleep(min(failure.wait_s or wait_s, self._limits.most_wait_s))
                wait_s *= 2
        raise AssertionError("there is at least one try")

    def exists(self, url: str, traffic: Traffic) -> bool:
        """Whether the server serves the file at `url`, whatever its size; raises as `read_range`."""
        return self.read_range(url, 0, 1, traffic, most_whole_bytes=None) is not None

    def _read_once(
        self, url: str, offset_bytes: int, size_bytes: int, traffic: Traffic, most_whole_bytes: int | None
    ) -> Part | None:
        asked = url
        for _ in range(self._limits.redirects + 1):
            with self._connections.asking(url, self._headers(url, offset_bytes, size_bytes), traffic) as reply:
                traffic.see_revision(reply.header(REVISION_HEADER), shown(asked))
                if reply.status not in _REDIRECTS:
                    return part_in(reply, offset_bytes, size_bytes, most_whole_bytes)
                url = self._redirected(reply)
        expected, found = f"the file after at most {self._limits.redirects} redirects", f"one more, to {shown(url)}"
        raise untrusted("the server redirects without end", asked, expected=expected, found=found)

    def _headers(self, url: str, offset_bytes: int, size_bytes: int) -> dict[str, str]:
        headers = {
            "Range": f"bytes={offset_bytes}-{offset_bytes + size_bytes - 1}",
            "Accept-Encoding": "identity",
            "User-Agent": "apr",
        }
        if self._token is not None and origin_of(url) == self._token.origin:
            headers["Authorization"] = f"Bearer {self._token.value}"
        return headers

    def _redirected(self, reply: Reply) -> str:
        """Where the answer leads; only to where an address may lead, and from https only to https."""
        location = quote(reply.header("Location") or "", safe=KEPT_CHARACTERS)
        what = "the address that the server redirects to"
        try:
            target = urljoin(reply.url, location)
            parts = check_url(target, self._allows_plain_http, what)
        except ValueError as error:
            raise untrusted(f"{what} cannot be read", reply.url, expected="https://…", found=shown(location)) from error
        except UsageError as error:
            raise untrusted(
                error.what, reply.url, expected="https://…", found=error.found or shown(location)
            ) from error
        if parts.scheme == "http" and urlsplit(reply.url).scheme == "https":
            raise untrusted(f"{what} is not encrypted", reply.url, expected="https://…", found=shown(target))
        return target
