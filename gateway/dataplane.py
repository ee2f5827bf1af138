"""Makes the running HAProxy equal to a wanted data plane, and keeps it so.

Run-time commands where they are enough, a reload where slots are missing or a command failed, a start where
HAProxy died. Whatever goes wrong, the next `apply` of the same plane carries on from what HAProxy says.

`exact` is what acknowledgements lean on: no process of ours can send a new request where the last applied
plane does not. Workers that a reload replaced still serve idle connections, so they are told to hand requests
over to the newest worker; one that cannot be told is ended after the drain time, and nothing is exact before.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import structlog

from gateway import cli, commands, diff, render
from gateway.contract import Address, ContractError
from gateway.frame import Frame, head
from gateway.haproxy import Haproxy, HaproxyError
from gateway.model import AddCertificate, AddServer, DropCertificate, Operation, Plane, RemoveServer, backend_name

# An upstream report has HAProxy crash when a server is deleted right after its last request.
QUIET_SECONDS = 5.0
REAP_EVERY_SECONDS = 1.0
RECONCILE_EVERY_SECONDS = 60.0
#: How long a replaced worker may take to hear that it was.
HAND_OVER_SECONDS = 5.0
REPLACE_SECONDS = 5.0

_log = structlog.get_logger(__name__)
_BROKEN = (cli.CommandError, HaproxyError, ContractError, OSError)


class DataPlaneError(RuntimeError):
    """The wanted plane is not in force; the old one is as far as possible."""


@dataclass(slots=True)
class _Leaving:
    address: Address
    since: float
    ended: bool = False
    #: Requests in progress, when last looked at.
    busy: int = 0


class DataPlane:
    def __init__(self, haproxy: Haproxy, frame: Frame, drain_seconds: float) -> None:
        self._haproxy = haproxy
        self._frame = frame
        self._drain_seconds = drain_seconds
        self._conversation: cli.Conversation | None = None
        self._applied: Plane | None = None
        self._leaving: dict[tuple[int, str], _Leaving] = {}
        self._doubtful: dict[int, float] = {}
        self._reaped_at = self._reconciled_at = 0.0
        self.reloads = 0
        self.starts = 0
        #: File -> what HAProxy said. It is left out from then on: one certificate must not stop all other changes.
        self.refused_certificates: dict[str, str] = {}

    @property
    def slots(self) -> int:
        """Declared slots; 0 while HAProxy does not run."""
        return self._applied.slots if self._applied is not None else 0

    @property
    def tcp_slots(self) -> int:
        return self._applied.tcp_slots if self._applied is not None else 0

    @property
    def exact(self) -> bool:
        return self._applied is not None and not self._doubtful

    def busy(self) -> dict[tuple[int, str], int]:
        """Slot and server of those that leave and still answer requests, with how many."""
        return {key: left.busy for key, left in self._leaving.items() if left.busy}

    def busy_slots(self) -> set[int]:
        """Slots that still hold servers, leaving ones included: not to be given to another app yet."""
        held = set(self._applied.servers) if self._applied is not None else set()
        return held | {slot for slot, _ in self._leaving}

    def adopt(self, *, known: bool) -> bool:
        """Takes over an HAProxy that is running, with what it serves. Returns whether there is one.

        Not ``known``: which app has which slot was lost. Then the next `apply` reloads, because changing
        slots one command at a time could show one app's instances under another's name. So it does where the
        configuration is of other settings, or of another version of this program.
        """
        if not self._haproxy.adopt():
            return False
        try:
            if known and self._haproxy.runs_with(head(self._frame)):
                self._observe()
            self._hand_over(self._haproxy.workers().old)
        except _BROKEN as error:
            _log.warning("haproxy.not_adopted", error=str(error))
            self._forget()
        return True

    def apply(self, wanted: Plane, base: Plane | None = None, slots: Collection[int] = ()) -> None:
        """Puts a plane in force. Raises DataPlaneError; then call it again.

        ``base``: a plane of which it differs in the servers of ``slots`` alone.
        """
        wanted = self._without_refused(wanted)
        try:
            if not self._haproxy.alive():
                self._start(wanted)
            elif self._applied is not None and self._applied is base:
                self._change(wanted, slots)
            elif self._applied is None or not diff.fits(self._applied, wanted):
                self._reload(wanted)
            else:
                self._change(wanted)
            # Before anything is acknowledged: whoever waits for their last requests must see those at once.
            self._look_at_leaving(all_of_them=True)
        except _BROKEN as error:
            raise DataPlaneError(str(error)) from error

    def needs(self, wanted: Plane) -> bool:
        if self._applied is None or not self._haproxy.alive():
            return True
        wanted = self._without_refused(wanted)
        return self._applied is not wanted and self._applied != wanted

    def tick(self) -> None:
        """What goes on in the background: deleting servers that left, ending workers, looking for drift."""
        now = time.monotonic()
        self._watch_workers(now)
        if self._applied is None or not self._haproxy.alive():
            return
        try:
            self._look_at_leaving()
            if self._leaving and now >= self._reaped_at + REAP_EVERY_SECONDS:
                self._reaped_at = now
                self._reap(now)
            if now >= self._reconciled_at + RECONCILE_EVERY_SECONDS:
                believed = self._applied
                self._observe()
                if self._applied == believed:
                    self._applied = believed  # the same, and told apart from others at once
                else:
                    _log.warning("dataplane.drift", operations=len(diff.difference(self._applied, believed)))
        except _BROKEN as error:
            self._hang_up()
            _log.warning("dataplane.tick_failed", error=str(error))

    def stop(self, seconds: float) -> None:
        self._hang_up()
        self._haproxy.stop(seconds)
        self._forget()

    def leave(self) -> None:
        """Lets HAProxy run on without us."""
        self._hang_up()
        self._haproxy.close()

    # The three ways

    def _start(self, wanted: Plane) -> None:
        self._forget()
        left = self._haproxy.start(render.configuration(self._frame, wanted), render.maps(wanted))
        self.starts += 1
        for pid in left:
            self._doubt(pid, "its master is dead")
        self._applied = wanted
        self._reconciled_at = time.monotonic()

    def _reload(self, wanted: Plane) -> None:
        """First brings the worker that will be replaced as near as it gets: it serves on until the end."""
        if self._applied is not None:
            try:
                self._run(diff.difference(self._applied, diff.clipped(wanted, self._applied)))
            except _BROKEN as error:
                _log.warning("dataplane.before_reload", error=str(error))
        before = self._haproxy.worker
        self._hang_up()
        try:
            self._haproxy.reload(render.configuration(self._frame, wanted), render.maps(wanted))
        except HaproxyError:
            self._applied = None
            if self._haproxy.alive():
                self._observe()
            raise
        self.reloads += 1
        self._hand_over([before])
        self._leaving.clear()
        self._observe()
        if self._applied != wanted:
            self._change(wanted)

    def _change(self, wanted: Plane, only: Collection[int] | None = None) -> None:
        known = self._applied
        if known is None:
            raise HaproxyError("nothing is known of the running HAProxy")
        operations = diff.difference(known, wanted, only)
        try:
            self._run(operations)
        except _BROKEN as error:
            _log.warning("dataplane.command_failed", error=str(error))
            self._hang_up()
            self._observe()
            again = self._applied
            if again is None or not self._haproxy.alive():
                raise
            try:
                self._run(diff.difference(again, wanted))
            except cli.CommandError as second:
                _log.warning("dataplane.reload_instead", error=str(second))
                self._applied = None
                self._reload(wanted)
                return
        self._applied = self._without_refused(wanted)
        if operations:
            _log.info("dataplane.changed", operations=len(operations))

    # Commands

    def _run(self, operations: Sequence[Operation]) -> None:
        """Raises CommandError when the current worker refuses one; nothing is said of the others then."""
        lines: list[str] = []
        for operation in operations:
            match operation:
                case RemoveServer(slot, name, True):
                    self._expect(lines)
                    lines = []
                    self._expect(commands.commands(operation))
                    self._delete_now(slot, name)
                    continue
                case AddCertificate(file, names):
                    self._expect(lines)
                    lines = []
                    self._add_certificate(file, names)
                    continue
                case DropCertificate(file):
                    self._expect(lines)
                    lines = []
                    self._talk().run([commands.abort_certificate(file)])
                    self._expect(commands.commands(operation))
                    continue
                case AddServer(slot, server) if (slot, server.name) in self._leaving:
                    if self._leaving.pop((slot, server.name)).address == server.address:
                        lines.extend(commands.restore(slot, server))
                        continue
                    self._delete_now(slot, server.name)
                case RemoveServer(slot, name) if self._applied is not None:
                    address = self._applied.servers[slot][name].address
                    self._leaving[slot, name] = _Leaving(address, time.monotonic())
                case _:
                    pass
            lines.extend(commands.commands(operation))
        self._expect(lines)

    def _expect(self, lines: Sequence[str]) -> None:
        if not lines:
            return
        for line, reply in zip(lines, self._talk().run(lines), strict=True):
            if not commands.accepted(reply):
                raise cli.CommandError(f"{line}: {reply[:200]}")

    def _add_certificate(self, file: str, names: tuple[str, ...]) -> None:
        """One that HAProxy refuses is left out. Raises CommandError when the conversation breaks, OSError."""
        pem = self._haproxy.certificate(file)
        create, fill, commit = commands.commands(AddCertificate(file, names))
        talk = self._talk()
        # What an attempt that broke off left behind.
        talk.run([commands.abort_certificate(file), f"del ssl cert {file}"])
        entry = [render.certificate_line(file, names)]
        for command, payload in ((create, None), (fill, pem), (commit, None), (commands.INSERT_CERTIFICATES, entry)):
            reply = talk.run([command])[0] if payload is None else talk.load(command, payload)
            if not commands.accepted(reply):
                self.refused_certificates[file] = reply[:200]
                _log.error("certificate.refused", file=file, error=reply[:200])
                return

    def _without_refused(self, wanted: Plane) -> Plane:
        if not self.refused_certificates.keys() & wanted.certificates.keys():
            return wanted
        kept = {file: names for file, names in wanted.certificates.items() if file not in self.refused_certificates}
        return replace(wanted, certificates=kept)

    def _delete_now(self, slot: int, name: str) -> None:
        """Frees a name at once, with the requests that its server still has."""
        deadline = time.monotonic() + REPLACE_SECONDS
        while True:
            _, reply = self._talk().run([commands.end_sessions(slot, name), commands.delete(slot, name)])
            if reply == commands.DELETED:
                return
            if time.monotonic() > deadline:
                raise cli.CommandError(f"{name} is not deleted: {reply[:200]}")
            time.sleep(0.02)

    # What HAProxy says

    def _observe(self) -> None:
        self._applied = None
        talk = self._talk()
        observed = commands.observe(*talk.run(commands.LISTINGS))
        now = time.monotonic()
        self._leaving = {
            key: self._leaving.get(key, _Leaving(address, now)) for key, address in observed.leaving.items()
        }
        self._applied = observed.plane
        self._reconciled_at = now

    def _talk(self) -> cli.Conversation:
        if self._conversation is None:
            self._conversation = self._haproxy.talk()
        return self._conversation

    def _hang_up(self) -> None:
        if self._conversation is not None:
            self._conversation.close()
            self._conversation = None

    def _forget(self) -> None:
        self._hang_up()
        self._applied = None
        self._leaving.clear()

    # Leaving servers and workers

    def _look_at_leaving(self, *, all_of_them: bool = False) -> None:
        """How many requests they still answer; once there are none there will be none."""
        for slot in {slot for (slot, _), left in self._leaving.items() if left.busy or all_of_them}:
            (listing,) = self._talk().run([f"show servers conn {backend_name(slot)}"])
            used = commands.used_connections(listing)
            for (there, name), left in self._leaving.items():
                if there == slot:
                    left.busy = used.get(name, 0)

    def _reap(self, now: float) -> None:
        quiet = {key: left for key, left in self._leaving.items() if now >= left.since + QUIET_SECONDS}
        for slot in {slot for slot, _ in quiet}:
            (listing,) = self._talk().run([f"show servers conn {backend_name(slot)}"])
            used = commands.used_connections(listing)
            for (_, name), left in ((key, left) for key, left in quiet.items() if key[0] == slot):
                if used.get(name, 0) and now >= left.since + self._drain_seconds and not left.ended:
                    left.ended = True
                    self._talk().run([commands.end_sessions(slot, name)])
                if name in used and (used[name] == 0 or left.ended):
                    (reply,) = self._talk().run([commands.delete(slot, name)])
                    if reply != commands.DELETED:
                        continue
                elif name in used:
                    continue
                del self._leaving[slot, name]

    def _hand_over(self, pids: Iterable[int]) -> None:
        """Tells replaced workers to route nothing themselves any more."""
        for pid in pids:
            try:
                self._await_stopping(pid)
                reply = "".join(self._ask_worker(line) for line in commands.hand_over(pid))
            except cli.CommandError as error:
                reply = str(error)
            if reply and self._haproxy.lives(pid):
                self._doubt(pid, reply)

    def _await_stopping(self, pid: int) -> None:
        """A new worker is there before the one it replaces has heard of it, on a machine that is busy. Until it has, a
        host that it does not find is unknown to it, and not to be handed over: it would answer 404 to what it serves.
        """
        deadline = time.monotonic() + HAND_OVER_SECONDS
        while not commands.is_stopping(said := self._ask_worker(commands.information(pid))):
            if not self._haproxy.lives(pid):
                return
            if time.monotonic() > deadline:
                raise cli.CommandError(f"it does not stop: {said[:80]}")
            time.sleep(0.02)

    def _ask_worker(self, line: str) -> str:
        """By way of the master."""
        talk = self._haproxy.talk_to_master()
        try:
            (reply,) = talk.run([line])
        finally:
            talk.close()
        return reply

    def _doubt(self, pid: int, why: str) -> None:
        self._doubtful.setdefault(pid, time.monotonic() + self._drain_seconds)
        _log.warning("haproxy.doubtful_worker", worker=pid, why=why[:200])

    def _watch_workers(self, now: float) -> None:
        for pid, until in list(self._doubtful.items()):
            if not self._haproxy.lives(pid):
                del self._doubtful[pid]
            elif now >= until:
                self._haproxy.end_worker(pid)
