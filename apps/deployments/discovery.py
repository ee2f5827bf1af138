"""Publishes addresses and routes to ZooKeeper; the only home of kazoo on the platform's side.

Each publication of an app is ONE ZooKeeper transaction that sets the app's route node last, guarded by the route
node's version. So a gateway that sees the route change finds all addresses of it, and of two publishers that race
the one with the older view of the database loses and reads again. A gateway acknowledges by zxid.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from kazoo.client import KazooClient
from kazoo.exceptions import (
    BadVersionError,
    KazooException,
    NodeExistsError,
    NoNodeError,
    NotEmptyError,
    RolledBackError,
    RuntimeInconsistency,
)
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.retry import KazooRetry
from kazoo.security import make_digest_acl

from apps.core.errors import PlatformError
from apps.deployments.discovery_certificates import CertificateNodes, CertificateTree
from apps.deployments.kept import Addresses, Kept, Stands
from apps.deployments.selectors import Publication
from gateway import contract

ATTEMPTS = 8
TIMEOUT_S = 5.0
SESSION_S = 6.0
#: Without connection for this long, a client is given up.
REPLACE_AFTER_S = 9.0
#: After an attempt that failed the next waits for this long; who asks meanwhile is told at once.
RETRY_AFTER_S = 2.0
#: Addresses that a process keeps of what it published, about 300 bytes each.
MOST_KEPT = 50_000
#: Questions that are on their way to ZooKeeper at the same time.
AT_ONCE = 500
T = TypeVar("T")


class DiscoveryUnavailable(PlatformError):
    code = "discovery.unavailable"


class EpochMissing(Exception):
    """ZooKeeper is empty, or new: everything must be published before gateways may believe it."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """A publication stands in ZooKeeper as of this transaction of this epoch."""

    wanted: int
    epoch: str
    zxid: int


class Publisher:
    """One connection, kept for the life of the process. Raises DiscoveryUnavailable where ZooKeeper is away."""

    def __init__(self, *, hosts: str, credential: str, gateway_credential: str) -> None:
        user, _, password = credential.partition(":")
        gateway_user, _, gateway_password = gateway_credential.partition(":")
        own = make_digest_acl(user, password, all=True)
        self._acl = [own, make_digest_acl(gateway_user, gateway_password, read=True)]
        self._gateways_acl = [
            own,
            make_digest_acl(gateway_user, gateway_password, read=True, create=True, delete=True),
        ]
        self._hosts, self._credential = hosts, credential
        self._client: Any = None
        self._lost_at: float | None = None
        self._failed_at: float | None = None
        self._kept = Kept(MOST_KEPT)
        #: Threads of a worker share the connection; one of them makes it.
        self._connecting = threading.Lock()

    def publish(self, app: str, read: Callable[[], Publication | None], *, rebuilding: bool = False) -> Receipt | None:
        """Make ZooKeeper show what ``read`` returns from the database. None where the app is gone.

        ``read`` is called after ZooKeeper was looked at, and again after a lost race. Raises EpochMissing unless
        ``rebuilding``, which also reads every address again instead of trusting what this process wrote last.
        """
        return self._guarded(lambda: self._publish(app, read, rebuilding))

    def epoch(self) -> str:
        """The id of this life of ZooKeeper's data; empty where it has none yet."""
        return self._guarded(lambda: (self._read(contract.EPOCH_PATH) or (b"", None))[0].decode())

    def epoch_begin(self) -> str:
        """After a rebuild: tell gateways that what stands here is the truth. Returns the epoch."""

        def begin() -> str:
            name = str(uuid.uuid4())
            try:
                self._client.create(contract.EPOCH_PATH, name.encode(), acl=self._acl)
            except NodeExistsError:
                return str(self._client.get(contract.EPOCH_PATH)[0].decode())
            return name

        return self._guarded(begin)

    def withdraw(self, app: str, gone: Callable[[], bool]) -> bool:
        """Remove the app's route and addresses, in one transaction. True once nothing of it stands here; False where
        it is not ``gone`` after all: that is asked after ZooKeeper was looked at, as in ``publish``.
        """
        return self._guarded(lambda: self._withdraw(app, gone))

    def at(self) -> tuple[str, int]:
        """The epoch, and a zxid that nothing which this process did or saw before is later than."""
        epoch = self.epoch()
        return self._guarded(lambda: (epoch, int(self._client.last_zxid)))

    def prune(self, known: Callable[[list[str]], set[str]]) -> int:
        """Remove the routes of apps that are not ``known`` to the database. Returns how many.

        ZooKeeper is listed first and the database asked second: an app made meanwhile is safe.
        """

        def remove() -> int:
            listed = self._children(contract.ROUTE_PATH)
            extra = sorted(set(listed) - known(listed))
            if len(extra) > max(5, len(listed) // 2):
                # It looks more like a lost database than like so many lost apps; routes are traffic.
                raise DiscoveryUnavailable(f"{len(extra)} of {len(listed)} routes are unknown: none is removed.")
            for app in extra:
                self._client.delete(f"{contract.ROUTE_PATH}/{app}")
                if self._client.exists(f"{contract.ADDRESS_PATH}/{app}"):
                    self._client.delete(f"{contract.ADDRESS_PATH}/{app}", recursive=True)
            return len(extra)

        return self._guarded(remove)

    def gateways(self) -> list[contract.GatewayState]:
        """What the gateways that are connected right now say of themselves."""

        def ask() -> list[contract.GatewayState]:
            found = []
            for name in self._children(contract.GATEWAY_PATH):
                node = self._read(f"{contract.GATEWAY_PATH}/{name}")
                if node is not None:
                    try:
                        found.append(contract.GatewayState.from_json(node[0]))
                    except contract.ContractError:
                        continue
            return found

        return self._guarded(ask)

    def published(self) -> dict[str, dict[tuple[str, str], str]]:
        """What stands here: app -> (version, container id) -> address. For looking at, by the audit.

        Many reads and no one moment: what is published meanwhile may be seen in part.
        """

        def ask() -> dict[str, dict[tuple[str, str], str]]:
            apps = {*self._children(contract.ADDRESS_PATH), *self._children(contract.ROUTE_PATH)}
            return {app: self._addresses(app) for app in sorted(apps)}

        return self._guarded(ask)

    def certificates(self, work: Callable[[CertificateNodes], T]) -> T:
        """Work on the certificates' nodes."""
        return self._guarded(lambda: work(CertificateTree(self._client, self._acl)))

    def ping(self) -> None:
        self._guarded(lambda: self._client.exists(contract.ROOT))

    def close(self) -> None:
        client, self._client, self._lost_at = self._client, None, None
        self._kept.clear()
        if client is not None:
            client.stop()
            client.close()

    # ----------------------------------------------------------------------------------------------------------

    def _guarded(self, work: Callable[[], T]) -> T:
        try:
            self._connect()
            try:
                return work()
            except NoNodeError:
                # The data was wiped under a living session: lay the tree out again, and work once more.
                self._kept.clear()
                self._lay_out()
                return work()
        except (KazooException, KazooTimeoutError, OSError) as error:
            # Whether the last transaction stands is not known.
            self._kept.clear()
            raise DiscoveryUnavailable(f"ZooKeeper did not answer as it should: {error!r}") from error

    def _connect(self) -> None:
        """Raises DiscoveryUnavailable at once while ZooKeeper is away.

        A client that has been without connection for long is replaced: ZooKeeper refuses one that has seen a later
        transaction than it has itself, so that after a loss of its data an old client would never be let in again.
        """
        client = self._client
        if client is not None and client.connected:
            self._lost_at = None
            return
        with self._connecting:
            self._connect_anew()

    def _connect_anew(self) -> None:
        if self._client is not None and self._client.connected:
            return
        at = time.monotonic()
        if self._failed_at is not None and at - self._failed_at < RETRY_AFTER_S:
            raise DiscoveryUnavailable("ZooKeeper could not be reached a moment ago.")
        if self._client is not None:
            self._lost_at = self._lost_at or at
            if at - self._lost_at < REPLACE_AFTER_S:
                raise DiscoveryUnavailable("ZooKeeper is not connected at the moment.")
            self.close()
        client = KazooClient(
            hosts=self._hosts,
            timeout=SESSION_S,
            auth_data=[("digest", self._credential)],
            # kazoo's own waits double up to an hour.
            connection_retry=KazooRetry(max_tries=-1, delay=0.1, max_delay=2),
        )
        try:
            client.start(timeout=TIMEOUT_S)
        except BaseException:
            self._failed_at = time.monotonic()
            client.stop()
            client.close()
            raise
        self._client = client
        self._lost_at = self._failed_at = None
        self._lay_out()

    def _lay_out(self) -> None:
        for path in (contract.ROOT, contract.SERVICE_PATH, contract.ADDRESS_PATH, contract.ROUTE_PATH):
            self._ensure(path, self._acl)
        self._ensure(contract.CERTIFICATE_PATH, self._acl)
        self._ensure(contract.GATEWAY_PATH, self._gateways_acl)

    def _ensure(self, path: str, acl: Sequence[Any]) -> None:
        try:
            self._client.create(path, b"", acl=acl)
        except NodeExistsError:
            return

    def _read(self, path: str) -> tuple[bytes, Any] | None:
        try:
            data, stat = self._client.get(path)
        except NoNodeError:
            return None
        return data, stat

    def _children(self, path: str) -> list[str]:
        try:
            return sorted(self._client.get_children(path))
        except NoNodeError:
            return []

    def _publish(self, app: str, read: Callable[[], Publication | None], rebuilding: bool) -> Receipt | None:
        epoch = self._read(contract.EPOCH_PATH)
        if epoch is None and not rebuilding:
            raise EpochMissing
        name = epoch[0].decode() if epoch else ""
        for _ in range(ATTEMPTS):
            # The route's version first, the database second: see the module's docstring.
            route_now = self._read(contract.route_path(app))
            wanted = read()
            if wanted is None:
                return None
            zxid = self._attempt(wanted, route_now, rebuilding)
            if zxid is not None:
                return Receipt(wanted.wanted, name, zxid)
        raise DiscoveryUnavailable(f"Others kept publishing {app} at the same time.")

    def _withdraw(self, app: str, gone: Callable[[], bool]) -> bool:
        self._kept.drop(app)
        for _ in range(ATTEMPTS):
            route_now = self._read(contract.route_path(app))
            base = contract.app_address_path(app)
            stands = self._client.exists(base) is not None
            have = self._addresses(app) if stands else {}
            if not gone():
                return False
            if route_now is None and not stands:
                return True
            change = self._client.transaction()
            self._change_addresses(change, app, have, {})
            if stands:
                change.delete(base)
            if route_now is not None:
                change.delete(contract.route_path(app), version=route_now[1].version)
            results = change.commit()
            if not any(isinstance(result, KazooException) for result in results):
                return True
            self._raise_unless_lost(results)
        raise DiscoveryUnavailable(f"Others kept publishing {app} at the same time.")

    def _attempt(self, wanted: Publication, route_now: tuple[bytes, Any] | None, afresh: bool) -> int | None:
        """One transaction; its zxid, or None where somebody else changed the app's nodes meanwhile.

        ``afresh``: addresses are read, whatever is kept of them.
        """
        app = wanted.app
        kept = None if afresh or route_now is None else self._kept.get(app, self._stands(route_now[1]))
        have = self._addresses(app) if kept is None else kept
        want = {(one.version, one.container_id): str(contract.Address(one.host, one.port)) for one in wanted.instances}
        revision = _revision(route_now)
        route = _route(wanted, revision)
        if route_now is not None and have == want and route.to_json() == route_now[0]:
            # Nothing to change, but perhaps only because somebody changed it after the route was read: then the
            # zxid that was read is older than their change, and would be acknowledged too early.
            still = self._client.exists(contract.route_path(app))
            if still is None or still.mzxid != route_now[1].mzxid:
                return None
            self._kept.put(app, self._stands(still), have)
            return int(still.mzxid)
        body = _route(wanted, revision + 1).to_json()
        path = contract.route_path(app)
        change = self._client.transaction()
        if route_now is not None:
            change.check(path, route_now[1].version)
        self._change_addresses(change, app, have, want)
        if route_now is None:
            change.create(path, body, acl=self._acl)
        else:
            change.set_data(path, body)
        results = change.commit()
        if any(isinstance(result, KazooException) for result in results):
            self._kept.drop(app)
            self._raise_unless_lost(results)
            return None
        if route_now is not None:
            self._kept.put(app, self._stands(results[-1]), want)
            return int(results[-1].mzxid)
        # Not kept: by now it may be another's node that is looked at.
        created = self._client.exists(path)
        return int(created.mzxid) if created else None

    def _raise_unless_lost(self, results: Sequence[Any]) -> None:
        # RuntimeInconsistency marks the operations behind the one that failed.
        lost = (
            BadVersionError,
            NodeExistsError,
            NoNodeError,
            NotEmptyError,
            RolledBackError,
            RuntimeInconsistency,
        )
        for result in results:
            if isinstance(result, KazooException) and not isinstance(result, lost):
                raise result

    def _stands(self, route: Any) -> Stands:
        return (self._client.client_id or (0,))[0], route.czxid, route.mzxid, route.version

    def _addresses(self, app: str) -> dict[tuple[str, str], str]:
        """All of an app's, in three round trips or a few more; a version without any is there as (version, "")."""
        base = f"{contract.ADDRESS_PATH}/{app}"
        found: dict[tuple[str, str], str] = {}
        asked: list[tuple[str, str]] = []
        versions = self._children(base)
        listed = self._answers(self._client.get_children_async, [f"{base}/{tag}" for tag in versions])
        for tag, names in zip(versions, listed, strict=True):
            asked.extend((tag, name) for name in names or ())
            if not names:
                found[tag, ""] = ""
        nodes = self._answers(self._client.get_async, [f"{base}/{tag}/{name}" for tag, name in asked])
        found.update({key: node[0].decode() for key, node in zip(asked, nodes, strict=True) if node is not None})
        return found

    def _answers(self, ask: Callable[[str], Any], paths: Sequence[str]) -> Iterator[Any]:
        """For each path its answer, or None where there is no such node. Many are on their way at a time."""
        for start in range(0, len(paths), AT_ONCE):
            for asked in [ask(path) for path in paths[start : start + AT_ONCE]]:
                try:
                    yield asked.get(timeout=TIMEOUT_S)
                except NoNodeError:
                    yield None

    def _change_addresses(
        self,
        change: Any,
        app: str,
        have: Addresses,
        want: Addresses,
    ) -> None:
        base = contract.app_address_path(app)
        had_versions, versions = {tag for tag, _ in have}, {tag for tag, _ in want}
        if not had_versions and versions and self._client.exists(base) is None:
            change.create(base, b"", acl=self._acl)
        for tag in sorted(versions - had_versions):
            change.create(contract.version_path(app, tag), b"", acl=self._acl)
        for (tag, container), address in sorted(want.items()):
            if (tag, container) not in have:
                change.create(contract.instance_path(app, tag, container), address.encode(), acl=self._acl)
            elif have[tag, container] != address:
                change.set_data(contract.instance_path(app, tag, container), address.encode())
        for tag, container in sorted(set(have) - set(want)):
            if container:
                change.delete(f"{base}/{tag}/{container}")
        for tag in sorted(had_versions - versions):
            change.delete(f"{base}/{tag}")


def _route(wanted: Publication, revision: int) -> contract.Route:
    groups = tuple(contract.Group(share, containers) for share, containers in wanted.groups)
    places = tuple(contract.Place(host, prefix) for host, prefix in wanted.places)
    return contract.Route(
        app=wanted.app,
        revision=revision,
        domains=wanted.domains,
        weights=wanted.weights,
        policy=wanted.policy,
        groups=groups,
        places=places,
        protocol=wanted.protocol,
        ports=wanted.ports,
        passthrough=wanted.passthrough,
        challenges=wanted.challenges,
    )


def _revision(route_now: tuple[bytes, Any] | None) -> int:
    """The revision that stands there. A node that can't be read counts from 0, and is written over."""
    if route_now is None:
        return 0
    try:
        return contract.Route.from_json(route_now[0]).revision
    except contract.ContractError:
        return 0
