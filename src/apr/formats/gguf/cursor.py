"""Reading a GGUF header from front to back through one small window, with every length checked before it is used."""

from __future__ import annotations

import struct

from apr.errors import DamagedFileError
from apr.formats.damage import damaged
from apr.formats.gguf.layout import LONGEST_HEADER_BYTES, U32, U64
from apr.formats.gguf.walked import known_size, remember
from apr.storage.reading import SourceFile

FIRST_WINDOW_BYTES, WINDOW_BYTES = 16 << 10, 256 << 10
"""The first window is small, as most of a small header on another machine would be read for nothing."""


class Cursor:
    """A position in the header of `file`; memory stays at one window whatever the header holds."""

    def __init__(self, file: SourceFile, position: int) -> None:
        self.file = file
        self.position = position
        self._end = min(file.size_bytes, LONGEST_HEADER_BYTES)
        self._window = b""
        self._window_start = position
        self._next_bytes = FIRST_WINDOW_BYTES

    @property
    def left_bytes(self) -> int:
        """Bytes that a header may still take."""
        return self._end - self.position

    def complain(self, what: str, expected: str, found: str, place: str | None = None) -> DamagedFileError:
        """The error for what stands at the position."""
        path, position = self.file.path, self.position
        return damaged(what, path=path, place=place, offset_bytes=position, expected=expected, found=found)

    def u32(self, what: str) -> int:
        return int(U32.unpack(self.take(U32.size, what))[0])

    def u64(self, what: str) -> int:
        return int(U64.unpack(self.take(U64.size, what))[0])

    def take(self, size_bytes: int, what: str) -> bytes:
        """The next bytes; `what` names them in the error when the file ends before they do."""
        self._check(size_bytes, what)
        start = self.position - self._window_start
        if not 0 <= start <= len(self._window) - size_bytes:
            if size_bytes > WINDOW_BYTES:
                data = self.file.read_at(self.position, size_bytes, what)
                self.position += size_bytes
                return data
            self._refill(size_bytes)
            start = 0
        self.position += size_bytes
        return self._window[start : start + size_bytes]

    def skip(self, size_bytes: int, what: str) -> None:
        self._check(size_bytes, what)
        self.position += size_bytes

    def text(self, what: str, most_bytes: int | None = None) -> str:
        """A string of UTF-8, its length first."""
        length = self.u64(f"the length of {what}")
        if most_bytes is not None and length > most_bytes:
            raise self.complain(f"{what} is longer than the format allows", f"at most {most_bytes} bytes", f"{length}")
        raw = self.take(length, what)
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            self.position -= length
            raise self.complain(f"{what} is not UTF-8", "UTF-8 text", f"{raw[:40]!r}") from error

    def skip_texts(self, count: int, what: str) -> None:
        """Step over `count` strings, whose lengths are all that is looked at."""
        start = self.position
        known_bytes = known_size(self.file, start, count, self._end)
        if known_bytes is not None:
            self.position += known_bytes
            return
        self._walk_texts(count, what)
        remember(self.file, start, count, self.position - start)

    def _walk_texts(self, count: int, what: str) -> None:
        unpack, width, left = U64.unpack_from, U64.size, count
        while left:
            self._check(width, what)
            self._refill(width)
            window, at, remaining = self._window, 0, left
            try:
                # The loop runs for every token of a vocabulary: the end of the window is left to `unpack` to find.
                for remaining in range(left, 0, -1):  # noqa: B007 - used when the window ends
                    at += width + unpack(window, at)[0]
                left = 0
            except (struct.error, OverflowError):
                left = remaining
            self.position += at
            if self.position > self._end:
                raise self.complain(
                    f"{what} lies outside the file", f"strings that end before byte {self._end}", "a longer one"
                )

    def _check(self, size_bytes: int, what: str) -> None:
        if size_bytes > self.left_bytes:
            is_cut = self._end == self.file.size_bytes
            raise self.complain(
                f"the file ends inside {what}" if is_cut else f"{what} lies outside what a header may take",
                f"{size_bytes} bytes",
                f"{self.left_bytes} bytes before the "
                + ("end of the file" if is_cut else f"{self._end:,} of a header"),
            )

    def _refill(self, least_bytes: int) -> None:
        size_bytes = min(max(self._next_bytes, least_bytes), self.left_bytes)
        self._next_bytes = min(4 * self._next_bytes, WINDOW_BYTES)
        self._window = self.file.read_at(self.position, size_bytes, "the header")
        self._window_start = self.position
