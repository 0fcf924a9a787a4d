"""One request and its answer over a kept connection, bounded in time."""

from __future__ import annotations

import http.client
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from apr.errors import AprError, InputOutputError
from apr.storage.remote.address import shown
from apr.storage.remote.traffic import Traffic

_CHUNK_BYTES = 64 << 10
_MOST_DRAINED_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server may cost at most. silence_s: between two pieces of an answer. answer_s: one whole answer.

    wait_s: before the second try, doubled for each further one; a server that asks for longer gets most_wait_s.
    """

    silence_s: float = 20.0
    answer_s: float = 60.0
    tries: int = 3
    redirects: int = 5
    wait_s: float = 0.5
    most_wait_s: float = 10.0


class TryAgainError(Exception):
    """A failure that may pass. final: what the user is told when it does not. wait_s: as the server asked for."""

    def __init__(self, final: AprError, wait_s: float | None = None) -> None:
        super().__init__(final.what)
        self.final = final
        self.wait_s = wait_s


class Reply:
    """An answer whose status and headers have come; the body is read as far as it is asked for."""

    def __init__(self, response: http.client.HTTPResponse, url: str, traffic: Traffic, limits: Limits) -> None:
        self.url = url
        self.status = response.status
        self._response = response
        self._traffic = traffic
        self._limits = limits
        self._deadline_s = time.monotonic() + limits.answer_s

    def header(self, name: str) -> str | None:
        return self._response.getheader(name)

    def body(self, most_bytes: int) -> bytes:
        """The body, at most `most_bytes` of it; TryAgainError when the connection ends or stalls before that."""
        pieces: list[bytes] = []
        left = most_bytes
        while left > 0:
            try:
                piece = self._response.read1(min(left, _CHUNK_BYTES))
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise unreachable(self.url, error) from error
            if not piece:
                break
            self._traffic.add_bytes(len(piece))
            pieces.append(piece)
            left -= len(piece)
            if left > 0 and time.monotonic() > self._deadline_s:
                raise TryAgainError(_too_slow(self.url, f"{self._limits.answer_s:g} s for one answer"))
        if left > 0 and self._response.length:
            raise TryAgainError(
                InputOutputError(
                    "the connection ended before the answer did",
                    where=shown(self.url),
                    expected=f"{self._response.length} bytes more",
                    found="the end of the connection",
                    remedy="run again; if it stays so, the server is at fault",
                )
            )
        return b"".join(pieces)

    def is_finished(self) -> bool:
        """Whether nothing of the answer is left, so that the connection can take another request."""
        if self._response.length == 0:
            self._response.close()
        if not self._response.isclosed() and (self._response.length or 0) <= _MOST_DRAINED_BYTES:
            self.body(_MOST_DRAINED_BYTES)
            if self._response.length == 0:
                self._response.close()
        return self._response.isclosed() and not self._response.will_close


class Connections:
    """Open connections by origin (`https://host[:port]`), each used by one request at a time."""

    def __init__(self, limits: Limits, context: ssl.SSLContext | None) -> None:
        self._limits = limits
        self._context = context
        self._lock = threading.Lock()
        self._idle: dict[str, list[http.client.HTTPConnection]] = {}

    def close(self) -> None:
        with self._lock:
            connections = [each for idle in self._idle.values() for each in idle]
            self._idle.clear()
        for connection in connections:
            connection.close()

    @contextmanager
    def asking(self, url: str, headers: Mapping[str, str], traffic: Traffic) -> Iterator[Reply]:
        """GET `url`; what is left of the answer when the block ends is drained if it is little, else cut off.

        Raises TryAgainError for what may pass, InputOutputError for what will not (a certificate that is not valid).
        """
        origin = origin_of(url)
        connection, response = self._send(origin, url, headers, traffic)
        is_reusable = False
        try:
            reply = Reply(response, url, traffic, self._limits)
            yield reply
            try:
                is_reusable = reply.is_finished()
            except TryAgainError:
                is_reusable = False
        finally:
            if is_reusable:
                with self._lock:
                    self._idle.setdefault(origin, []).append(connection)
            else:
                connection.close()

    def _send(
        self, origin: str, url: str, headers: Mapping[str, str], traffic: Traffic
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        while True:
            connection, is_kept = self._take(origin)
            try:
                traffic.add_request()
                connection.request("GET", target, headers=dict(headers))
                return connection, connection.getresponse()
            except (OSError, http.client.HTTPException, ValueError) as error:
                connection.close()
                # A server may close a kept connection at any time; that says nothing about the next one.
                if not is_kept or isinstance(error, TimeoutError):
                    raise unreachable(url, error) from error

    def _take(self, origin: str) -> tuple[http.client.HTTPConnection, bool]:
        with self._lock:
            idle = self._idle.get(origin)
            if idle:
                return idle.pop(), True
            parts = urlsplit(origin)
            if parts.scheme == "https" and self._context is None:
                self._context = ssl.create_default_context()
        host, timeout_s = parts.hostname or "", self._limits.silence_s
        if parts.scheme == "https":
            return http.client.HTTPSConnection(host, parts.port, timeout=timeout_s, context=self._context), False
        return http.client.HTTPConnection(host, parts.port, timeout=timeout_s), False


def origin_of(url: str) -> str:
    """Scheme, host and port of `url`, the port only where it is not the usual one."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    host = f"[{host}]" if ":" in host else host
    usual = 443 if parts.scheme == "https" else 80
    return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port not in (None, usual) else "")


def unreachable(url: str, error: Exception) -> Exception:
    """The failure to connect or to read, as one that may pass, or as the final error where waiting does not help."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return InputOutputError(
            "the server cannot prove that it is who it says",
            where=shown(url),
            expected="a valid certificate for its name",
            found=error.verify_message,
            remedy="check the address; behind a proxy of your organisation, set SSL_CERT_FILE to its certificates",
        )
    if isinstance(error, TimeoutError):
        return TryAgainError(_too_slow(url, "silence"))
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return TryAgainError(
        InputOutputError(
            "the server cannot be reached, or broke off",
            where=shown(url),
            found=f"{reason:.200}",
            remedy="check the address and the connection, then run again",
        )
    )


def _too_slow(url: str, found: str) -> InputOutputError:
    return InputOutputError(
        "the server is too slow", where=shown(url), found=found, remedy="run again later, or download the model first"
    )
