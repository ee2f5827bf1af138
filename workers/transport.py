"""Kombu's Redis transport without its book of messages that are being worked on.

Kombu notes each message in Redis when it is received and strikes it out when it is acknowledged, so that one whose
worker died comes again after an hour. Ours are acknowledged before the work and are nudges only: what a dead worker
leaves is found by the sweep in seconds. The book took more of a worker's time than most of what its messages asked for
(docs/decisions/0015-worker-queues.md).
"""

from __future__ import annotations

from typing import Any

from kombu.transport import redis, virtual


class QoS(redis.QoS):
    """Counts what is received and not acknowledged, for the prefetch limit, and keeps that in the process."""

    restore_at_shutdown = False

    def append(self, message: Any, delivery_tag: str) -> None:
        virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """What is given back is the sweep's to find."""
        virtual.QoS.ack(self, delivery_tag)

    def restore_unacked(self, client: Any = None) -> None:
        if self._delivered is not None:
            self._delivered.clear()

    def restore_visible(self, start: int = 0, num: int = 10, interval: int = 10) -> None:
        """There is nothing to come again."""


class Channel(redis.Channel):
    QoS = QoS
    _kept: Any = None

    def _create_client(self, asynchronous: bool = False) -> Any:
        """Kombu makes one for each message that is sent, which takes longer than to send it. The connections are the
        pool's either way.
        """
        if asynchronous:
            return super()._create_client(asynchronous=True)  # type: ignore[misc]
        if self._kept is None or self._kept.connection_pool is not self.pool:
            self._kept = super()._create_client()  # type: ignore[misc]
        return self._kept


class Transport(redis.Transport):
    Channel = Channel
