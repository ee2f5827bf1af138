from __future__ import annotations

import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.fernet import Fernet

from stack import ports
from stack.environment import Environment
from stack.parts.base import StackError
from stack.pki import Authority, Pair


def test_secrets_are_private_generated_once_and_differ_between_directories(tmp_path: Path) -> None:
    first = Environment.open(tmp_path / "one")
    again = Environment.open(tmp_path / "one")
    other = Environment.open(tmp_path / "two")
    assert stat.S_IMODE((tmp_path / "one" / "secrets.json").stat().st_mode) == 0o600
    assert first.variables() == again.variables()
    assert first.id != other.id
    assert not set(first.secrets.values()) & set(other.secrets.values())
    Fernet(first.variables()["BERTH_ENCRYPTION_KEYS"])
    assert first.secrets["secret_key"] not in repr(first)


def test_every_private_key_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    env = Environment.open(tmp_path / "one")
    keys = [env.token_pair.key, env.registry_pair.key, env.client_pair.key, *(tmp_path / "one").rglob("*.key")]
    assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}


def test_the_demo_has_fixed_ports_that_variables_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERTH_PORT_PORTAL", "18000")
    # bin/test has one, of its own parts.
    monkeypatch.delenv("BERTH_GATEWAY_TCP_PORTS", raising=False)
    env = Environment.open(tmp_path, "demo")
    assert env.ports == {**ports.DEFAULTS, "portal": 18000}
    assert env.variables()["BERTH_PORTAL_URL"] == "http://localhost:18000"
    assert env.registry_public == "localhost:5443"
    assert env.tcp_ports == ports.DEMO_BLOCK
    monkeypatch.setenv("BERTH_GATEWAY_TCP_PORTS", "18100-18101")
    assert Environment.open(tmp_path, "demo").tcp_ports == (18100, 18101)
    monkeypatch.setenv("BERTH_GATEWAY_TCP_PORTS", "18100")
    with pytest.raises(StackError, match="FIRST-LAST"):
        Environment.open(tmp_path, "demo")


def test_the_test_environment_keeps_its_ports(tmp_path: Path) -> None:
    assert Environment.open(tmp_path).ports == Environment.open(tmp_path).ports
    assert Environment.open(tmp_path).tcp_ports == Environment.open(tmp_path).tcp_ports


def test_gateway_and_platform_are_given_one_pool_of_ports_that_nothing_else_of_the_environment_has(
    tmp_path: Path,
) -> None:
    env = Environment.open(tmp_path)
    first, last = env.tcp_ports
    assert first < last
    assert not set(env.ports.values()) & set(range(first, last + 1))
    assert env.variables()["BERTH_GATEWAY_TCP_PORTS"] == f"{first}-{last}"


def test_a_socket_path_fits_however_long_the_directory_is(tmp_path: Path) -> None:
    env = Environment.open(tmp_path / ("x" * 120))
    assert len(str(env.socket_path("docker-99.sock"))) < 108
    env.socket_path("x").parent.rmdir()


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="production"):
        Environment.open(tmp_path, "production")


def test_a_server_certificate_is_made_anew_when_its_addresses_change(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca", "test")
    pair = Pair(tmp_path / "server.pem", tmp_path / "server.key")
    first = authority.server(pair, ["localhost", "10.0.0.1"]).cert.read_bytes()
    assert authority.server(pair, ["localhost", "10.0.0.1"]).cert.read_bytes() == first
    assert authority.server(pair, ["localhost", "10.0.0.2"]).cert.read_bytes() != first


def test_a_certificate_serves_its_own_purpose_only(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca", "test")
    client = authority.client(Pair(tmp_path / "c.pem", tmp_path / "c.key"), "berth")
    usage = (
        x509.load_pem_x509_certificate(client.cert.read_bytes())
        .extensions.get_extension_for_class(x509.ExtendedKeyUsage)
        .value
    )
    assert list(usage) == [x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH]
    ssl.create_default_context(cafile=str(authority.pair.cert)).load_cert_chain(client.cert, client.key)
