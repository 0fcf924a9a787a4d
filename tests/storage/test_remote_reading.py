"""Ranges over http: what is read, what it costs, and every way a server can fail or lie."""

import threading
import time

import pytest

from apr.errors import DamagedFileError, InputOutputError, NotFoundError, RefusedError, UsageError
from apr.storage.remote.address import RemotePath, parse_address
from apr.storage.remote.client import Client, make_token
from apr.storage.remote.exchange import Limits
from apr.storage.remote.files import MOST_READ_BYTES, READ_AHEAD_BYTES, RemoteDirectory, RemoteFile
from apr.storage.remote.traffic import Traffic
from tests.serving import ModelServer

QUICK = Limits(silence_s=0.5, answer_s=1.0, wait_s=0.01, most_wait_s=0.02)
SIZE = 3 * READ_AHEAD_BYTES + 5
NAME = "x.safetensors"


@pytest.fixture(scope="module")
def content():
    return bytes((number * 7 + number // 251) % 256 for number in range(SIZE))


@pytest.fixture
def server(tmp_path, content):
    (tmp_path / NAME).write_bytes(content)
    with ModelServer(tmp_path).running() as running:
        yield running


@pytest.fixture
def client():
    client = Client(limits=QUICK)
    yield client
    client.close()


@pytest.fixture
def traffic():
    return Traffic()


def remote_file(server, client, traffic, name=NAME):
    return RemoteFile(RemotePath("http:", "host", name), f"{server.url}/{name}", client, traffic)


def test_any_position_reads_the_bytes_of_the_file(server, client, traffic, content):
    file = remote_file(server, client, traffic)
    assert file.size_bytes == SIZE
    for start, size in ((0, 8), (READ_AHEAD_BYTES - 3, 6), (SIZE - 5, 5), (70_000, 10), (SIZE, 0), (0, SIZE)):
        assert file.read_at(start, size) == content[start : start + size]
    assert b"".join(map(bytes, file.stream(3, 90_000, 40_000))) == content[3:90_003]


def test_a_header_read_in_pieces_is_fetched_once_and_in_few_requests(tmp_path, client, traffic):
    content = bytes(range(256)) * 8192
    (tmp_path / NAME).write_bytes(content)
    with ModelServer(tmp_path).running() as server:
        file = remote_file(server, client, traffic)
        for start in range(0, len(content) - 1000, 1000):
            assert file.read_at(start, 1000) == content[start : start + 1000]
    assert traffic.bytes == len(content)
    assert traffic.requests <= 8


def test_reads_within_what_was_fetched_cost_nothing(server, client, traffic):
    file = remote_file(server, client, traffic)
    for start in range(0, 4096, 64):
        file.read_at(start, 64)
    assert traffic.requests == len(server.requests) == 1
    assert traffic.bytes == server.body_bytes == READ_AHEAD_BYTES


def test_one_connection_serves_many_requests(server, client, traffic):
    file = remote_file(server, client, traffic)
    for start in (40_000, 80_000, 90_000):
        file.close()
        file.read_at(start, 10)
    assert traffic.requests == 4
    assert len(server.clients) == 1


def test_a_kept_connection_that_the_server_closed_is_made_anew(server, client, traffic, content):
    def close_afterwards(handler, file):
        handler.serve(file)
        handler.close_connection = True  # Without saying so.
        return True

    server.faults[NAME] = close_afterwards
    file = remote_file(server, client, traffic)
    time.sleep(0.05)
    assert file.read_at(50_000, 10) == content[50_000:50_010]


def test_a_read_behind_the_end_is_damage_and_asks_nothing(server, client, traffic):
    file = remote_file(server, client, traffic)
    with pytest.raises(DamagedFileError, match="lies outside the file"):
        file.read_at(SIZE - 1, 2)
    assert traffic.requests == 1


def test_no_header_makes_it_fetch_without_bound(tmp_path, client, traffic):
    with (tmp_path / NAME).open("wb") as file:
        file.truncate(MOST_READ_BYTES * 4)
    with ModelServer(tmp_path).running() as server:
        file = remote_file(server, client, traffic)
        with pytest.raises(RefusedError, match="larger than anything that is fetched"):
            file.read_at(8, MOST_READ_BYTES + 1, "the header")
    assert traffic.bytes == READ_AHEAD_BYTES


def test_an_empty_file_has_no_bytes(server, client, traffic):
    (server.root / NAME).write_bytes(b"")
    assert remote_file(server, client, traffic).size_bytes == 0


def test_a_file_that_is_not_there_is_not_found(server, client, traffic):
    with pytest.raises(NotFoundError, match="no such file"):
        remote_file(server, client, traffic, "absent")


def test_a_remote_file_is_no_local_file(server, client, traffic):
    with pytest.raises(UsageError, match="another machine"):
        remote_file(server, client, traffic).fileno()


def whole(handler, file):
    handler.answer(200, file.read_bytes())
    return True


def endless(handler, file):
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    for _ in range(64):
        handler.send(bytes(1 << 20))
    handler.close_connection = True
    return True


def with_range(text, *, body=READ_AHEAD_BYTES, **headers):
    def answer(handler, file):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        handler.answer(206, file.read_bytes()[:body], {**({"Content-Range": text} if text else {}), **named})
        return True

    return answer


def to(target):
    def answer(handler, file):
        handler.redirect(target.format(url=handler.model_server.url))
        return True

    return answer


def status(number, **headers):
    def answer(handler, file):
        handler.answer(number, b"no", {name.replace("_", "-"): value for name, value in headers.items()})
        return True

    return answer


def page(handler, file):
    handler.answer(200, b"<!doctype html><title>Model</title>", {"Content-Type": "text/html; charset=utf-8"})
    return True


LAST = READ_AHEAD_BYTES - 1
LIES = {
    "no Content-Range": (with_range(None), "does not say which bytes"),
    "a unit of its own": (with_range(f"pages 0-{LAST}/{SIZE}"), "does not say which bytes"),
    "a size it does not know": (with_range(f"bytes 0-{LAST}/*"), "does not say which bytes"),
    "another start": (with_range(f"bytes 1-{LAST + 1}/{SIZE}"), "other bytes than were asked for"),
    "another end": (with_range(f"bytes 0-99/{SIZE}", body=100), "other bytes than were asked for"),
    "an end behind the size": (with_range(f"bytes 0-{LAST}/100"), "other bytes than were asked for"),
    "another length": (with_range(f"bytes 0-{LAST}/{SIZE}", body=100), "another number of bytes"),
    "a longer body": (with_range(f"bytes 0-{LAST}/{SIZE}", body=READ_AHEAD_BYTES + 1), "another number of bytes"),
    "compression": (with_range(f"bytes 0-{LAST}/{SIZE}", Content_Encoding="gzip"), "compresses the file"),
    "a redirect to itself": (to(f"{{url}}/{NAME}"), "redirects without end"),
    "a redirect to a local file": (to("file:///etc/passwd"), "redirects to is none that is read"),
    "a redirect to ftp": (to("ftp://host/x"), "redirects to is none that is read"),
    "a redirect to plain http": (to("http://example.com/x"), "redirects to is not encrypted"),
    "a redirect with a password": (to("https://user:word@host/x"), "holds a user name or password"),
    "a redirect to nowhere": (to("http://[::1/x"), "cannot be read"),
    "a status of no use": (status(418), "an answer of no use"),
    "a range it cannot serve": (status(416, Content_Range=f"bytes */{SIZE}"), "an answer of no use"),
    "a web page": (page, "a web page, not with a file"),
}


@pytest.mark.parametrize("name", LIES)
def test_an_answer_that_cannot_be_trusted_is_refused(server, client, traffic, name):
    fault, text = LIES[name]
    server.faults[NAME] = fault
    with pytest.raises(RefusedError, match=text):
        remote_file(server, client, traffic)
    assert traffic.requests <= QUICK.redirects + 1


@pytest.mark.parametrize("fault", [whole, endless], ids=["with its length", "without an end"])
def test_a_server_without_ranges_is_cut_off_before_it_sends_a_large_file(tmp_path, client, traffic, fault):
    with (tmp_path / NAME).open("wb") as file:
        file.truncate(8 << 20)
    with ModelServer(tmp_path).running() as server:
        server.faults[NAME] = fault
        with pytest.raises(RefusedError, match="does not serve ranges, and would send the whole file"):
            remote_file(server, client, traffic)
    assert traffic.bytes <= (1 << 20) + 1


def test_a_server_without_ranges_may_send_a_small_file(server, client, traffic, content):
    server.faults[NAME] = whole
    file = remote_file(server, client, traffic)
    assert file.read_at(70_000, 100) == content[70_000:70_100]


def first_times(count, fault):
    seen = []

    def answer(handler, file):
        seen.append(file)
        return len(seen) <= count and fault(handler, file)

    return answer


def short(handler, file):
    handler.send_response(206)
    handler.send_header("Content-Range", f"bytes 0-{LAST}/{SIZE}")
    handler.send_header("Content-Length", str(READ_AHEAD_BYTES))
    handler.end_headers()
    handler.send(file.read_bytes()[:1000])
    handler.close_connection = True
    return True


def hang_up(handler, file):
    handler.close_connection = True
    return True


def silent(handler, file):
    time.sleep(QUICK.silence_s * 2)
    handler.close_connection = True
    return True


def dripping(handler, file):
    handler.send_response(206)
    handler.send_header("Content-Range", f"bytes 0-{LAST}/{SIZE}")
    handler.send_header("Content-Length", str(READ_AHEAD_BYTES))
    handler.end_headers()
    for _ in range(40):
        handler.send(b"x")
        time.sleep(0.05)
    handler.close_connection = True
    return True


TROUBLES = {
    "500": (status(500), "the server fails"),
    "503": (status(503, Retry_After="1"), "the server fails"),
    "429": (status(429, Retry_After="9999"), "asks for fewer requests"),
    "a short body": (short, "the connection ended before the answer did"),
    "a closed connection": (hang_up, "cannot be reached, or broke off"),
    "silence": (silent, "the server is too slow"),
}


@pytest.mark.parametrize("name", TROUBLES)
def test_trouble_that_passes_is_waited_out(server, client, traffic, content, name):
    server.faults[NAME] = first_times(2, TROUBLES[name][0])
    assert remote_file(server, client, traffic).read_at(0, 100) == content[:100]
    assert traffic.requests == 3


@pytest.mark.parametrize("name", TROUBLES)
def test_trouble_that_stays_ends_after_three_tries(server, client, traffic, name):
    fault, text = TROUBLES[name]
    server.faults[NAME] = fault
    with pytest.raises(InputOutputError, match=text):
        remote_file(server, client, traffic)
    assert traffic.requests == 3


def dripping_headers(handler, file):
    handler.wfile.write(b"HTTP/1.1 206 Partial Content\r\n")
    for number in range(40):
        handler.wfile.write(f"X-{number}: x\r\n".encode())
        time.sleep(0.05)
    handler.close_connection = True
    return True


def promising_for_ever(handler, file):
    for _ in range(2000):
        handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        time.sleep(0.001)
    handler.close_connection = True
    return True


@pytest.mark.parametrize("fault", [dripping, dripping_headers, promising_for_ever])
def test_a_server_that_keeps_busy_without_an_end_is_cut_off(server, traffic, fault):
    server.faults[NAME] = fault
    client = Client(limits=Limits(silence_s=0.5, answer_s=0.3, tries=1))
    start_s = time.monotonic()
    with pytest.raises(InputOutputError, match="too slow") as caught:
        remote_file(server, client, traffic)
    assert time.monotonic() - start_s < 1.5
    assert "no end of an answer after 0.3 s" in caught.value.found


def test_closing_ends_what_other_threads_wait_for(server, traffic):
    server.latency_s = 5.0
    client = Client(limits=Limits(silence_s=20.0))
    errors = []

    def work():
        try:
            remote_file(server, client, traffic)
        except InputOutputError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while not server.requests:
        time.sleep(0.01)
    start_s = time.monotonic()
    client.close()
    thread.join(timeout=4.0)
    assert time.monotonic() - start_s < 2.0
    assert len(errors) == 1


def test_nobody_listening_is_an_input_output_error(client, traffic):
    with pytest.raises(InputOutputError, match="cannot be reached"):
        RemoteFile(RemotePath("http:", "host", NAME), "http://127.0.0.1:9/x", client, traffic)


@pytest.mark.parametrize("number", [401, 403])
def test_denied_access_says_what_opens_it(server, client, traffic, number):
    server.faults[NAME] = status(number, X_Error_Code="GatedRepo")
    with pytest.raises(InputOutputError, match="does not let you read this") as caught:
        remote_file(server, client, traffic)
    assert "accept the conditions" in caught.value.remedy
    assert traffic.requests == 1


def test_a_file_that_changes_while_it_is_read_ends_the_reading(server, client, traffic, content):
    file = remote_file(server, client, traffic)
    (server.root / NAME).write_bytes(content + b"more")
    with pytest.raises(InputOutputError, match="the file changed while it was read"):
        file.read_at(50_000, 10)


def test_files_of_two_commits_are_not_taken_together(server, client, traffic):
    server.faults["a"] = status(206, X_Repo_Commit="a" * 40, Content_Range="bytes 0-1/2")
    server.faults["b"] = status(206, X_Repo_Commit="b" * 40, Content_Range="bytes 0-1/2")
    remote_file(server, client, traffic, "a")
    with pytest.raises(InputOutputError, match="the repository changed while it was read"):
        remote_file(server, client, traffic, "b")
    assert traffic.revision == "a" * 40


@pytest.fixture
def hub(tmp_path, content):
    """A hub that needs a token, and behind it another server with the large files."""
    (tmp_path / "org/name").mkdir(parents=True)
    (tmp_path / "org/name" / NAME).write_bytes(content)
    (tmp_path / "org/name/config.json").write_bytes(b"{}")
    with ModelServer(tmp_path).running() as cdn, ModelServer(tmp_path, cdn=cdn, token="hf_secret").running() as hub:
        yield hub


def hub_directory(hub, traffic, token="hf_secret"):
    client = Client(limits=QUICK, token=make_token(token, hub.url) if token else None)
    return RemoteDirectory(parse_address("hf://org/name", endpoint=hub.url), client, traffic)


def test_the_token_goes_to_the_hub_and_not_where_it_redirects(hub, traffic, content):
    file = hub_directory(hub, traffic).open(NAME)
    assert file.read_at(60_000, 9) == content[60_000:60_009]
    assert {headers.get("Authorization") for _, headers in hub.requests} == {"Bearer hf_secret"}
    assert len(hub.cdn.requests) == 2
    assert not any("Authorization" in headers for _, headers in hub.cdn.requests)


def test_the_token_goes_to_no_other_server(hub, traffic, client):
    client = Client(limits=QUICK, token=make_token("hf_secret", "https://huggingface.co"))
    with pytest.raises(InputOutputError, match="does not let you read this"):
        RemoteDirectory(parse_address("hf://org/name", endpoint=hub.url), client, traffic).open("config.json")
    assert not any("Authorization" in headers for _, headers in hub.requests)


def test_without_the_token_the_hub_says_what_is_needed(hub, traffic):
    with pytest.raises(InputOutputError, match="does not let you read this"):
        hub_directory(hub, traffic, token=None).open("config.json")


def test_the_token_goes_over_no_network_unencrypted():
    assert make_token("secret", "http://mirror.example.com") is None
    assert make_token("secret", "http://localhost:8080") is not None


@pytest.mark.parametrize("value", ["a\nb", "a b", "schlüssel"])
def test_a_token_that_cannot_be_sent_is_not_shown(value):
    with pytest.raises(UsageError) as caught:
        make_token(value, "https://huggingface.co")
    assert value not in str(caught.value)
    assert "secret" not in repr(make_token("secret", "https://huggingface.co"))


def test_later_ranges_go_where_the_redirect_led_until_that_address_expires(hub, traffic, content):
    file = hub_directory(hub, traffic).open(NAME)
    file.read_at(40_000, 9)
    assert (len(hub.requests), len(hub.cdn.requests)) == (1, 2)
    hub.cdn.faults[NAME] = first_times(1, status(403))
    assert file.read_at(80_000, 9) == content[80_000:80_009]
    assert len(hub.requests) == 2


def test_files_of_a_directory_are_asked_for_once_and_side_by_side(tmp_path, client, traffic):
    for number in range(12):
        (tmp_path / f"{number}.json").write_text(f'{{"a": {number}}}')
    with ModelServer(tmp_path).running() as server:
        server.latency_s = 0.05
        directory = RemoteDirectory(parse_address(f"{server.url}/"), client, traffic)
        directory.expect([f"{number}.json" for number in range(14)])
        assert server.most_at_a_time > 2
        assert traffic.requests == 14
        assert directory.open("3.json").read_at(0, 8) == b'{"a": 3}'
        assert not directory.has("13.json")
        assert directory.names(["0.json", "13.json", "x"]) == ["0.json"]
        assert traffic.requests == 15


def test_one_client_serves_many_threads(server, client, content):
    wrong = []

    def work():
        file = remote_file(server, client, Traffic())
        if file.read_at(90_000, 50) != content[90_000:90_050]:
            wrong.append(file)

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
