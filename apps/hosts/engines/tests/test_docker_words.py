"""What is read out of a Docker Engine's texts and answers, the odd ones above all."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.hosts.engines.base import (
    AddressRefused,
    ContainerState,
    EngineAddress,
    EngineError,
    EngineUnreachable,
    ImageDenied,
    ImageNotFound,
    ImageUnavailable,
    NetworksExhausted,
    PortTaken,
    SpecRefused,
    TLSMaterial,
)
from apps.hosts.engines.connect import connect
from apps.hosts.engines.docker import DockerEngine, Timeouts
from apps.hosts.engines.docker_errors import MAX_MESSAGE, Moved, clean, read_error, read_pull_error
from apps.hosts.engines.docker_parse import from_inspect, from_list
from apps.hosts.engines.docker_tls import context
from tests.contract.pki import Authority

RUNC = "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: "
PROGRAMMING = "driver failed programming external connectivity on endpoint p2 (d2f7): "
PEM = "-----BEGIN X-----"


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (500, PROGRAMMING + "Bind for 127.0.0.1:8001 failed: port is already allocated", PortTaken),
        (500, PROGRAMMING + "listen tcp4 127.0.0.1:80: bind: address already in use", PortTaken),
        (500, PROGRAMMING + "listen tcp4 10.9.9.9:80: bind: cannot assign requested address", EngineError),
        (400, RUNC + 'exec: "nope": executable file not found in $PATH: unknown', SpecRefused),
        (400, RUNC + 'exec: "/no": stat /no: no such file or directory: unknown', SpecRefused),
        (400, RUNC + 'exec: "/bin": permission denied: unknown', SpecRefused),
        (500, RUNC + 'exec: "x/y": stat x/y: not a directory: unknown', SpecRefused),
        (500, "unable to find user foo: no matching entries in passwd file", SpecRefused),
        (400, "No command specified", SpecRefused),
        (400, "Invalid signal: SIGFOO", SpecRefused),
        (500, RUNC + "error during container init: error setting rlimit type 7: operation not permitted", EngineError),
        (500, "dial unix /run/containerd/containerd.sock: no such file or directory", EngineError),
        (404, "No such image: r.test/a@sha256:bb", Moved),
        (404, "No such container: 36c8", Moved),
        (404, "network nonet not found", Moved),
        (400, "network tn is ambiguous (2 matches found on name)", Moved),
        (409, 'Conflict. The container name "/a1" is already in use by container "f3".', Moved),
        (409, "container is marked for removal and cannot be started", Moved),
        (404, "could not find an available, non-overlapping IPv4 address pool among the defaults", NetworksExhausted),
        (503, "", EngineError),
        (418, "I am a teapot", EngineError),
    ],
)
def test_what_an_error_means(status: int, text: str, kind: type[EngineError]) -> None:
    error = read_error(status, text)
    assert type(error) is kind
    assert not str(error).startswith("failed to create shim")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("manifest for r.test/a@sha256:aa not found: manifest unknown: manifest unknown", ImageNotFound),
        ("name unknown: repository name not known to registry", ImageNotFound),
        ("unauthorized: authentication required", ImageDenied),
        ("pull access denied for a, repository does not exist or may require 'docker login': denied: x", ImageDenied),
        ("no matching manifest for linux/arm64/v8 in the manifest list entries", SpecRefused),
        ('Get "http://r.test/v2/": dial tcp 127.0.0.1:1: connect: connection refused', ImageUnavailable),
        ('Get "https://r.test/v2/": x509: certificate signed by unknown authority', ImageUnavailable),
        ("received unexpected HTTP status: 503 Service Unavailable", ImageUnavailable),
        ("unexpected EOF", ImageUnavailable),
        ("write /var/lib/docker/tmp/x: no space left on device", EngineError),
        ("", ImageUnavailable),
    ],
)
def test_what_a_pulls_error_means(text: str, kind: type[EngineError]) -> None:
    assert type(read_pull_error(text)) is kind


def test_a_message_holds_no_credentials() -> None:
    said = clean(
        'Get "https://bob:hunter2@auth.test/token?account=bob&password=hunter2": Bearer abcdefghijkl\n'
        "registrytoken eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJiIn0.c2lnbmF0dXJl"
    )
    assert "hunter2" not in said
    assert "abcdefghijkl" not in said
    assert "eyJ" not in said
    assert "auth.test/token" in said


@given(st.text(max_size=1000))
def test_a_message_is_one_short_line(text: str) -> None:
    said = clean(text)
    assert 0 < len(said) <= MAX_MESSAGE
    assert said.isprintable()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=8), inner, max_size=2),
    max_leaves=4,
)
answers = st.fixed_dictionaries(
    {},
    optional={
        "Id": json_values,
        "Name": st.just("/berth-p-a-i") | json_values,
        "Names": st.just(["/berth-p-a-i"]) | json_values,
        "State": json_values | st.fixed_dictionaries({"Status": json_values, "ExitCode": json_values}),
        "Status": json_values,
        "Config": json_values | st.fixed_dictionaries({"Labels": json_values}),
        "Labels": json_values | st.just({"berth.platform": "p", "berth.app": "a", "berth.instance": "i"}),
    },
)


@given(answers)
def test_no_container_made_by_hand_can_break_the_reading(raw: dict[str, Any]) -> None:
    from_inspect(raw)
    from_list(raw)


def test_a_line_of_the_list_is_read() -> None:
    labels = {"berth.platform": "p", "berth.app": "a", "berth.instance": "i", "berth.spec": "f"}
    line = {"Id": "x", "Names": ["/berth-p-a-i"], "Labels": labels, "State": "exited"}
    seen = from_list(line | {"Status": "Exited (137) 2 minutes ago"})
    assert seen is not None
    assert (seen.state, seen.exit_code, seen.fingerprint) == (ContainerState.EXITED, 137, "f")


@pytest.mark.parametrize(
    ("kind", "url", "tls"),
    [
        ("podman", "unix:///run/x.sock", None),
        ("docker", "tcp://10.0.0.1:2375", None),
        ("docker", "http://10.0.0.1:2375", None),
        ("docker", "https://10.0.0.1:2376", None),
        ("docker", "https://10.0.0.1", TLSMaterial(PEM, PEM, PEM)),
        ("docker", "https://10.0.0.1:x", TLSMaterial(PEM, PEM, PEM)),
        ("docker", "https://a:b@10.0.0.1:2376", TLSMaterial(PEM, PEM, PEM)),
        ("docker", "https://10.0.0.1:2376/path", TLSMaterial(PEM, PEM, PEM)),
        ("docker", "https://10.0.0.1:2376", TLSMaterial("", "", "")),
        ("docker", "unix:///run/x.sock", TLSMaterial(PEM, PEM, PEM)),
        ("docker", "unix://relative", None),
        ("docker", "ssh://root@10.0.0.1", None),
        ("docker", "", None),
    ],
)
def test_an_address_that_cannot_be_right_is_refused(kind: str, url: str, tls: TLSMaterial | None) -> None:
    with pytest.raises(AddressRefused):
        connect(EngineAddress(kind, url, tls))


def test_nothing_is_sent_and_no_sdk_loaded_before_it_is_needed() -> None:
    script = (
        "import sys; from apps.hosts.engines.connect import connect; "
        "from apps.hosts.engines.base import EngineAddress; connect(EngineAddress('memory', 'memory://x')); "
        "sys.exit('docker' in sys.modules or 'requests' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_no_key_is_ever_on_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    engine = DockerEngine(EngineAddress("docker", "https://127.0.0.1:1", Authority().client()))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(EngineUnreachable):
        engine.ping()
    assert list(tmp_path.iterdir()) == []
    engine.close()


def test_the_context_trusts_the_hosts_authority_alone_and_checks_the_name() -> None:
    authority = Authority("the only one")
    made = context(authority.client())
    (trusted,) = made.get_ca_certs()
    assert dict(part[0] for part in trusted["subject"])["commonName"] == "the only one"
    assert made.check_hostname
    assert made.verify_mode is ssl.CERT_REQUIRED


def test_tls_texts_that_are_none_or_of_different_pairs_are_refused_without_quoting_them() -> None:
    good, other = Authority().client(), Authority().client()
    for bad in (
        TLSMaterial(PEM, PEM, PEM),
        TLSMaterial("", good.certificate, good.key),
        replace(good, key=other.key),
        replace(good, key=""),
        replace(good, certificate="SECRET"),
    ):
        with pytest.raises(AddressRefused) as caught:
            context(bad)
        assert "SECRET" not in str(caught.value)


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[str]:
    """A socket that takes the call and never answers."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen(8)
        yield f"unix://{tmp_path}/s"


def test_an_engine_that_hangs_is_given_up(silent: str) -> None:
    engine = DockerEngine(EngineAddress("docker", silent), Timeouts(read=1))
    with pytest.raises(EngineUnreachable, match="timed out"):
        engine.ping()
    engine.close()


def test_a_socket_that_is_not_there_is_an_engine_that_does_not_answer(tmp_path: Path) -> None:
    with pytest.raises(EngineUnreachable):
        connect(EngineAddress("docker", f"unix://{tmp_path}/none")).list("p")
