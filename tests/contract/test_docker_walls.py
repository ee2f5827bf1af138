"""What only a real Docker Engine can prove: the walls of a container, the tenants' networks, TLS and pull tokens."""

from __future__ import annotations

import base64
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from apps.hosts.engines.base import (
    ContainerSpec,
    EngineAddress,
    EngineError,
    EngineUnreachable,
    ImageDenied,
    ImageUnavailable,
    Limits,
    Observed,
    SpecRefused,
    TLSMaterial,
)
from tests.contract.dockerd import Dockerd, eventually
from tests.contract.harness import DockerHarness
from tests.contract.pki import Authority

pytestmark = pytest.mark.real


def _reads(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=2).close()  # noqa: S310
    except urllib.error.HTTPError:
        return True  # an answer is an answer
    except OSError:
        return False
    return True


class TestWalls:
    def test_the_kernel_holds_the_process_to_them(self, docker_harness: DockerHarness) -> None:
        spec = docker_harness.spec()
        docker_harness.engine().ensure(spec, pull_token="")
        code, output = docker_harness.dockerd.exec(spec.name, "cat", "/proc/1/status")
        assert code == 0
        status = dict(line.split(":", 1) for line in output.decode().splitlines())
        for capability_set in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[capability_set], 16) == 0, capability_set
        assert status["NoNewPrivs"].strip() == "1"
        assert status["Seccomp"].strip() == "2", "the default filter is in force"
        limits = docker_harness.dockerd.exec(spec.name, "cat", "/proc/1/limits")[1].decode()
        assert next(line for line in limits.splitlines() if "open files" in line).split()[3:5] == ["1024", "1024"]

    def test_a_command_that_checks_is_behind_the_same_ones(self, docker_harness: DockerHarness) -> None:
        spec = docker_harness.spec()
        engine = docker_harness.engine()
        engine.ensure(spec, pull_token="")
        script = "grep -E 'Cap|NoNewPrivs|Seccomp:' /proc/self/status"
        said = engine.check(spec.name, ["/bin/busybox", "sh", "-c", script], timeout_s=5)
        assert said.exit_code == 0
        status = dict(line.split(":", 1) for line in said.output.decode().splitlines())
        assert {int(value, 16) for key, value in status.items() if key.startswith("Cap")} == {0}
        assert (status["NoNewPrivs"].strip(), status["Seccomp"].strip()) == ("1", "2")

    def test_the_engine_reports_them(self, docker_harness: DockerHarness) -> None:
        spec = docker_harness.spec(limits=Limits(memory_mb=48, cpu_millis=500, pids=32, capabilities=("CHOWN",)))
        seen = docker_harness.engine().ensure(spec, pull_token="")
        raw = docker_harness.dockerd.api.inspect_container(seen.container_id)
        host = raw["HostConfig"]
        assert host["CapDrop"] == ["ALL"]
        assert host["CapAdd"] == ["CHOWN"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert host["Memory"] == host["MemorySwap"] == 48 * 1024 * 1024
        assert host["PidsLimit"] == 32
        assert host["CpuShares"] == 512
        assert host["Privileged"] is False
        assert host["PublishAllPorts"] is False
        assert (host["IpcMode"], host["PidMode"], host["UTSMode"]) == ("private", "", "")
        assert (host["CgroupnsMode"], host["UsernsMode"]) == ("private", "")
        assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}
        assert host["RestartPolicy"] == {"Name": "no", "MaximumRetryCount": 0}
        assert not any([host["Binds"], host.get("Mounts"), host["Devices"], host["VolumesFrom"], raw["Mounts"]])
        assert raw["Config"]["Hostname"] == spec.instance
        assert raw["Config"]["Labels"] == {
            "berth.platform": "test",
            "berth.tenant": "acme",
            "berth.app": "shop",
            "berth.release": "1",
            "berth.instance": spec.instance,
            "berth.spec": spec.fingerprint,
        }
        assert seen.fingerprint == spec.fingerprint

    def test_a_container_that_takes_too_much_memory_is_killed_and_it_is_told(
        self, docker_harness: DockerHarness
    ) -> None:
        greedy = ("/bin/busybox", "sh", "-c", "x=xxxxxxxxxxxxxxxx; while :; do x=$x$x; done")
        spec = docker_harness.spec(command=greedy, limits=Limits(memory_mb=16, cpu_millis=500))
        engine = docker_harness.engine()
        engine.ensure(spec, pull_token="")

        def killed() -> Observed | None:
            seen = engine.inspect(spec.name)
            return seen if seen and seen.exit_code is not None else None

        assert eventually(killed).oom_killed
        assert [one.oom_killed for one in engine.list("test")] == [True]

    def test_the_port_is_published_on_exactly_its_address(self, docker_harness: DockerHarness) -> None:
        spec = docker_harness.spec()
        docker_harness.engine().ensure(spec, pull_token="")
        eventually(lambda: _reads(f"http://{spec.host_ip}:{spec.host_port}/"))
        assert not _reads(f"http://{docker_harness.dockerd.unnamed_ip}:{spec.host_port}/")

    def test_remove_sends_the_specs_own_signal_and_waits_for_its_grace(self, docker_harness: DockerHarness) -> None:
        script = 'trap "exit 0" USR1; while :; do /bin/busybox sleep 1 & wait $!; done'
        spec = docker_harness.spec(command=("/bin/busybox", "sh", "-c", script), stop_signal="SIGUSR1")
        engine = docker_harness.engine()
        engine.ensure(spec, pull_token="")
        begun = time.monotonic()
        engine.remove(spec.name, grace_s=60)  # longer than any HTTP timeout of ours
        assert time.monotonic() - begun < 30

    def test_anonymous_volumes_of_an_image_go_with_the_container(self, docker_harness: DockerHarness) -> None:
        spec = docker_harness.spec()
        api = docker_harness.dockerd.api
        api.pull("127.0.0.1:5000/team/runs", tag=spec.image.digest, auth_config={})
        made = api.create_container(str(spec.image), name="volume-maker", volumes=["/data"], network_disabled=True)
        api.commit(made["Id"], "127.0.0.1:5000/team/volume", "1")
        api.push("127.0.0.1:5000/team/volume", tag="1", auth_config={})
        digest = api.inspect_image("127.0.0.1:5000/team/volume:1")["RepoDigests"][-1].rpartition("@")[2]
        api.remove_container(made["Id"], v=True)
        spec = replace(spec, image=replace(spec.image, repository="team/volume", digest=digest))
        engine = docker_harness.engine()
        engine.ensure(spec, pull_token="")
        assert len(api.volumes()["Volumes"]) == 1
        engine.remove(spec.name, grace_s=0)
        assert not api.volumes()["Volumes"]

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"command": ("/bin",)}, "permission denied"),
            ({"command": ("nothing-on-path",)}, "executable file not found"),
            ({"command": ("/dev/null/x",)}, "not a directory"),
        ],
    )
    def test_what_cannot_start_is_the_tenants_fault(
        self, docker_harness: DockerHarness, change: dict[str, tuple[str, ...]], words: str
    ) -> None:
        with pytest.raises(SpecRefused, match=words):
            docker_harness.engine().ensure(docker_harness.spec(**change), pull_token="")
        assert docker_harness.containers() == set()

    def test_an_address_that_the_host_has_not_is_not_the_tenants_fault(self, docker_harness: DockerHarness) -> None:
        with pytest.raises(EngineError, match="cannot assign") as caught:
            docker_harness.engine().ensure(docker_harness.spec(host_ip="10.99.99.99"), pull_token="")
        assert type(caught.value) is EngineError


class TestTenantNetworks:
    def test_a_tenants_containers_meet_and_strangers_do_not(self, docker_harness: DockerHarness) -> None:
        engine, dockerd = docker_harness.engine(), docker_harness.dockerd
        server, friend = docker_harness.spec(), docker_harness.spec()
        stranger = docker_harness.spec(tenant="rival")
        for spec in (server, friend, stranger):
            engine.ensure(spec, pull_token="")
        networks = dockerd.api.inspect_container(server.name)["NetworkSettings"]["Networks"]
        assert set(networks) == {"berth-test-acme"}
        inner = networks["berth-test-acme"]["IPAddress"]

        def reaches(spec: ContainerSpec, ip: str, port: int) -> bool:
            ask = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | /bin/busybox nc -w 2 {ip} {port}"
            return b"HTTP/1." in dockerd.exec(spec.name, "sh", "-c", ask)[1]

        def resolves(spec: ContainerSpec) -> bool:
            return inner.encode() in dockerd.exec(spec.name, "nslookup", server.name)[1]

        eventually(lambda: reaches(friend, inner, 8080))
        assert resolves(friend)
        assert not resolves(stranger)
        assert not reaches(stranger, inner, 8080)
        assert not reaches(stranger, server.host_ip, server.host_port), "nor by the published port"
        assert not reaches(stranger, networks["berth-test-acme"]["Gateway"], server.host_port)

    def test_two_networks_of_one_name_are_settled(self, docker_harness: DockerHarness) -> None:
        api = docker_harness.dockerd.api
        labels = {"berth.platform": "test", "berth.tenant": "acme"}
        for _ in range(3):
            api.create_network("berth-test-acme", labels=labels)
        docker_harness.engine().ensure(docker_harness.spec(), pull_token="")
        assert len(api.networks(names=["berth-test-acme"])) == 1

    def test_a_network_that_is_not_ours_is_not_used(self, docker_harness: DockerHarness) -> None:
        docker_harness.dockerd.api.create_network("berth-test-acme")
        with pytest.raises(EngineError) as caught:
            docker_harness.engine().ensure(docker_harness.spec(), pull_token="")
        assert caught.value.code == "host.name_taken"

    def test_a_network_left_by_a_killed_worker_goes_with_the_next_remove(self, docker_harness: DockerHarness) -> None:
        spec, engine = docker_harness.spec(), docker_harness.engine()
        engine.ensure(spec, pull_token="")
        docker_harness.dockerd.api.remove_container(spec.name, force=True)
        assert docker_harness.networks() == {"berth-test-acme"}
        engine.remove(spec.name, grace_s=0)
        assert docker_harness.networks() == set()

    def test_a_created_container_whose_network_is_gone_is_made_anew(self, docker_harness: DockerHarness) -> None:
        spec = docker_harness.spec()
        first = docker_harness.create_only(spec)
        docker_harness.dockerd.api.remove_network("berth-test-acme")
        seen = docker_harness.engine().ensure(spec, pull_token="")
        assert seen.state == "running"
        assert seen.container_id != first


class TestPulls:
    def _denied(self, harness: DockerHarness, token: str) -> None:
        with pytest.raises(ImageDenied):
            harness.engine().ensure(harness.spec("private"), pull_token=token)

    def test_a_token_for_another_repository_is_denied(self, docker_harness: DockerHarness) -> None:
        self._denied(docker_harness, docker_harness.dockerd.token("pull", repository="team/exits"))

    def test_a_token_for_another_action_is_denied(self, docker_harness: DockerHarness) -> None:
        self._denied(docker_harness, docker_harness.dockerd.token("push"))

    def test_an_expired_token_is_denied(self, docker_harness: DockerHarness) -> None:
        self._denied(docker_harness, docker_harness.dockerd.token("pull", ttl_s=-120))

    def test_a_token_of_somebody_else_is_denied(self, docker_harness: DockerHarness) -> None:
        head, claims, _ = docker_harness.dockerd.token("pull").split(".")
        forged = base64.urlsafe_b64encode(b"x" * 256).decode().rstrip("=")
        self._denied(docker_harness, f"{head}.{claims}.{forged}")

    def test_an_image_that_is_there_needs_no_registry(self, docker_harness: DockerHarness) -> None:
        engine = docker_harness.engine()
        engine.ensure(docker_harness.spec("private"), pull_token=docker_harness.good_token)
        assert engine.ensure(docker_harness.spec("private"), pull_token="").state == "running"

    def test_a_registry_that_does_not_answer_is_worth_another_try(self, docker_harness: DockerHarness) -> None:
        spec = docker_harness.spec()
        with pytest.raises(ImageUnavailable) as caught:
            docker_harness.engine().ensure(
                replace(spec, image=replace(spec.image, registry="127.0.0.1:9")), pull_token="secret"
            )
        assert caught.value.retryable
        assert "secret" not in str(caught.value)

    def test_without_a_token_the_host_does_not_go_where_the_registry_sends_it(
        self, docker_harness: DockerHarness
    ) -> None:
        with pytest.raises(ImageDenied) as caught:  # its realm does not answer: going there gives another error
            docker_harness.engine().ensure(docker_harness.spec("private"), pull_token="")
        assert "127.0.0.1:1/" not in str(caught.value)


class TestMutualTLS:
    def _refused(self, dockerd: Dockerd, harness: DockerHarness, tls: TLSMaterial, ip: str = "") -> str:
        with pytest.raises(EngineUnreachable) as caught:
            harness.engine(EngineAddress("docker", f"https://{ip or dockerd.ip}:2376", tls)).ping()
        return str(caught.value)

    def test_our_certificate_and_theirs_are_taken(self, docker_harness: DockerHarness) -> None:
        assert docker_harness.engine().ping().labels == {"zone": "test"}

    def test_no_client_certificate_is_refused(self, docker_harness: DockerHarness) -> None:
        context = ssl.create_default_context(cadata=docker_harness.dockerd.authority.pem)
        with pytest.raises(OSError, match=r"(?i)certificate|reset|alert"):
            urllib.request.urlopen(f"{docker_harness.dockerd.url}/info", timeout=5, context=context)  # noqa: S310

    def test_a_client_certificate_of_another_authority_is_refused(self, docker_harness: DockerHarness) -> None:
        dockerd = docker_harness.dockerd
        self._refused(dockerd, docker_harness, Authority().client(ca=dockerd.authority.pem))

    def test_a_host_of_another_authority_is_refused(self, docker_harness: DockerHarness) -> None:
        dockerd = docker_harness.dockerd
        ours = dockerd.authority.client(ca=Authority("somebody else").pem)
        assert "CERTIFICATE_VERIFY_FAILED" in self._refused(dockerd, docker_harness, ours)

    def test_the_environment_cannot_change_whom_we_trust(
        self, docker_harness: DockerHarness, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        bundle = tmp_path / "ca.pem"
        bundle.write_text(docker_harness.dockerd.authority.pem)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
        ours = docker_harness.dockerd.authority.client(ca=Authority("somebody else").pem)
        assert "CERTIFICATE_VERIFY_FAILED" in self._refused(docker_harness.dockerd, docker_harness, ours)
        assert docker_harness.engine().ping().version

    def test_a_certificate_for_another_address_is_refused(self, docker_harness: DockerHarness) -> None:
        dockerd = docker_harness.dockerd
        words = self._refused(dockerd, docker_harness, dockerd.authority.client(), dockerd.unnamed_ip)
        assert "match" in words

    def test_the_socket_serves_as_well(self, docker_harness: DockerHarness) -> None:
        socket = EngineAddress("docker", docker_harness.dockerd.socket)
        assert docker_harness.engine(socket).ping().version == docker_harness.engine().ping().version
