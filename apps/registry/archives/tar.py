"""The table of contents of a tar that somebody sent: read strictly, nothing is extracted, memory is bounded.

Not Python's tarfile: that reads extended headers of any size into memory, passes over what it cannot read, and lets the
last of several entries of one name win. Sources: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Header Block";
GNU tar manual, "Basic Tar Format".
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from apps.registry.archives.errors import EntryRefused, Malformed, NotAnArchive, TooMuch, Truncated, shown

BLOCK = 512
CHUNK = 1 << 20
#: A ``docker save`` has three entries for each layer, an OCI layout one for each blob.
MAX_ENTRIES = 10_000
MAX_NAME = 512
#: Extended headers hold names, times and attributes.
MAX_EXTENDED = 64 * 1024

_FILE, _DIRECTORY, _SYMLINK, _HARDLINK = b"0\0", b"5", b"2", b"1"
_PAX, _LONG_NAME, _LONG_LINK = b"x", b"L", b"K"
_REFUSED = {
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a named pipe",
    b"S": "a sparse file",
    b"g": "a global extended header",
}


@dataclass(frozen=True, slots=True)
class Member:
    """Where a file's bytes lie in the archive."""

    offset: int
    size: int


@dataclass(slots=True)
class _Extended:
    """What the headers before an entry say of it."""

    name: str | None = None
    target: str | None = None
    size: int | None = None

    def __bool__(self) -> bool:
        return self.name is not None or self.target is not None or self.size is not None


@dataclass(frozen=True, slots=True)
class Archive:
    """Files by name, and links (name -> the file that it names). The file stays open as long as its owner wants."""

    file: BinaryIO
    files: dict[str, Member]
    links: dict[str, str]

    def find(self, name: str) -> Member | None:
        """The file of this name, or the one that a link of this name leads to: one step, and inside the archive."""
        return self.files.get(name) or self.files.get(self.links.get(name, ""))

    def chunks(self, member: Member) -> Iterator[bytes]:
        """Its bytes, CHUNK at a time. Raises Truncated where the file became shorter meanwhile."""
        at, end = member.offset, member.offset + member.size
        while at < end:
            self.file.seek(at)
            part = self.file.read(min(CHUNK, end - at))
            if not part:
                raise Truncated("The archive ends in the middle of a file.")
            at += len(part)
            yield part


def plain_name(name: str) -> str:
    """Without a leading ``./``. Raises EntryRefused for what could lead out of the archive, or mean two things."""
    while name.startswith("./"):
        name = name[2:]
    if not name or len(name) > MAX_NAME:
        raise EntryRefused("The archive has an entry without a name, or with one that is too long.")
    if any(ord(character) < 32 or ord(character) == 127 for character in name) or "\\" in name:
        raise EntryRefused(
            f"The archive has an entry whose name holds control characters or backslashes: {shown(name)}."
        )
    if name.startswith("/"):
        raise EntryRefused(f"The archive has an entry with an absolute name: {shown(name)}.")
    if any(part in ("", ".", "..") for part in name.split("/")):
        raise EntryRefused(f"The archive has an entry whose name leads elsewhere: {shown(name)}.")
    return name


def read_contents(file: BinaryIO, size: int, pace: Callable[[int], None] = lambda n: None) -> Archive:
    """The archive's files and links. ``pace`` is called now and then with bytes read, and may raise to stop.

    Raises NotAnArchive, Truncated, Malformed, EntryRefused, TooMuch.
    """
    return _Reader(file, size, pace).run()


class _Reader:
    def __init__(self, file: BinaryIO, size: int, pace: Callable[[int], None]) -> None:
        self.file = file
        self.size = size
        self.pace = pace
        self.at = 0
        self.files: dict[str, Member] = {}
        self.links: dict[str, str] = {}
        self.directories: set[str] = set()
        self.extended = _Extended()

    def run(self) -> Archive:
        entries = 0
        while (header := self._block()).strip(b"\0"):
            entries += 1
            if entries > MAX_ENTRIES:
                raise TooMuch(f"The archive has more than {MAX_ENTRIES} entries.")
            self._entry(header)
            self.pace(BLOCK)
        if self.extended:
            raise Malformed("The archive ends after an extended header, before its entry.")
        self._only_zeros()
        for name, target in self.links.items():
            if target not in self.files:
                raise EntryRefused(f"A link leads to no file of the archive: {shown(name)} to {shown(target)}.")
        return Archive(self.file, self.files, self.links)

    def _block(self) -> bytes:
        self.file.seek(self.at)
        block = self.file.read(BLOCK)
        if len(block) < BLOCK:
            if self.at == 0:
                raise NotAnArchive("This is no tar archive: it is shorter than one header.")
            raise Truncated("The archive ends before its end mark. Was it sent whole?")
        self.at += BLOCK
        return block

    def _only_zeros(self) -> None:
        """What follows the end mark is padding. Another reader might find a second archive there."""
        self.file.seek(self.at)
        while part := self.file.read(CHUNK):
            self.pace(len(part))
            if part.strip(b"\0"):
                raise Malformed("Something follows the end of the archive.")

    def _entry(self, header: bytes) -> None:
        self._check_sum(header)
        kind = header[156:157]
        if kind in _REFUSED:
            raise EntryRefused(f"The archive has an entry that no image needs: {_REFUSED[kind]}.")
        size = _number(header[124:136])
        if kind in (_PAX, _LONG_NAME, _LONG_LINK):
            self._extend(kind, size)
            return
        extended, self.extended = self.extended, _Extended()
        if extended.size is not None and extended.size != size:
            # Readers that heed only one of the two would see different entries from here on.
            raise Malformed("The archive has an entry with two sizes.")
        raw = extended.name if extended.name is not None else _name(header)
        target = extended.target if extended.target is not None else _text(header[157:257])
        if kind == _DIRECTORY or (kind in _FILE and raw.endswith("/")):
            self._no_content(size, "a directory")
            self._directory(raw.rstrip("/"))
        elif kind in _FILE:
            name = self._new_name(raw)
            self.files[name] = Member(self.at, size)
            self._skip(size)
        elif kind in (_SYMLINK, _HARDLINK):
            self._no_content(size, "a link")
            name = self._new_name(raw)
            self.links[name] = _target(name, target) if kind == _SYMLINK else plain_name(target)
        else:
            raise EntryRefused(
                f"The archive has an entry of a kind that no image needs: {shown(kind.decode('latin-1'))}."
            )

    def _check_sum(self, header: bytes) -> None:
        expected = 256 + sum(header[:148]) + sum(header[156:])
        try:
            told = _number(header[148:156])
        except Malformed:
            told = -1
        if told != expected:
            if self.at == BLOCK:
                raise NotAnArchive("This is no tar archive: its first header can't be read.")
            raise Malformed("A header of the archive is damaged: its check sum is wrong.")

    def _skip(self, size: int) -> None:
        end = self.at + size + (-size % BLOCK)
        if end > self.size:
            raise Truncated("The archive ends in the middle of a file. Was it sent whole?")
        self.at = end

    @staticmethod
    def _no_content(size: int, what: str) -> None:
        if size:
            raise Malformed(f"The archive has {what} with content.")

    def _directory(self, raw: str) -> None:
        if raw in ("", "."):
            return
        name = plain_name(raw)
        if name in self.files or name in self.links:
            raise EntryRefused(f"The archive has two entries of one name: {shown(name)}.")
        self.directories.add(name)

    def _new_name(self, raw: str) -> str:
        name = plain_name(raw)
        if name in self.files or name in self.links or name in self.directories:
            raise EntryRefused(f"The archive has two entries of one name: {shown(name)}.")
        return name

    def _extend(self, kind: bytes, size: int) -> None:
        if size > MAX_EXTENDED:
            raise TooMuch(f"The archive has an extended header of more than {MAX_EXTENDED} bytes.")
        begin = self.at
        self._skip(size)
        self.file.seek(begin)
        content = self.file.read(size)
        if kind == _LONG_NAME:
            self._say("name", _utf8(content.removesuffix(b"\0")))
        elif kind == _LONG_LINK:
            self._say("target", _utf8(content.removesuffix(b"\0")))
        else:
            for key, value in _records(content):
                if key == b"path":
                    self._say("name", _utf8(value))
                elif key == b"linkpath":
                    self._say("target", _utf8(value))
                elif key == b"size":
                    if not value.isdigit() or len(value) > 18:
                        raise Malformed("The archive has an entry whose size is no number.")
                    self._say("size", int(value))
                elif key.startswith(b"GNU.sparse"):
                    raise EntryRefused("The archive has an entry that no image needs: a sparse file.")
                elif key == b"hdrcharset" and value != b"ISO-IR 10646 2000 UTF-8":
                    raise EntryRefused("The archive has names that are not in UTF-8.")

    def _say(self, what: str, value: str | int) -> None:
        if getattr(self.extended, what) is not None:
            raise Malformed("The archive says the same of an entry twice.")
        setattr(self.extended, what, value)


def _records(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """``LENGTH KEY=VALUE\\n``, where LENGTH counts the whole record."""
    while content:
        length, space, _ = content[:12].partition(b" ")
        if not space or not length.isdigit() or not 5 <= int(length) <= len(content):
            raise Malformed("An extended header of the archive can't be read.")
        record, content = content[len(length) + 1 : int(length)], content[int(length) :]
        key, equals, value = record.partition(b"=")
        if not equals or not value.endswith(b"\n"):
            raise Malformed("An extended header of the archive can't be read.")
        yield key, value[:-1]


def _number(field: bytes) -> int:
    """Octal digits, or (GNU) base 256 where the first bit is set; there the second one means less than zero."""
    if field[0] & 0x80:
        if field[0] != 0x80:
            raise Malformed("The archive has an entry with a size below zero.")
        return int.from_bytes(field[1:])
    digits = field.strip(b" \0")
    if digits.strip(b"01234567"):
        raise Malformed("The archive has a header with a number that is none.")
    return int(digits or b"0", 8)


def _utf8(raw: bytes) -> str:
    if b"\0" in raw:
        raise EntryRefused("The archive has an entry whose name holds a zero byte.")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise EntryRefused("The archive has names that are not in UTF-8.") from None


def _text(field: bytes) -> str:
    return _utf8(field.partition(b"\0")[0])


def _name(header: bytes) -> str:
    name = _text(header[:100])
    # GNU's old format keeps other things where POSIX has the prefix; the magic tells the two apart.
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _target(name: str, target: str) -> str:
    """What a symbolic link names, from the top of the archive."""
    if target.startswith("/"):
        raise EntryRefused(f"The archive has a link that leads out of it: {shown(name)}.")
    joined = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
    if joined == ".." or joined.startswith("../"):
        raise EntryRefused(f"The archive has a link that leads out of it: {shown(name)}.")
    return plain_name(joined)
