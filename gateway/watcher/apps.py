"""Reads apps from ZooKeeper, many at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from kazoo.exceptions import NoAuthError, NoNodeError

from gateway import contract
from gateway.reading import parse
from gateway.wanted import Reading


@dataclass(slots=True)
class Found:
    """``readings``: None for an app without a route. An app that is in none of the three was torn: it changed while it
    was read, and is to be read again. ``gone``: there was no route to set the watch on.
    """

    readings: dict[str, Reading | None] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)


def read_apps(client: Any, apps: Sequence[str], watch: Callable[[Any], None], seconds: float) -> Found:
    """With pipelined requests: four round trips whatever the number of apps. ``watch`` is set on each route.

    Raises KazooException, KazooTimeoutError.
    """
    found = Found()

    def answer(app: str, result: Any) -> Any:
        try:
            return result.get(timeout=seconds)
        except NoNodeError:
            return None
        except NoAuthError:
            found.refused.add(app)
            return None

    first = {
        app: (
            client.get_async(contract.route_path(app), watch=watch),
            client.get_children_async(contract.app_address_path(app)),
        )
        for app in apps
    }
    routes = {app: answer(app, route) for app, (route, _) in first.items()}
    tags = {app: answer(app, children) or [] for app, (_, children) in first.items()}
    base = {app: contract.app_address_path(app) for app in apps}
    names = {(app, tag): client.get_children_async(f"{base[app]}/{tag}") for app in apps for tag in tags[app]}
    values = {
        (app, tag, name): client.get_async(f"{base[app]}/{tag}/{name}")
        for (app, tag), children in names.items()
        for name in answer(app, children) or []
    }
    addresses: dict[str, dict[str, dict[str, bytes]]] = {app: {} for app in apps}
    for (app, tag, name), value in values.items():
        if (node := answer(app, value)) is not None:
            addresses[app].setdefault(tag, {})[name] = node[0]
    last = {app: client.exists_async(contract.route_path(app)) for app in apps}
    for app in apps:
        again, route = last[app].get(timeout=seconds), routes[app]
        if route is None:
            found.gone.add(app)
        if app in found.refused:
            continue
        if (route[1].mzxid if route else 0) == (again.mzxid if again else 0):
            found.readings[app] = parse(app, route[0], addresses[app]) if route else None
    return found
