"""What certificates the gateway keeps, and what it leaves alone."""

from __future__ import annotations

import dataclasses
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from gateway import cli, contract
from gateway.certificates import Certificates
from gateway.commands import accepted
from gateway.contract import Certificate, ContractError
from gateway.diff import difference, fits
from gateway.model import AddCertificate, DropCertificate, Plane
from gateway.render import certificate_line
from gateway.tests.pki import SEALING_KEY, Authority

AUTHORITY = Authority()


def _certificates(path: Path) -> Certificates:
    return Certificates(path, [SEALING_KEY])


def _read(held: Certificates, *sent: Certificate) -> None:
    held.read({one.id: one.to_json() for one in sent})


def _names(held: Certificates) -> Mapping[str, tuple[str, ...]]:
    return {file.removeprefix("certificates/").rpartition("-")[0]: names for file, names in held.wanted().items()}


def test_a_payload_comes_back_as_it_went() -> None:
    sent = AUTHORITY.issue("a.test", "*.b.test").sealed("c-1", "a.test", "*.b.test")
    assert Certificate.from_json(sent.to_json()) == sent
    assert "key" not in repr(sent)


@pytest.mark.parametrize(
    "change",
    [
        {"names": ()},
        {"names": ("a.test", "a.test")},
        {"names": ("a.test\nb",)},
        {"names": ("*.test",)},
        {"id": "../x"},
        {"chain": "-----BEGIN CERTIFICATE-----\nAAAA\n\nAAAA\n-----END CERTIFICATE-----\n"},
        {"chain": "text"},
        {"sealed_key": "-----BEGIN PRIVATE KEY-----"},
    ],
)
def test_a_payload_that_is_none_is_refused(change: dict[str, object]) -> None:
    good = AUTHORITY.issue("a.test").sealed("c-1", "a.test")
    bad = Certificate(**{**dataclasses.asdict(good), **change})  # type: ignore[arg-type]
    with pytest.raises(ContractError):
        Certificate.from_json(bad.to_json())


def test_what_was_read_is_on_disk_for_the_owner_alone_and_there_after_a_start(tmp_path: Path) -> None:
    held = _certificates(tmp_path)
    _read(held, AUTHORITY.issue("a.test", "b.test").sealed("c-1", "a.test"))
    held.store()
    assert _names(held) == {"c-1": ("a.test",)}
    (file,) = held.wanted()
    assert "PRIVATE KEY" in (tmp_path / file).read_text()
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "certificates").iterdir()} == {0o600}
    assert _certificates(tmp_path).wanted() == held.wanted()


def test_a_renewed_certificate_is_another_file_and_the_old_one_goes_once_it_is_dropped(tmp_path: Path) -> None:
    held = _certificates(tmp_path)
    _read(held, AUTHORITY.issue("a.test").sealed("c-1", "a.test"))
    held.store()
    (old,) = held.wanted()
    revision = held.revision
    _read(held, AUTHORITY.issue("a.test").sealed("c-1", "a.test"))
    held.store()
    (new,) = held.wanted()
    assert new != old
    assert held.revision > revision
    assert (tmp_path / old).exists()
    held.tidy()
    assert not (tmp_path / old).exists()
    assert (tmp_path / new).exists()


def test_of_two_for_one_name_the_later_is_shown(tmp_path: Path) -> None:
    held = _certificates(tmp_path)
    early = AUTHORITY.issue("a.test", "b.test", since=2).sealed("c-1", "a.test", "b.test")
    late = AUTHORITY.issue("a.test", since=1).sealed("c-2", "a.test")
    _read(held, early, late)
    assert _names(held) == {"c-1": ("b.test",), "c-2": ("a.test",)}
    held.read({}, frozenset({"c-1"}))
    assert _names(held) == {"c-1": ("a.test", "b.test")}


def test_what_is_gone_is_dropped_and_stays_so_after_a_start(tmp_path: Path) -> None:
    held = _certificates(tmp_path)
    _read(held, AUTHORITY.issue("a.test").sealed("c-1", "a.test"))
    held.store()
    held.read({"c-1": None})
    held.store()
    assert held.wanted() == {} == _certificates(tmp_path).wanted()


def _with_another_key(good: Certificate) -> Certificate:
    other = AUTHORITY.issue("a.test").sealed("c-1", "a.test")
    return Certificate(good.id, good.names, good.chain, other.sealed_key)


@pytest.mark.parametrize("kind", ["another key", "another's name", "another secret", "weak", "long", "torn"])
def test_one_that_is_broken_leaves_the_last_good_one_and_says_why(tmp_path: Path, kind: str) -> None:
    held = _certificates(tmp_path)
    good = AUTHORITY.issue("a.test").sealed("c-1", "a.test")
    _read(held, good)
    wanted = held.wanted()
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505 - that is the point
    bad = {
        "another key": lambda: _with_another_key(good),
        "another's name": lambda: AUTHORITY.issue("a.test").sealed("c-1", "a.test", "bank.test"),
        "another secret": lambda: AUTHORITY.issue("a.test").sealed("c-1", "a.test", key=Fernet.generate_key().decode()),
        "weak": lambda: AUTHORITY.issue("a.test", key=weak).sealed("c-1", "a.test"),
        "long": lambda: AUTHORITY.issue(*(f"{'x' * 60}.{n}.{'y' * 60}.test" for n in range(60))).sealed(
            "c-1", "a.test"
        ),
        "torn": lambda: None,
    }[kind]()
    held.read({"c-1": bad.to_json() if bad is not None else b"{"})
    assert held.wanted() == wanted
    assert held.faults.keys() == {"c-1"}
    _read(held, AUTHORITY.issue("a.test").sealed("c-1", "a.test"))
    assert held.faults == {}
    assert held.wanted() != wanted


def test_a_certificate_comes_before_the_one_that_it_replaces_goes() -> None:
    old, new = "certificates/c-1-a.pem", "certificates/c-1-b.pem"
    have, want = Plane(1, certificates={old: ("a.test",)}), Plane(1, certificates={new: ("a.test",)})
    assert difference(have, want) == (AddCertificate(new, ("a.test",)), DropCertificate(old))
    assert fits(have, want)


@pytest.mark.parametrize("file", ["certificates/../x.pem", "x.pem", "certificates/a b.pem", "/etc/x.pem"])
def test_only_files_of_ours_get_into_the_list(file: str) -> None:
    with pytest.raises(ValueError, match="not fit"):
        certificate_line(file, ("a.test",))


@pytest.mark.parametrize("names", [(), ("a.test b",), ("!a.test",), ("*",), ("[alpn",), ("a.test\n",)])
def test_only_names_get_into_the_list(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="not fit"):
        certificate_line("certificates/c-1.pem", names)


@given(st.text())
def test_a_served_name_is_safe_wherever_it_goes(text: str) -> None:
    try:
        name = contract.served_name(text)
    except ContractError:
        return
    assert certificate_line("certificates/c-1.pem", (name,)) == f"certificates/c-1.pem {name}"


@pytest.mark.parametrize("payload", [[], [""], ["a", "", "b"], ["a\nb"], ["show info;"], ["<<"], ["x" * 16_000]])
def test_a_payload_is_of_plain_lines(payload: list[str]) -> None:
    talk = cli.Conversation.__new__(cli.Conversation)
    with pytest.raises(cli.CommandError):
        talk.load("set ssl cert x", payload)


@pytest.mark.parametrize(
    ("reply", "fine"),
    [
        ("New empty certificate store 'certificates/x.pem'!", True),
        ("+ + + Transaction created for certificate certificates/x.pem!", True),
        ("Committing certificates/x.pem\nSuccess!", True),
        ("+ Inserting certificate 'x' in crt-list 'certificates.list'.\n..Success!", True),
        ("Certificate 'certificates/x.pem' already exists!", False),
        ("+ + unable to load certificate from file 'x'.\nCan't load the payload!", False),
        ("Committing x\nSuccess!\nnot so", False),
    ],
)
def test_replies_about_certificates_are_told_apart(reply: str, fine: bool) -> None:
    assert accepted(reply) is fine
