"""HAProxy's configuration and maps as text, from a data plane. Pure: the same plane gives the same text.

The current servers are written as static lines, so that a (re)start serves at once and has no gap. Paths are
relative: HAProxy runs in the gateway's directory (which also keeps socket paths short enough for the kernel).
"""

from __future__ import annotations

import re
from importlib import resources

from gateway.frame import CERTIFICATES, CHECKS, HOLD, SERVER_OPTIONS, Frame, head
from gateway.model import TCP_FIRST, Plane, Server, Table, backend_name

CONFIG = "haproxy.cfg"
FALLBACK = "fallback.pem"
RETRY_AFTER_SECONDS = 5

_WORD = re.compile(r"[a-z0-9][a-z0-9.-]*")
_FILE = re.compile(r"certificates/[a-z0-9-]+\.pem")
_NAME = re.compile(r"(?:\*\.)?[a-z0-9][a-z0-9.-]*")
_ENTRY = re.compile(r"[A-Za-z0-9*_-][A-Za-z0-9.*_:/+=~-]*")


def configuration(frame: Frame, plane: Plane) -> str:
    parts = [head(frame)]
    for slot in (*range(plane.slots), *range(TCP_FIRST, TCP_FIRST + plane.tcp_slots)):
        parts.append(f"backend {backend_name(slot)} from {'app' if slot < TCP_FIRST else 'tcp'}\n")
        servers = plane.servers.get(slot, {})
        parts.extend(_server_line(slot, servers[name]) for name in sorted(servers))
    return "".join(parts)


def maps(plane: Plane) -> dict[str, str]:
    """The maps and the list that the configuration names: file name -> text."""
    texts: dict[str, str] = {
        table: "".join(f"{_key(key)} {_value(value)}\n" for key, value in sorted(plane.table(table).items()))
        for table in Table
    }
    # The first is shown to whoever asks for a name that no other has.
    files = sorted(plane.certificates.items())
    texts[CERTIFICATES] = "".join([f"{FALLBACK}\n", *(f"{certificate_line(*one)}\n" for one in files)])
    return texts


def certificate_line(file: str, names: tuple[str, ...]) -> str:
    """Always with names: else HAProxy would show it for all that stand in it."""
    if not _FILE.fullmatch(file) or not names or not all(_NAME.fullmatch(name) for name in names):
        raise ValueError(f"not fit for a list of certificates: {file[:80]!r} {names[:3]!r}")
    return " ".join((file, *names))


def server_options(slot: int, server: Server) -> str:
    """Of `add server`: those servers inherit nothing."""
    if slot >= TCP_FIRST:
        return CHECKS
    return f"{SERVER_OPTIONS} proto h2" if server.h2 else SERVER_OPTIONS


def pages() -> dict[str, str]:
    """The files that the configuration names: file name -> text. The 503 is a whole HTTP response."""
    nobody_answers = _page("503.html")
    head = (
        "HTTP/1.1 503 Service Unavailable\r\n"
        f"Content-Length: {len(nobody_answers.encode())}\r\n"
        "Content-Type: text/html; charset=utf-8\r\n"
        "Cache-Control: no-store\r\n"
        f"Retry-After: {RETRY_AFTER_SECONDS}\r\n\r\n"
    )
    return {
        "404.html": _page("404.html"),
        "503.http": head + nobody_answers,
        "asleep.html": _page("asleep.html"),
        "maintenance.html": _page("maintenance.html"),
        HOLD: _page(HOLD),
    }


def _page(name: str) -> str:
    return resources.files("gateway").joinpath("pages", name).read_text("utf-8")


def _server_line(slot: int, server: Server) -> str:
    h2 = " proto h2" if server.h2 and slot < TCP_FIRST else ""
    return f"  server {_word(server.name)} {server.address} weight {server.weight:d}{h2}\n"


def _key(text: str) -> str:
    """Of a map's file: no comment and no option."""
    if text[:1] == "-":
        raise ValueError(f"not fit for a key: {text[:80]!r}")
    return _value(text)


def _value(text: str) -> str:
    if not _ENTRY.fullmatch(text):
        raise ValueError(f"not fit for a map: {text[:80]!r}")
    return text


def _word(text: str) -> str:
    """The last gate before HAProxy's grammar; everything was parsed into types before."""
    if not _WORD.fullmatch(text):
        raise ValueError(f"not fit for a configuration: {text[:80]!r}")
    return text
