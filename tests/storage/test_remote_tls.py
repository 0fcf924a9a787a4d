"""Encrypted addresses: certificates, no way down to plain http, and proxies that see nothing."""

import shutil
import socket
import ssl
import subprocess
import threading
from contextlib import contextmanager, suppress

import pytest

from apr.errors import InputOutputError, RefusedError, UsageError
from apr.library.network import _proxy_for
from apr.storage.remote.address import RemotePath
from apr.storage.remote.client import Client, make_token
from apr.storage.remote.exchange import Limits
from apr.storage.remote.files import RemoteFile
from apr.storage.remote.proxy import Proxy, parse_proxy
from apr.storage.remote.traffic import Traffic
from tests.serving import ModelServer

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")

QUICK = Limits(silence_s=2.0, answer_s=5.0, wait_s=0.01)
CONTENT = bytes(range(256)) * 4


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for this machine that nobody has signed, and its key."""
    home = tmp_path_factory.mktemp("tls")
    words = "req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=localhost -addext"
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    subprocess.run(["openssl", *words.split(), names], cwd=home, check=True, capture_output=True)
    return home


@pytest.fixture
def server(certificate, tmp_path):
    (tmp_path / "x.apr").write_bytes(CONTENT)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    with ModelServer(tmp_path, context=context).running() as running:
        yield running


@pytest.fixture
def trusting(certificate):
    """The context of a client that trusts the certificate."""
    return ssl.create_default_context(cafile=certificate / "cert.pem")


def read(server, client, traffic):
    url = f"{server.url}/x.apr"
    return RemoteFile(RemotePath("https:", "host", "x.apr"), url, client, traffic).read_at(0, len(CONTENT))


def test_a_server_with_a_certificate_that_is_trusted_is_read(server, trusting):
    assert read(server, Client(limits=QUICK, context=trusting), Traffic()) == CONTENT


def test_a_certificate_nobody_vouches_for_ends_the_reading_at_once(server):
    with pytest.raises(InputOutputError, match="cannot prove that it is who it says"):
        read(server, Client(limits=QUICK), Traffic())
    assert not server.requests


def test_https_leads_to_no_plain_http_not_even_on_this_machine(server, trusting, tmp_path):
    with ModelServer(tmp_path).running() as plain:
        server.faults["x.apr"] = lambda handler, file: handler.redirect(f"{plain.url}/x.apr") or True
        with pytest.raises(RefusedError, match="redirects to is not encrypted"):
            read(server, Client(limits=QUICK, context=trusting), Traffic())
        assert not plain.requests


@contextmanager
def tunnel():
    """A proxy that knows CONNECT alone; yields its port and what it was asked."""
    asked = []
    listening = socket.create_server(("127.0.0.1", 0))

    def pump(source, target):
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def serve():
        near, _ = listening.accept()
        head = b""
        while b"\r\n\r\n" not in head:
            head += near.recv(65536)
        asked.append(head.decode())
        host, port = head.split()[1].decode().split(":")
        far = socket.create_connection((host, int(port)))
        near.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        threading.Thread(target=pump, args=(far, near), daemon=True).start()
        pump(near, far)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listening.getsockname()[1], asked
    finally:
        listening.close()


def test_a_proxy_is_asked_for_a_tunnel_and_sees_no_token(server, trusting):
    token = make_token("hf_secret", server.url)
    with tunnel() as (port, asked):
        proxy = Proxy("127.0.0.1", port, "name:word")
        client = Client(limits=QUICK, context=trusting, token=token, proxies=lambda host: proxy)
        assert read(server, client, Traffic()) == CONTENT
        client.close()
    assert asked[0].startswith(f"CONNECT 127.0.0.1:{server.port}")
    assert "Proxy-Authorization: Basic bmFtZTp3b3Jk" in asked[0]
    assert "hf_secret" not in asked[0]
    assert server.requests[0][1]["Authorization"] == "Bearer hf_secret"
    assert "Proxy-Authorization" not in server.requests[0][1]
    assert "word" not in repr(proxy)


def test_the_proxy_of_the_environment_is_used_for_other_machines_only(monkeypatch):
    for name in ("ALL_PROXY", "all_proxy", "https_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://me:p%40ss@proxy.example.com:8080")
    assert _proxy_for("huggingface.co") == Proxy("proxy.example.com", 8080, "me:p@ss")
    assert _proxy_for("127.0.0.1") is None
    monkeypatch.setenv("NO_PROXY", "huggingface.co")
    assert _proxy_for("huggingface.co") is None


@pytest.mark.parametrize("text", ["socks5://me:word@host:1080", "https://host", "http://host:port", "http://"])
def test_a_proxy_of_another_kind_is_a_usage_error(text):
    with pytest.raises(UsageError, match="the proxy in HTTPS_PROXY is none that is used") as caught:
        parse_proxy(text)
    assert "word" not in str(caught.value)


def test_a_proxy_without_a_scheme_is_an_http_proxy():
    assert parse_proxy("proxy:8080") == Proxy("proxy", 8080)
