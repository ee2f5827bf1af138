"""Clean-up on a real registry and a real engine: what the rules keep remains, and nothing else; the disk is given back;
and whoever pushes meanwhile is not disturbed.
"""

from __future__ import annotations

import os
import random
import signal
import ssl
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from django.core.management import call_command

from apps.core.clock import now
from apps.deployments.services.retention import app_clean, rules_of, rules_set, rules_with
from apps.deployments.tests.steps import deploy
from apps.hosts.engines.base import ContainerSpec, ContainerState, EngineAddress, ImageRef, Limits, TLSMaterial
from apps.hosts.engines.connect import connect
from apps.registry.cleaning import repositories_clean
from apps.registry.client import tags_of
from apps.registry.describing import manifests_describe
from apps.registry.models import Manifest, Version
from apps.registry.reconcile import repositories_list
from apps.registry.services.quota import storage_count
from apps.registry.storage.collect import Collector, Rules
from apps.registry.storage.layout import Layout
from stack.environment import Environment
from stack.hosts import DockerHosts
from stack.parts.registry import registry
from stack.runner import Stack
from tests.integration.images import MANIFEST, busybox, image, layer, pulls, push

pytestmark = pytest.mark.real
VERSIONS = 100
SOME_KB = 8 * 1024


def client(env: Environment) -> httpx.Client:
    trusted = ssl.create_default_context(cafile=str(env.registry_authority.pair.cert))
    return httpx.Client(base_url=f"https://127.0.0.1:{env.ports['registry']}", verify=trusted, trust_env=False)


@pytest.fixture
def env(tmp_path, settings) -> Environment:
    found = Environment.open(tmp_path)
    settings.REGISTRY_URL = f"https://127.0.0.1:{found.ports['registry']}"
    settings.REGISTRY_CA = str(found.registry_authority.pair.cert)
    return found


@pytest.fixture
def alone(env):
    """A registry without anything else, a client, and its directory."""
    with Stack(env.directory, [registry(env, token_auth=False)]), client(env) as api:
        yield env, api, env.directory / "registry/data"


def disk_used(path: Path) -> int:
    """Bytes, as du has them."""
    return int(subprocess.run(["du", "-s", "-B1", path], capture_output=True, check=True).stdout.split()[0])


def noisy(number: int, size: int = SOME_KB) -> bytes:
    """A layer that does not get smaller."""
    return layer({f"file-{number}": random.Random(number).randbytes(size)})


def collect(config: Path) -> None:
    call_command("registry_collect", "--config", str(config), "--grace=0", "--settle=0.2")


def aged() -> None:
    """Each was pushed an hour after the one before, the newest two hours ago."""
    rows = list(Version.objects.order_by("tag"))
    for row in rows:
        number = int(row.tag.partition(".")[2])
        Version.objects.filter(pk=row.pk).update(pushed_at=now() - timedelta(hours=2 + VERSIONS - number))
    Manifest.objects.update(pushed_at=now() - timedelta(days=2))


def test_of_100_versions_exactly_what_the_rules_keep_remains_and_what_runs_can_still_be_pulled(world, loop, env):
    world.host()
    app = world.app()
    base = busybox()
    images = {f"1.{number}": image(base, noisy(number)) for number in range(1, VERSIONS + 1)}
    hosts = DockerHosts(env, 1)
    config, data = env.directory / "registry/config.yml", env.directory / "registry/data"
    with Stack(env.directory, [registry(env, token_auth=False), *hosts.parts]), client(env) as api:
        for tag, one in images.items():
            assert push(api, "shop", one, tag)
        assert push(api, "shop", image(base, noisy(1000)))  # by its digest only: no listing has it
        collect(config)  # tells of it
        repositories_list()
        while manifests_describe():
            pass
        assert (Version.objects.count(), Manifest.objects.exclude(described_at=None).count()) == (100, 101)
        aged()
        for tag in ("1.20", "1.30"):
            deploy(app, world, instances=1, version=tag)
            loop.settle()
        before, used = disk_used(data), storage_count(tenant_id=world.acme.pk)
        asked = rules_with(rules_of(app), is_on=True, keep_last=5, keep_tags="1.7", rollback_releases=2)
        rules_set(app=app, rules=asked, by=world.alice)

        assert app_clean(app=app) == 92
        assert repositories_clean() == 1
        collect(config)

        kept = {"1.96", "1.97", "1.98", "1.99", "1.100", "1.7", "1.20", "1.30"}
        assert set(tags_of("shop", token="unused").tags) == kept
        assert {digest for digest, _, _ in Layout(data).stored()} == {
            digest.removeprefix("sha256:") for tag in kept for digest in images[tag].digests
        }
        assert before - disk_used(data) >= 93 * SOME_KB
        assert used - storage_count(tenant_id=world.acme.pk) >= 93 * SOME_KB
        assert storage_count(tenant_id=world.acme.pk) == sum(size for _, _, size in Layout(data).stored())
        (host,) = hosts.hosts
        tls = TLSMaterial(ca=host.tls.ca_pem, certificate=host.tls.cert_pem, key=host.tls.key_pem)
        engine = connect(EngineAddress("docker", host.url, tls))
        spec = ContainerSpec(
            platform="test",
            tenant="acme",
            app="shop",
            release=2,
            instance="i1",
            image=ImageRef(env.registry_public, "shop", images["1.30"].digest),
            container_port=8080,
            host_ip=host.address,
            host_port=20001,
            limits=Limits(memory_mb=64, cpu_millis=250, pids=64, nofile=1024),
        )
        try:
            assert engine.ensure(spec, pull_token="").state is ContainerState.RUNNING
        finally:
            engine.remove(spec.name, grace_s=0)
            engine.close()


class Pushers:
    """Some who push images of the same few layers again and again, and delete them: what one needs is often loose.

    Each has manifests of his own: where one deletes what another pushes at that moment, the registry's own handling of
    tags fails.

    ``active`` has the repositories for which one of them has a token, as the token server notes it before it gives one.
    """

    def __init__(self, env: Environment, count: int) -> None:
        self.env = env
        layers = [noisy(number, 2000) for number in range(7)]
        self.images = {
            who: [image(*layers[at : at + 2], command=("/bin/busybox", str(who))) for at in range(6)]
            for who in range(count)
        }
        self.active: dict[str, int] = {"one": 0, "two": 0}
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.pushed = self.refused = 0
        self.failed: list[BaseException] = []
        self.threads = [threading.Thread(target=self._safely, args=[number]) for number in range(count)]

    def quiet(self, repository: str) -> bool:
        with self.lock:
            return not self.active[repository]

    def __enter__(self) -> Pushers:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join()

    def _safely(self, number: int) -> None:
        try:
            with client(self.env) as api:
                self._push(api, number)
        except BaseException as error:
            self.failed.append(error)

    def _push(self, api: httpx.Client, number: int) -> None:
        chance, tag = random.Random(number), f"t{number}"
        while not self.stopping.is_set():
            repository, one = chance.choice(["one", "two"]), chance.choice(self.images[number])
            with self.lock:
                self.active[repository] += 1
            # The way of a token to its client.
            self.stopping.wait(0.03)
            try:
                taken = push(api, repository, one, tag)
                with self.lock:
                    self.pushed, self.refused = self.pushed + taken, self.refused + (not taken)
                if chance.random() < 0.5:
                    api.delete(f"/v2/{repository}/manifests/{one.digest}")
            finally:
                with self.lock:
                    self.active[repository] -= 1
            self.stopping.wait(chance.random() * 0.02)

    def found(self, api: httpx.Client) -> dict[str, bool]:
        """Manifests that the registry has, and whether each can be pulled whole."""
        return {
            f"{repository}@{one.digest}": pulls(api, repository, one)
            for repository in self.active
            for images in self.images.values()
            for one in images
            if api.head(f"/v2/{repository}/manifests/{one.digest}", headers={"Accept": MANIFEST}).status_code == 200
        }


def test_pushes_go_on_while_it_collects_and_all_that_was_pushed_can_be_pulled(alone):
    env, api, data = alone
    with Pushers(env, 3) as pushers:
        rules = Rules(grace_s=0, settle_s=0.2, look_s=0.05)
        ended = now() + timedelta(seconds=8)
        links = blobs = 0
        while now() < ended:
            if data.joinpath("docker/registry/v2/repositories").exists():
                report = Collector(data, quiet=pushers.quiet, rules=rules).run()
                links, blobs = links + report.links, blobs + report.blobs
    assert pushers.failed == []
    assert pushers.refused == 0
    found = pushers.found(api)
    assert [one for one, whole in found.items() if not whole] == []
    assert len(found) > 3
    assert pushers.pushed > 50
    assert links > 0
    assert blobs > 0


def test_where_pushes_never_pause_one_may_be_refused_but_none_is_stored_without_its_blobs(alone):
    env, api, data = alone
    with Pushers(env, 3) as pushers:
        rules = Rules(grace_s=0, busy_s=0, settle_s=0.2, look_s=0.05)
        ended = now() + timedelta(seconds=5)
        while now() < ended:
            if data.joinpath("docker/registry/v2/repositories").exists():
                Collector(data, quiet=lambda name: False, rules=rules).run()
    assert pushers.failed == []
    Collector(data, quiet=lambda name: True, rules=rules).run()
    found = pushers.found(api)
    assert [one for one, whole in found.items() if not whole] == []
    assert len(found) > 3


_COLLECT = """
import sys
from pathlib import Path
from apps.registry.storage.collect import Collector, Rules
Collector(Path(sys.argv[1]), quiet=lambda name: True, rules=Rules(grace_s=0, settle_s=0.1)).run()
"""


def test_killed_at_any_time_it_loses_nothing_that_is_named(alone):
    _, api, data = alone
    kept = [image(noisy(number, 2000)) for number in range(20)]
    for number, one in enumerate(kept):
        assert push(api, "one", one, f"t{number}")
    for round_ in range(6):
        gone = [image(noisy(100 * (round_ + 1) + number, 2000)) for number in range(20)]
        for one in gone:
            assert push(api, "one", one)
            assert api.delete(f"/v2/one/manifests/{one.digest}").status_code == 202
        process = subprocess.Popen([sys.executable, "-c", _COLLECT, str(data)], cwd=Path(__file__).parents[2])
        try:
            process.wait(0.1 + 0.05 * round_)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        # Pushed anew right away, with what is perhaps aside.
        assert push(api, "one", gone[0], "again")
        kept = [*kept[:20], gone[0]]
        assert all(pulls(api, "one", one) for one in kept)
    Collector(data, quiet=lambda name: True, rules=Rules(grace_s=0, settle_s=0)).run()
    assert all(pulls(api, "one", one) for one in kept)
    assert {f"sha256:{digest}" for digest, _, _ in Layout(data).stored()} >= {d for one in kept for d in one.digests}
