"""HAProxy's configuration and maps as text, from a data plane. Pure: the same plane gives the same text.

The current servers are written as static lines, so that a (re)start serves at once and has no gap. Paths are
relative: HAProxy runs in the gateway's directory (which also keeps socket paths short enough for the kernel).
The options were chosen by measurement on HAProxy 2.6.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources

from gateway.contract import Address
from gateway.model import Plane, Server, backend_name
from gateway.traffic import LOG_FORMAT

ADMIN_SOCKET = "admin.sock"
MASTER_SOCKET = "master.sock"
INNER_SOCKET = "inner.sock"
CONFIG = "haproxy.cfg"
HOST_MAP = "host.map"
ASLEEP_MAP = "asleep.map"
ASLEEP = "1"

RETRY_AFTER_SECONDS = 5
# Nobody wakes it up but a person.
ASLEEP_RETRY_SECONDS = 60

# Shared by static lines (default-server) and `add server`, whose servers inherit nothing (not even connection
# reuse, which needs both pool options). Passive health: three failed connections mark a server down, and a
# TCP check brings it back.
SERVER_OPTIONS = (
    "pool-max-conn 256 pool-purge-delay 5s "
    "check inter 10s fastinter 500ms downinter 1s fall 2 rise 2 "
    "observe layer4 error-limit 3 on-error mark-down"
)

_WORD = re.compile(r"[a-z0-9][a-z0-9.-]*")


@dataclass(frozen=True, slots=True)
class Frame:
    """The part of the configuration that does not depend on apps."""

    http_bind: Address
    threads: int
    max_connections: int
    log_bind: Address
    gateway: str


def configuration(frame: Frame, plane: Plane) -> str:
    parts = [head(frame)]
    for slot in range(plane.slots):
        parts.append(f"backend {backend_name(slot)} from app\n")
        servers = plane.servers.get(slot, {})
        parts.extend(_server_line(servers[name]) for name in sorted(servers))
    return "".join(parts)


def maps(plane: Plane) -> dict[str, str]:
    """The maps that the configuration names: file name -> text."""
    return {HOST_MAP: _host_map(plane), ASLEEP_MAP: _asleep_map(plane)}


def _asleep_map(plane: Plane) -> str:
    return "".join(f"{backend_name(slot)} {ASLEEP}\n" for slot in sorted(plane.asleep))


def _host_map(plane: Plane) -> str:
    return "".join(f"{_word(host)} {backend_name(slot)}\n" for host, slot in sorted(plane.hosts.items()))


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
    }


def _page(name: str) -> str:
    return resources.files("gateway").joinpath("pages", name).read_text("utf-8")


def _server_line(server: Server) -> str:
    return f"  server {_word(server.name)} {server.address} weight {server.weight:d}\n"


def _word(text: str) -> str:
    """The last gate before HAProxy's grammar; everything was parsed into types before."""
    if not _WORD.fullmatch(text):
        raise ValueError(f"not fit for a configuration: {text[:80]!r}")
    return text


def head(frame: Frame) -> str:
    """What an HAProxy that is to be taken over must have been started with, to the letter."""
    return f"""\
# Written by the gateway's agent, which overwrites it. The truth is in ZooKeeper and state.json.
global
  nbthread {frame.threads:d}
  maxconn {frame.max_connections:d}
  stats socket unix@{ADMIN_SOCKET} mode 600 level admin expose-fd listeners nice 1024
  stats timeout 1h
  hard-stop-after 15m
  tune.pool-high-fd-ratio 90
  tune.pool-low-fd-ratio 80

defaults base
  mode http
  timeout connect 2s
  timeout client 60s
  timeout server 120s
  timeout queue 10s
  timeout tunnel 1h
  timeout http-request 15s
  timeout http-keep-alive 30s
  http-reuse always
  retries 3
  option redispatch 1
  retry-on conn-failure empty-response
  option idle-close-on-response
  option forwardfor
  # X_Forwarded_For is X-Forwarded-For to a CGI, WSGI or PHP app: names outside of letters, digits and - are dropped.
  option http-restrict-req-hdr-names delete
  # HAProxy answers so by itself when no server is usable, in replaced workers too (where nbsrv is always 0).
  errorfile 503 503.http
  default-server {SERVER_OPTIONS}

defaults app from base
  balance roundrobin
  # An app that is scaled to zero says so. Asked for only where nobody could answer anyway.
  http-request return status 503 content-type "text/html; charset=utf-8" file asleep.html \
hdr Cache-Control no-store hdr Retry-After {ASLEEP_RETRY_SECONDS:d} \
if {{ nbsrv eq 0 }} {{ var(txn.be),map_str({ASLEEP_MAP}) -m found }}

frontend http_in from base
  bind {frame.http_bind}
  bind unix@{INNER_SOCKET} mode 600 accept-proxy
  # One line for each request, which the agent counts. It holds no text of a client or a tenant (gateway/traffic.py).
  log {frame.log_bind} len 1024 format raw local0
  log-format "{_word(frame.gateway)} {LOG_FORMAT}"
  option dontlognull
  # bind for TLS goes here: bind IP:443 ssl crt-list certificates.list alpn h2,http/1.1
  http-request set-var(txn.host) req.hdr(host),field(1,:),lower,rtrim(.)
  http-request set-var(txn.be) var(txn.host),map_str({HOST_MAP})
  http-request return status 404 content-type "text/html; charset=utf-8" file 404.html \
hdr Cache-Control no-store if !{{ var(txn.be) -m found }} !{{ stopping }}
  # A client does not get to say where it came from.
  http-request del-header Forwarded
  http-request del-header X-Forwarded-For
  http-request del-header X-Forwarded-Host
  http-request del-header X-Forwarded-Port
  http-request del-header X-Real-IP
  http-request del-header X-Client-IP
  http-request del-header X-Original-URL
  http-request del-header X-Forwarded-Prefix
  http-request del-header X-Forwarded-Ssl
  http-request del-header Proxy
  http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]
  # An empty response may mean that the request was carried out: only safe methods are sent again.
  http-request disable-l7-retry if !{{ method GET HEAD OPTIONS }}
  use_backend newest if !{{ var(txn.be) -m found }}
  use_backend %[var(txn.be)]

# A worker that a reload replaced keeps its idle client connections, but servers cannot be changed in it any
# more ("Proxy is disabled"). Its host map is emptied instead, and it hands requests to the newest worker.
backend newest from base
  server newest unix@{INNER_SOCKET} send-proxy-v2

"""
