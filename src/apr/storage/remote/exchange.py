"""One request and its answer over a kept connection, bounded in time."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from apr.errors import AprError, InputOutputError
from apr.storage.remote.address import shown
from apr.storage.remote.proxy import Proxies
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

    def __init__(self, response: http.client.HTTPResponse, url: str, traffic: Traffic, deadline: _Deadline) -> None:
        self.url = url
        self.status = response.status
        self._response = response
        self._traffic = traffic
        self._deadline = deadline

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
                raise self._deadline.failure(self.url, error) from error
            if not piece:
                break
            self._traffic.add_bytes(len(piece))
            pieces.append(piece)
            left -= len(piece)
        if left > 0 and (self._response.length or self._deadline.is_over):
            ended = InputOutputError(
                "the connection ended before the answer did",
                where=shown(self.url),
                expected=f"{self._response.length} bytes more",
                found="the end of the connection",
                remedy="run again; if it stays so, the server is at fault",
            )
            raise self._deadline.failure(self.url, TryAgainError(ended))
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


class _Deadline:
    """Cuts a connection off when one answer takes too long, however busy the server keeps it."""

    def __init__(self, sock: socket.socket, answer_s: float) -> None:
        self.is_over = False
        self._sock = sock
        self._answer_s = answer_s
        self._timer = threading.Timer(answer_s, self._expire)
        self._timer.daemon = True
        self._timer.start()

    def _expire(self) -> None:
        self.is_over = True
        cut_off(self._sock)

    def cancel(self) -> None:
        self._timer.cancel()

    def failure(self, url: str, error: Exception) -> Exception:
        """What to raise for `error`: that the time is over, if it is."""
        if self.is_over:
            return TryAgainError(_too_slow(url, f"no end of an answer after {self._answer_s:g} s"))
        return error if isinstance(error, TryAgainError) else unreachable(url, error)


def cut_off(sock: socket.socket) -> None:
    """End a connection that another thread waits on. Not through `SSLSocket.shutdown`, which changes it under that
    thread's hands."""
    with suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


class Connections:
    """Open connections by origin (`https://host[:port]`), each used by one request at a time.

    proxies: what gives the proxy that a host is reached through, None for none; https only.
    """

    def __init__(self, limits: Limits, context: ssl.SSLContext | None, proxies: Proxies) -> None:
        self.is_closed = False
        self._limits = limits
        self._context = context
        self._proxies = proxies
        self._lock = threading.Lock()
        self._idle: dict[str, list[http.client.HTTPConnection]] = {}
        self._busy: set[socket.socket] = set()

    def close(self) -> None:
        """Close what is idle and cut off what another thread is waiting for."""
        with self._lock:
            self.is_closed = True
            connections = [each for idle in self._idle.values() for each in idle]
            self._idle.clear()
            for sock in self._busy:
                cut_off(sock)
        for connection in connections:
            connection.close()

    @contextmanager
    def asking(self, url: str, headers: Mapping[str, str], traffic: Traffic) -> Iterator[Reply]:
        """GET `url`; what is left of the answer when the block ends is drained if it is little, else cut off.

        Raises TryAgainError for what may pass, InputOutputError for what will not (a certificate that is not valid).
        """
        origin = origin_of(url)
        while True:
            connection, sock, is_kept = self._connected(origin, url)
            deadline = _Deadline(sock, self._limits.answer_s)
            is_reusable = False
            try:
                try:
                    response = _sent(connection, url, headers, traffic)
                except (OSError, http.client.HTTPException, ValueError) as error:
                    # A server may close a kept connection at any time; that says nothing about the next one.
                    if is_kept and not deadline.is_over and not isinstance(error, TimeoutError):
                        continue
                    raise deadline.failure(url, error) from error
                if deadline.is_over:  # Headers that were cut off look like headers that have ended.
                    raise deadline.failure(url, TimeoutError())
                reply = Reply(response, url, traffic, deadline)
                yield reply
                with suppress(TryAgainError):
                    is_reusable = reply.is_finished()
                return
            finally:
                deadline.cancel()
                with self._lock:
                    self._busy.discard(sock)
                    is_reusable = is_reusable and not deadline.is_over and not self.is_closed
                    if is_reusable:
                        self._idle.setdefault(origin, []).append(connection)
                if not is_reusable:
                    connection.close()

    def _connected(self, origin: str, url: str) -> tuple[http.client.HTTPConnection, socket.socket, bool]:
        """A connection to `origin`, its socket, and whether it has served before."""
        with self._lock:
            idle = self._idle.get(origin)
            kept = idle.pop() if idle else None
            if kept is not None:
                self._busy.add(kept.sock)
                return kept, kept.sock, True
        connection = self._opened(urlsplit(origin))
        try:
            connection.connect()
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            raise unreachable(url, error) from error
        with self._lock:
            self._busy.add(connection.sock)
        return connection, connection.sock, False

    def _opened(self, parts: SplitResult) -> http.client.HTTPConnection:
        host, port, timeout_s = parts.hostname or "", parts.port, self._limits.silence_s
        if parts.scheme != "https":
            return http.client.HTTPConnection(host, port, timeout=timeout_s)
        with self._lock:
            self._context = self._context or ssl.create_default_context()
        proxy = self._proxies(host)
        if proxy is None:
            return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=self._context)
        connection = http.client.HTTPSConnection(proxy.host, proxy.port, timeout=timeout_s, context=self._context)
        connection.set_tunnel(host, port, headers=proxy.headers())
        return connection


def _sent(
    connection: http.client.HTTPConnection, url: str, headers: Mapping[str, str], traffic: Traffic
) -> http.client.HTTPResponse:
    parts = urlsplit(url)
    traffic.add_request()
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection.request("GET", target, headers=dict(headers))
    return connection.getresponse()


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
