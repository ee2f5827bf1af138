"""Follows the certificates' nodes: which there are, and each one's payload."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kazoo.exceptions import NoAuthError, NoNodeError

from gateway import contract

CHUNK = 200


@dataclass(frozen=True, slots=True)
class CertificateNews:
    """``listed``: all that there are, where that was asked. ``payloads``: of what was read; None: it is gone."""

    listed: frozenset[str] | None = None
    payloads: dict[str, bytes | None] = field(default_factory=dict)


class CertificateNodes:
    """What has still to be read. Marks name ``certificates`` (the list) and ``certificate`` (one of them)."""

    def __init__(self) -> None:
        self._needs_list = False
        self._watched: set[str] = set()
        self._dirty: dict[str, None] = {}
        self._list_mark: Callable[[Any], None] | None = None
        self._mark: Callable[[Any], None] | None = None

    @property
    def busy(self) -> bool:
        return self._needs_list or bool(self._dirty)

    def begin(self, mark: Callable[[str], Callable[[Any], None]]) -> None:
        """A new connection, where no watch is set."""
        self._list_mark, self._mark = mark("certificates"), mark("certificate")
        self.again()

    def again(self) -> None:
        """Everything is to be read anew."""
        self._watched.clear()
        self._dirty.clear()
        self._needs_list = True

    def take(self, what: str, path: str) -> None:
        if what == "certificates":
            self._needs_list = True
        else:
            self._dirty[path.rpartition("/")[2]] = None

    def read(self, client: Any, seconds: float) -> CertificateNews:
        """Reads some of what is to be read. Raises KazooException, KazooTimeoutError; then it is still to be read."""
        listed = self._list(client, seconds) if self._needs_list else None
        chunk = list(self._dirty)[:CHUNK]
        asked = {name: client.get_async(f"{contract.CERTIFICATE_PATH}/{name}", watch=self._mark) for name in chunk}
        payloads: dict[str, bytes | None] = {}
        for name, result in asked.items():
            try:
                payloads[name] = result.get(timeout=seconds)[0]
                self._watched.add(name)
            except NoNodeError:
                payloads[name] = None
                self._watched.discard(name)
            except NoAuthError:
                # One that may not be read does not stop the others; the next listing tries it again.
                self._watched.discard(name)
        for name in chunk:
            self._dirty.pop(name, None)
        return CertificateNews(listed, payloads)

    def _list(self, client: Any, seconds: float) -> frozenset[str] | None:
        """None where the platform publishes no certificates: one of an older version, or without a key for them."""
        try:
            names = client.get_children_async(contract.CERTIFICATE_PATH, watch=self._list_mark).get(timeout=seconds)
        except NoNodeError:
            there = client.exists_async(contract.CERTIFICATE_PATH, watch=self._list_mark).get(timeout=seconds)
            self._needs_list = there is not None
            return None
        self._needs_list = False
        found = frozenset(name for name in names if _is_certificate(name))
        self._watched &= found
        self._dirty = {name: None for name in self._dirty if name in found}
        self._dirty.update(dict.fromkeys(sorted(found - self._watched)))
        return found


def _is_certificate(name: str) -> bool:
    try:
        return contract.certificate_id(name) == name
    except contract.ContractError:
        return False
