"""Asking instances how they are over the network: thousands at once, on one thread, with sockets and epoll.

An HTTP client library costs many times more per request than the few lines here, and asyncio's streams three times
(docs/decisions/0007-probes.md); and a probe must never follow a redirect, keep a connection or decode a body.
"""

from __future__ import annotations

import heapq
import os
import resource
import select
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from apps.deployments.checks import Check, Kind
from apps.deployments.reconcile.answers import CLOSED, MAX_BODY, MAX_HEAD, Wrong, judged

#: Docker's proxy accepts for a port on which nobody listens, and closes at once: an open port stays open. Seconds.
STAYS_OPEN_S = 0.2
#: Descriptors that the rest of the process needs.
SPARE_DESCRIPTORS = 256
#: Away from the sockets for longer than this, the time was ours and is not counted as a target's silence. Seconds.
STALL_S = 0.2
#: At most so many bytes are taken from a target in one go, so that one that talks without end holds nobody up.
CHUNK = 16 * 1024
#: An answer that comes in more pieces is taken to be over: each of them costs as much as a good answer.
PIECES = 256
#: So many descriptors are asked for, where the system lets us: all that are slow to answer hold one each.
DESCRIPTORS = 65536
_IN, _OUT = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR, select.EPOLLOUT
_PENDING = frozenset({0, 115})  # connected at once, or EINPROGRESS


@dataclass(frozen=True, slots=True)
class Target:
    """An instance's address, and what it is asked there. ``pk`` is whatever the asker knows it by."""

    pk: int
    host: str
    port: int
    check: Check


class _Link:
    """One connection under way."""

    __slots__ = ("connected", "deadline", "fd", "got", "link", "pieces", "target")

    def __init__(self, target: Target, link: socket.socket, deadline: float) -> None:
        self.target = target
        self.link = link
        self.fd = link.fileno()
        self.deadline = deadline
        self.connected = False
        self.got = b""
        self.pieces = 0


Answer = tuple[Target, Wrong | None]


def room() -> int:
    """How many connections this process may have at once. Raises its soft limit, which is 1024 on most systems: a few
    hundred instances that answer nothing would keep all others from being asked.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    return max(64, (DESCRIPTORS if soft == resource.RLIM_INFINITY else soft) - SPARE_DESCRIPTORS)


class Prober:
    """Connections under way. ``ask`` begins one, ``answers`` waits for some of them; close it when done.

    One thread's; commands (Kind.COMMAND) are not its business.
    """

    def __init__(self, *, limit: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit or room()
        self._clock = clock
        self._epoll = select.epoll()
        self._open: dict[int, _Link] = {}
        self._deadlines: list[tuple[float, int, _Link]] = []
        self._number = 0
        self._at_once: list[Answer] = []
        self._left_at = clock()

    def __len__(self) -> int:
        return len(self._open) + len(self._at_once)

    @property
    def full(self) -> bool:
        return len(self._open) >= self._limit

    def close(self) -> None:
        for one in self._open.values():
            one.link.close()
        self._open.clear()
        self._deadlines.clear()
        self._epoll.close()

    def ask(self, target: Target) -> None:
        """Begin; the answer comes with ``answers``."""
        if not self._open:
            # Nobody waited until now, so nobody is owed the time in which nobody looked.
            self._left_at = self._clock()
        family = socket.AF_INET6 if ":" in target.host else socket.AF_INET
        try:
            link = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError as error:
            # Ours: no descriptor left, or no such address family on this machine.
            self._at_once.append((target, Wrong(_words(error.errno), proven=False)))
            return
        try:
            failed = link.connect_ex((target.host, target.port))
        except (OSError, OverflowError) as error:
            link.close()
            self._at_once.append((target, Wrong(_words(getattr(error, "errno", None)))))
            return
        if failed not in _PENDING:
            link.close()
            self._at_once.append((target, Wrong(_words(failed))))
            return
        one = _Link(target, link, self._clock() + target.check.timeout_s)
        self._open[one.fd] = one
        self._await(one)
        self._epoll.register(one.fd, _OUT)

    def answers(self, wait_s: float) -> list[Answer]:
        """What is decided by now; waits for at most so many seconds for the first."""
        done, self._at_once = self._at_once, []
        began = self._clock()
        stall = began - self._left_at
        if stall > STALL_S:
            self._postpone(stall)
        until = self._deadlines[0][0] - began if self._deadlines else wait_s
        wait_s = 0.0 if done else max(0.0, min(wait_s, until))
        # In milliseconds, rounded up: else it would come back just before the deadline, again and again.
        events = self._epoll.poll(wait_s + 0.001 if wait_s else 0.0, max(1, len(self._open)))
        for fd, _ in events:
            one = self._open.get(fd)
            if one is None:
                continue
            try:
                decided, wrong = self._go_on(one)
            except OSError as error:
                decided, wrong = True, Wrong(_words(error.errno))
            except Exception as error:  # one tenant's answer must never end the batch that asks all of them
                decided, wrong = True, Wrong(f"its answer could not be read ({type(error).__name__})")
            if decided:
                done.append(self._end(one, wrong))
        # Only now: what had arrived in time was read above, however late we came to it.
        self._left_at = at = self._clock()
        while self._deadlines and self._deadlines[0][0] <= at:
            deadline, _, one = heapq.heappop(self._deadlines)
            if self._open.get(one.fd) is one and one.deadline == deadline:
                done.append(self._end(one, _at_the_end(one)))
        return done

    def _await(self, one: _Link) -> None:
        self._number += 1
        heapq.heappush(self._deadlines, (one.deadline, self._number, one))

    def _postpone(self, seconds: float) -> None:
        """We did not look for so long: everybody has that much more time."""
        for one in self._open.values():
            one.deadline += seconds
        self._deadlines.clear()
        for one in self._open.values():
            self._await(one)

    def _end(self, one: _Link, wrong: Wrong | None) -> Answer:
        del self._open[one.fd]
        one.link.close()  # which takes it out of epoll too
        return one.target, None if wrong is None else replace(wrong, heard=one.connected)

    def _go_on(self, one: _Link) -> tuple[bool, Wrong | None]:
        if not one.connected:
            failed = one.link.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if failed:
                return True, Wrong(_words(failed))
            one.connected = True
            if one.target.check.kind is Kind.TCP:
                one.deadline = min(one.deadline, self._clock() + STAYS_OPEN_S)
                self._await(one)
            else:
                one.link.send(_request(one.target.check))
            self._epoll.modify(one.fd, _IN)
            return False, None
        chunk = one.link.recv(CHUNK)
        check = one.target.check
        if check.kind is Kind.TCP:
            return True, None if chunk else Wrong("it closed the connection at once")
        seen, one.got, one.pieces = len(one.got), one.got + chunk, one.pieces + 1
        ended = not chunk or len(one.got) >= MAX_HEAD + MAX_BODY or one.pieces >= PIECES
        return judged(check, one.got, ended=ended, seen=seen)


def _request(check: Check) -> bytes:
    """No address of a host in it: the answer may repeat it, and is shown to its tenant.

    A body that is to be read is asked for by HTTP/1.0, whose bodies come in one piece.
    """
    version = "1.0" if check.text else "1.1"
    return (
        f"GET {check.path} HTTP/{version}\r\nHost: localhost\r\nUser-Agent: berth-probe\r\nAccept: */*\r\n"
        "Connection: close\r\n\r\n"
    ).encode("ascii")


def _at_the_end(one: _Link) -> Wrong | None:
    check = one.target.check
    if check.kind is Kind.TCP and one.connected:
        return None
    if one.got:
        decided = judged(check, one.got, ended=True)[1]
        return Wrong(f"its answer was not complete within {check.timeout_s} s", decided.seen if decided else "")
    return Wrong(f"no answer within {check.timeout_s} s")


def _words(number: int | None) -> str:
    """By its number: the system's own text may have the host's address, and the answer is shown to tenants."""
    return os.strerror(number) if number else CLOSED if number == 0 else "connection failed"


def ask(targets: Sequence[Target]) -> dict[int, Wrong | None]:
    """Ask all of them and wait for the last: at most the longest of their time-outs, if there is room for all."""
    prober = Prober()
    waiting = list(reversed(targets))
    found: dict[int, Wrong | None] = {}
    try:
        while waiting or len(prober):
            while waiting and not prober.full:
                prober.ask(waiting.pop())
            for target, wrong in prober.answers(1.0):
                found[target.pk] = wrong
    finally:
        prober.close()
    return found
