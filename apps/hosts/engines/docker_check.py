"""A command in a container through a Docker Engine, with an end to it.

By hand over the SDK's session, because the SDK's own exec waits for output without any timeout.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import requests
import urllib3

from apps.hosts.engines.base import MAX_CHECK_OUTPUT, CommandResult, EngineError, EngineUnreachable
from apps.hosts.engines.docker_errors import read_error

#: Of commands that still run in the container so many are looked at.
_MAX_LISTED = 20
#: A frame of output: one byte that says which stream, three of nothing, four of length
#: (https://docs.docker.com/engine/api/v1.41/#operation/ContainerAttach, "Stream format").
_HEAD = 8
#: How much output is read at once, and how long is rested after each above the limit: some 6 MB a second at most.
_CHUNK = 64 * 1024
_REST_S = 0.01


def run(
    session: requests.Session,
    api: str,
    container_id: str,
    exec_ids: Sequence[str],
    command: Sequence[str],
    *,
    read_s: int,
    timeout_s: int,
    clock: Callable[[], float],
) -> CommandResult:
    """Run it; ``exec_ids`` are those that the engine lists for the container. Raises EngineError."""
    asked = _Session(session, api, read_s)
    wanted = list(command)
    if any(asked.runs(one, wanted) for one in list(exec_ids)[:_MAX_LISTED]):
        return CommandResult(None, b"the last one still runs")
    deadline = clock() + timeout_s
    made = asked.json("POST", f"containers/{container_id}/exec", Cmd=wanted, AttachStdout=True, AttachStderr=True)
    exec_id = str(made["Id"])
    output = asked.output(exec_id, timeout_s, lambda: clock() >= deadline)
    state = asked.json("GET", f"exec/{exec_id}/json")
    if state.get("Running"):
        return CommandResult(None, output)
    code = state.get("ExitCode")
    if type(code) is not int:
        raise EngineError("the engine does not say how the command ended")
    return CommandResult(code, output)


class _Session:
    def __init__(
        self, session: requests.Session, api: str, read_s: int, rest: Callable[[float], None] = time.sleep
    ) -> None:
        self._session = session
        self._rest = rest
        self._api = api
        self._read_s = read_s

    def json(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        answer = self._session.request(
            method, f"{self._api}/{path}", json=body if method == "POST" else None, timeout=self._read_s
        )
        if answer.status_code >= 400:
            raise read_error(answer.status_code, answer.text[:1000])
        found = answer.json()
        if not isinstance(found, dict):
            raise EngineError("the engine's answer makes no sense")
        return found

    def runs(self, exec_id: str, command: list[str]) -> bool:
        """Whether this one is the same command, and still runs."""
        try:
            state = self.json("GET", f"exec/{exec_id}/json")
        except EngineUnreachable:
            raise
        except EngineError:
            return False  # it has ended meanwhile
        process = state.get("ProcessConfig") or {}
        its = [process.get("entrypoint"), *(process.get("arguments") or [])]
        return bool(state.get("Running")) and its == command

    def output(self, exec_id: str, timeout_s: int, over: Callable[[], bool]) -> bytes:
        """What it wrote until it ended or its time was over."""
        raw = b""
        with self._session.post(
            f"{self._api}/exec/{exec_id}/start",
            json={"Detach": False, "Tty": False},
            timeout=(self._read_s, timeout_s),
            stream=True,
        ) as answer:
            if answer.status_code >= 400:
                raise read_error(answer.status_code, answer.text[:1000])
            try:
                while not over():
                    chunk = answer.raw.read1(_CHUNK)
                    if not chunk:
                        break
                    # What is above the limit is read all the same: that it ends is what is waited for. No faster than
                    # this, so that one that writes without end waits for us, and not all other checks for it.
                    if len(raw) < 4 * MAX_CHECK_OUTPUT:
                        raw += chunk
                    else:
                        self._rest(_REST_S)
            except (urllib3.exceptions.HTTPError, requests.exceptions.RequestException, OSError):
                pass  # a silence as long as its time; whether it still runs, or the engine is gone, is asked next
        return unframed(raw)[:MAX_CHECK_OUTPUT]


def unframed(raw: bytes) -> bytes:
    """Both streams in the order in which they came."""
    text = b""
    while len(raw) > _HEAD:
        size = int.from_bytes(raw[4:_HEAD], "big")
        text += raw[_HEAD : _HEAD + size]
        raw = raw[_HEAD + size :]
    return text
