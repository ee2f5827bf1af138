"""The event stream of one Docker Engine. By hand over the SDK's session, as the SDK's own has no time-out to it.

https://docs.docker.com/engine/api/v1.41/#operation/SystemEvents. The engine is silent when nothing happens, so that
a connection that died looks like a quiet host: after some silence it is made anew, from the last event on. The engine
keeps its last 256 events for those who come back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import requests
import urllib3

from apps.hosts.engines import builder
from apps.hosts.engines import docker_parse as parse
from apps.hosts.engines.base import ContainerEvent, EngineError, EngineUnreachable, EventKind
from apps.hosts.engines.docker_errors import read_error

_NANO = 1_000_000_000
#: One line holds a container's labels, which an image may fill at will.
_MAX_LINE = 8 * 1024 * 1024


def stream(
    session: requests.Session,
    api: str,
    platform: str,
    *,
    since: float | None,
    stop: Callable[[], bool],
    connect_s: int,
    idle_s: int,
) -> Iterator[ContainerEvent]:
    """Events of this platform's containers; ``api`` is the engine's versioned base URL.

    Raises EngineError, and what requests raises, when the connection breaks or can't be made.
    """
    last = None if since is None else int(since * _NANO)
    while not stop():
        try:
            with session.get(
                f"{api}/events", params=_parameters(platform, last), timeout=(connect_s, idle_s), stream=True
            ) as answer:
                if answer.status_code != 200:
                    raise read_error(answer.status_code, answer.text[:2000])
                if last is None:
                    # By its own clock: from here on nothing is missed, however soon the connection breaks.
                    last = _date(answer)
                for line in _lines(answer, stop):
                    event, at = read(line, platform)
                    last = max(last or 0, at)
                    if event is not None:
                        yield event
                    if stop():
                        return
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as failed:
            if not _silent(failed):
                raise
            continue
        raise EngineUnreachable("the engine ended its event stream")


def _parameters(platform: str, last: int | None) -> dict[str, str]:
    filters = {
        "type": ["container"],
        "event": [str(kind) for kind in EventKind],
        "label": [f"{builder.LABEL_PLATFORM}={platform}"],
    }
    parameters = {"filters": json.dumps(filters)}
    if last is not None:
        # The engine's comparison is inclusive; by one more the last event does not come again.
        at = last + 1
        parameters["since"] = f"{at // _NANO}.{at % _NANO:09d}"
    return parameters


def _lines(answer: requests.Response, stop: Callable[[], bool]) -> Iterator[bytes]:
    held = b""
    for piece in answer.iter_content(chunk_size=None):
        *lines, held = (held + piece).split(b"\n")
        yield from lines
        if len(held) > _MAX_LINE:
            raise EngineError("the engine's event has no end")
        if stop():
            return


def read(line: bytes, platform: str) -> tuple[ContainerEvent | None, int]:
    """The event of one line, None for one that is not about a container of ours, and its time (ns, 0 if it has none).

    Suspicious, as other containers may carry any labels.
    """
    try:
        raw = json.loads(line)
    except ValueError:
        return None, 0
    if not isinstance(raw, dict):
        return None, 0
    time_nano = raw.get("timeNano")
    at = time_nano if isinstance(time_nano, int) and time_nano > 0 else 0
    actor = raw.get("Actor")
    labels: Mapping[str, Any] = actor.get("Attributes") or {} if isinstance(actor, dict) else {}
    if raw.get("Type") != "container" or not isinstance(labels, dict):
        return None, at
    name, instance = labels.get("name"), labels.get(builder.LABEL_INSTANCE)
    ours = f"berth-{platform}-{labels.get(builder.LABEL_APP)}-{instance}"
    kind = next((kind for kind in EventKind if kind == raw.get("Action")), None)
    if kind is None or not isinstance(instance, str) or name != ours or not parse.is_name(ours):
        return None, at
    code = str(labels.get("exitCode", ""))
    exit_code = int(code) if kind is EventKind.DIE and code.isascii() and code.isdigit() and len(code) < 6 else None
    return ContainerEvent(name=ours, instance=instance, kind=kind, at=at / _NANO, exit_code=exit_code), at


def _date(answer: requests.Response) -> int | None:
    try:
        return int(parsedate_to_datetime(answer.headers.get("Date", "")).timestamp()) * _NANO
    except (ValueError, TypeError, OverflowError):
        return None


def _silent(failed: Exception) -> bool:
    """Whether it answered and then said nothing for a while, which requests tells as a ConnectionError.

    An engine that does not even answer (requests' ReadTimeout) hangs, and that is to be told.
    """
    causes = (failed, *failed.args)
    return any(isinstance(cause, urllib3.exceptions.ReadTimeoutError) for cause in causes)
