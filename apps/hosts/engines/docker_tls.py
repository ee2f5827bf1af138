"""Where an engine is, and mutual TLS from texts: the SDK itself takes only paths of files."""

from __future__ import annotations

import os
import ssl
from typing import Any
from urllib.parse import urlsplit

import requests.adapters

from apps.hosts.engines.base import AddressRefused, EngineAddress, TLSMaterial


def base_url(address: EngineAddress) -> str:
    """The URL for the SDK. Raises AddressRefused unless it is a socket, or https with mutual TLS."""
    try:
        parts = urlsplit(address.url)
        port = parts.port
    except ValueError:
        raise AddressRefused("the engine's URL cannot be read") from None
    if parts.query or parts.fragment or parts.username or parts.password:
        raise AddressRefused("the engine's URL must hold nothing but a scheme, a host and a port")
    if parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/") and address.tls is None:
        return address.url
    if parts.scheme != "https" or not parts.hostname or not port or parts.path not in ("", "/"):
        raise AddressRefused("the engine's URL must be unix:///path or https://host:port")
    if address.tls is None:
        # Without a client certificate whoever reaches the port owns the host.
        raise AddressRefused("an https engine needs mutual TLS")
    return f"https://{parts.netloc}"


def context(material: TLSMaterial) -> ssl.SSLContext:
    """Trusts the host's own authority and nothing else, checks the name, and shows our certificate.

    OpenSSL reads a key from a file only: here from one in memory, so that a killed process leaves none on a disk.
    Raises AddressRefused where the texts are not what they should be.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    handle = os.memfd_create("berth-tls", os.MFD_CLOEXEC)
    try:
        made.load_verify_locations(cadata=material.ca)
        os.write(handle, f"{material.certificate.strip()}\n{material.key.strip()}\n".encode())
        made.load_cert_chain(f"/proc/self/fd/{handle}")
    except (ssl.SSLError, ValueError):
        # Without the original: its text may quote what it could not read.
        raise AddressRefused("the TLS material must be three PEM texts that belong together") from None
    finally:
        os.close(handle)
    return made


class MutualTLS(requests.adapters.HTTPAdapter):
    """Connections with this context, whatever the environment says about proxies and authorities."""

    def __init__(self, made: ssl.SSLContext) -> None:
        self._context = made
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, ssl_context=self._context)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """The context knows its authority; requests would add the public ones to it."""
