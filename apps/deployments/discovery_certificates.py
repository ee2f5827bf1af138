"""Certificates' nodes in ZooKeeper, within a connection that `discovery` holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from kazoo.exceptions import NodeExistsError, NoNodeError

from gateway import contract


class CertificateNodes(Protocol):
    def names(self) -> list[str]: ...

    def read(self, name: str) -> bytes | None: ...

    def write(self, name: str, payload: bytes) -> None: ...

    def remove(self, name: str) -> None: ...


class CertificateTree:
    """Raises what kazoo raises."""

    def __init__(self, client: Any, acl: Sequence[Any]) -> None:
        self._client = client
        self._acl = acl

    def names(self) -> list[str]:
        try:
            return sorted(self._client.get_children(contract.CERTIFICATE_PATH))
        except NoNodeError:
            return []

    def read(self, name: str) -> bytes | None:
        try:
            return bytes(self._client.get(contract.certificate_path(name))[0])
        except NoNodeError:
            return None

    def write(self, name: str, payload: bytes) -> None:
        path = contract.certificate_path(name)
        try:
            self._client.create(path, payload, acl=self._acl)
        except NodeExistsError:
            self._client.set(path, payload)

    def remove(self, name: str) -> None:
        try:
            self._client.delete(f"{contract.CERTIFICATE_PATH}/{name}")
        except NoNodeError:
            return
