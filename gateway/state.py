"""The last good state on disk: what a gateway serves at a cold start without ZooKeeper.

It is written before a change is acknowledged: otherwise a gateway that dies and starts again from an older
state would route to an instance that it had said was gone, and whose port may be somebody else's by now.
"""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from gateway.contract import Address, ContractError, Route, app_id, container_id, version
from gateway.model import TCP_FIRST, AppState
from gateway.tables import TESTERS

FORMAT = 1
_CLAIM = re.compile(r"[A-Za-z0-9.*:/_~-]{1,900}")
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Saved:
    """``seen``: the zxid that the state may reflect; a ZooKeeper server of this epoch behind it is not believed.

    ``slots``: app -> backend number, so that a restarted agent agrees with the HAProxy that it adopts.
    ``owners``: claim -> app (gateway.tables). ``mark``: see gateway.journal.
    """

    epoch: str = ""
    seen: int = 0
    apps: dict[str, AppState] = field(default_factory=dict)
    slots: dict[str, int] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    mark: str = ""


#: App -> what was written of it last, and its text: thousands of apps are the same from one change to the next.
Written = dict[str, tuple[AppState, str]]


def save(path: Path, saved: Saved, written: Written | None = None, mark: str = "") -> None:
    """Replaces the file atomically and waits for the disk. Raises OSError (a full disk, for one).

    ``written``: of the last time; it is brought up to date. ``mark``: what a journal that follows begins with.
    """
    before = written if written is not None else {}
    now: Written = {}
    for app, state in saved.apps.items():
        known = before.get(app)
        now[app] = known if known is not None and known[0] is state else (state, text_of(app, state))
    before.clear()
    before.update(now)
    head = {
        "format": FORMAT,
        "epoch": saved.epoch,
        "seen": saved.seen,
        "slots": saved.slots,
        "owners": saved.owners,
        "mark": mark,
    }
    apps = ",".join(text for _, text in now.values())
    write_atomically(path, f'{json.dumps(head, separators=(",", ":"))[:-1]},"apps":{{{apps}}}}}')


def text_of(app: str, state: AppState) -> str:
    """A member of the JSON object of all apps. An app id needs no escape."""
    instances = {
        tag: {name: str(address) for name, address in containers.items()} for tag, containers in state.instances.items()
    }
    told = json.dumps(instances, separators=(",", ":"))
    return f'"{app}":{{"route":{state.route.to_json().decode()},"instances":{told}}}'


def load(path: Path) -> Saved:
    """The saved state, or an empty one. A file that cannot be understood is set aside, never deleted."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return Saved()
    except (OSError, UnicodeDecodeError) as error:
        return _set_aside(path, error)
    try:
        return _parse(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return _set_aside(path, error)


def write_atomically(path: Path, text: str) -> None:
    """Durable when it returns: the file and its directory entry are on disk."""
    temporary = path.with_name(path.name + ".new")
    with temporary.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _set_aside(path: Path, error: Exception) -> Saved:
    aside = path.with_name(f"{path.name}.corrupt-{time.time_ns()}")
    try:
        path.rename(aside)
    except OSError as why:
        _log.error("state.not_set_aside", path=str(path), error=str(why))
    _log.error("state.corrupt", path=str(path), set_aside=str(aside), error=str(error))
    return Saved()


def _parse(body: dict[str, object]) -> Saved:
    if body["format"] != FORMAT:
        raise ContractError(f"format {body['format']!r}, expected {FORMAT}")
    epoch, seen, slots, owners, apps = (body[key] for key in ("epoch", "seen", "slots", "owners", "apps"))
    if not isinstance(epoch, str) or type(seen) is not int:
        raise ContractError("epoch and seen")
    if not isinstance(slots, dict) or not isinstance(owners, dict) or not isinstance(apps, dict):
        raise ContractError("slots, owners and apps")
    if not all(
        type(slot) is int and 0 <= slot % TCP_FIRST <= 99_999 and slot < 2 * TCP_FIRST for slot in slots.values()
    ):
        raise ContractError("slots are numbers")
    if len(set(slots.values())) != len(slots):
        raise ContractError("two apps in one slot")
    return Saved(
        epoch=epoch,
        seen=seen,
        apps={app_id(app): app_of(app, state) for app, state in apps.items()},
        slots={_app_or_testers(name): slot for name, slot in slots.items()},
        owners={_claim(claim): app_id(app) for claim, app in owners.items()},
        mark=str(body.get("mark", "")),
    )


def _claim(text: str) -> str:
    if not _CLAIM.fullmatch(text):
        raise ContractError(f"not a claim: {text[:80]!r}")
    return text


def _app_or_testers(name: str) -> str:
    app_id(name.removesuffix(TESTERS))
    return name


def app_of(app: str, state: dict[str, dict[str, dict[str, str]]]) -> AppState:
    route = Route.from_json(json.dumps(state["route"]).encode())
    if route.app != app:
        raise ContractError(f"the route of {route.app!r} under {app!r}")
    return AppState(
        route=route,
        instances={
            version(tag): {container_id(name): Address.parse(text) for name, text in containers.items()}
            for tag, containers in state["instances"].items()
        },
    )
