"""From the bytes of ZooKeeper nodes to a Reading. Pure; never raises for what somebody wrote there."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from gateway import contract
from gateway.wanted import Reading

Addresses = Mapping[str, Mapping[str, bytes]]


def parse(app: str, route: bytes, addresses: Addresses) -> Reading:
    """``addresses``: version -> container id -> value, all as found."""
    faults: list[str] = []
    instances: dict[str, dict[str, contract.Address]] = {}
    for tag, containers in addresses.items():
        for name, value in containers.items():
            try:
                address = _address(value)
                instances.setdefault(contract.version(tag), {})[contract.container_id(name)] = address
            except ValueError as error:
                faults.append(f"{tag[:80]}/{name[:80]}: {error}")
    parsed: contract.Route | None = None
    try:
        parsed = contract.Route.from_json(route)
        if parsed.app != app:
            faults.append(f"the route of {parsed.app!r}")
            parsed = None
    except (ValueError, RecursionError, TypeError) as error:
        faults.append(f"route: {error}")
    return Reading(parsed, instances, tuple(faults))


def _address(value: bytes) -> contract.Address:
    address = contract.Address.parse(value.decode("ascii"))
    host = ipaddress.ip_address(address.host)
    if host.is_unspecified or host.is_multicast:
        raise contract.ContractError(f"not the address of an instance: {address}")
    return address
