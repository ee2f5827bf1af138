"""The Docker Engine, over its socket or mutual TLS. The only home of the ``docker`` SDK.

What a container may be is decided in builder.py, what an error text means in docker_errors.py, and what an answer
means in docker_parse.py; here is only the order of the calls and what to do when another worker gets in between.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import requests
import urllib3
from docker import APIClient
from docker.errors import APIError, DockerException, NotFound

from apps.hosts.engines import builder, docker_events
from apps.hosts.engines import docker_parse as parse
from apps.hosts.engines.base import (
    CommandResult,
    ContainerEvent,
    ContainerSpec,
    ContainerState,
    EngineAddress,
    EngineError,
    EngineInfo,
    EngineUnreachable,
    HostImage,
    ImageRef,
    NameTaken,
    Observed,
)
from apps.hosts.engines.docker_check import run
from apps.hosts.engines.docker_errors import Moved, clean, read_error
from apps.hosts.engines.docker_pull import pull
from apps.hosts.engines.docker_tls import MutualTLS, base_url, context

API_VERSION = "1.41"
"""Docker Engine 20.10's; a newer engine that has given it up is spoken to in the oldest that it still knows."""

Networks = list[dict[str, Any]]

_NETWORK_LABELS = (builder.LABEL_PLATFORM, builder.LABEL_TENANT)
_ATTEMPTS = 8  # of ensure, 50 ms doubling: 6.4 s at most for the others to get out of the way
_REPLACE_GRACE_S = 10
_MAX_INSPECTED = 100
_MAX_TAIL = 10_000
_MAX_LOG_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. A change (create, start, remove) waits for the host's disk; a pull for the registry."""

    ping: int = 3
    read: int = 10
    change: int = 45
    pull_idle: int = 60
    pull_total: int = 240
    events_idle: int = 10


class DockerEngine:
    """One host's Docker Engine. Connects at the first verb; safe for threads."""

    def __init__(
        self,
        address: EngineAddress,
        timeouts: Timeouts = Timeouts(),
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = base_url(address)
        self._tls = context(address.tls) if address.tls else None
        self._timeouts = timeouts
        self._sleep = sleep
        self._clock = clock
        self._lock = threading.Lock()
        self._clients: dict[int, APIClient] = {}

    # --- the verbs ---

    def ping(self) -> EngineInfo:
        with _translated():
            return parse.info(self._client(self._timeouts.ping).info())

    def ensure(self, spec: ContainerSpec, *, pull_token: str) -> Observed:
        body = builder.build(spec)
        for attempt in range(_ATTEMPTS):
            try:
                with _translated():
                    return self._ensure(spec, body, pull_token)
            except Moved as moved:
                last: EngineError = moved
                self._sleep(0.05 * 2**attempt)
        raise last

    def remove(self, name: str, *, grace_s: int) -> None:
        with _translated():
            found = self._find(name)
            if found is not None:
                self._destroy(found["Id"], grace_s)
                labels = parse.labels_of(found)
                self._drop_networks({key: labels.get(key, "") for key in _NETWORK_LABELS})
            else:  # perhaps an earlier remove was cut off before it came to the network
                self._drop_networks(None, of=name)

    def inspect(self, name: str) -> Observed | None:
        with _translated():
            found = self._find(name)
            return None if found is None else parse.from_inspect(found)

    def list(self, platform: str) -> list[Observed]:
        with _translated():
            client = self._client()
            lines = client.containers(all=True, filters={"label": [f"{builder.LABEL_PLATFORM}={platform}"]})
            seen: list[Observed] = []
            inspected = 0
            for line in lines:
                one = parse.from_list(line)
                if one is None or parse.labels_of(line).get(builder.LABEL_PLATFORM) != platform:
                    continue
                if one.state is not ContainerState.RUNNING and inspected < _MAX_INSPECTED:
                    inspected += 1
                    found = self._find(one.name)
                    one = None if found is None else parse.from_inspect(found)
                if one is not None:
                    seen.append(one)
            return seen

    def logs(self, name: str, *, tail: int) -> bytes:
        with _translated():
            found = self._find(name)
            if found is None:
                return b""
            try:
                tail = max(0, min(tail, _MAX_TAIL))
                return self._client().logs(found["Id"], stdout=True, stderr=True, tail=tail)[-_MAX_LOG_BYTES:]
            except NotFound:
                return b""

    def check(self, name: str, command: Sequence[str], *, timeout_s: int) -> CommandResult:
        with _translated():
            found = self._find(name)
            if found is None or not found["State"]["Running"]:
                raise EngineError(f"{name} does not run")
            client = self._client()
            return run(
                client,
                f"{client.base_url}/v{client.api_version}",
                str(found["Id"]),
                [str(one) for one in found.get("ExecIDs") or []],
                command,
                read_s=self._timeouts.read,
                timeout_s=timeout_s,
                clock=self._clock,
            )

    def events(self, platform: str, *, since: float | None, stop: Callable[[], bool]) -> Iterator[ContainerEvent]:
        with _translated():
            client = self._client()
            yield from docker_events.stream(
                client,
                f"{client.base_url}/v{client.api_version}",
                platform,
                since=since,
                stop=stop,
                connect_s=self._timeouts.ping,
                idle_s=self._timeouts.events_idle,
            )

    def images(self) -> Sequence[HostImage]:
        with _translated():
            return [parse.image(line) for line in self._client().images()]

    def image_remove(self, reference: str) -> bool:
        builder.only_by_digest(reference)
        with _translated():
            try:
                self._client(self._timeouts.change).remove_image(reference, force=False)
            except NotFound:
                return True
            except APIError as refused:
                if refused.status_code == 409:
                    return False
                raise
            return True

    def close(self) -> None:
        """Drop the connections. The next verb opens new ones."""
        with self._lock:
            for client in self._clients.values():
                client.close()
            self._clients.clear()

    # --- containers ---

    def _ensure(self, spec: ContainerSpec, body: dict[str, Any], pull_token: str) -> Observed:
        found = self._find(spec.name)
        if found is not None and parse.labels_of(found).get(builder.LABEL_SPEC) == spec.fingerprint:
            return self._adopt(found)
        self._pull(spec.image, pull_token)  # before the old one stops: a failed pull costs nothing
        if found is not None:
            self._destroy(found["Id"], _REPLACE_GRACE_S)
        self._have_network(spec)
        return self._start(self._create(spec, body))

    def _adopt(self, found: dict[str, Any]) -> Observed:
        status = found["State"]["Status"]
        if status == "created":
            return self._start(found["Id"])
        if status == "removing":
            self._wait_gone(found["Id"])
            raise Moved("the container was being removed")
        return _known(parse.from_inspect(found))

    def _create(self, spec: ContainerSpec, body: dict[str, Any]) -> str:
        client = self._client(self._timeouts.change)
        try:
            made = client.create_container_from_config(body, spec.name)  # type: ignore[no-untyped-call]
            return str(made["Id"])
        except APIError as refused:
            holder = self._inspect(spec.name) if refused.status_code == 409 else None
            if holder is None or parse.is_named(holder, spec.name):
                raise  # the one that holds the name is ours, or on its way in or out: look again
        raise NameTaken(f"a container that is not ours has the name {spec.name}")

    def _start(self, container_id: str) -> Observed:
        """Start it once; one that cannot start is removed, so that nothing half made is left to be adopted."""
        client = self._client(self._timeouts.change)
        try:
            client.start(container_id)
        except APIError:
            self._discard(container_id)
            raise
        try:
            return _known(parse.from_inspect(client.inspect_container(container_id)))
        except NotFound:
            raise Moved("the container was removed as it started") from None

    def _discard(self, container_id: str) -> None:
        try:  # without force: if another worker has managed to start it meanwhile, it stays
            self._client(self._timeouts.change).remove_container(container_id, v=True)
        except (APIError, requests.RequestException):
            return  # the first error is the one to tell; the next ensure or remove deals with what is left

    def _destroy(self, container_id: str, grace_s: int) -> None:
        client = self._client(self._timeouts.change)
        grace_s = max(0, grace_s)  # a negative grace means for ever to the engine
        try:
            client.stop(container_id, timeout=grace_s)  # the SDK waits for its timeout and the grace
        except NotFound:
            return
        except APIError:
            pass  # then by force
        try:
            client.remove_container(container_id, v=True, force=True)
        except NotFound:
            return
        except APIError as refused:
            if refused.status_code != 409:
                raise
            self._wait_gone(container_id)

    def _wait_gone(self, container_id: str) -> None:
        try:
            wait_s = self._timeouts.change
            self._client(wait_s).wait(container_id, timeout=wait_s, condition="removed")
        except NotFound:
            return

    def _find(self, name: str) -> dict[str, Any] | None:
        """The engine's own words on our container of this name; None if there is none, or it is not ours."""
        found = self._inspect(name) if parse.is_name(name) else None
        if found is None:
            return None
        return found if parse.is_named(found, name) else None

    def _inspect(self, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self._client().inspect_container(name)
        except NotFound:
            return None
        return found

    # --- images ---

    def _pull(self, image: ImageRef, token: str) -> None:
        client = self._client()
        try:
            client.inspect_image(str(image))  # type: ignore[no-untyped-call]
            return
        except NotFound:
            pass
        pull(
            client,
            f"{client.base_url}/v{client.api_version}",
            image,
            token,
            connect_s=self._timeouts.read,
            idle_s=self._timeouts.pull_idle,
            total_s=self._timeouts.pull_total,
            clock=self._clock,
        )

    # --- networks ---

    def _have_network(self, spec: ContainerSpec) -> None:
        name, labels = builder.network_name(spec), builder.network_labels(spec)
        found = self._networks(name)
        if not found:
            client = self._client(self._timeouts.change)
            try:
                client.create_network(name, driver="bridge", labels=labels, check_duplicate=True)
            except APIError as refused:
                if refused.status_code != 409:
                    raise
            found = self._networks(name)
        if any(not parse.carries(network, labels) for network in found):
            raise NameTaken(f"a network that is not ours has the name {name}")
        if len(found) > 1:  # the engine's own check for duplicates races: two workers may both have made one
            self._settle(found)
            raise Moved(f"the network {name} was there twice")

    def _settle(self, twins: Networks) -> None:
        """Of networks with one name leave the oldest; of those in use, whichever goes first."""
        twins.sort(key=lambda network: (str(network.get("Created")), str(network["Id"])))
        if not any(self._drop_network(network) for network in reversed(twins[1:])):
            self._drop_network(twins[0])

    def _networks(self, name: str) -> Networks:
        found = self._client().networks(names=[name])  # the engine matches parts of names too
        return [network for network in found if network.get("Name") == name]

    def _drop_networks(self, labels: dict[str, str] | None, of: str = "") -> None:
        """Remove these labels' network, or any of the platform that ``of`` may belong to, if no container is left.

        An ensure that comes in between finds its network gone when it starts, and begins again.
        """
        client = self._client(self._timeouts.change)
        wanted = [f"{key}={value}" for key, value in labels.items()] if labels else list(_NETWORK_LABELS)
        for network in client.networks(filters={"label": wanted}):
            its = parse.labels_of(network)
            platform, tenant = (its.get(key, "") for key in _NETWORK_LABELS)
            if network.get("Name") != f"berth-{platform}-{tenant}":
                continue
            if of and not of.startswith(f"berth-{platform}-"):
                continue
            tied = [f"{key}={its[key]}" for key in _NETWORK_LABELS]
            if not client.containers(all=True, quiet=True, filters={"label": tied}):
                self._drop_network(network)

    def _drop_network(self, network: dict[str, Any]) -> bool:
        try:
            self._client(self._timeouts.change).remove_network(network["Id"])
        except APIError:
            return False  # in use after all, or gone already
        return True

    # --- the connection ---

    def _client(self, timeout_s: int | None = None) -> APIClient:
        """The SDK has one timeout per client, so there is a client per timeout."""
        timeout_s = timeout_s or self._timeouts.read
        with self._lock:
            if timeout_s not in self._clients:
                known = next(iter(self._clients.values()), None)
                self._clients[timeout_s] = self._open(timeout_s, known.api_version if known else self._version())
            return self._clients[timeout_s]

    def _version(self) -> str:
        probe = self._open(self._timeouts.ping, API_VERSION)
        try:
            oldest = str(probe.version(api_version=False).get("MinAPIVersion", API_VERSION))
        finally:
            probe.close()
        numbers = [int(part) for part in oldest.split(".")]
        return oldest if numbers > [int(part) for part in API_VERSION.split(".")] else API_VERSION

    def _open(self, timeout_s: int, version: str) -> APIClient:
        client = APIClient(base_url=self._url, version=version, timeout=timeout_s)
        if self._tls is not None:
            client.mount("https://", MutualTLS(self._tls))
        # Without this a proxy or REQUESTS_CA_BUNDLE in our environment overrules the host's own authority.
        client.trust_env = False
        client.max_redirects = 0  # a host that sends us elsewhere is not to be followed with our certificate
        return client


@contextmanager
def _translated() -> Iterator[None]:
    """Whatever the SDK and what is under it raise leaves as an EngineError, its text cleaned.

    ``from None``: the originals hold URLs and headers that would end in the log with the traceback.
    """
    try:
        yield
    except EngineError:
        raise
    except APIError as answered:
        raise read_error(answered.status_code or 0, str(answered.explanation or "")) from None
    except (requests.exceptions.JSONDecodeError, requests.exceptions.TooManyRedirects) as odd:
        raise EngineError(clean(f"the engine's answer makes no sense: {odd}")) from None
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError) as failed:
        raise EngineUnreachable(clean(failed)) from None
    except (DockerException, ValueError, LookupError, TypeError, AttributeError) as odd:
        raise EngineError(clean(f"the engine's answer makes no sense: {odd!r}")) from None


def _known(observed: Observed | None) -> Observed:
    if observed is None:
        raise EngineError("the engine does not give back the labels that it was given")
    return observed
