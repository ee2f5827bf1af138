"""gzip with a bound: what comes out is counted against what went in, and against a total."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

from apps.registry.archives.errors import Bomb, Malformed, Truncated

GZIP = b"\x1f\x8b"
#: What readers might know and Berth does not take, by its first bytes.
OTHERS = {b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ\x00": "xz", b"BZh": "bzip2", b"PK\x03\x04": "zip"}
#: gzip reaches 1000 with zeros; programs and libraries reach 2 to 5. Not asked of the first bytes.
MAX_RATIO = 100
RATIO_AFTER = 64 << 20
#: A gzip file may be many one after the other (eStargz has one for each file); each costs some microseconds.
MAX_STREAMS = 100_000
_IN, _OUT = 1 << 16, 1 << 20


class Budget:
    """How many bytes may still come out of all that one archive packs."""

    def __init__(self, total: int) -> None:
        self.left = total

    def spend(self, count: int) -> None:
        """Raises Bomb."""
        self.left -= count
        if self.left < 0:
            raise Bomb("Unpacked, the archive would hold more than the platform takes.")


def packing_of(head: bytes) -> str:
    """The name of the compression that these first bytes belong to; empty for none that is known."""
    if head.startswith(GZIP):
        return "gzip"
    return next((name for magic, name in OTHERS.items() if head.startswith(magic)), "")


def gunzip(chunks: Iterable[bytes], budget: Budget) -> Iterator[bytes]:
    """At most 1 MiB at a time. Raises Bomb, Truncated, Malformed."""
    streams, read, written = 1, 0, 0
    stream = zlib.decompressobj(16 + zlib.MAX_WBITS)
    for chunk in chunks:
        for begin in range(0, len(chunk), _IN):
            waiting = chunk[begin : begin + _IN]
            read += len(waiting)
            while waiting:
                if stream.eof:
                    streams += 1
                    if streams > MAX_STREAMS:
                        raise Bomb("A compressed file of the archive is cut into too many pieces.")
                    stream = zlib.decompressobj(16 + zlib.MAX_WBITS)
                out = _out(stream, waiting)
                waiting = stream.unused_data if stream.eof else stream.unconsumed_tail
                written += len(out)
                if written > RATIO_AFTER and written > MAX_RATIO * read:
                    raise Bomb(f"A file of the archive unpacks to more than {MAX_RATIO} times its size.")
                budget.spend(len(out))
                if out:
                    yield out
    # The last bytes that went in may have more to give than one turn took.
    while not stream.eof and (out := _out(stream, b"")):
        budget.spend(len(out))
        yield out
    if not stream.eof:
        raise Truncated("A compressed file of the archive ends too early.")


def _out(stream: zlib._Decompress, waiting: bytes) -> bytes:
    try:
        return stream.decompress(waiting, _OUT)
    except zlib.error:
        raise Malformed("A compressed file of the archive is damaged.") from None
