"""The words that cross: ZooKeeper paths, names, addresses, and reading JSON. Each is parsed here, or refused."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

FORMAT = 1
ROOT = "/caas"
EPOCH_PATH = f"{ROOT}/epoch"
SERVICE_PATH = f"{ROOT}/service"
ADDRESS_PATH = f"{SERVICE_PATH}/address"
ROUTE_PATH = f"{SERVICE_PATH}/route"
CERTIFICATE_PATH = f"{SERVICE_PATH}/certificate"
GATEWAY_PATH = f"{ROOT}/gateway"

MAX_WEIGHT = 100

_APP_ID = re.compile(r"[a-z](?:[a-z0-9-]{0,38}[a-z0-9])?")
# The tag grammar of the distribution specification (opencontainers/distribution-spec, "Pulling manifests").
_VERSION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_CONTAINER_ID = re.compile(r"[0-9a-f]{12,64}")
_GATEWAY_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
LIFE = re.compile(r"[0-9a-f-]{36}")
_CERTIFICATE_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
# What RFC 3986 (3.3) calls unreserved, in one to eight segments that are neither "." nor "..": nothing that a client
# may also write otherwise.
_PREFIX = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._~-]{1,64}){1,8}")
_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")


class ContractError(ValueError):
    """A path or a payload that does not follow the contract."""


def matched(pattern: re.Pattern[str], what: str, text: str) -> str:
    if not pattern.fullmatch(text):
        raise ContractError(f"not {what}: {text[:80]!r}")
    return text


def app_id(text: str) -> str:
    return matched(_APP_ID, "an app id", text)


def version(text: str) -> str:
    if text in {".", ".."}:
        raise ContractError(f"not a version: {text!r}")
    return matched(_VERSION, "a version", text)


def container_id(text: str) -> str:
    return matched(_CONTAINER_ID, "a container id", text)


def gateway_id(text: str) -> str:
    return matched(_GATEWAY_ID, "a gateway id", text)


def host_name(text: str) -> str:
    """A DNS name in lower case (RFC 1123 labels, at most 253 characters), without a trailing dot."""
    name = text.lower()
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ContractError(f"not a host name: {text[:80]!r}")
    return name


def wildcard_name(text: str) -> str:
    """``*.`` and a host name of at least two labels: any one label in front of it."""
    if not text.startswith("*.") or "." not in text[2:]:
        raise ContractError(f"not a wildcard: {text[:80]!r}")
    return f"*.{host_name(text[2:])}"


def path_prefix(text: str) -> str:
    """``/`` alone, or segments of unreserved characters without a slash behind the last one."""
    return text if text == "/" else matched(_PREFIX, "a path prefix", text)


def certificate_id(text: str) -> str:
    return matched(_CERTIFICATE_ID, "a certificate id", text)


def app_address_path(app: str) -> str:
    return f"{ADDRESS_PATH}/{app_id(app)}"


def version_path(app: str, tag: str) -> str:
    return f"{app_address_path(app)}/{version(tag)}"


def instance_path(app: str, tag: str, container: str) -> str:
    return f"{version_path(app, tag)}/{container_id(container)}"


def route_path(app: str) -> str:
    return f"{ROUTE_PATH}/{app_id(app)}"


def certificate_path(certificate: str) -> str:
    return f"{CERTIFICATE_PATH}/{certificate_id(certificate)}"


def gateway_path(gateway: str) -> str:
    return f"{GATEWAY_PATH}/{gateway_id(gateway)}"


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """Where an instance listens: an IP address and a TCP port, written ``host:port`` (``[v6]:port``)."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        host, colon, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        try:
            if "%" in host:  # ipaddress takes any text at all as the scope of an IPv6 address
                raise ValueError
            address = ipaddress.ip_address(host[1:-1] if bracketed else host)
        except ValueError:
            raise ContractError(f"not an address: {text[:80]!r}") from None
        if not colon or bracketed != (address.version == 6) or not re.fullmatch(r"[1-9][0-9]{0,4}", port):
            raise ContractError(f"not an address: {text[:80]!r}")
        if int(port) > 65535:
            raise ContractError(f"not a port: {port}")
        return cls(str(address), int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def json_object(raw: bytes) -> dict[str, object]:
    try:
        body = json.loads(raw)
    except ValueError as error:
        raise ContractError(f"not JSON: {error}") from None
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise ContractError(f"not an object of format {FORMAT}")
    return body


def json_text(body: dict[str, object], key: str) -> str:
    value = body.get(key)
    if not isinstance(value, str):
        raise ContractError(f"{key} is not text")
    return value


def json_number(body: Mapping[str, object], key: str) -> int:
    return json_count(body.get(key), key)


def json_count(value: object, what: str) -> int:
    if type(value) is not int or value < 0:
        raise ContractError(f"{what} is not a number")
    return value


def json_mapping(found: object, what: str) -> dict[str, object]:
    """Of JSON, whose keys are always text."""
    if not isinstance(found, dict):
        raise ContractError(f"{what}: not an object")
    return found


def json_list(found: object, what: str, most: int) -> list[object]:
    if not isinstance(found, list) or len(found) > most:
        raise ContractError(f"{what}: not a list of at most {most}")
    return found


def json_flag(body: Mapping[str, object], key: str) -> bool:
    """False where it is left out."""
    value = body.get(key, False)
    if not isinstance(value, bool):
        raise ContractError(f"{key} is neither true nor false")
    return value
