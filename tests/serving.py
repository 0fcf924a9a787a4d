"""A server on this machine that serves files by ranges as a hub does, and misbehaves where a test asks for it."""

from __future__ import annotations

import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

_HUB_PATH = re.compile(r"/(?P<repository>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
_RANGE = re.compile(r"bytes=(\d+)-(\d+)")
COMMIT = "0123456789abcdef0123456789abcdef01234567"

Fault = Callable[["Handler", Path], bool]
"""Answers in place of the server and says so; False lets the server answer as it should."""


class ModelServer:
    """Serves `root` at `url`, and as a hub at `url/{org}/{name}/resolve/{revision}/{file}`.

    requests: path and headers of each. clients: the far ends of all connections. most_at_a_time: requests in flight.
    body_bytes: sent in all. latency_s: before each answer. faults: by file name. cdn: another server that large
    files of the hub layout are redirected to. token: needed for the hub layout, where set.
    """

    def __init__(
        self,
        root: Path,
        *,
        cdn: ModelServer | None = None,
        token: str | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.root = root
        self.cdn = cdn
        self.token = token
        self.latency_s = 0.0
        self.faults: dict[str, Fault] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.body_bytes = 0
        self.clients: set[tuple[str, int]] = set()
        self.most_at_a_time = 0
        self.at_a_time = 0
        self.lock = threading.Lock()
        self._scheme = "http" if context is None else "https"
        self._http = QuietServer(("127.0.0.1", 0), Handler)
        if context is not None:
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self._http.model_server = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def port(self) -> int:
        return self._http.server_address[1]

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}"

    @contextmanager
    def running(self) -> Iterator[ModelServer]:
        self._thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            self._http.server_close()


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away while it is answered is what many tests are about."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def model_server(self) -> ModelServer:
        return self.server.model_server  # type: ignore[attr-defined]

    def log_message(self, format: str, *arguments: object) -> None:
        """Tests print nothing."""

    def do_GET(self) -> None:
        server = self.model_server
        with server.lock:
            server.requests.append((self.path, dict(self.headers)))
            server.clients.add(self.client_address)
            server.at_a_time += 1
            server.most_at_a_time = max(server.most_at_a_time, server.at_a_time)
        try:
            time.sleep(server.latency_s)
            self.respond(server)
        finally:
            with server.lock:
                server.at_a_time -= 1

    def respond(self, server: ModelServer) -> None:
        path = unquote(urlsplit(self.path).path)
        hub = _HUB_PATH.fullmatch(path)
        if hub is not None:
            path = f"/{hub['repository']}/{hub['file']}"
            if server.token is not None and self.headers.get("Authorization") != f"Bearer {server.token}":
                self.answer(401, b"no", {"X-Error-Code": "GatedRepo"})
                return
            if not (server.root / hub["repository"]).is_dir():
                self.answer(404, b"no", {"X-Error-Code": "RepoNotFound"})
                return
        file = server.root / path.lstrip("/")
        fault = server.faults.get(file.name)
        if fault is not None and fault(self, file):
            return
        if hub is not None and server.cdn is not None and file.suffix == ".safetensors" and file.is_file():
            self.redirect(f"{server.cdn.url}{path}?signature=secret", {"X-Repo-Commit": COMMIT})
            return
        self.serve(file, {"X-Repo-Commit": COMMIT} if hub is not None else {})

    def serve(self, file: Path, headers: dict[str, str] | None = None) -> None:
        if not file.is_file():
            self.answer(404, b"not found")
            return
        size = file.stat().st_size
        headers = {"ETag": f'"{file.stat().st_mtime_ns}"', **(headers or {})}
        asked = _RANGE.fullmatch(self.headers.get("Range", ""))
        if asked is None:
            self.answer(200, file.read_bytes(), headers)
            return
        first, last = int(asked[1]), min(int(asked[2]), size - 1)
        if first >= size:
            self.answer(416, b"", {"Content-Range": f"bytes */{size}"})
            return
        with file.open("rb") as stream:
            stream.seek(first)
            data = stream.read(last - first + 1)
        self.answer(206, data, {"Content-Range": f"bytes {first}-{last}/{size}", **headers})

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.send(body)

    def redirect(self, target: str, headers: dict[str, str] | None = None, status: int = 302) -> None:
        self.answer(status, b"", {"Location": target, **(headers or {})})

    def send(self, body: bytes) -> None:
        with self.model_server.lock:
            self.model_server.body_bytes += len(body)
        try:
            self.wfile.write(body)
        except OSError:
            self.close_connection = True
