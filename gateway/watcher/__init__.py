"""ZooKeeper's side of the gateway; the only home of kazoo here."""

from gateway.watcher.following import Update, Watcher

__all__ = ["Update", "Watcher"]
