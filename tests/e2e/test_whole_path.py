"""Push, deploy, reach; then break it: on real parts, over two Docker hosts."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError

from stack.environment import ROOT
from stack.journey import gateway_get, wait_for
from stack.parts.base import StackError
from stack.parts.python import manage
from stack.processes import descendants

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]
SMALL = {"memory_mb": 64, "cpu_millis": 50}


@contextmanager
def _zookeeper(platform) -> Iterator[KazooClient]:
    client = KazooClient(
        platform.env.variables()["BERTH_ZOOKEEPER"],
        auth_data=[("digest", platform.env.variables()["BERTH_ZOOKEEPER_GATEWAY"])],
    )
    client.start(timeout=10)
    try:
        yield client
    finally:
        client.stop()
        client.close()


def _published(platform, app):
    """container id -> host:port, per version, as ZooKeeper holds it."""
    with _zookeeper(platform) as client:
        return _read(client, app)


def _read(client, app):
    base = f"/caas/service/address/{app}"
    while client.exists(base) is not None:
        try:
            return {
                version: {
                    container: client.get(f"{base}/{version}/{container}")[0].decode()
                    for container in client.get_children(f"{base}/{version}")
                }
                for version in client.get_children(base)
            }
        except NoNodeError:
            continue  # unpublished between the listing and the reading: look again
    return {}


@contextmanager
def _load(platform, app) -> Iterator[Counter[str]]:
    """One request after the other until the block ends; counts what came back."""
    outcomes: Counter[str] = Counter()
    done = threading.Event()

    def ask() -> None:
        url = f"http://127.0.0.1:{platform.env.ports['gateway']}/"
        with httpx.Client(trust_env=False, timeout=10, headers={"Host": f"{app}.localhost"}) as client:
            while not done.wait(0.005):
                try:
                    outcomes[str(client.get(url).status_code)] += 1
                except httpx.HTTPError as error:
                    outcomes[type(error).__name__] += 1

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield outcomes
    finally:
        done.set()
        for thread in threads:
            thread.join()


@pytest.fixture(scope="module")
def owner(platform):
    member = platform.member("acme", "owner")
    member.login()
    return member


@pytest.fixture
def app(platform, owner, request):
    """A new app with version 1.0 pushed; undeployed afterwards if it runs."""
    slug = f"a{abs(hash(request.node.name)) % 10**8}"
    owner.app_create("acme", slug)
    owner.push_sample(slug, "1.0")
    owner.version_wait(slug, "1.0")
    yield slug
    try:
        owner.undeploy(slug)
    except StackError as error:
        if "apps.not_deployed" not in str(error):
            raise


def test_a_pushed_image_serves_from_two_hosts_through_the_gateway(platform, owner, app):
    rollout = owner.deploy(app, "1.0", instances=2, env={"GREETING": 'it\'s "me"\nand me'}, **SMALL)
    assert rollout["status"] == "succeeded", rollout
    assert [len(platform.labelled(host, app)) for host in (0, 1)] == [1, 1]
    answers = {gateway_get(platform.env, app).text for _ in range(10)}
    assert len(answers) == 2, "round robin over both"
    assert all('it\'s "me"\nand me' in answer for answer in answers)
    ready = {one["container_id"] for one in owner.instances(app)}
    assert set(_published(platform, app)["1.0"]) == ready == set(platform.labelled(0, app) + platform.labelled(1, app))
    for container, address in _published(platform, app)["1.0"].items():
        assert httpx.get(f"http://{address}/_ping", trust_env=False).text == "pong\n", container


def test_unknown_hosts_get_404_and_apps_without_instances_503(platform, owner, app):
    assert gateway_get(platform.env, "nobody-has-this").status_code == 404
    wait_for("the app's route", lambda: gateway_get(platform.env, app).status_code == 503)


def test_an_undeploy_leaves_nothing_behind(platform, owner, app):
    owner.deploy(app, "1.0", instances=2, **SMALL)
    with _load(platform, app) as outcomes:
        assert owner.undeploy(app)["status"] == "succeeded"
    assert set(outcomes) <= {"200", "503"}, outcomes
    assert [platform.labelled(host, app) for host in (0, 1)] == [[], []]
    assert not any(_published(platform, app).values())
    assert gateway_get(platform.env, app).status_code == 503


def test_a_killed_container_is_unrouted_within_2_s_and_replaced_within_5_s_and_nobody_notices(platform, owner, app):
    owner.deploy(app, "1.0", instances=2, **SMALL)
    victim = platform.labelled(0, app)[0]
    docker = platform.member("acme", "owner", 0).docker
    with _zookeeper(platform) as client, _load(platform, app) as outcomes:

        def routed() -> set[str]:
            return set(_read(client, app).get("1.0", {}))

        docker("kill", victim)
        started = time.monotonic()
        wait_for("the killed one to be unrouted", lambda: victim not in routed(), 30, 0.02)
        unrouted = time.monotonic() - started
        wait_for("the second instance to be routed again", lambda: len(routed() - {victim}) == 2, 30, 0.02)
        replaced = time.monotonic() - started
    assert unrouted < 2
    assert replaced < 5
    assert set(outcomes) == {"200"}, outcomes
    assert len({gateway_get(platform.env, app).text for _ in range(10)}) == 2


def test_a_crash_is_unrouted_with_redis_and_all_workers_away(platform, owner, app):
    owner.deploy(app, "1.0", instances=2, **SMALL)
    victim = platform.labelled(0, app)[0]
    away = ("redis", "beat", "worker", "engines", "hosts-worker")
    for name in away:
        for pid in [platform.stack.pid(name), *descendants(platform.stack.pid(name))]:
            os.kill(pid, signal.SIGSTOP)
    try:
        platform.member("acme", "owner", 0).docker("kill", victim)
        started = time.monotonic()
        with _zookeeper(platform) as client:
            wait_for("the killed one to be unrouted", lambda: victim not in _read(client, app)["1.0"], 30, 0.02)
        unrouted = time.monotonic() - started
    finally:
        for name in away:
            for pid in [platform.stack.pid(name), *descendants(platform.stack.pid(name))]:
                os.kill(pid, signal.SIGCONT)
    assert unrouted < 2
    wait_for("the second instance to be routed again", lambda: len(_published(platform, app)["1.0"]) == 2, 60)


def test_an_app_that_hangs_is_unrouted_within_three_checks_and_replaced(platform, owner, app):
    check = {"interval_s": 1, "timeout_s": 1, "failures": 3}
    owner.deploy(app, "1.0", instances=2, readiness=check, **SMALL)
    victim = platform.labelled(0, app)[0]
    # Everything in it but its first process, which only waits for the others.
    platform.member("acme", "owner", 0).docker("exec", victim, "/bin/busybox", "kill", "-STOP", "-1")
    began = time.monotonic()
    with _zookeeper(platform) as client:
        wait_for("the one that hangs to be unrouted", lambda: victim not in _read(client, app)["1.0"], 30, 0.02)
    unrouted = time.monotonic() - began
    # Three checks, one interval apart, the last of which is waited for; and as long again for a machine that is busy.
    assert unrouted < 2 * (3 * check["interval_s"] + check["timeout_s"])
    wait_for("another in its place", lambda: len(_published(platform, app)["1.0"]) == 2, 30)
    wait_for("it to be removed", lambda: victim not in platform.labelled(0, app), 30)
    (ended,) = [one for one in owner.request("GET", f"apps/{app}/instances/")["results"] if one["code"]]
    assert ended["code"] == "instance.unhealthy"
    assert ended["reason"] == "3 checks in a row failed, the last: no answer within 1 s."


def test_a_worker_killed_in_the_middle_of_a_deploy_leaves_no_orphan_and_no_leak(platform, owner, app):
    started = owner.request("POST", f"apps/{app}/rollouts/", {"version": "1.0", "instances": 6, **SMALL})
    wait_for("the first container", lambda: platform.labelled(0, app) + platform.labelled(1, app), 30, 0.01)
    for name in ("engines", "worker"):
        for pid in [platform.stack.pid(name), *descendants(platform.stack.pid(name))]:
            os.kill(pid, signal.SIGKILL)
    for name in ("engines", "worker"):
        platform.stack.restart(name)
    rollout = owner.rollout_wait(app, started["number"])
    assert rollout["status"] == "succeeded", rollout
    running = platform.labelled(0, app) + platform.labelled(1, app)
    assert sorted(running) == sorted(one["container_id"] for one in owner.instances(app))
    assert len(running) == 6
    assert set(_published(platform, app)["1.0"]) == set(running)
    owner.undeploy(app)
    assert platform.labelled(0, app) + platform.labelled(1, app) == []
    assert _leaked(platform, app) == {"allocations": 0, "ports": 0}


def _leaked(platform, app):
    code = (
        "import json; from apps.hosts.models import *; from apps.deployments.models import *;"
        f"own = [i.uid for i in Instance.objects.filter(app__slug={app!r})];"
        "print(json.dumps({'allocations': Allocation.objects.filter(owner__in=own).count(),"
        "'ports': PortAllocation.objects.filter(owner__in=own, status='claimed').count()}))"
    )
    return json.loads(manage(platform.env, "shell", "--no-imports", "-c", code))


def test_another_tenant_can_neither_see_nor_push_nor_pull(platform, owner, app):
    stranger = platform.member("rival", "owner", host=1)
    stranger.login()
    for path in ("", "versions/", "releases/", "rollouts/", "instances/", "events/"):
        assert stranger.api.get(f"apps/{app}/{path}").status_code == 404
    assert stranger.api.post(f"apps/{app}/rollouts/", json={"version": "1.0"}).status_code == 404
    assert stranger.api.post(f"apps/{app}/undeploy/").status_code == 404
    reference = f"{platform.env.registry_public}/{app}:1.0"
    with pytest.raises(StackError, match="denied"):
        stranger.docker("pull", reference)
    with pytest.raises(StackError, match="denied"):
        stranger.push_sample(app, "9.9")
    with pytest.raises(StackError, match="unauthorized"):
        stranger.docker("login", platform.env.registry_public, "-u", "acme-owner", "--password-stdin", stdin="wrong")


@pytest.mark.parametrize(
    ("entrypoint", "code", "left"),
    [
        ('["/bin/busybox", "sh", "-c", "echo broken; exit 3"]', "instance.exited", (3, "broken\n")),
        ('["/no/such/program"]', "container.refused", (None, "")),
    ],
)
def test_an_image_that_cannot_run_fails_with_its_cause_and_leaves_its_capsule_only(
    platform, owner, app, entrypoint, code, left
):
    owner.deploy(app, "1.0", instances=1, **SMALL)
    broken = f"FROM scratch\nCOPY busybox /bin/busybox\nENTRYPOINT {entrypoint}\n"
    owner.push_sample(app, "2.0", dockerfile=broken)
    owner.version_wait(app, "2.0")
    with _load(platform, app) as outcomes:
        rollout = owner.deploy(app, "2.0", instances=1)
    assert (rollout["status"], rollout["code"]) == ("rolled_back", code)
    assert rollout["reason"]
    assert set(outcomes) == {"200"}, "the first version serves on"
    wait_for("the broken containers to go", lambda: len(platform.labelled(0, app) + platform.labelled(1, app)) == 1)
    ended = next(one for one in owner.request("GET", f"apps/{app}/instances/")["results"] if one["code"] == code)
    wait_for("its capsule", lambda: owner.api.get(f"apps/{app}/instances/{ended['uid']}/capsule/").status_code == 200)
    capsule = owner.request("GET", f"apps/{app}/instances/{ended['uid']}/capsule/")
    assert (capsule["code"], capsule["exit_code"], capsule["log"]) == (code, *left)
    assert bool(capsule["log"]) != bool(capsule["log_missing"])


def test_an_app_that_never_becomes_ready_fails_with_its_cause_and_leaves_nothing(platform, owner, app):
    rollout = owner.deploy(app, "1.0", instances=1, health_path="/no-such-page", **SMALL)
    assert (rollout["status"], rollout["code"]) == ("failed", "instance.never_ready")
    assert "GET /no-such-page on port 8080: it answered 404" in rollout["reason"]
    assert any(one["code"] == "rollout.failed" for one in owner.request("GET", f"apps/{app}/events/")["results"])
    wait_for("the container to go", lambda: not platform.labelled(0, app) + platform.labelled(1, app))
    assert _leaked(platform, app) == {"allocations": 0, "ports": 0}


def test_a_version_whose_image_vanished_fails_with_its_cause(platform, owner, app):
    unique = (ROOT / "stack/sample/Dockerfile").read_text() + f"LABEL only={app}\n"
    reference = owner.push_sample(app, "2.0", dockerfile=unique)
    owner.version_wait(app, "2.0")
    # The engine that built it has it still, and would need no registry.
    owner.docker("image", "rm", reference)
    digest = {one["tag"]: one["digest"] for one in owner.request("GET", f"apps/{app}/versions/")["results"]}["2.0"]
    data = platform.env.directory / "registry" / "data" / "docker/registry/v2/repositories" / app
    (data / "_manifests" / "revisions" / "sha256" / digest.removeprefix("sha256:") / "link").unlink()
    rollout = owner.deploy(app, "2.0", instances=1, **SMALL)
    assert (rollout["status"], rollout["code"]) == ("failed", "image.not_found")
    assert platform.labelled(0, app) + platform.labelled(1, app) == []


def test_readyz_names_the_part_that_is_missing(platform, owner):
    url = f"{platform.env.portal_url}/readyz"
    assert httpx.get(url, trust_env=False).status_code == 200
    platform.stack.kill("redis", signal.SIGKILL)
    try:
        wait_for("readyz to notice", lambda: httpx.get(url, trust_env=False).status_code == 503, 10)
        checks = httpx.get(url, trust_env=False).json()["checks"]
        assert (checks["database"], checks["zookeeper"]) == ("ok", "ok")
        assert checks["redis"].startswith("unreachable")
        assert httpx.get(f"{platform.env.portal_url}/healthz", trust_env=False).status_code == 200
    finally:
        platform.stack.restart("redis")
    wait_for("readyz to be well again", lambda: httpx.get(url, trust_env=False).status_code == 200, 30)
