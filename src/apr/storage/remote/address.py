"""Addresses of checkpoints on other machines: `hf://org/name[@revision][/path]` and `https://host/path`.

Hugging Face serves a file of a repository at `{endpoint}/{org}/{name}/resolve/{revision}/{path}`.
"""

from __future__ import annotations

import re
import shlex
from ipaddress import ip_address
from pathlib import Path, PosixPath
from typing import NamedTuple
from urllib.parse import SplitResult, quote, unquote, urlsplit

from apr.errors import UsageError

DEFAULT_ENDPOINT = "https://huggingface.co"
DEFAULT_REVISION = "main"
FILE_SUFFIXES = (".safetensors", ".apr", ".gguf")

_FORMS = "hf://org/name, hf://org/name@revision, https://host/directory/ or https://host/model.safetensors"
_REPOSITORY_PART = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_-])?")
_OTHER_REPOSITORIES = ("datasets", "spaces", "models", "buckets")
_PAGE_WORDS = ("tree", "blob", "resolve", "raw")

# What may stand in an address as it is; anything else is percent-encoded before it is sent.
KEPT_CHARACTERS = "%/:=&?~#+!$,;'@()*[]"


class RemotePath(PosixPath):
    """An address where readers want a path: joined, split and shown as one, and opened by no call for local files."""

    def __str__(self) -> str:
        scheme, *rest = self.parts
        return f"{scheme}//{'/'.join(rest)}"

    def __fspath__(self) -> str:
        raise TypeError(f"{self} is on another machine and cannot be opened as a local file")


class Download(NamedTuple):
    """How a checkpoint comes to this machine, for people to run: the command, and the local path it has then."""

    command: str
    local: Path
    is_file: bool


class Address(NamedTuple):
    """One address, understood. given: as the user wrote it. path: for messages; a query, which may hold a signature,
    is left out. url: of the file, or of the directory without a slash at the end. query: sent with a file's url.
    """

    given: str
    path: RemotePath
    url: str
    query: str
    is_file: bool
    download: Download


def parse_address(text: str, *, endpoint: str = DEFAULT_ENDPOINT, allows_plain_http: bool = False) -> Address:
    """The address in `text`; `endpoint` is the hub that `hf://` stands for.

    Raises UsageError for other schemes, a repository name that cannot be one, credentials in the address, and plain
    http to another machine unless `allows_plain_http`.
    """
    endpoint = endpoint.rstrip("/")
    check_url(endpoint, allows_plain_http, what="the endpoint of the hub")
    scheme, _, rest = text.partition("://")
    if scheme.lower() == "hf":
        return _in_hub(text, [unquote(part) for part in rest.split("/") if part], endpoint)
    parts = check_url(text, allows_plain_http)
    if text.startswith(endpoint + "/") and (segments := _hub_segments(text, endpoint)) is not None:
        return _in_hub(text, segments, endpoint)
    path = quote(parts.path, safe=KEPT_CHARACTERS).rstrip("/")
    url = f"{parts.scheme}://{parts.netloc}{path}"
    return _elsewhere(text, url, parts.query)


def check_url(url: str, allows_plain_http: bool, what: str = "the address") -> SplitResult:
    """The parts of an http(s) address that may be asked; UsageError otherwise."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
        _ = parts.port
    except ValueError as error:
        raise UsageError(f"{what} cannot be read", expected=_FORMS, found=f"{shown(url)}: {error}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise UsageError(f"{what} is none that is read", expected=_FORMS, found=shown(url))
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            f"{what} holds a user name or password",
            expected="an address without them; a token goes into the environment variable HF_TOKEN",
            found=f"{parts.scheme}://…@{host}",
        )
    if parts.scheme == "http" and not (allows_plain_http or is_loopback(host)):
        raise UsageError(
            f"{what} is not encrypted, so anyone on the way could answer in place of the server",
            expected="https://, or http:// on this machine",
            found=shown(url),
            remedy="use https, or add --plain-http where you trust the network",
        )
    return parts


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine by name or number; names are not looked up."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def shown(url: str) -> str:
    """`url` for messages: without its query, which may hold a signature."""
    start, separator, _ = url.partition("?")
    return f"{start}?…" if separator else start


def child_url(url: str, name: str) -> str:
    """The address of the file `name` (which may come from an untrusted file) in the directory at `url`."""
    return f"{url}/{quote(name, safe='/')}"


def _hub_segments(text: str, endpoint: str) -> list[str] | None:
    """The parts of `hf://` that a page of the hub stands for: `org/name`, or `org/name/tree/revision/...`."""
    segments = [unquote(part) for part in urlsplit(text).path[len(urlsplit(endpoint).path) :].split("/") if part]
    if len(segments) == 2:
        return segments
    if len(segments) > 3 and segments[2] in _PAGE_WORDS:
        organisation, name, _, revision, *inside = segments
        return [organisation, f"{name}@{revision}", *inside]
    return None


def _in_hub(given: str, segments: list[str], endpoint: str) -> Address:
    count = 1 if len(segments) == 1 or "@" in (segments[0] if segments else "") else 2
    if segments[count - 1 : count] and segments[count - 1].endswith("@refs"):  # As refs/pr/12, a revision of the hub.
        count += 2
    joined = "/".join(segments[:count])
    repository, has_revision, revision = joined.partition("@")
    names, inside = repository.split("/"), segments[count:]
    if (
        not all(_REPOSITORY_PART.fullmatch(name) for name in names)
        or names[0] in _OTHER_REPOSITORIES
        or (has_revision and not revision)
        or any(part in (".", "..") or not part.isprintable() for part in (revision, *inside))
    ):
        raise UsageError("the address names no model of the hub", expected=_FORMS, found=given)
    url = f"{endpoint}/{repository}/resolve/{quote(revision or DEFAULT_REVISION, safe='')}"
    url = child_url(url, "/".join(inside)) if inside else url
    is_file = bool(inside) and inside[-1].endswith(FILE_SUFFIXES)
    local = Path(names[-1], *inside)
    words = ["hf", "download", repository]
    if inside:
        words += ["/".join(inside)] if is_file else ["--include", "/".join([*inside, "*"])]
    words += ["--revision", revision] if revision else []
    download = Download(shlex.join([*words, "--local-dir", names[-1]]), local, is_file)
    return Address(given, RemotePath("hf:", joined, *inside), url, "", is_file, download)


def _elsewhere(given: str, url: str, query: str) -> Address:
    scheme, _, rest = url.partition("://")
    host, *segments = rest.split("/")
    name = unquote(segments[-1]) if segments else host
    path = RemotePath(f"{scheme}:", host, *segments)
    if name.endswith(FILE_SUFFIXES) and not given.endswith("/"):
        sent = f"{url}?{query}" if query else url
        command = f"curl -fL -o {shlex.quote(name)} {shlex.quote(shown(sent))}"
        return Address(given, path, url, query, True, Download(command, Path(name), True))
    download = Download(f"download the files of {url} into {shlex.quote(name)}", Path(name), False)
    return Address(given, path, url, query, False, download)
