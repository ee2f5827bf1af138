"""Asking DNS. The only home of dnspython; what an answer means is for ``reconcile.domains``."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import dns.exception
import dns.nameserver
import dns.resolver

from gateway.contract import Address

#: Of one answer; more is nobody's proof.
MOST_VALUES, MOST_CHARACTERS = 200, 1000


class Outcome(enum.StrEnum):
    FOUND = "found"
    NONE = "none"  # the name is there, and has no such record
    NO_NAME = "no_name"  # NXDOMAIN
    TIMEOUT = "timeout"
    FAILED = "failed"  # SERVFAIL, REFUSED, or no server at all


@dataclass(frozen=True, slots=True)
class Answer:
    outcome: Outcome
    values: tuple[str, ...] = ()

    @property
    def is_sure(self) -> bool:
        """Whether DNS said so; otherwise it may only have been hard to reach."""
        return self.outcome in (Outcome.FOUND, Outcome.NONE, Outcome.NO_NAME)


class Resolver(Protocol):
    def txt(self, name: str) -> Answer:
        """The TXT records of the name, each as one text."""
        ...

    def cname(self, name: str) -> Answer:
        """What the name itself is an alias of, in small letters and without the last dot."""
        ...


class PublicResolver:
    """Asks the servers that the operators named, ``address`` or ``address:port``; without any the machine's own.

    They follow delegations and aliases, and check DNSSEC where they do: nothing of that is done here. ``timeout_s`` is
    for one question, with its repetitions.
    """

    def __init__(self, servers: Sequence[str] = (), *, timeout_s: float = 5.0) -> None:
        resolver = dns.resolver.Resolver(configure=not servers)
        if servers:
            resolver.nameservers = [_server(one) for one in servers]
        resolver.lifetime = timeout_s
        resolver.timeout = min(2.0, timeout_s)
        self._resolver = resolver

    def txt(self, name: str) -> Answer:
        return self._ask(name, "TXT", lambda one: b"".join(one.strings).decode("utf-8", "replace"))

    def cname(self, name: str) -> Answer:
        return self._ask(name, "CNAME", lambda one: str(one.target.to_text(omit_final_dot=True)).lower())

    def _ask(self, name: str, kind: str, text: Any) -> Answer:
        try:
            found = self._resolver.resolve(f"{name}.", kind, search=False)
        except dns.resolver.NXDOMAIN:
            return Answer(Outcome.NO_NAME)
        except dns.resolver.NoAnswer:
            return Answer(Outcome.NONE)
        except dns.exception.Timeout:
            return Answer(Outcome.TIMEOUT)
        except (dns.exception.DNSException, OSError):
            return Answer(Outcome.FAILED)
        return Answer(Outcome.FOUND, tuple(text(one)[:MOST_CHARACTERS] for one in list(found)[:MOST_VALUES]))


def _server(text: str) -> dns.nameserver.Nameserver:
    address = Address.parse(text if "]:" in text or text.count(":") == 1 else _with_port(text))
    return dns.nameserver.Do53Nameserver(address.host, address.port)


def _with_port(text: str) -> str:
    return f"[{text}]:53" if ":" in text else f"{text}:53"
