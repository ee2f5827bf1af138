"""A DNS server for tests: answers over UDP on loopback from a dict, or says what it was told to say."""

from __future__ import annotations

import socket
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset


class NameServer:
    """``records[name][type]`` are texts as in a zone file. ``broken[name]`` is an rcode, or "silent"."""

    def __init__(self) -> None:
        self.records: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        self.broken: dict[str, str] = {}
        self.asked: list[tuple[str, str]] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def txt(self, name: str, *values: str) -> None:
        self.records[name]["TXT"] = [f'"{value}"' for value in values]

    def cname(self, name: str, target: str) -> None:
        self.records[name]["CNAME"] = [f"{target}."]

    def forget(self, *names: str) -> None:
        for name in names or list(self.records):
            self.records.pop(name, None)

    def close(self) -> None:
        """Ends the thread by a packet of its own: a close alone would leave it waiting."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.sendto(b"end", self._socket.getsockname())
        self._thread.join(5)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            packet, client = self._socket.recvfrom(4096)
            if packet == b"end":
                return
            reply = self._answer(dns.message.from_wire(packet))
            if reply is not None:
                self._socket.sendto(reply.to_wire(), client)

    def _answer(self, query: dns.message.Message) -> dns.message.Message | None:
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind))
        broken = self.broken.get(name, "")
        if broken == "silent":
            return None
        reply = dns.message.make_response(query)
        reply.flags |= dns.flags.RA
        if broken:
            reply.set_rcode(dns.rcode.from_text(broken))
            return reply
        have = self.records.get(name)
        if have is None:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        elif have.get(kind):
            reply.answer.append(dns.rrset.from_text(question.name, 60, "IN", kind, *have[kind]))
        elif have.get("CNAME"):
            # As a resolver answers: the alias, and what it leads to.
            target = have["CNAME"][0].rstrip(".")
            reply.answer.append(dns.rrset.from_text(question.name, 60, "IN", "CNAME", f"{target}."))
            values = self.records.get(target, {}).get(kind)
            if values:
                reply.answer.append(dns.rrset.from_text(f"{target}.", 60, "IN", kind, *values))
        return reply


@contextmanager
def name_server() -> Iterator[NameServer]:
    server = NameServer()
    try:
        yield server
    finally:
        server.close()
