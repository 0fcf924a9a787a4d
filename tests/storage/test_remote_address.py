"""Addresses: what each form stands for, and what is refused before anything is asked."""

import os
import pickle

import pytest

from apr.errors import UsageError
from apr.storage.remote.address import RemotePath, parse_address

HUB = "https://huggingface.co"

FORMS = {
    "hf://org/name": (f"{HUB}/org/name/resolve/main", "hf download org/name --local-dir name", False),
    "hf://gpt2": (f"{HUB}/gpt2/resolve/main", "hf download gpt2 --local-dir gpt2", False),
    "hf://org/name@v1.0": (
        f"{HUB}/org/name/resolve/v1.0",
        "hf download org/name --revision v1.0 --local-dir name",
        False,
    ),
    "hf://org/name@refs/pr/12": (
        f"{HUB}/org/name/resolve/refs%2Fpr%2F12",
        "hf download org/name --revision refs/pr/12 --local-dir name",
        False,
    ),
    "hf://org/name/part": (
        f"{HUB}/org/name/resolve/main/part",
        "hf download org/name --include 'part/*' --local-dir name",
        False,
    ),
    "hf://org/name@r/model.apr": (
        f"{HUB}/org/name/resolve/r/model.apr",
        "hf download org/name model.apr --revision r --local-dir name",
        True,
    ),
    f"{HUB}/org/name": (f"{HUB}/org/name/resolve/main", "hf download org/name --local-dir name", False),
    f"{HUB}/org/name/tree/r": (
        f"{HUB}/org/name/resolve/r",
        "hf download org/name --revision r --local-dir name",
        False,
    ),
    f"{HUB}/org/name/blob/main/x.safetensors": (
        f"{HUB}/org/name/resolve/main/x.safetensors",
        "hf download org/name x.safetensors --revision main --local-dir name",
        True,
    ),
    "https://host/a/x.apr": ("https://host/a/x.apr", "curl -fL -o x.apr https://host/a/x.apr", True),
    "https://host/a/x.safetensors?sig=secret": (
        "https://host/a/x.safetensors",
        "curl -fL -o x.safetensors 'https://host/a/x.safetensors?…'",
        True,
    ),
    "https://host:8443/a/model/": (
        "https://host:8443/a/model",
        "download the files of https://host:8443/a/model into model",
        False,
    ),
    "https://host/a/x.apr/": ("https://host/a/x.apr", "download the files of https://host/a/x.apr into x.apr", False),
    "http://localhost:8000/m": (
        "http://localhost:8000/m",
        "download the files of http://localhost:8000/m into m",
        False,
    ),
    "http://[::1]:8000/m": ("http://[::1]:8000/m", "download the files of http://[::1]:8000/m into m", False),
}


@pytest.mark.parametrize("text", FORMS)
def test_each_form_of_an_address_stands_for_one_url(text):
    address = parse_address(text)
    assert (address.url, address.download.command, address.is_file) == FORMS[text]
    assert address.given == text


REFUSED = {
    "s3://bucket/model": "the address is none that is read",
    "file:///etc/passwd": "the address is none that is read",
    "ftp://host/model": "the address is none that is read",
    "https://": "the address is none that is read",
    "hf://": "names no model of the hub",
    "hf://org/../name": "names no model of the hub",
    "hf://org/name@": "names no model of the hub",
    "hf://datasets/org/name": "names no model of the hub",
    "hf://org/name/../../other": "names no model of the hub",
    "hf://-org/name": "names no model of the hub",
    "http://example.com/m": "is not encrypted",
    "http://127.0.0.1.example.com/m": "is not encrypted",
    "http://localhost.example.com/m": "is not encrypted",
    "https://user:secret@host/m": "holds a user name or password",
    "https://host:port/m": "cannot be read",
    "https://[::1/m": "cannot be read",
}


@pytest.mark.parametrize("text", REFUSED)
def test_an_address_that_must_not_be_asked_is_a_usage_error(text):
    with pytest.raises(UsageError, match=REFUSED[text]) as caught:
        parse_address(text)
    assert "secret" not in str(caught.value)


def test_plain_http_to_another_machine_is_read_where_it_is_allowed():
    assert parse_address("http://example.com/m", allows_plain_http=True).url == "http://example.com/m"


def test_the_endpoint_takes_the_place_of_the_hub():
    assert parse_address("hf://o/n", endpoint="https://mirror/hub/").url == "https://mirror/hub/o/n/resolve/main"
    page = parse_address("https://mirror/hub/o/n", endpoint="https://mirror/hub")
    assert page.url == "https://mirror/hub/o/n/resolve/main"
    assert parse_address(f"{HUB}/o/n", endpoint="https://mirror").url == f"{HUB}/o/n"


def test_an_endpoint_without_encryption_is_refused():
    with pytest.raises(UsageError, match="the endpoint of the hub is not encrypted"):
        parse_address("hf://o/n", endpoint="http://mirror")


def test_a_remote_path_is_shown_as_the_address_and_opened_by_nothing():
    path = parse_address("https://host/a/model/").path
    assert str(path / "config.json") == "https://host/a/model/config.json"
    assert str(path.with_name("other")) == "https://host/a/other"
    assert (path / "x.safetensors").suffix == ".safetensors"
    assert str(pickle.loads(pickle.dumps(path))) == str(path)
    assert str(RemotePath("hf:", "org", "name@r")) == "hf://org/name@r"
    with pytest.raises(TypeError, match="another machine"):
        os.path.lexists(path)
