"""A machine that joins: its key, its request, and what it says of itself."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

#: The machine's own, in every test.
KEY = ec.generate_private_key(ec.SECP256R1())


def csr(key=KEY, *, name="anything", san=()):
    """A request in PEM."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    )
    if san:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(one) for one in san]), critical=False)
    signed = builder.sign(key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode()


def facts(**values):
    """What join.sh sends."""
    return {
        "name": "metal-1",
        "address": "10.0.0.11",
        "csr": csr(),
        "cpu_millis": 4000,
        "memory_mb": 16000,
        "disk_mb": 200000,
        "labels": {"disk": "ssd"},
        "engine_version": "20.10.24+dfsg1",
        **values,
    }


def sample(**values):
    """What berth-host sends."""
    return {"cpu_idle_permille": 500, "memory_mb_idle": 8000, "disk_mb": 200000, "disk_mb_idle": 100000, **values}
