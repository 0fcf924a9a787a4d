"""Files and directories on other machines, read through the same calls as local ones, by ranges."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from apr.errors import InputOutputError, NotFoundError, RefusedError, UsageError
from apr.storage.reading import MOST_FILES, NOTHING_KNOWN, HeldDirectory, SourceFile
from apr.storage.remote.address import Address, RemotePath, child_url
from apr.storage.remote.answers import Part
from apr.storage.remote.client import Client
from apr.storage.remote.traffic import Traffic

READ_AHEAD_BYTES = 32 << 10
"""Read at least; the headers of most files fit, and a file that is not needed after all costs no more."""

_LEAST_BYTES, _MOST_FIRST_BYTES = 4 << 10, 1 << 20

MOST_READ_BYTES = 64 << 20
"""No header, index or config is larger; whoever asks for more is misled by a file."""

_MOST_KEPT_BYTES = 8 << 20

# A server without ranges sends files whole: only those that are small by their kind are taken from it.
_MOST_WHOLE_JSON_BYTES = 16 << 20
_MOST_WHOLE_BYTES = 1 << 20

_WORKERS = 8
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class RemoteFile(SourceFile):
    """A file of which ranges are read when they are asked for; what was read stays until `close`.

    The size is the one the server named first; an answer that names another, or another version, ends the reading.
    Raises NotFoundError when it is not there, and as `Client.read_range`.
    """

    is_remote = True

    def __init__(
        self, path: RemotePath, url: str, client: Client, traffic: Traffic, *, first_bytes: int = READ_AHEAD_BYTES
    ) -> None:
        self.path: RemotePath = path
        self._descriptor = -1
        self._url = url
        self._client = client
        self._traffic = traffic
        is_json = path.name.endswith(".json")
        self._most_whole_bytes = _MOST_WHOLE_JSON_BYTES if is_json else _MOST_WHOLE_BYTES
        self._blocks: list[tuple[int, bytes]] = []
        self._reads = 0
        part = self._part(url, 0, min(max(first_bytes, _LEAST_BYTES), _MOST_FIRST_BYTES))
        if part is None:
            raise _not_there(path)
        self.size_bytes, self._tag, self._direct_url = part.size_bytes, part.tag, part.url
        self._blocks.append((0, part.data))

    def fileno(self) -> int:
        raise UsageError(f"{self.path} is on another machine", remedy="download it first, and name the local path")

    def close(self) -> None:
        self._blocks.clear()

    def sibling(self, name: str) -> SourceFile:
        address, separator, query = self._url.partition("?")
        url = child_url(address.rpartition("/")[0], name) + separator + query
        return RemoteFile(self.path.parent / name, url, self._client, self._traffic)

    def read_at(self, offset_bytes: int, size_bytes: int, what: str = "a section") -> bytes:
        self.check_extent(offset_bytes, size_bytes, what)
        for start, data in self._blocks:
            if start <= offset_bytes and offset_bytes + size_bytes <= start + len(data):
                return data[offset_bytes - start : offset_bytes - start + size_bytes]
        if size_bytes > MOST_READ_BYTES:
            raise RefusedError(
                f"{what} is larger than anything that is fetched over the network",
                where=str(self.path),
                expected=f"at most {MOST_READ_BYTES} bytes",
                found=f"{size_bytes} bytes",
                remedy="download the model first, and name the local path",
            )
        head = self._head_of(offset_bytes)
        start = offset_bytes + len(head)
        # A header that is read piece by piece is a long one.
        ahead_bytes = READ_AHEAD_BYTES << min(self._reads, 5)
        data = self._fetch(start, min(max(size_bytes - len(head), ahead_bytes), self.size_bytes - start))
        self._blocks.append((offset_bytes, head + data))
        self._reads += 1
        while len(self._blocks) > 2 and sum(len(block) for _, block in self._blocks) > _MOST_KEPT_BYTES:
            del self._blocks[1]
        return self._blocks[-1][1][:size_bytes]

    def _head_of(self, offset_bytes: int) -> bytes:
        """What was read already from `offset_bytes` on, as far as it goes."""
        heads = (data[offset_bytes - start :] for start, data in self._blocks if 0 <= offset_bytes - start < len(data))
        return max(heads, key=len, default=b"")

    def read_into(self, offset_bytes: int, target: memoryview, what: str = "a section") -> None:
        self.check_extent(offset_bytes, len(target), what)
        if len(target):
            target[:] = self._fetch(offset_bytes, len(target))

    def _fetch(self, offset_bytes: int, size_bytes: int) -> bytes:
        part = None
        if self._direct_url != self._url:
            try:  # Straight to where the redirect led, which may be an address that expires.
                part = self._part(self._direct_url, offset_bytes, size_bytes)
            except (InputOutputError, RefusedError):
                part = None
        part = part or self._part(self._url, offset_bytes, size_bytes)
        if part is None:
            raise _not_there(self.path)
        if part.size_bytes != self.size_bytes or part.tag != self._tag:
            raise InputOutputError(
                "the file changed while it was read, or the servers behind the address disagree",
                where=str(self.path),
                expected=f"{self.size_bytes} bytes, version {self._tag}",
                found=f"{part.size_bytes} bytes, version {part.tag}",
                remedy="run again",
            )
        self._direct_url = part.url
        return part.data

    def _part(self, url: str, offset_bytes: int, size_bytes: int) -> Part | None:
        return self._client.read_range(
            url, offset_bytes, size_bytes, self._traffic, most_whole_bytes=self._most_whole_bytes
        )


class RemoteDirectory(HeldDirectory):
    """Files under one address. They cannot be listed: a file is there when the server serves it."""

    is_remote = True

    def __init__(self, address: Address, client: Client, traffic: Traffic) -> None:
        self.path: RemotePath = address.path
        self.local_name = str(address.download.local)
        self._descriptor = -1
        self._url = address.url
        self._client = client
        self._traffic = traffic
        self._files: dict[str, RemoteFile | None] = {}

    def fileno(self) -> int:
        raise UsageError(f"{self.path} is on another machine", remedy="download it first, and name the local path")

    def close(self) -> None:
        self._files.clear()

    def expect(self, names: Iterable[str], likely_bytes: Mapping[str, int] = NOTHING_KNOWN) -> None:
        """Open the files under `names` side by side, those that are there; later calls for them cost nothing."""
        wanted = [
            (name, likely_bytes.get(name, READ_AHEAD_BYTES)) for name in dict.fromkeys(names) if name not in self._files
        ]
        if len(wanted) > MOST_FILES:
            raise RefusedError(
                "an index names more files than any model has",
                where=str(self.path),
                expected=f"at most {MOST_FILES} files",
                found=f"{len(wanted)} files",
                remedy="download the model first, and name the local path",
            )
        opened = _side_by_side(self._opened, wanted)
        self._files.update((name, file) for (name, _), file in zip(wanted, opened, strict=True))

    def has(self, name: str) -> bool:
        self.expect([name])
        return self._files[name] is not None

    def holds(self, name: str) -> bool:
        return self.has(name)

    def open(self, name: str) -> SourceFile:
        self.expect([name])
        file = self._files[name]
        if file is None:
            raise _not_there(self.path / name)
        return file

    def names(self, known: Iterable[str] = ()) -> list[str]:
        """Those of `known` that are there, sorted; asked for a byte each."""
        names = [name for name in dict.fromkeys(known) if self._files.get(name, "unknown") is not None]
        return sorted(name for name, there in zip(names, _side_by_side(self._is_there, names), strict=True) if there)

    def _is_there(self, name: str) -> bool:
        if name in self._files:
            return self._files[name] is not None
        return self._client.exists(child_url(self._url, name), self._traffic)

    def _opened(self, wanted: tuple[str, int]) -> RemoteFile | None:
        name, first_bytes = wanted
        url = child_url(self._url, name)
        try:
            return RemoteFile(self.path / name, url, self._client, self._traffic, first_bytes=first_bytes)
        except _NotThereError:
            return None


class _NotThereError(NotFoundError):
    """This one file is not there, which says nothing about the others."""


def _not_there(path: Path) -> NotFoundError:
    return _NotThereError(
        "no such file", where=str(path), invariant="FALSIFY-APR-PRETRAIN-INIT-003", remedy="check the address"
    )


def _side_by_side(work: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    if len(items) < 2:
        return [work(item) for item in items]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(_WORKERS, len(items))) as pool:
        return list(pool.map(work, items))
