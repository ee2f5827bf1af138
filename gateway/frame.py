"""The part of HAProxy's configuration that does not depend on apps: every rule that a request passes. Pure.

The options were chosen by measurement on HAProxy 2.6. A rule about an app looks it up in a map (gateway.tables).
Which of them there are, the letters of POLICY say, so that a request to an app without any costs one look-up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gateway.contract import Address
from gateway.model import Table
from gateway.traffic import ACCESS_FORMAT, ACCESS_LINE_BYTES, LINE_BYTES, LOG_FORMAT

ADMIN_SOCKET = "admin.sock"
MASTER_SOCKET = "master.sock"
INNER_SOCKET = "inner.sock"
TCP_SOCKET = "tcp.sock"
INNER_TLS_SOCKET = "inner-tls.sock"
TLS_SOCKET = "tls.sock"
INNER_SNI_SOCKET = "inner-sni.sock"
CERTIFICATES = "certificates.list"
HOLD = "hold.lua"
#: Which listener a request that was handed over came by, and that it was over TLS.
INNER_TLS_ID = 12

# Nobody wakes it up but a person.
ASLEEP_RETRY_SECONDS = 60
MAINTENANCE_RETRY_SECONDS = 300
#: Of the clients whose requests are counted for a rate, so many are known at a time; the longest unseen goes first.
MOST_CLIENTS = 200_000

# Shared by static lines (default-server) and `add server`, whose servers inherit nothing (not even connection
# reuse, which needs both pool options). Passive health: three failed connections mark a server down, and a
# TCP check brings it back.
# No fastinter: at a start HAProxy spreads the first checks over the shortest interval, and 50,000 in half a second are
# more sockets than it may have; those that found none counted their servers down. Every 10 s they took 9 % of a core.
CHECKS = "check inter 60s downinter 1s fall 2 rise 1 observe layer4 error-limit 3 on-error mark-down"
SERVER_OPTIONS = f"pool-max-conn 256 pool-purge-delay 5s {CHECKS}"

_ID = re.compile(r"[a-z0-9][a-z0-9-]*")


@dataclass(frozen=True, slots=True)
class Frame:
    """``tcp_ports``: first and last port for apps of TCP, on the address of ``http_bind``; none where it is None.

    ``passthrough``: at ``https_bind``, what asks for the name of an app with TLS of its own is led there unopened.
    ``access_log``: lines say whose requests they were, and for what.
    """

    http_bind: Address
    threads: int
    max_connections: int
    log_bind: Address
    gateway: str
    tcp_ports: tuple[int, int] | None = None
    https_bind: Address | None = None
    passthrough: bool = False
    access_log: bool = False


def head(frame: Frame) -> str:
    """What an HAProxy that is to be taken over must have been started with, to the letter."""
    if not _ID.fullmatch(frame.gateway):
        raise ValueError(f"not a gateway: {frame.gateway[:80]!r}")
    return "".join((_globals(frame), _frontend(frame), _REQUESTS, _tcp(frame), _sni(frame), _BACKENDS))


_CIPHERS = ":".join(
    f"ECDHE-{kind}-{cipher}"
    for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
    for kind in ("ECDSA", "RSA")
)


def _globals(frame: Frame) -> str:
    return f"""\
# Written by the gateway's agent, which overwrites it. The truth is in ZooKeeper and state.json.
global
  nbthread {frame.threads:d}
  maxconn {frame.max_connections:d}
  # It would not start otherwise: it counts a socket for each server's check, as if all were made at once.
  no strict-limits
  stats socket unix@{ADMIN_SOCKET} mode 600 level admin expose-fd listeners nice 1024
  stats timeout 1h
  hard-stop-after 15m
  tune.pool-high-fd-ratio 90
  tune.pool-low-fd-ratio 80
  lua-load-per-thread {HOLD}
  # Mozilla's "intermediate", without its ciphers for clients that know no elliptic curves.
  ssl-default-bind-options prefer-client-ciphers ssl-min-ver TLSv1.2 no-tls-tickets
  ssl-default-bind-ciphers {_CIPHERS}
  ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256

defaults common
  timeout connect 2s
  timeout queue 10s
  retries 3
  option redispatch 1

defaults base from common
  mode http
  timeout client 60s
  timeout server 120s
  timeout tunnel 1h
  timeout http-request 15s
  timeout http-keep-alive 30s
  http-reuse always
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
if {{ nbsrv eq 0 }} {{ var(txn.be),map_str({Table.ASLEEP}) -m found }}
  http-request lua.hold if {{ nbsrv eq 0 }} {{ var(txn.pol) -m sub h }}
  http-request set-timeout server var(txn.patience) if {{ var(txn.pol) -m sub t }}

defaults tcp from common
  mode tcp
  balance leastconn
  timeout client 1h
  timeout server 1h
  default-server {CHECKS}

"""


def _frontend(frame: Frame) -> str:
    about, most, named = "", LINE_BYTES, ""
    if frame.access_log:
        about, most, named = ACCESS_FORMAT, ACCESS_LINE_BYTES, _NAMED
    return f"""\
frontend http_in from base
  bind {frame.http_bind}
  bind unix@{INNER_SOCKET} mode 600 accept-proxy
  bind unix@{INNER_TLS_SOCKET} mode 600 accept-proxy id {INNER_TLS_ID:d}
  bind {_tls_place(frame)} ssl crt-list {CERTIFICATES} alpn h2,http/1.1
  # One line for each request, which the agent counts. What text of a client it holds is encoded (gateway/traffic.py).
  log {frame.log_bind} len {most:d} format raw local0
  log-format "{frame.gateway} {LOG_FORMAT}{about}"
{named}\
  option dontlognull
"""


def _tls_place(frame: Frame) -> str:
    """There is one in any case: certificates can only be added to a list that the configuration names."""
    if frame.https_bind is not None and not frame.passthrough:
        return str(frame.https_bind)
    return f"unix@{TLS_SOCKET} mode 600 accept-proxy"


#: The app is told by what name its request stands in the access log. A client does not get to say it.
_NAMED = """\
  unique-id-format %[uuid()]
  unique-id-header X-Request-ID
  http-request del-header X-Request-ID
"""


_FORWARDED = (
    "Forwarded",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Real-IP",
    "X-Client-IP",
    "X-Original-URL",
    "X-Forwarded-Prefix",
    "X-Forwarded-Ssl",
    "Proxy",
)

_REQUESTS = f"""\
  http-request set-var(txn.tls) bool(true) if {{ ssl_fc }}
  http-request set-var(txn.tls) bool(true) if {{ so_id {INNER_TLS_ID:d} }}
  # HAProxy 2.6 takes a length of 2^64 for 0, and an instance that does not would take the next client's request for the
  # rest of this one's body (tests/security/gateway_corpus.py).
  http-request deny deny_status 400 if {{ req.fhdr(content-length),length gt 18 }}
  # fhdr: the whole of it. hdr would take what stands behind a comma for the name.
  http-request set-var(txn.host) req.fhdr(host),field(1,:),lower,rtrim(.)
  http-request set-var(txn.be) var(txn.host),map_str({Table.HOST})
  # A part of a name, then the wildcard above it, then a part of that. The rest of the rules is for what was found.
  http-request deny deny_status 400 if !{{ var(txn.be) -m found }} {{ var(txn.host) -m sub / }}
  http-request set-var(txn.path) path,concat(/) if !{{ var(txn.be) -m found }}
  http-request set-var(txn.be) var(txn.host),concat(,txn.path),map_beg({Table.PLACE}) if !{{ var(txn.be) -m found }}
  http-request set-var(txn.up) var(txn.host),field(2,.,0) if !{{ var(txn.be) -m found }}
  http-request set-var(txn.any) str(*.),concat(,txn.up) if !{{ var(txn.be) -m found }}
  http-request set-var(txn.be) var(txn.any),map_str({Table.HOST}) if !{{ var(txn.be) -m found }}
  http-request set-var(txn.be) var(txn.any),concat(,txn.path),map_beg({Table.PLACE}) if !{{ var(txn.be) -m found }}
  http-request return status 404 content-type "text/html; charset=utf-8" file 404.html \
hdr Cache-Control no-store if !{{ var(txn.be) -m found }} !{{ stopping }}
  # One app's prefix is no way into another's: what a server may read as a step up is refused where paths decide.
  http-request deny deny_status 400 if {{ var(txn.path) -m found }} {{ var(txn.path),url_dec -m sub /../ /./ \\\\ }}
  # A client does not get to say where it came from.
{"".join(f"  http-request del-header {name}" + chr(10) for name in _FORWARDED)}\
  http-request set-header X-Forwarded-Proto http
  http-request set-header X-Forwarded-Proto https if {{ var(txn.tls) -m bool }}
  # An empty response may mean that the request was carried out: only safe methods are sent again.
  http-request disable-l7-retry if !{{ method GET HEAD OPTIONS }}
  # Most apps have none: the rest of the rules is not even asked for them.
  http-request set-var(txn.pol) var(txn.be),map_str({Table.POLICY})
  http-request allow if !{{ var(txn.pol) -m found }}
  http-request set-var(txn.word) path,field(4,/) if {{ var(txn.pol) -m sub w }}
  http-request set-var(txn.answer) var(txn.be),concat(/,txn.word),map_str({Table.CHALLENGE}) \
if {{ var(txn.pol) -m sub w }} {{ path_beg /.well-known/acme-challenge/ }}
  http-request return status 200 content-type text/plain lf-string %[var(txn.answer)] if {{ var(txn.answer) -m found }}
  http-request redirect scheme https code 308 if {{ var(txn.pol) -m sub e }} !{{ var(txn.tls) -m bool }}
  http-request set-var(txn.ip) src,hex if {{ var(txn.pol) -m sub d a c }}
  http-request set-var(txn.digits) var(txn.ip),length if {{ var(txn.pol) -m sub d a }}
  http-request set-var(txn.from) var(txn.be),concat(/,txn.digits),concat(/,txn.ip) if {{ var(txn.pol) -m sub d a }}
  http-request deny deny_status 403 if {{ var(txn.pol) -m sub d }} {{ var(txn.from),map_beg({Table.DENY}) -m found }}
  http-request deny deny_status 403 if {{ var(txn.pol) -m sub a }} !{{ var(txn.from),map_beg({Table.ALLOW}) -m found }}
  # Only what passes counts: else a client that goes too fast would get nothing at all.
  http-request track-sc0 var(txn.be) table t_app if {{ var(txn.pol) -m sub r }}
  http-request set-var(txn.rate) var(txn.be),map_str_int({Table.APP_RATE}) if {{ var(txn.pol) -m sub r }}
  http-request set-var(txn.net) src,ipmask(32,64),hex if {{ var(txn.pol) -m sub c }}
  http-request track-sc1 var(txn.be),concat(/,txn.net) table t_client if {{ var(txn.pol) -m sub c }}
  http-request set-var(txn.each) var(txn.be),map_str_int({Table.CLIENT_RATE}) if {{ var(txn.pol) -m sub c }}
  http-request deny deny_status 429 hdr Retry-After 1 \
if {{ var(txn.pol) -m sub c }} {{ sc1_gpc0_rate(t_client),sub(txn.each) ge 0 }}
  http-request deny deny_status 429 hdr Retry-After 1 \
if {{ var(txn.pol) -m sub r }} {{ sc0_gpc0_rate(t_app),sub(txn.rate) ge 0 }}
  http-request sc-inc-gpc0(0) if {{ var(txn.pol) -m sub r }}
  http-request sc-inc-gpc0(1) if {{ var(txn.pol) -m sub c }}
  http-request return status 503 content-type "text/html; charset=utf-8" file maintenance.html \
hdr Cache-Control no-store hdr Retry-After {MAINTENANCE_RETRY_SECONDS:d} if {{ var(txn.pol) -m sub m }}
  http-request set-var(txn.salt) var(txn.be),map_str({Table.SALT}) if {{ var(txn.pol) -m sub b }}
  http-request set-var(txn.who) req.hdr(authorization),hmac(sha256,txn.salt),hex,lower if {{ var(txn.pol) -m sub b }}
  http-request auth realm Restricted \
if {{ var(txn.pol) -m sub b }} !{{ var(txn.be),concat(/,txn.who),map_str({Table.PERSON}) -m found }}
  # The password is the gateway's business.
  http-request del-header Authorization if {{ var(txn.pol) -m sub b }}
  http-request set-var(txn.most) var(txn.be),map_str_int({Table.BODY}) if {{ var(txn.pol) -m sub s }}
  http-request deny deny_status 413 if {{ var(txn.pol) -m sub s }} {{ req.body_size,sub(txn.most) gt 0 }}
  http-request return status 411 content-type text/plain string "Say how long the body is: send Content-Length." \
if {{ var(txn.pol) -m sub s }} {{ req.hdr(transfer-encoding) -m found }}
  http-request set-var(txn.most) var(txn.be),map_str_int({Table.HEADER}) if {{ var(txn.pol) -m sub l }}
  http-request return status 431 content-type text/plain string "The headers are too large." \
if {{ var(txn.pol) -m sub l }} {{ req.hdrs,length,sub(txn.most) gt 0 }}
  # Before the canary's slot is taken: what is said of the app is said of its own.
  http-request set-var(txn.hold) var(txn.be),map_str_int({Table.HOLD}) if {{ var(txn.pol) -m sub h }}
  http-request set-var(txn.patience) var(txn.be),map_str_int({Table.TIMEOUT}) if {{ var(txn.pol) -m sub t }}
  http-request set-var(txn.hsts) var(txn.be),map_str({Table.HSTS}) if {{ var(txn.pol) -m sub y }}
  http-request set-var(txn.be) var(txn.be),map_str({Table.CANARY}) \
if {{ var(txn.pol) -m sub k }} {{ req.hdr(x-berth-canary) -m str always }}
  http-request set-var(txn.be) var(txn.be),map_str({Table.CANARY}) \
if {{ var(txn.pol) -m sub k }} {{ req.cook(berth-canary) -m str always }}
  http-response set-header Strict-Transport-Security max-age=%[var(txn.hsts)] \
if {{ var(txn.pol) -m sub y }} {{ var(txn.tls) -m bool }}
  use_backend newest_tls if !{{ var(txn.be) -m found }} {{ var(txn.tls) -m bool }}
  use_backend newest if !{{ var(txn.be) -m found }}
  use_backend %[var(txn.be)]

"""


def _tcp(frame: Frame) -> str:
    """Also where there are no ports: a map can only be changed where the configuration names it."""
    bind = ""
    if frame.tcp_ports is not None:
        first, last = frame.tcp_ports
        host = f"[{frame.http_bind.host}]" if ":" in frame.http_bind.host else frame.http_bind.host
        bind = f"  bind {host}:{first:d}-{last:d}\n"
    return f"""\
frontend tcp_in from tcp
  bind unix@{TCP_SOCKET} mode 600
{bind}\
  tcp-request connection set-var(sess.be) dst_port,map_str({Table.PORT})
  tcp-request connection set-var(sess.be) str(-),map_str({Table.PASSTHROUGH}) if !{{ var(sess.be) -m found }}
  tcp-request connection reject if !{{ var(sess.be) -m found }}
{_TCP_GUARDS}\
  use_backend %[var(sess.be)]

"""


def _sni(frame: Frame) -> str:
    """A replaced worker that still waits for a client's first words hands it over, as it does with requests."""
    if frame.https_bind is None or not frame.passthrough:
        return ""
    return f"""\
frontend tls_in from tcp
  bind {frame.https_bind}
  bind unix@{INNER_SNI_SOCKET} mode 600 accept-proxy
  timeout client-fin 30s
  tcp-request inspect-delay 5s
  tcp-request content set-var(sess.be) req.ssl_sni,lower,rtrim(.),map_str({Table.PASSTHROUGH})
{_TCP_GUARDS.replace("tcp-request connection", "tcp-request content")}\
  tcp-request content accept if {{ req.ssl_hello_type 1 }}
  use_backend %[var(sess.be)] if {{ var(sess.be) -m found }}
  use_backend newest_sni if {{ stopping }}
  default_backend tls_here

backend tls_here from tcp
  server here unix@{TLS_SOCKET} send-proxy-v2

backend newest_sni from tcp
  server newest unix@{INNER_SNI_SOCKET} send-proxy-v2

"""


#: For connections without requests: the same lists of addresses.
_TCP_GUARDS = f"""\
  tcp-request connection set-var(sess.pol) var(sess.be),map_str({Table.POLICY})
  tcp-request connection set-var(sess.ip) src,hex
  tcp-request connection set-var(sess.digits) var(sess.ip),length
  tcp-request connection set-var(sess.from) var(sess.be),concat(/,sess.digits),concat(/,sess.ip)
  tcp-request connection reject if {{ var(sess.pol) -m sub d }} {{ var(sess.from),map_beg({Table.DENY}) -m found }}
  tcp-request connection reject if {{ var(sess.pol) -m sub a }} !{{ var(sess.from),map_beg({Table.ALLOW}) -m found }}
"""

_BACKENDS = f"""\
# A worker that a reload replaced keeps its idle client connections, but servers cannot be changed in it any
# more ("Proxy is disabled"). What leads to backends is emptied instead, and it hands requests to the newest worker.
backend newest from base
  server newest unix@{INNER_SOCKET} send-proxy-v2

backend newest_tls from base
  server newest unix@{INNER_TLS_SOCKET} send-proxy-v2

backend t_app from base
  stick-table type string len 16 size 100k expire 10s store gpc0,gpc0_rate(1s)

backend t_client from base
  stick-table type string len 64 size {MOST_CLIENTS:d} expire 10s store gpc0,gpc0_rate(1s)

"""
