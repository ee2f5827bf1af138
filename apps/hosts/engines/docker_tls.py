"""Where an engine is, and the files that mutual TLS needs, because the SDK takes paths and no texts."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path
from urllib.parse import urlsplit

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


class TLSFiles:
    """The PEM texts as files that only we can read, until ``remove`` or the end of the process."""

    def __init__(self, material: TLSMaterial) -> None:
        if not all("-----BEGIN " in pem for pem in (material.ca, material.certificate, material.key)):
            raise AddressRefused("the TLS material must be three PEM texts")
        self._folder = Path(tempfile.mkdtemp(prefix="berth-tls-"))  # mkdtemp gives it 0700
        self.remove = weakref.finalize(self, shutil.rmtree, str(self._folder), ignore_errors=True)
        for name, pem in (("ca", material.ca), ("cert", material.certificate), ("key", material.key)):
            path = self._folder / name
            path.touch(mode=0o600)
            path.write_text(pem)

    @property
    def ca(self) -> str:
        return str(self._folder / "ca")

    @property
    def pair(self) -> tuple[str, str]:
        return str(self._folder / "cert"), str(self._folder / "key")
