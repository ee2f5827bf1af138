"""Probing, all day long: each instance at its own interval, thousands a second in one process.

A pass takes some seconds, during which every instance of its shard is asked whenever its time comes; then the next pass
takes over, while this one still waits for the answers that are out. So a target that is slow to answer holds up nobody.
When an instance's time comes is a matter of its number and the clock alone: no pass writes when it asked.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from django.conf import settings

from apps.core import jobs
from apps.core.duties import done, due
from apps.deployments.checks import INTERVAL_S, Check, Kind
from apps.deployments.reconcile.answers import Wrong
from apps.deployments.reconcile.clients import Clients
from apps.deployments.reconcile.commands import Commands
from apps.deployments.reconcile.probes import Asked, Checks, Notebook, asked_now, command_of
from apps.deployments.reconcile.probing import Prober, Target

#: One pass asks for so long. Seconds.
PASS_S = 10.0
#: How old what a pass knows of instances may be: a new one is asked that much later at most. Seconds.
KNOWN_FOR_S = 2.0
#: What a pass before left unasked is made up for, if it ended no longer ago. Seconds.
GAP_S = 5.0
#: Begun in one go before answers are read again.
BURST = 64
#: One that is to be asked while it is still waited for is looked at again after so long. Seconds.
SOON_S = 0.05
#: How often commands are looked at while some are under way, and whether to stop. Seconds.
LOOK_S = 0.05
WAIT_S = 0.5
#: What comes within this is dealt with together: to wake up for each answer costs more than the answer. Seconds.
TICK_S = 0.005

Clock = Callable[[], float]
_LIVE, _BLIND = 1, 2


@dataclass(frozen=True, slots=True)
class Question:
    asked: Asked
    check: Check
    live: bool


def first_after(pk: int, live: bool, interval_s: float, at: float) -> float:
    """When this instance is asked next, after this time (seconds since 1970).

    By the golden ratio numbers in a row are spread evenly over any interval.
    """
    phase = (pk * 0.618033988749895 + (0.5 if live else 0.0)) % 1.0 * interval_s
    return phase + ((at - phase) // interval_s + 1) * interval_s


def probe_shard(clients: Clients, shard: int, *, stopping: Callable[[], bool] = lambda: False) -> int:
    """Probe this shard for PASS_S, unless somebody does. Returns how many questions were asked."""
    name = f"probe-{shard}"
    ended = done(name)
    with due(name, every_s=0) as mine:
        if not mine or not 0 <= shard < settings.PROBE_SHARDS:
            return 0
        probing = Probing(clients, shard, settings.PROBE_SHARDS)
        try:
            probing.go_on(_since(ended), time.time() + PASS_S, stopping)
        except BaseException:
            probing.close()
            raise
        done(name, at=datetime.now(UTC))
    # The next pass need not wait for beat.
    jobs.enqueue(jobs.PROBE_SHARD, shard)
    try:
        probing.wait(stopping)
    finally:
        probing.close()
    return probing.count


def _since(ended: datetime | None) -> float:
    """From when on what should have been asked is asked."""
    at = time.time()
    return at if ended is None or not at - GAP_S <= ended.timestamp() <= at else ended.timestamp()


class Probing:
    """One pass: what is known, when who is asked, and what is under way."""

    def __init__(self, clients: Clients, shard: int, shards: int, *, clock: Clock = time.time) -> None:
        self.count = 0
        self._clients = clients
        self._shard, self._shards = shard, shards
        self._clock = clock
        self._prober = Prober()
        self._commands = Commands()
        self._notebook = Notebook()
        self._checks: dict[int, Checks] = {}
        self._known: dict[int, Asked] = {}
        self._due: list[tuple[float, int]] = []
        self._listed: set[int] = set()
        self._out: dict[int, Question] = {}
        #: For benchmarks: told of each question as it is asked.
        self.on_ask: Callable[[int, float], None] | None = None

    def go_on(self, since: float, until: float, stopping: Callable[[], bool]) -> None:
        """Ask whoever's time comes, until then."""
        read_at = 0.0
        while (at := self._clock()) < until and not stopping():
            if at - read_at >= KNOWN_FOR_S:
                self._read(since)
                since, read_at = at, self._clock()
            self._ask_due(at)
            soonest = self._due[0][0] if self._due and not self._prober.full else until
            self._note(max(0.0, min(soonest, read_at + KNOWN_FOR_S, until) - self._clock()))

    def wait(self, stopping: Callable[[], bool]) -> None:
        """For what is under way. Bounded: each has its time-out."""
        self._commands.forget_waiting()
        while (len(self._prober) or len(self._commands)) and not stopping():
            self._note(WAIT_S)

    def close(self) -> None:
        self._prober.close()
        self._commands.close()

    def _read(self, since: float) -> None:
        self._known = asked_now(self._known, self._checks, shard=self._shard, shards=self._shards)
        for pk, asked in self._known.items():
            for live in (False, True) if asked.release.liveness else (False,):
                key = pk * 4 + live
                if key not in self._listed:
                    self._listed.add(key)
                    heapq.heappush(self._due, (first_after(pk, live, _interval(asked, live), since), key))

    def _ask_due(self, at: float) -> None:
        begun = 0
        while self._due and self._due[0][0] <= at and begun < BURST and not self._prober.full:
            _, key = heapq.heappop(self._due)
            asked = self._known.get(key // 4)
            if asked is None:
                self._listed.discard(key)
                continue
            live = bool(key & _LIVE)
            if key in self._out and not self._commands_turn(asked, live):
                # Its time-out ends just when it is to be asked again: a whole interval would be lost each time.
                heapq.heappush(self._due, (at + SOON_S, key))
                begun += 1
                continue
            heapq.heappush(self._due, (first_after(asked.pk, live, _interval(asked, live), at), key))
            # One question at a time: a command may wait for its turn for longer than its interval.
            if key not in self._out and key | _BLIND not in self._out and not (live and asked.starting):
                begun += 1
                self._ask(key, asked, live)

    @staticmethod
    def _commands_turn(asked: Asked, live: bool) -> bool:
        check = asked.release.liveness if live else asked.release.readiness
        return check is not None and check.kind is Kind.COMMAND

    def _ask(self, key: int, asked: Asked, live: bool) -> None:
        check = asked.release.liveness if live else asked.release.readiness
        if check is None:
            return
        self.count += 1
        if self.on_ask is not None:
            self.on_ask(key, self._clock())
        if check.kind is Kind.COMMAND and not asked.silent:
            prepared = command_of(asked.pk, key, check, self._clients)
            if prepared is not None:
                self._out[key] = Question(asked, check, live)
                self._commands.ask(*prepared)
            return
        question = Question(asked, check, live)
        if check.kind is Kind.COMMAND:
            # Its host can't be asked to run anything. Whether it serves is seen from outside; if not, that counts.
            key, check = key | _BLIND, Check(kind=Kind.TCP, timeout_s=check.timeout_s)
        self._out[key] = question
        self._prober.ask(Target(key, asked.address, asked.port, check))

    def _note(self, wait_s: float) -> None:
        wait_s = max(TICK_S, min(wait_s, LOOK_S if len(self._commands) else WAIT_S))
        under_way = len(self._prober)
        time.sleep(TICK_S if under_way else wait_s)
        if under_way:
            for target, wrong in self._prober.answers(wait_s - TICK_S):
                self._noted(target.pk, wrong)
        for command, wrong in self._commands.answers():
            self._noted(command.pk, wrong)
        self._notebook.flush()

    def _noted(self, key: int, wrong: Wrong | None) -> None:
        question = self._out.pop(key)
        if key & _BLIND and wrong is None:
            return
        # What is known by now, not when it was asked.
        asked = self._known.get(question.asked.pk, question.asked)
        self._notebook.note(asked, question.check, question.live, wrong)


def _interval(asked: Asked, live: bool) -> float:
    check = asked.release.liveness if live and asked.release.liveness else asked.release.readiness
    # However rarely it is asked later: users wait for it to become ready.
    return min(check.interval_s, INTERVAL_S) if asked.starting else check.interval_s
