"""One line of the access log, as a gateway ships it."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass

from gateway.contract.words import (
    FORMAT,
    ContractError,
    app_id,
    container_id,
    gateway_id,
    json_number,
    json_object,
    json_text,
    version,
)

#: The Redis stream; each entry has one field, ``line``.
ACCESS_STREAM = "berth:access"
MOST_METHOD = 32
MOST_HOST = 253
MOST_PATH = 256
MOST_ID = 64


@dataclass(frozen=True, slots=True)
class AccessLine:
    """``at``: when the request had ended, in milliseconds since 1970. ``status`` is 0 where the client went away before
    it was answered. ``wait_ms`` until the head of the answer, ``took_ms`` until all was over.

    ``version`` and ``container`` are empty where no instance was asked. ``method``, ``host`` and ``path`` are text of a
    client, cut at MOST_*, without what is not printable; ``path`` is without the query, in which secrets stand.
    ``sampled``: for how many requests of the app the line stands, when there were more than are kept.
    """

    at: int
    gateway: str
    app: str
    version: str
    container: str
    client: str
    method: str
    host: str
    path: str
    status: int
    wait_ms: int
    took_ms: int
    bytes_in: int
    bytes_out: int
    request: str
    sampled: int = 1

    def to_json(self) -> bytes:
        body: dict[str, object] = {"format": FORMAT}
        body.update({name: getattr(self, name) for name in self.__slots__})
        return json.dumps(body, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, raw: bytes) -> AccessLine:
        body = json_object(raw)
        tag, container = json_text(body, "version"), json_text(body, "container")
        try:
            client = str(ipaddress.ip_address(json_text(body, "client")))
        except ValueError:
            raise ContractError("client is not an address") from None
        status, sampled = json_number(body, "status"), json_number(body, "sampled")
        if status > 999 or sampled < 1:
            raise ContractError("status or sampled")
        return cls(
            at=json_number(body, "at"),
            gateway=gateway_id(json_text(body, "gateway")),
            app=app_id(json_text(body, "app")),
            version=version(tag) if tag else "",
            container=container_id(container) if container else "",
            client=client,
            method=clean(json_text(body, "method"), MOST_METHOD),
            host=clean(json_text(body, "host"), MOST_HOST),
            path=clean(json_text(body, "path"), MOST_PATH),
            status=status,
            wait_ms=json_number(body, "wait_ms"),
            took_ms=json_number(body, "took_ms"),
            bytes_in=json_number(body, "bytes_in"),
            bytes_out=json_number(body, "bytes_out"),
            request=clean(json_text(body, "request"), MOST_ID),
            sampled=sampled,
        )


def clean(text: str, most: int) -> str:
    """No line break and no escape sequence reaches whoever shows it."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text[:most])
