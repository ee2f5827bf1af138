"""What a live gateway says of itself."""

from __future__ import annotations

import json
from dataclasses import dataclass

from gateway.contract.words import (
    FORMAT,
    Address,
    ContractError,
    gateway_id,
    json_number,
    json_object,
    json_text,
)


@dataclass(frozen=True, slots=True)
class GatewayState:
    """What a live gateway says of itself in its ephemeral node.

    ``served`` is the ZooKeeper transaction id (zxid) up to which every change is in force in this gateway;
    zxids only compare within one ``epoch`` (one life of the ZooKeeper data). ``stats`` is where its counters are
    read, as ``IP:port``; empty where that is nowhere.
    """

    gateway: str
    epoch: str
    served: int
    stats: str = ""

    def to_json(self) -> bytes:
        body = {"format": FORMAT, "gateway": self.gateway, "epoch": self.epoch, "served": self.served}
        if self.stats:
            body["stats"] = self.stats
        return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, raw: bytes) -> GatewayState:
        body = json_object(raw)
        try:
            stats = str(Address.parse(json_text(body, "stats"))) if "stats" in body else ""
        except ContractError:
            # A gateway without counters still routes: ports must go on waiting for its acknowledgement.
            stats = ""
        return cls(gateway_id(json_text(body, "gateway")), json_text(body, "epoch"), json_number(body, "served"), stats)
