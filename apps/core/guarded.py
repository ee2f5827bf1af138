"""HTTP to addresses that tenants name: registries, and later webhooks. The only client that may be used for them.

The name is looked up here, each address that it has is checked, and the connection is made to a checked one: a name
that changes between the two (DNS rebinding) gains nothing. Every redirect is a new connection, so is checked the same.
What is refused was never connected to. docs/decisions/0029-guarded-client.md says why this is our own.

Sources: IANA's special-purpose address registries (by ``ipaddress``); the addresses at which clouds serve their
machines' metadata, most of which are link-local.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpcore
import httpx
from django.conf import settings

from apps.core.errors import PlatformError, Refused

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolver = Callable[[str, int], list[str]]

MAX_REDIRECTS = 5
CONNECT_S = 5.0
IDLE_S = 15.0
#: What Python 3.11 calls global and is not, or leads into a cloud's own machinery (Azure's "wire server").
_NEVER = tuple(
    ipaddress.ip_network(one)
    for one in ("168.63.129.16/32", "192.0.0.0/24", "192.88.99.0/24", "64:ff9b:1::/48", "fec0::/10", "2001::/23")
)
#: IPv6 that only carries IPv4: where the IPv4 address stands in it, from the right. RFC 6052, RFC 3056, RFC 4291.
_CARRIERS = (
    (ipaddress.IPv6Network("64:ff9b::/96"), 0),
    (ipaddress.IPv6Network("::ffff:0:0/96"), 0),
    (ipaddress.IPv6Network("::/96"), 0),
    (ipaddress.IPv6Network("2002::/16"), 80),
)


class AddressRefused(Refused):
    """It leads where the platform does not go for a tenant. Says nothing of what is there."""

    code = "address.refused"


class AddressUnreachable(Refused):
    """No answer, or none that is HTTP, or a certificate that is not its own."""

    code = "address.unreachable"
    status = 502


class AnswerTooLarge(Refused):
    code = "address.answer_too_large"
    status = 502


class AnswerTooSlow(AddressUnreachable):
    """All of it took longer than it may."""

    code = "address.too_slow"


class GuardSettings(PlatformError):
    code = "platform.guard_settings"


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Raises GuardSettings for what is no network: a slip there must not open or close anything else."""
    try:
        return tuple(ipaddress.ip_network(one.strip()) for one in texts if one.strip())
    except ValueError as error:
        raise GuardSettings(f"BERTH_GUARD_ALLOW or BERTH_GUARD_DENY: {error}") from None


def permitted(text: str) -> bool:
    """Whether the address may be connected to. What an admin allows may be; of the rest only what is global."""
    allowed, denied = networks(settings.GUARD_ALLOW), networks(settings.GUARD_DENY)
    address = ipaddress.ip_address(text.partition("%")[0])
    for each in _meant(address):
        if _within(each, denied):
            return False
        if _within(each, allowed):
            continue
        if _within(each, _NEVER) or not each.is_global or each.is_multicast or each.is_reserved:
            return False
    return True


def _within(address: Address, among: Iterable[Network]) -> bool:
    return any(address in network for network in among if network.version == address.version)


def _meant(address: Address) -> list[Address]:
    """The address, or the IPv4 one that it stands for."""
    if isinstance(address, ipaddress.IPv6Address) and address not in (ipaddress.IPv6Address(n) for n in (0, 1)):
        for network, shift in _CARRIERS:
            if address in network:
                return [ipaddress.IPv4Address((int(address) >> shift) & 0xFFFFFFFF)]
    return [address]


def resolve(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(one[4][0]) for one in found))


class _Timed(httpcore.NetworkStream):
    """A connection with an end: a sender of one byte a second is cut off, too."""

    def __init__(self, stream: httpcore.NetworkStream, until: float) -> None:
        self._stream = stream
        self._until = until

    def _left(self, timeout: float | None) -> float:
        left = self._until - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("its time is over")
        return left if timeout is None else min(left, timeout)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._left(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Timed(self._stream.start_tls(ssl_context, server_hostname, self._left(timeout)), self._until)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Backend(httpcore.NetworkBackend):
    """Looks up, checks, and connects to what was checked."""

    def __init__(self, resolver: Resolver, until: float) -> None:
        self._resolver = resolver
        self._until = until
        self._real = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        try:
            addresses = self._resolver(host, port)
        except OSError as error:
            raise httpcore.ConnectError(f"{type(error).__name__}") from error
        # A name of which one address is ours and one is not is no mistake of anybody's.
        if not addresses or not all(permitted(one) for one in addresses):
            raise AddressRefused(
                "The address leads to a network that the platform does not call for tenants. "
                "Use one that can be reached from the internet, or ask the platform's operators to allow it."
            )
        failed: httpcore.ConnectError | httpcore.ConnectTimeout | None = None
        for address in addresses[:4]:
            left = self._until - time.monotonic()
            if left <= 0:
                raise httpcore.ConnectTimeout("its time is over")
            try:
                stream = self._real.connect_tcp(address, port, min(left, timeout or CONNECT_S), local_address)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
                continue
            return _Timed(stream, self._until)
        raise failed or httpcore.ConnectError("no address")

    def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.NetworkStream:
        raise AddressRefused("Only addresses of the internet may be named.")


class _Transport(httpx.HTTPTransport):
    def __init__(self, verify: ssl.SSLContext, backend: _Backend) -> None:
        super().__init__(verify=verify, trust_env=False)
        self._pool = httpcore.ConnectionPool(
            ssl_context=verify, max_connections=4, http1=True, http2=False, network_backend=backend
        )


def _checked(request: httpx.Request) -> None:
    """Of each request, one after a redirect as well."""
    url = request.url
    if url.scheme != "https" and not (url.scheme == "http" and settings.GUARD_HTTP):
        raise AddressRefused("Only https addresses may be named.")
    if not url.host or url.userinfo:
        raise AddressRefused("The address must name a host, and no user or password.")


@contextmanager
def guarded(*, total_s: float, resolver: Resolver = resolve) -> Iterator[httpx.Client]:
    """A client for some requests, ``total_s`` seconds for all of them together, bodies included.

    It follows redirects, at most MAX_REDIRECTS of them; credentials are not taken along to another host. Bodies are
    to be streamed and read by ``body_of`` or ``chunks_of``. What goes wrong in the block is raised as AddressRefused,
    AddressUnreachable, AnswerTooLarge or AnswerTooSlow, which tell nothing but what the asker knows.
    """
    until = time.monotonic() + total_s
    verify = ssl.create_default_context()
    if settings.GUARD_CA:
        verify.load_verify_locations(cafile=settings.GUARD_CA)
    with (
        told(),
        httpx.Client(
            transport=_Transport(verify, _Backend(resolver, until)),
            timeout=httpx.Timeout(IDLE_S, connect=CONNECT_S),
            follow_redirects=True,
            max_redirects=MAX_REDIRECTS,
            trust_env=False,
            # A compressed answer could be any size once it is unpacked.
            headers={"Accept-Encoding": "identity", "User-Agent": "berth"},
            event_hooks={"request": [_checked]},
        ) as client,
    ):
        yield client


@contextmanager
def told() -> Iterator[None]:
    """What goes wrong with HTTP in the block becomes one of the errors here."""
    try:
        yield
    except httpx.TooManyRedirects:
        raise AddressUnreachable("The address leads on and on.") from None
    except httpx.TimeoutException as error:
        raise AnswerTooSlow("The address did not answer in time.") from error
    except (httpx.InvalidURL, httpx.HTTPError) as error:
        raise AddressUnreachable("There is no usable answer from the address.") from error


def chunks_of(reply: httpx.Response, most: int) -> Iterator[bytes]:
    """The body as it comes, of at most so many bytes. Raises AnswerTooLarge."""
    if reply.headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
        raise AddressUnreachable("The answer is packed, which was not asked for.")
    declared = reply.headers.get("Content-Length", "")
    size = int(declared) if declared.isascii() and declared.isdigit() and len(declared) < 19 else 0
    if size <= most:
        size = 0
        for chunk in reply.iter_raw(1 << 16):
            size += len(chunk)
            if size > most:
                break
            yield chunk
    if size > most:
        raise AnswerTooLarge(f"The answer has more than {most} bytes.")


def body_of(reply: httpx.Response, most: int) -> bytes:
    """All of it. Raises AnswerTooLarge."""
    return b"".join(chunks_of(reply, most))
