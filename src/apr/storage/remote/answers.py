"""What an answer to a request for a range must be before its bytes are taken: RFC 9110, sections 14.4 and 15.3.7."""

from __future__ import annotations

import re
from typing import NamedTuple

from apr.errors import AprError, InputOutputError, NotFoundError, RefusedError
from apr.storage.remote.address import shown
from apr.storage.remote.exchange import Reply, TryAgainError

WORTH_ANOTHER_TRY = frozenset({408, 425, 429, 500, 502, 503, 504})

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")
_EMPTY_FILE = re.compile(r"bytes \*/0")
_EXISTS_ID = "FALSIFY-APR-PRETRAIN-INIT-003"


class Part(NamedTuple):
    """A range of a file. size_bytes: of the whole file. tag: names this version of it, None where none is given.

    url: where it was read in the end, behind all redirects.
    """

    data: bytes
    size_bytes: int
    tag: str | None
    url: str


def part_in(reply: Reply, offset_bytes: int, size_bytes: int, most_whole_bytes: int | None) -> Part | None:
    """The range that was asked for; None for a file that is not there.

    Raises RefusedError for an answer that cannot be trusted, InputOutputError where access is denied.
    """
    if reply.status in (404, 410):
        _check_absent(reply)
        return None
    if reply.status == 416 and offset_bytes == 0 and _EMPTY_FILE.fullmatch(reply.header("Content-Range") or ""):
        return Part(b"", 0, _tag(reply), reply.url)
    if reply.status not in (200, 206):
        raise _failure(reply)
    if reply.header("Content-Encoding") not in (None, "identity"):
        raise untrusted(
            "the server compresses the file, so its bytes cannot be counted",
            reply.url,
            expected="the file as it is",
            found=f"Content-Encoding: {reply.header('Content-Encoding')}",
        )
    if reply.status == 200:
        part = _whole(reply, offset_bytes, size_bytes, most_whole_bytes)
    else:
        part = _range(reply, offset_bytes, size_bytes)
    if (reply.header("Content-Type") or "").startswith("text/html") and part.data.lstrip()[:1] == b"<":
        raise untrusted(
            "the server answers with a web page, not with a file of a model",
            reply.url,
            expected="the address of the file itself",
            found="Content-Type: text/html",
        )
    return part


def untrusted(what: str, url: str, *, expected: str, found: str) -> RefusedError:
    """The refusal of an answer that contradicts what was asked, or itself."""
    remedy = "check the address; if the server is at fault, download the model first and name the local path"
    return RefusedError(what, where=shown(url), expected=expected, found=found, remedy=remedy)


def _range(reply: Reply, offset_bytes: int, size_bytes: int) -> Part:
    text = reply.header("Content-Range") or ""
    found = _CONTENT_RANGE.fullmatch(text)
    if found is None:
        raise untrusted(
            "the server does not say which bytes it sends",
            reply.url,
            expected="Content-Range: bytes FIRST-LAST/SIZE",
            found=f"{text!r:.80}",
        )
    first, last, whole_bytes = map(int, found.groups())
    wanted = min(offset_bytes + size_bytes, whole_bytes) - 1
    if (first, last) != (offset_bytes, wanted) or last < first:
        raise untrusted(
            "the server sends other bytes than were asked for",
            reply.url,
            expected=f"bytes {offset_bytes}-{wanted} of {whole_bytes}",
            found=text,
        )
    length = last - first + 1
    declared = reply.header("Content-Length")
    if declared is not None and declared.strip() != str(length):
        raise _other_length(reply, length, f"Content-Length: {declared:.40}")
    data = reply.body(length if declared is not None else length + 1)
    if len(data) < length:
        raise TryAgainError(
            InputOutputError(
                "the connection ended before the answer did",
                where=shown(reply.url),
                expected=f"{length} bytes",
                found=f"{len(data)} bytes",
                remedy="run again; if it stays so, the server is at fault",
            )
        )
    if len(data) > length:
        raise _other_length(reply, length, "more")
    return Part(data, whole_bytes, _tag(reply), reply.url)


def _whole(reply: Reply, offset_bytes: int, size_bytes: int, most_whole_bytes: int | None) -> Part:
    """The range out of a whole file, which a server without ranges sends; a large one is cut off unread."""
    if most_whole_bytes is None:
        return Part(reply.body(size_bytes), size_bytes, _tag(reply), reply.url)
    declared = reply.header("Content-Length")
    if declared is not None and declared.strip().isdecimal() and int(declared) > most_whole_bytes:
        raise _ignores_ranges(reply, most_whole_bytes, f"the whole file, {int(declared)} bytes")
    data = reply.body(most_whole_bytes + 1)
    if len(data) > most_whole_bytes:
        raise _ignores_ranges(reply, most_whole_bytes, "more, without an end")
    return Part(data[offset_bytes : offset_bytes + size_bytes], len(data), _tag(reply), reply.url)


def _ignores_ranges(reply: Reply, most_whole_bytes: int, found: str) -> RefusedError:
    return untrusted(
        "the server does not serve ranges, and would send the whole file",
        reply.url,
        expected=f"206 Partial Content, or a file of at most {most_whole_bytes} bytes",
        found=found,
    )


def _other_length(reply: Reply, length: int, found: str) -> RefusedError:
    what = "the server sends another number of bytes than it says"
    return untrusted(what, reply.url, expected=f"{length} bytes", found=found)


def _tag(reply: Reply) -> str | None:
    """The strong entity tag; a weak one does not promise equal bytes."""
    tag = reply.header("ETag")
    return None if tag is None or tag.startswith("W/") else tag


def _check_absent(reply: Reply) -> None:
    """Raise NotFoundError when the hub says that it is the revision or the whole repository that is not there."""
    code = reply.header("X-Error-Code") or ""
    if code in ("RepoNotFound", "RevisionNotFound"):
        raise _no_such(code, reply)


def _no_such(code: str, reply: Reply) -> NotFoundError:
    is_revision = code == "RevisionNotFound"
    return NotFoundError(
        "the repository has no such revision" if is_revision else "no such repository, or one that is not open to you",
        where=shown(reply.url),
        invariant=_EXISTS_ID,
        remedy="check the revision" if is_revision else "check the name; for a private repository set HF_TOKEN",
    )


def _failure(reply: Reply) -> Exception:
    code = reply.header("X-Error-Code") or ""
    if code == "RepoNotFound":
        return _no_such(code, reply)
    if reply.status in WORTH_ANOTHER_TRY:
        what = "the server asks for fewer requests" if reply.status == 429 else "the server fails"
        return TryAgainError(_denied(what, reply, "run again later"), _wanted_wait_s(reply))
    if reply.status in (401, 403, 407):
        remedy = (
            "accept the conditions of the model on its page, then set HF_TOKEN to your token"
            if code == "GatedRepo"
            else "set HF_TOKEN to a token that may read the repository, or check your rights"
        )
        return _denied("the server does not let you read this", reply, remedy)
    expected = "206 Partial Content, a redirect, or 404"
    return untrusted("the server gives an answer of no use", reply.url, expected=expected, found=f"{reply.status}")


def _denied(what: str, reply: Reply, remedy: str) -> AprError:
    code = reply.header("X-Error-Code")
    found = f"status {reply.status}" + (f", {code:.40}" if code else "")
    return InputOutputError(what, where=shown(reply.url), found=found, remedy=remedy)


def _wanted_wait_s(reply: Reply) -> float | None:
    """Seconds of `Retry-After`; a date there counts as nothing said."""
    text = (reply.header("Retry-After") or "").strip()
    return float(text) if text.isdecimal() and len(text) < 6 else None
