"""A machine joins by the real script, is reached over mutual TLS, reports, gets a new certificate, and is removed."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import time

import httpx
import pytest

from stack.joined import JoinedHost
from stack.journey import gateway_get, wait_for

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]
NAME = "joined-9"
OTHERS = (0, 1)


@pytest.fixture(scope="module")
def admin(platform):
    """The operators' API, by an API token of the admin's."""
    made = platform.told(
        "from apps.tenants.models import User; from apps.tenants.services.tokens import token_create; "
        "print(token_create(user=User.objects.get(username='admin'), name='e2e')[1])",
    )
    headers = {"Authorization": f"Bearer {made}"}
    base = f"{platform.env.portal_url}/api/v1"
    with httpx.Client(base_url=base, headers=headers, trust_env=False, timeout=30) as client:
        yield client


def _host(admin):
    return admin.get(f"/hosts/{NAME}/").json()


@pytest.fixture(scope="module")
def joined(platform, admin, tmp_path_factory):
    """The machine, after its command was run and its dockerd started; ready."""
    host = JoinedHost(platform.env, platform.hosts[0].network, 9, NAME)
    token = admin.post("/join-tokens/", json={"labels": {"zone": "z9"}}).json()
    done = host.join(token["command"])
    assert done.returncode == 0, done.stderr
    assert token["secret"] not in done.stdout + done.stderr
    host.start(done.stdout)
    try:
        wait_for("the joined host", lambda: _host(admin)["status"] == "ready", 60)
        yield host
    finally:
        host.stop()
        # For the tests that come after, if one of these failed: no answer to mind.
        admin.delete(f"/hosts/{NAME}/")


@pytest.fixture(scope="module")
def certificates(platform, tmp_path_factory):
    """The platform's own client certificate, as Docker's command wants it: ca.pem, cert.pem, key.pem."""
    told = json.loads(
        platform.told(
            "import json; from apps.hosts.services.authority import client_material as m; x = m(); "
            "print(json.dumps({'ca': x.ca, 'cert': x.certificate, 'key': x.key}))",
        )
    )
    folder = tmp_path_factory.mktemp("platform")
    for name, text in told.items():
        (folder / f"{name}.pem").write_text(text)
    return folder


def _info(host, certificates):
    """``docker info`` from this machine over mutual TLS."""
    environment = {
        "DOCKER_HOST": f"tcp://{host.address}:2376",
        "DOCKER_TLS_VERIFY": "1",
        "DOCKER_CERT_PATH": certificates,
    }
    return subprocess.run(
        ["docker", "info", "--format", "{{json .}}"],
        env={**os.environ, **{key: str(value) for key, value in environment.items()}},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_the_host_says_what_it_is_and_a_second_run_changes_nothing(admin, joined):
    host = _host(admin)
    assert (host["address"], host["zone"], host["labels"]) == (joined.address, "z9", {"zone": "z9", "disk": "ssd"})
    assert host["cpu_millis"] == (os.cpu_count() or 1) * 1000
    assert host["memory_mb"] == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20
    assert 0 < host["memory_mb_free"] < host["memory_mb"]
    assert host["engine_version"]
    modes = {path.name: path.stat().st_mode & 0o777 for path in joined.state.iterdir()}
    assert (modes["key.pem"], modes["secret"], modes["ca.pem"]) == (0o600, 0o600, 0o644)
    before = {path: path.read_bytes() for path in joined.state.iterdir()}
    second = admin.post("/join-tokens/", json={}).json()
    again = joined.join(second["command"])
    assert (again.returncode, "has joined already" in again.stderr) == (0, True)
    assert {path: path.read_bytes() for path in joined.state.iterdir()} == before
    assert admin.delete(f"/join-tokens/{second['id']}/").status_code == 204


def test_bad_tokens_addresses_and_options_are_refused_with_what_to_do(admin, joined):
    elsewhere = {"BERTH_DIR": str(joined.directory / "nowhere")}
    script = f"curl -fsSL {joined.env.portal_url}/join.sh | sh -s -- --no-service"

    def said(options, token="brj_" + "x" * 43):
        done = joined.run("sh", "-c", f"{script} {options}", BERTH_JOIN_TOKEN=token, **elsewhere)
        assert done.returncode == 1
        assert "x" * 43 not in done.stderr
        return done.stderr

    good = f"--address {joined.address} --name other"
    assert "Ask an admin for a new one" in said(good)
    assert "no join token" in said(good, token="secret; rm -rf /")
    assert "BERTH_JOIN_TOKEN is not set" in said(good, token="")
    assert "on no interface" in said("--address 10.99.99.99")
    assert "--address" in said("--name other"), "the portal is at localhost from here, which is no address"
    assert "can't be a host's name" in said("--name 'a b'")
    assert "write KEY=VALUE" in said('--label \'zone="a","x":"y\'')
    assert "unknown option" in said("--frce")


def test_the_engine_answers_the_platform_and_nobody_else(joined, certificates):
    done = _info(joined, certificates)
    assert done.returncode == 0, done.stderr
    info = json.loads(done.stdout)
    assert (info["LiveRestoreEnabled"], info["DockerRootDir"]) == (True, str(joined.directory / "data"))
    url = f"{joined.url}/_ping"
    trusting = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    with pytest.raises(httpx.TransportError):
        httpx.get(url, verify=trusting, trust_env=False)
    # What a host holds is for servers: with it nobody acts as the platform, there or at another host.
    stolen = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    stolen.load_cert_chain(joined.state / "cert.pem", joined.state / "key.pem")
    with pytest.raises(httpx.TransportError):
        httpx.get(url, verify=stolen, trust_env=False)
    plain = httpx.get(f"http://{joined.address}:2376/_ping", trust_env=False)
    assert plain.status_code == 400


def test_a_report_brings_fresh_samples(admin, joined):
    assert joined.report().returncode == 0
    first = _host(admin)["samples"]
    done = joined.report()
    assert (done.returncode, "reported" in done.stderr) == (0, True), done.stderr
    second = _host(admin)["samples"]
    assert second["at"] > first["at"]
    assert 0 <= second["cpu_millis_idle"] <= _host(admin)["cpu_millis"]
    assert 0 < second["memory_mb_idle"] <= _host(admin)["memory_mb"]
    assert 0 < second["disk_mb_idle"] <= second["disk_mb"]


@pytest.fixture
def only_the_joined(platform, admin, joined):
    def make(availability):
        for other in OTHERS:
            url = f"/hosts/{platform.hosts[other].name}/availability/"
            assert admin.post(url, json={"availability": availability}).status_code == 200

    make("cordoned")
    yield
    make("active")


def _peer_serial(joined):
    """The serial number of the certificate that the engine shows now; nothing while it does not answer."""
    script = f"openssl s_client -connect {joined.address}:2376 </dev/null 2>/dev/null | openssl x509 -noout -serial"
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False).stdout.strip()


def test_an_app_runs_on_while_the_hosts_certificate_is_renewed(platform, admin, joined, certificates, only_the_joined):
    owner = platform.member("fleet", "owner")
    owner.login()
    owner.app_create("fleet", "renewal")
    owner.push_sample("renewal", "1.0")
    owner.version_wait("renewal", "1.0")
    rollout = owner.deploy("renewal", "1.0", instances=1, memory_mb=64, cpu_millis=50)
    try:
        assert rollout["status"] == "succeeded", rollout
        (instance,) = owner.instances("renewal")
        assert gateway_get(platform.env, "renewal").status_code == 200

        platform.told(
            "from datetime import timedelta; from django.utils.timezone import now; "
            "from apps.hosts.models import HostIdentity; "
            f"print(HostIdentity.objects.filter(host__name='{NAME}')"
            ".update(certificate_expires_at=now() + timedelta(days=20)))",
        )
        before = _peer_serial(joined)
        done = joined.report()
        assert "was renewed" in done.stderr, done.stderr
        assert "restart dockerd" in done.stderr
        assert _host(admin)["certificate_expires_at"][:10] > time.strftime(
            "%Y-%m-%d", time.gmtime(time.time() + 80 * 86400)
        )
        assert _peer_serial(joined) == before, "dockerd reads its certificate when it starts"
        os.kill(joined.dockerd_pid(), signal.SIGTERM)
        wait_for("the new certificate", lambda: _peer_serial(joined) not in ("", before), 60)
        assert _info(joined, certificates).returncode == 0
        wait_for("the host", lambda: _host(admin)["status"] == "ready", 60)
        assert gateway_get(platform.env, "renewal").status_code == 200
        (same,) = owner.instances("renewal")
        assert same["container_id"] == instance["container_id"]
        assert "reported" in joined.report().stderr
    finally:
        owner.undeploy("renewal")


def test_a_removed_host_is_told_so_and_its_name_is_free(admin, joined):
    assert admin.delete(f"/hosts/{NAME}/").status_code == 204
    assert admin.get(f"/hosts/{NAME}/").status_code == 404
    done = joined.report()
    assert (done.returncode, "404" in done.stderr) == (1, True), done.stderr
