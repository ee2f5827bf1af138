"""The Docker Engine's JSON to Observed. Pure, and suspicious: other containers may carry any labels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from apps.hosts.engines import builder
from apps.hosts.engines.base import ContainerState, EngineInfo, HostImage, Observed
from apps.hosts.engines.docker_errors import clean

_NAME = re.compile(r"berth-[a-z0-9][a-z0-9-]*[a-z0-9]")
_EXITED = re.compile(r"Exited \((\d+)\)")
_STATES = {
    "created": ContainerState.CREATED,
    "running": ContainerState.RUNNING,
    "paused": ContainerState.RUNNING,
    "restarting": ContainerState.RUNNING,
    "removing": ContainerState.EXITED,
    "exited": ContainerState.EXITED,
    "dead": ContainerState.EXITED,
}


def is_name(name: str) -> bool:
    """Whether it may be put into the engine's URL: anything else is surely not the name of one of ours."""
    return len(name) <= 255 and _NAME.fullmatch(name) is not None


def labels_of(raw: Mapping[str, Any]) -> dict[str, str]:
    """The labels of an inspect answer or of a line of the list; empty for anything else."""
    config = raw.get("Config")
    labels = config.get("Labels") if isinstance(config, dict) else raw.get("Labels")
    return {str(k): str(v) for k, v in labels.items()} if isinstance(labels, dict) else {}


def is_named(found: Mapping[str, Any], name: str) -> bool:
    """Whether this inspect answer is about our container of this name."""
    ours = from_inspect(found)
    return ours is not None and ours.name == name


def carries(network: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    its = labels_of(network)
    return all(its.get(key) == value for key, value in labels.items())


def from_inspect(raw: Mapping[str, Any]) -> Observed | None:
    """None for a container that is not ours: its name must be the one that its own labels spell."""
    state = raw.get("State")
    if not isinstance(state, dict):
        return None
    kind = _STATES.get(str(state.get("Status")))
    code = state.get("ExitCode")
    return _observed(
        raw,
        str(raw.get("Name", "")),
        kind,
        code if isinstance(code, int) else None,
        bool(state.get("OOMKilled")),
        str(state.get("Error") or ""),
    )


def from_list(raw: Mapping[str, Any]) -> Observed | None:
    """What a line of the list says; of an ended container only the exit code."""
    names = raw.get("Names")
    name = str(names[0]) if isinstance(names, list) and names else ""
    exited = _EXITED.match(str(raw.get("Status", "")))
    return _observed(raw, name, _STATES.get(str(raw.get("State"))), int(exited[1]) if exited else None, False, "")


def _observed(
    raw: Mapping[str, Any],
    name: str,
    state: ContainerState | None,
    exit_code: int | None,
    oom_killed: bool,
    error: str,
) -> Observed | None:
    labels = labels_of(raw)
    name = name.removeprefix("/")
    app, instance = labels.get(builder.LABEL_APP), labels.get(builder.LABEL_INSTANCE)
    ours = f"berth-{labels.get(builder.LABEL_PLATFORM)}-{app}-{instance}"
    if not app or not instance or state is None or name != ours or not isinstance(raw.get("Id"), str):
        return None
    ended = state is ContainerState.EXITED
    return Observed(
        name=name,
        container_id=raw["Id"],
        instance=instance,
        app=app,
        state=state,
        fingerprint=labels.get(builder.LABEL_SPEC, ""),
        exit_code=exit_code if ended else None,
        oom_killed=oom_killed and ended,
        error=clean(error) if error else "",
    )


#: The kernel's names (uname -m), which /info gives, and Go's, which images have: containerd, platforms/database.go.
_ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "armv6l": "arm",
    "armhf": "arm",
    "i386": "386",
    "i686": "386",
}


def info(raw: Mapping[str, Any]) -> EngineInfo:
    """What the engine says about itself; labels without "=" have an empty value."""
    machine = str(raw.get("Architecture") or "").lower()
    pairs = (str(label).partition("=") for label in raw.get("Labels") or [])
    return EngineInfo(
        version=str(raw.get("ServerVersion", "")),
        cpu_millis=int(raw.get("NCPU") or 0) * 1000,
        memory_mb=int(raw.get("MemTotal") or 0) // (1024 * 1024),
        labels={name: value for name, _, value in pairs},
        os=str(raw.get("OSType") or "").lower()[:20],
        architecture=_ARCHITECTURES.get(machine, machine)[:20],
    )


def image(raw: Mapping[str, Any]) -> HostImage:
    """A line of the list of images. One without names has "<none>" for them, or nothing at all."""
    names = [*(raw.get("RepoTags") or []), *(raw.get("RepoDigests") or [])]
    known = tuple(str(one) for one in names if "<none>" not in str(one))
    return HostImage(str(raw["Id"]), known, max(0, int(raw.get("Size") or 0)))
