"""Releases: what was asked for, checked, over what the app's last release has."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import Max

from apps.core.errors import Invalid
from apps.deployments.checks import DEFAULT_PATH, CheckInvalid, Kind, checked, path_ok
from apps.deployments.models import App, Release, Rollout
from apps.deployments.services.rules import rules_checked
from apps.registry.models import Version
from apps.tenants.models import User

MAX_ENV = 200
MAX_ENV_BYTES = 64 * 1024
MAX_COMMAND = 64
#: Seconds. A worker waits for it, so it stays well below a task's time limit.
MAX_GRACE_S = 60
#: The least and the most that may be asked for: MiB, thousandths of a core, seconds.
BOUNDS = {
    "instances": (1, 500),
    "memory_mb": (16, 1024 * 1024),
    "cpu_millis": (10, 256_000),
    "container_port": (1, 65535),
    "stop_grace_s": (0, MAX_GRACE_S),
}
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
#: As the builder of containers allows them.
STOP_SIGNALS = ("SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGKILL", "SIGRTMIN+3")
#: Set by the platform in every container.
ENV_RESERVED = frozenset({"PORT"})


class ReleaseInvalid(Invalid):
    code = "releases.invalid"


@dataclass(frozen=True, slots=True)
class ReleaseSettings:
    """What a release is made of, next to its version. None keeps what the release before it has (see ``base_of``).

    ``env`` replaces all variables by these, whose values nobody can read again. ``secrets`` and ``settings`` change
    single ones (None as value takes one away); a setting's value can be read by the app's members.
    ``placement`` holds rules as apps.deployments.services.rules takes them; ``readiness`` and ``liveness`` are checks
    as apps.deployments.checks does, each as a whole. ``health_path`` alone changes what the readiness check asks for.

    Memory is MiB, CPU thousandths of a core, the grace before a kill seconds.
    """

    env: Mapping[str, str] | None = None
    secrets: Mapping[str, str | None] | None = None
    settings: Mapping[str, str | None] | None = None
    command: Sequence[str] | None = None
    container_port: int | None = None
    memory_mb: int | None = None
    cpu_millis: int | None = None
    health_path: str | None = None
    readiness: Mapping[str, Any] | None = None
    liveness: Mapping[str, Any] | None = None
    on_failure: str | None = None
    stop_signal: str | None = None
    stop_grace_s: int | None = None
    placement: Mapping[str, Any] | None = None


def release_create(*, app: App, version: Version, asked: ReleaseSettings, by: User, actor: str = "") -> Release:
    """The app's next release; part of a transaction that holds the app's row. Raises ReleaseInvalid.

    ``actor`` is who it is told to be by, where that is not ``by``.
    """
    base = base_of(app) or Release(
        container_port=8080, memory_mb=256, cpu_millis=100, health_path=path_at_first(app), stop_grace_s=10
    )
    if not base.readiness and base.health_path == DEFAULT_PATH:
        # Of before the app's protocol was changed: what nobody asked for is no reason never to be ready.
        base.health_path = path_at_first(app)
    env, readable = _env_asked(asked, base)
    placement = rules_checked(asked.placement, app=app, viewer=by) if asked.placement is not None else base.placement
    path, readiness = _readiness(asked, base)
    release = Release(
        app=app,
        number=_next_number(app),
        version=version,
        created_by=actor or by.username,
        env=_env(env),
        env_readable=sorted(readable),
        command=_command(asked.command if asked.command is not None else base.command),
        container_port=_kept("container_port", asked, base),
        memory_mb=_kept("memory_mb", asked, base),
        cpu_millis=_kept("cpu_millis", asked, base),
        health_path=path,
        readiness=readiness,
        liveness=_check("liveness", asked.liveness) if asked.liveness is not None else base.liveness,
        on_failure=_one_of("on_failure", Release.OnFailure.values, asked.on_failure or base.on_failure),
        stop_signal=_one_of("stop_signal", STOP_SIGNALS, asked.stop_signal or base.stop_signal),
        stop_grace_s=_kept("stop_grace_s", asked, base),
        placement=placement,
        is_global=bool(placement.get("global")),
    )
    if release.is_global and release.on_failure == Release.OnFailure.REMOVE:
        raise ReleaseInvalid(
            "A global app runs on every matching host, so none of its instances can be removed for good.",
            field="on_failure",
        )
    release.save()
    return release


def path_at_first(app: App) -> str:
    """What is asked of an app's instances unless somebody says otherwise; empty is a TCP connect.

    Checks speak HTTP/1.1, which neither servers of HTTP/2 without TLS nor of TCP need to.
    """
    return DEFAULT_PATH if app.protocol == App.Protocol.HTTP else ""


def base_of(app: App) -> Release | None:
    """What a new release is made from: the one on its way in, else the one that serves, else the last.

    Not simply the last: what was given up for its bad settings must not come back with the next deploy.
    """
    releases = app.releases.select_related("version")
    coming = releases.filter(replica_set__rollouts__status__in=Rollout.OPEN).order_by("-number").first()
    serving = None if coming else releases.filter(replica_set__weight__gt=0).order_by("-number").first()
    return coming or serving or releases.order_by("-number").first()


#: What makes a release, beside which one it is and who asked for it. From the model, so that a column that is added
#: later is copied by a rollback, and shown by a comparison, too.
CONTENT = tuple(
    field.attname
    for field in Release._meta.concrete_fields
    if field.name not in ("id", "app", "number", "created_at", "created_by")
)


def release_copy(*, app: App, of: Release, by: User) -> Release:
    """The app's next release with an old one's whole content; part of a transaction that holds the app's row."""
    content = {name: getattr(of, name) for name in CONTENT}
    release = Release(app=app, number=_next_number(app), created_by=by.username, **content)
    release.save()
    return release


def _next_number(app: App) -> int:
    return (app.releases.aggregate(last=Max("number"))["last"] or 0) + 1


def _env_asked(asked: ReleaseSettings, base: Release) -> tuple[dict[str, str], set[str]]:
    """The variables, and the names of those that can be read."""
    env = dict(base.env if asked.env is None else asked.env)
    readable = set(base.env_readable if asked.env is None else ())
    if both := set(asked.secrets or ()) & set(asked.settings or ()):
        raise ReleaseInvalid(f"{min(both)[:60]!r} is both a secret and a setting.", field="settings")
    for changes, shown in ((asked.secrets, False), (asked.settings, True)):
        for name, value in (changes or {}).items():
            readable.discard(name)
            if value is None:
                env.pop(name, None)
                continue
            env[name] = value
            if shown:
                readable.add(name)
    return env, readable


def _env(env: Mapping[str, str]) -> dict[str, str]:
    if len(env) > MAX_ENV or sum(len(key) + len(str(value)) for key, value in env.items()) > MAX_ENV_BYTES:
        raise ReleaseInvalid(f"env may hold {MAX_ENV} variables and {MAX_ENV_BYTES // 1024} KiB in all.", field="env")
    for name, value in env.items():
        if not _ENV_NAME.fullmatch(name):
            rule = "letters, digits and _, not beginning with a digit"
            raise ReleaseInvalid(f"{name[:60]!r} is not a variable name: {rule}.", field="env")
        if name in ENV_RESERVED:
            raise ReleaseInvalid(f"{name} is set by the platform; listen on it.", field="env")
        if "\0" in value:
            raise ReleaseInvalid(f"The value of {name} must be text without NUL.", field="env")
    return dict(env)


def _command(command: Sequence[str]) -> list[str]:
    if len(command) > MAX_COMMAND or any("\0" in part or len(part) > 4096 for part in command):
        raise ReleaseInvalid(f"command may have {MAX_COMMAND} parts, without NUL.", field="command")
    return list(command)


def _readiness(asked: ReleaseSettings, base: Release) -> tuple[str, dict[str, Any]]:
    """The path, which stands in a column of its own, and the rest of the check."""
    path = asked.health_path
    if path and not path_ok(path):
        raise ReleaseInvalid("health_path must be like /_ping, or empty for a TCP check.", field="health_path")
    if asked.readiness is None:
        readiness = dict(base.readiness)
        if path is None:
            return base.health_path, readiness
        if "kind" in readiness and readiness["kind"] != (Kind.HTTP if path else Kind.TCP):
            # What went with the other kind goes with it.
            for key in ("kind", "command", "statuses", "text"):
                readiness.pop(key, None)
        return path, readiness
    readiness = _check("readiness", asked.readiness)
    its = readiness.pop("path", None)
    if path is not None and its is not None and path != its:
        raise ReleaseInvalid("health_path and the path of readiness differ: leave one out.", field="health_path")
    if readiness.get("kind", Kind.HTTP) != Kind.HTTP:
        if path:
            raise ReleaseInvalid(f"A check of the kind {readiness['kind']} has no path.", field="health_path")
        return "", readiness
    if path == "" and readiness.get("kind") == Kind.HTTP:
        raise ReleaseInvalid("A check of the kind http needs a path.", field="health_path")
    if path is not None or its is not None:
        return path if path is not None else its, readiness
    # {} keeps the path, an empty one too; what asks by HTTP needs one.
    return base.health_path or (DEFAULT_PATH if readiness else ""), readiness


def _check(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return checked(given, startable=name == "readiness")
    except CheckInvalid as error:
        key = f"{name}.{error.key}" if error.key else name
        raise ReleaseInvalid(f"{name}: {error}.", field=key) from None


def _one_of(name: str, allowed: Sequence[str], value: str) -> str:
    if value not in allowed:
        raise ReleaseInvalid(f"{name} must be one of {', '.join(allowed)}.", field=name)
    return value


def _kept(name: str, asked: ReleaseSettings, base: Release) -> int:
    value = getattr(asked, name)
    return bounded(name, getattr(base, name) if value is None else value)


def bounded(name: str, value: int) -> int:
    """The value, within BOUNDS. Raises ReleaseInvalid."""
    low, high = BOUNDS[name]
    if not low <= value <= high:
        raise ReleaseInvalid(f"{name} must be from {low} to {high}.", field=name)
    return value
