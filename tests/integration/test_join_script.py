"""join.sh where systemd runs: the units that it writes, the order, and what berth-host does after a renewal.

The script, the reporter, curl, openssl and the portal are real. systemctl, dockerd and the engine's socket are
stand-ins that write down what they are told; the script's own directories are empty ones in a mount namespace.
"""

from __future__ import annotations

import os
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.cache import cache

from apps.core.clock import now
from apps.hosts.models import Authority, Host, HostIdentity
from apps.hosts.services.hosts import host_remove
from apps.hosts.services.joining import join_token_create
from apps.hosts.services.onboarding import join_command

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

#: Asked over its socket the engine answers with $STUBS/info; everything else is the real curl's.
CURL = """#!/bin/sh
out=
case "$*" in *--unix-socket*) ;; *) exec REAL "$@" ;; esac
while [ $# -gt 0 ]; do [ "$1" != --output ] || out=$2; shift; done
if [ -n "$out" ]; then cat "$STUBS/info" >"$out"; else cat "$STUBS/info"; fi
"""
OPENSSL = """#!/bin/sh
if [ "$1" = s_client ]; then echo "Verify return code: 0 (ok)"; else exec REAL "$@"; fi
"""
SYSTEMCTL = """#!/bin/sh
echo "$*" >>"$STUBS/told"
case "$1" in show) echo "$STUBS/docker.service" ;; esac
"""
#: Writes down for how long, takes no time, and ends whoever calls it for the fifth time.
SLEEP = """#!/bin/sh
echo "$1" >>"$STUBS/slept"
[ "$(wc -l <"$STUBS/slept")" -lt 5 ] || kill "$PPID"
"""
DOCKERD = """#!/bin/sh
echo "Docker version 20.10.24+dfsg1, build 5d6db84"
"""
DEBIANS_UNIT = """[Service]
Type=notify
EnvironmentFile=-/etc/default/docker
ExecStart=/usr/sbin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock $DOCKER_OPTS
"""
INSIDE = """
set -eu
for path in /etc/systemd/system /usr/local/sbin /run/systemd; do mkdir -p $path; mount --bind "$ROOT$path" $path; done
exec "$@"
"""


class Machine:
    """A root directory's worth of a machine with systemd."""

    def __init__(self, folder: Path) -> None:
        self.root, self.stubs, self.state = folder / "root", folder / "stubs", folder / "state"
        for path in ("etc/systemd/system", "usr/local/sbin", "run/systemd/system"):
            (self.root / path).mkdir(parents=True)
        self.stubs.mkdir()
        stubs = {"curl": CURL, "openssl": OPENSSL, "systemctl": SYSTEMCTL, "dockerd": DOCKERD, "sleep": SLEEP}
        for name, text in stubs.items():
            real = subprocess.run(["which", name], capture_output=True, text=True, check=False).stdout.strip()
            (self.stubs / name).write_text(text.replace("REAL", real))
            (self.stubs / name).chmod(0o755)
        (self.stubs / "docker.service").write_text(DEBIANS_UNIT)
        self.engine(live_restore=False, running=0)

    def engine(self, *, live_restore: bool, running: int) -> None:
        (self.stubs / "info").write_text(
            f'{{"ServerVersion":"20.10.24","DockerRootDir":"/var/lib/docker","ContainersRunning":{running},'
            f'"LiveRestoreEnabled":{str(live_restore).lower()}}}'
        )

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        etc_docker = self.root / "etc" / "docker"
        environment = {"STUBS": self.stubs, "ROOT": self.root, "BERTH_DIR": self.state, "BERTH_DOCKER_ETC": etc_docker}
        path = f"{self.stubs}:{os.environ['PATH']}:/usr/sbin:/sbin"
        return subprocess.run(
            ["unshare", "--mount", "sh", "-c", INSIDE, "sh", *argv],
            env={**os.environ, **{key: str(value) for key, value in environment.items()}, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def told(self) -> list[str]:
        log = self.stubs / "told"
        return log.read_text().splitlines() if log.exists() else []

    def slept(self) -> list[int]:
        return [int(line) for line in (self.stubs / "slept").read_text().split()]

    def read(self, path: str) -> str:
        return (self.root / path).read_text()


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@pytest.fixture
def join(world_committed, machine, live_server, settings):
    """Runs the command that the platform shows, at an address of this machine that is no loopback."""
    cache.clear()
    settings.PORTAL_URL = live_server.url
    settings.REGISTRY_CA = ""
    host = world_committed
    addresses = subprocess.run(["ip", "-4", "-o", "addr", "show", "scope", "global"], capture_output=True, text=True)
    address = addresses.stdout.split(" inet ")[1].split("/")[0]

    def run(more=""):
        _, secret = join_token_create(cluster=host.cluster, by=host.alice)
        command = f"{join_command(secret)} -s -- --address {address} --name metal-1 {more}"
        return machine.run("sh", "-c", command)

    run.address = address
    return run


def test_dockerd_gets_its_options_and_the_reporter_its_service(machine, join):
    done = join("--label zone=a")
    assert done.returncode == 0, done.stderr
    assert Host.objects.get().labels == {"zone": "a"}
    lines = machine.read("etc/systemd/system/docker.service.d/zz-berth.conf").splitlines()
    empty, start = [line for line in lines if line.startswith("ExecStart=")]
    assert empty == "ExecStart=", "without it systemd would have two commands"
    packaged = "ExecStart=/usr/sbin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock $DOCKER_OPTS "
    assert start.startswith(packaged)
    state = machine.state
    assert start.removeprefix(packaged).split() == [
        *("-H", f"tcp://{join.address}:2376", "--tlsverify", "--tlscacert", f"{state}/ca.pem"),
        *("--tlscert", f"{state}/cert.pem", "--tlskey", f"{state}/key.pem"),
        *("--live-restore=true", "--userland-proxy=false"),
        *("--default-address-pool", "base=10.200.0.0/14,size=26"),
    ]
    assert "ExecStart=/usr/local/sbin/berth-host report\n" in machine.read("etc/systemd/system/berth-host.service")
    asked, *changes = machine.told()
    assert asked.startswith("show")
    assert changes == [
        "daemon-reload",
        "enable --quiet docker.service berth-host.service",
        "restart docker.service",
        "restart berth-host.service",
    ]
    if Path("/usr/bin/systemd-analyze").exists():
        unit = machine.root / "etc/systemd/system/berth-host.service"
        checked = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
        assert "Unknown" not in checked.stderr


def test_running_containers_and_options_in_the_file_stop_it_before_the_token_is_used(machine, join):
    machine.engine(live_restore=False, running=2)
    done = join()
    assert (done.returncode, "the restart of Docker would stop them" in done.stderr) == (1, True), done.stderr
    machine.engine(live_restore=False, running=0)
    (machine.root / "etc/docker").mkdir()
    (machine.root / "etc/docker/daemon.json").write_text('{"hosts": ["unix:///var/run/docker.sock"]}')
    done = join()
    assert (done.returncode, 'take "hosts" out of' in done.stderr) == (1, True), done.stderr
    assert [line for line in machine.told() if not line.startswith("show")] == []
    assert not Host.objects.exists()


def test_after_a_renewal_dockerd_is_restarted_only_where_its_containers_live_on(machine, join):
    assert join().returncode == 0
    HostIdentity.objects.update(certificate_expires_at=now() + timedelta(days=5))
    before = (machine.state / "cert.pem").read_bytes()
    (machine.stubs / "told").unlink()
    done = machine.run("/usr/local/sbin/berth-host", "report", "--once")
    assert (done.returncode, "no live-restore" in done.stderr) == (1, True), done.stderr
    assert (machine.state / "cert.pem").read_bytes() != before
    assert machine.told() == []
    # It was not forgotten: the next report finds the note.
    machine.engine(live_restore=True, running=3)
    done = machine.run("/usr/local/sbin/berth-host", "report", "--once")
    assert (done.returncode, machine.told()) == (0, ["restart docker.service"]), done.stderr
    done = machine.run("/usr/local/sbin/berth-host", "report", "--once")
    assert (done.returncode, len(machine.told())) == (0, 1), done.stderr


def test_whoever_answers_in_the_platforms_place_does_not_choose_whom_dockerd_trusts(machine, join):
    assert join().returncode == 0
    HostIdentity.objects.update(certificate_expires_at=now() + timedelta(days=5))
    # The next answer is signed by somebody else.
    Authority.objects.all().delete()
    before = {name: (machine.state / name).read_bytes() for name in ("ca.pem", "cert.pem", "key.pem")}
    machine.engine(live_restore=True, running=3)
    (machine.stubs / "told").unlink()
    done = machine.run("/usr/local/sbin/berth-host", "report", "--once")
    assert (done.returncode, "does not fit" in done.stderr) == (1, True), done.stderr
    assert {name: (machine.state / name).read_bytes() for name in before} == before
    assert machine.told() == []


def _reports(machine):
    """The reporter's service until its fifth pause."""
    (machine.stubs / "slept").unlink(missing_ok=True)
    return machine.run("/usr/local/sbin/berth-host", "report").stderr


def test_the_service_reports_every_ten_seconds_and_says_once_what_is_wrong(machine, join):
    assert join().returncode == 0
    said = _reports(machine)
    assert machine.slept() == [1, 10, 10, 10, 10], said
    assert said.count("\n") == 1, said
    host = Host.objects.get()
    assert host.sampled_at is not None
    secret = (machine.state / "secret").read_text()
    assert secret not in said
    (machine.state / "report.conf").write_text("PORTAL='http://127.0.0.1:9'\nDATA_ROOT='/var'\nRESTART=''\n")
    said = _reports(machine)
    assert (said.count("cannot be reached"), machine.slept()) == (1, [1, 10, 10, 10, 10]), said


def test_a_removed_host_asks_less_often(machine, join):
    assert join().returncode == 0
    host_remove(host=Host.objects.get())
    said = _reports(machine)
    assert (said.count("404"), machine.slept()) == (1, [1, 300, 300, 300, 300]), said


def test_reports_go_on_while_the_engine_can_not_be_restarted(machine, join):
    assert join().returncode == 0
    (machine.state / "restart-needed").touch()
    said = _reports(machine)
    assert (said.count("no live-restore"), machine.slept()) == (1, [1, 10, 10, 10, 10]), said


def test_without_systemd_it_says_what_to_do(machine, join):
    (machine.root / "run/systemd/system").rmdir()
    done = join()
    assert (done.returncode, "--no-service" in done.stderr) == (1, True), done.stderr
    assert not Host.objects.exists()
