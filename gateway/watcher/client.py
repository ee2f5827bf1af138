"""A connection to ZooKeeper, for a gateway."""

from __future__ import annotations

from typing import Any

import structlog
from kazoo.client import KazooClient
from kazoo.retry import KazooRetry
from kazoo.security import make_acl, make_digest_acl

_log = structlog.get_logger(__name__)


def make_client(hosts: str, credential: str, session_seconds: float) -> Any:
    """``credential``: ``user:password``. Once started it connects, and connects again, for ever in the background."""
    user, _, password = credential.partition(":")
    # The node holds no secret, and the publisher's user is not our business: anybody may read it.
    acl = [make_digest_acl(user, password, all=True), make_acl("world", "anyone", read=True)]
    return KazooClient(
        hosts=hosts,
        timeout=session_seconds,
        auth_data=[("digest", credential)],
        default_acl=acl,
        connection_retry=KazooRetry(max_tries=-1, delay=0.1, max_delay=2.0),
    )


def end_client(client: Any) -> None:
    try:
        client.stop()
        client.close()
    except Exception as error:
        _log.info("zookeeper.client_end", error=str(error))
