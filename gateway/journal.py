"""Changes of single apps on disk, behind the whole state: writing thousands of apps for one of them takes too long.

A journal begins with the mark of the state that it follows, so that one that a crash left behind is not taken for the
next one's. A line that was cut off by a crash is the last, and was never acknowledged.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import structlog

from gateway import state
from gateway.contract import ContractError, app_id
from gateway.model import AppState
from gateway.state import Saved

SUFFIX = ".journal"
#: Then the whole state is written again: reading so many takes about as long as reading that.
MOST_APPS = 5000

_log = structlog.get_logger(__name__)


class Journal:
    """Behind the state at ``path``. `begin` comes first."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._journal = path.with_name(path.name + SUFFIX)
        self._written: state.Written = {}
        self._left = 0

    @property
    def room(self) -> bool:
        return self._left > 0

    def begin(self, saved: Saved) -> None:
        """Writes the whole state, and an empty journal. Raises OSError; then there is no room before the next."""
        self._left = 0
        mark = str(uuid.uuid4())
        state.save(self._path, saved, self._written, mark)
        state.write_atomically(self._journal, f"{mark}\n")
        self._left = MOST_APPS

    def add(self, seen: int, apps: Mapping[str, AppState]) -> None:
        """Waits for the disk. Raises OSError; then there is no room before the next `begin`."""
        left, self._left = self._left - len(apps), 0
        told = ",".join(state.text_of(app, one) for app, one in apps.items())
        with self._journal.open("a", encoding="utf-8", newline="") as file:
            file.write(f'{{"seen":{seen:d},"apps":{{{told}}}}}\n')
            file.flush()
            os.fsync(file.fileno())
        for app in apps:
            # What was written of it as a whole is another now.
            self._written.pop(app, None)
        self._left = left


def load(path: Path) -> Saved:
    """The state, and what its journal says after it."""
    saved = state.load(path)
    try:
        text = path.with_name(path.name + SUFFIX).read_text("utf-8")
    except FileNotFoundError:
        return saved
    except (OSError, UnicodeDecodeError) as error:
        _log.error("state.journal_unread", error=str(error))
        return saved
    mark, *lines = text.split("\n")
    if not saved.mark or mark != saved.mark:
        return saved
    seen, apps = saved.seen, dict(saved.apps)
    for line in lines[:-1]:
        try:
            body = json.loads(line)
            found = {app_id(app): state.app_of(app, one) for app, one in body["apps"].items()}
            if type(body["seen"]) is not int or not found.keys() <= apps.keys():
                raise ContractError("not a line of this journal")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            _log.error("state.journal_broken", error=str(error))
            break
        seen = body["seen"]
        apps.update(found)
    return replace(saved, seen=seen, apps=apps)
