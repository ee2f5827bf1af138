"""Lines of requests on their way into a Redis stream. Nobody waits for Redis: what does not fit is dropped and counted.

The listener's thread offers lines, which costs it a look-up for most of them; a thread of its own decodes and sends.
Where there are more than ``most_a_second``, each app that asks for more than its share has each n-th of its lines kept,
which says for how many it stands. So an app that is flooded does not take the others' lines.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

import redis
import structlog

from gateway.contract import ACCESS_STREAM, AccessLine, container_id
from gateway.contract.access import MOST_HOST, MOST_ID, MOST_METHOD, MOST_PATH, clean

#: Lines that wait for Redis: about 600 bytes each.
MOST_WAITING = 20_000
#: Lines of one command to Redis, and the longest that one may wait.
AT_ONCE = 500
PAUSE_SECONDS = 0.25
REDIS_SECONDS = 1.0
RETRY_SECONDS = 1.0
#: Until a second has passed nobody knows how many apps share it.
FIRST_SHARE = 100

_log = structlog.get_logger(__name__)

#: App, version, the line's words, how many requests it stands for, and when it came, in seconds since 1970.
Offered = tuple[str, str, Sequence[bytes], int, float]


class Stream(Protocol):
    """Raises redis.RedisError or OSError where Redis is away or slow."""

    def add(self, lines: Sequence[bytes]) -> None: ...

    def close(self) -> None: ...


class RedisStream:
    """Of about ``length`` entries: Redis drops the oldest ones."""

    def __init__(self, url: str, length: int) -> None:
        self._length = length
        self._client: Any = redis.Redis.from_url(
            url, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS, retry=None
        )

    def add(self, lines: Sequence[bytes]) -> None:
        with self._client.pipeline(transaction=False) as pipeline:
            for line in lines:
                pipeline.xadd(ACCESS_STREAM, {b"line": line}, maxlen=self._length, approximate=True)
            pipeline.execute()

    def close(self) -> None:
        self._client.close()


class _Share:
    """Of one app in one second. ``kept`` of ``seen`` lines; each ``every``-th from now on."""

    __slots__ = ("every", "kept", "second", "seen", "since")

    def __init__(self, second: int) -> None:
        self.second = second
        self.seen = self.kept = self.since = 0
        self.every = 1


class AccessLog:
    """`offer` is called by one thread; all else by any."""

    def __init__(
        self, gateway: str, stream: Stream, most_a_second: int, clock: Callable[[], float] = time.time
    ) -> None:
        self.sent = 0
        self.dropped = 0
        #: Lines that were left out because their app had its share: others stand for them.
        self.thinned = 0
        self._gateway = gateway
        self._stream = stream
        self._most = most_a_second
        self._clock = clock
        self._waiting: deque[Offered] = deque()
        self._shares: dict[str, _Share] = {}
        self._second = 0
        self._share = FIRST_SHARE
        self._said = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)

    def begin(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Sends what waits, if Redis takes it."""
        self._stopping.set()
        self._thread.join(2 * REDIS_SECONDS)
        self._stream.close()

    def health(self) -> dict[str, int]:
        return {"sent": self.sent, "thinned": self.thinned, "dropped": self.dropped, "waiting": len(self._waiting)}

    def offer(self, app: str, version: str, words: Sequence[bytes]) -> None:
        at = self._clock()
        second = int(at)
        if second != self._second:
            self._turn(second)
        share = self._shares.get(app)
        if share is None:
            share = self._shares[app] = _Share(second)
        elif share.second != second:
            # As many were asked for in its last second: the same again is expected.
            share.every = max(1, -(-share.seen // self._share))
            share.second, share.seen, share.kept = second, 0, 0
        share.seen += 1
        share.since += 1
        if share.since < share.every:
            self.thinned += 1
            return
        stands_for, share.since = share.since, 0
        share.kept += 1
        if share.kept >= self._share:
            # More than was expected: from here on half as many, and so on.
            share.kept //= 2
            share.every *= 2
        if len(self._waiting) >= MOST_WAITING:
            self.dropped += 1
            return
        self._waiting.append((app, version, words, stands_for, at))

    def _turn(self, second: int) -> None:
        """Whoever was silent in the last second leaves its share to the others."""
        for app in [app for app, share in self._shares.items() if share.second < second - 1]:
            del self._shares[app]
        self._share = max(1, self._most // max(1, len(self._shares)))
        self._second = second

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._stopping.wait(PAUSE_SECONDS)
            while self._waiting and self._send():
                pass

    def _send(self) -> bool:
        """Whether Redis took what waited longest. Where it did not, that is dropped, and it is left alone for a bit."""
        batch = []
        for _ in range(min(AT_ONCE, len(self._waiting))):
            try:
                batch.append(self._line(*self._waiting.popleft()).to_json())
            except ValueError:
                self.dropped += 1
        try:
            self._stream.add(batch)
        except Exception as error:
            # Whatever it is: nothing may end the thread.
            self.dropped += len(batch)
            if not self._said:
                _log.warning("access_log.not_sent", error=repr(error)[:200])
            self._said = True
            self._stopping.wait(RETRY_SECONDS)
            return False
        if self._said:
            _log.info("access_log.sent_again", dropped=self.dropped)
        self._said = False
        self.sent += len(batch)
        return True

    def _line(self, app: str, version: str, words: Sequence[bytes], sampled: int, at: float) -> AccessLine:
        """``words``: see gateway.traffic.ACCESS_FORMAT. The last four stand behind a ``=``, and are encoded."""
        numbers = [max(0, int(word)) for word in (words[3], words[5], words[6], words[9], words[10])]
        status, wait, took, bytes_in, bytes_out = numbers
        request, method, host, path = (_text(word) for word in words[12:16])
        server = words[2].decode("ascii")
        return AccessLine(
            at=int(at * 1000),
            gateway=self._gateway,
            app=app,
            version=version,
            container="" if server.startswith("<") else container_id(server),
            client=words[11].decode("ascii"),
            method=clean(method, MOST_METHOD),
            host=clean(host, MOST_HOST),
            path=clean(path, MOST_PATH),
            status=status,
            wait_ms=wait,
            took_ms=took,
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            request=clean(request, MOST_ID),
            sampled=sampled,
        )


def _text(word: bytes) -> str:
    """HAProxy writes what is not there as a dash; a dash that is there it leaves as it is, too."""
    text = unquote_to_bytes(word[1:]).decode("utf-8", "replace")
    return "" if text == "-" else text
