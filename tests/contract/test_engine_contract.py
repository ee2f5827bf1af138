"""What every engine promises, told once and held against each of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import pytest

from apps.hosts.engines.base import (
    ContainerEvent,
    ContainerState,
    EngineError,
    EngineUnreachable,
    EventKind,
    ImageDenied,
    ImageNotFound,
    NameTaken,
    PortTaken,
    SpecRefused,
)
from apps.hosts.engines.connect import HostEngine
from tests.contract.dockerd import eventually
from tests.contract.harness import Harness


def ended(engine: HostEngine, name: str):
    """The container as seen once its process has ended."""

    def look():
        found = engine.inspect(name)
        return found if found and found.state is ContainerState.EXITED else None

    return eventually(look)


def test_ping_says_what_the_host_has(engine: HostEngine) -> None:
    info = engine.ping()
    assert info.version
    assert info.cpu_millis >= 1000
    assert info.memory_mb > 100


def test_ensure_starts_the_container_and_tells_who_it_is(harness: Harness, engine: HostEngine) -> None:
    spec = harness.spec()
    seen = engine.ensure(spec, pull_token="")
    assert (seen.name, seen.instance, seen.app) == (spec.name, spec.instance, "shop")
    assert seen.state is ContainerState.RUNNING
    assert seen.fingerprint == spec.fingerprint
    assert seen.exit_code is None
    assert engine.inspect(spec.name) == seen


def test_ensure_twice_is_one_container(harness: Harness, engine: HostEngine) -> None:
    spec = harness.spec()
    first = engine.ensure(spec, pull_token="")
    assert engine.ensure(spec, pull_token="") == first
    assert harness.containers() == {first.container_id}


def test_ensure_adopts_and_starts_what_a_killed_worker_created(harness: Harness, engine: HostEngine) -> None:
    spec = harness.spec()
    container_id = harness.create_only(spec)
    assert engine.inspect(spec.name).state is ContainerState.CREATED
    seen = engine.ensure(spec, pull_token="")
    assert seen.container_id == container_id
    assert seen.state is ContainerState.RUNNING


def test_ensure_makes_anew_what_has_another_fingerprint(harness: Harness, engine: HostEngine) -> None:
    spec = harness.spec()
    old = engine.ensure(spec, pull_token="")
    changed = replace(spec, env={"COLOUR": "blue"})
    new = engine.ensure(changed, pull_token="")
    assert new.container_id != old.container_id
    assert new.fingerprint == changed.fingerprint
    assert new.state is ContainerState.RUNNING
    assert harness.containers() == {new.container_id}


def test_ensure_keeps_the_old_one_when_the_new_image_is_missing(harness: Harness, engine: HostEngine) -> None:
    spec = harness.spec()
    old = engine.ensure(spec, pull_token="")
    with pytest.raises(ImageNotFound):
        engine.ensure(replace(spec, image=replace(spec.image, digest="sha256:" + "f" * 64)), pull_token="")
    assert engine.inspect(spec.name) == old


def test_ensure_reports_an_ended_container_and_never_restarts_it(harness: Harness, engine: HostEngine) -> None:
    spec = harness.spec()
    first = engine.ensure(spec, pull_token="")
    harness.kill(spec)
    again = engine.ensure(spec, pull_token="")
    assert again.container_id == first.container_id
    assert again.state is ContainerState.EXITED
    assert again.exit_code == 137
    assert not again.oom_killed


def test_a_container_that_exits_at_once_is_no_error(harness: Harness, engine: HostEngine) -> None:
    spec = harness.spec("exits")
    engine.ensure(spec, pull_token="")
    assert ended(engine, spec.name).exit_code == 3
    assert engine.ensure(spec, pull_token="").exit_code == 3


def test_logs_of_an_ended_container_are_there_until_it_is_removed(harness: Harness, engine: HostEngine) -> None:
    spec = harness.spec("exits")
    engine.ensure(spec, pull_token="")
    ended(engine, spec.name)
    assert engine.logs(spec.name, tail=10) == b"first\nlast\n"
    assert engine.logs(spec.name, tail=1) == b"last\n"
    assert engine.logs(spec.name, tail=0) == b""
    engine.remove(spec.name, grace_s=0)
    assert engine.logs(spec.name, tail=10) == b""


def test_remove_absent_and_twice_is_success(harness: Harness, engine: HostEngine) -> None:
    spec = harness.spec()
    engine.remove(spec.name, grace_s=0)
    engine.ensure(spec, pull_token="")
    engine.remove(spec.name, grace_s=0)
    assert engine.inspect(spec.name) is None
    engine.remove(spec.name, grace_s=0)
    assert harness.containers() == set()


@pytest.mark.parametrize("name", ["", "..", "../../info", "berth-x/../y", "berth-UPPER", "x" * 300, "0", "berth"])
def test_odd_names_are_absent(engine: HostEngine, name: str) -> None:
    engine.remove(name, grace_s=0)
    assert engine.inspect(name) is None
    assert engine.logs(name, tail=1) == b""


def test_list_shows_only_its_own_platform_ended_ones_included(harness: Harness, engine: HostEngine) -> None:
    running, gone = harness.spec(), harness.spec("exits")
    other = harness.spec(platform="other")
    for spec in (running, gone, other):
        engine.ensure(spec, pull_token="")
    ended(engine, gone.name)
    seen = {one.name: one for one in engine.list("test")}
    assert set(seen) == {running.name, gone.name}
    assert seen[running.name].state is ContainerState.RUNNING
    assert seen[gone.name].exit_code == 3
    assert [one.name for one in engine.list("other")] == [other.name]
    assert engine.list("nobody") == []


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"berth.platform": "test"},
        {"berth.platform": "test", "berth.app": "shop", "berth.instance": "another", "berth.spec": "x"},
    ],
)
def test_a_container_made_by_hand_is_as_if_absent_and_never_touched(
    harness: Harness, engine: HostEngine, labels: dict[str, str]
) -> None:
    spec = harness.spec()
    harness.stranger(spec.name, labels)
    before = harness.containers()
    assert engine.list("test") == []
    assert engine.inspect(spec.name) is None
    engine.remove(spec.name, grace_s=0)
    with pytest.raises(NameTaken):
        engine.ensure(spec, pull_token="")
    assert harness.containers() == before


def test_a_port_held_by_a_stranger_is_told_and_leaves_nothing(harness: Harness, engine: HostEngine) -> None:
    host_ip, host_port = harness.foreign_port()
    spec = harness.spec(host_ip=host_ip, host_port=host_port)
    with pytest.raises(PortTaken):
        engine.ensure(spec, pull_token="")
    assert engine.inspect(spec.name) is None
    assert engine.ensure(replace(spec, host_port=20999), pull_token="").state is ContainerState.RUNNING


def test_a_port_held_by_another_of_ours_is_told(harness: Harness, engine: HostEngine) -> None:
    first = harness.spec()
    engine.ensure(first, pull_token="")
    second = harness.spec(host_port=first.host_port)
    with pytest.raises(PortTaken):
        engine.ensure(second, pull_token="")
    assert [one.name for one in engine.list("test")] == [first.name]


def test_an_image_that_is_not_there_is_told(harness: Harness, engine: HostEngine) -> None:
    spec = harness.spec()
    with pytest.raises(ImageNotFound) as caught:
        engine.ensure(replace(spec, image=replace(spec.image, digest="sha256:" + "e" * 64)), pull_token="")
    assert not caught.value.retryable
    assert harness.containers() == set()


@pytest.mark.parametrize("token", ["", "wrong", "eyJhbGciOiJub25lIn0.e30."])
def test_a_pull_without_the_right_token_is_denied(harness: Harness, engine: HostEngine, token: str) -> None:
    with pytest.raises(ImageDenied) as caught:
        engine.ensure(harness.spec("private"), pull_token=token)
    assert caught.value.retryable
    assert "eyJ" not in str(caught.value)


def test_a_pull_with_the_right_token_is_granted(harness: Harness, engine: HostEngine) -> None:
    seen = engine.ensure(harness.spec("private"), pull_token=harness.good_token)
    assert seen.state is ContainerState.RUNNING


def test_a_command_that_does_not_exist_is_told_shortly_and_leaves_nothing(harness: Harness, engine: HostEngine) -> None:
    spec = harness.spec("refuses")
    with pytest.raises(SpecRefused, match="no such file or directory") as caught:
        engine.ensure(spec, pull_token="")
    message = str(caught.value)
    assert message.startswith('exec: "/no/such/command"')
    assert "\n" not in message
    assert len(message) <= 300
    assert harness.containers() == set()


def test_a_spec_that_the_builder_refuses_reaches_no_engine(harness: Harness) -> None:
    engine = harness.engine(harness.unreachable)
    with pytest.raises(SpecRefused):
        engine.ensure(harness.spec(tenant="../other"), pull_token="")


def test_env_arrives_as_it_was_and_port_is_the_platforms(harness: Harness, engine: HostEngine) -> None:
    env = {
        "LINES": "one\ntwo\r\n\tthree\n",
        "QUOTES": """'single' "double" `tick` $HOME \\ ; & |""",
        "UNICODE": "żółw 船 🚢 \u202e",
        "EMPTY": "",
        "EQUALS": "a=b=c",
        "PORT": "1",
    }
    spec = harness.spec(env=env)
    engine.ensure(spec, pull_token="")
    seen = harness.environment(spec)
    assert {name: seen.get(name) for name in env} == {**env, "PORT": "8080"}


def test_four_workers_that_ensure_the_same_spec_make_one_container(harness: Harness) -> None:
    spec = harness.spec()
    engines = [harness.engine() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        seen = list(pool.map(lambda engine: engine.ensure(spec, pull_token=""), engines))
    assert {one.state for one in seen} == {ContainerState.RUNNING}
    assert harness.containers() == {one.container_id for one in seen}
    assert len(harness.containers()) == 1


def test_workers_that_bring_up_one_tenant_at_once_make_one_network(harness: Harness) -> None:
    specs = [harness.spec() for _ in range(4)]
    engines = [harness.engine() for _ in specs]
    with ThreadPoolExecutor(4) as pool:
        seen = list(pool.map(lambda engine, spec: engine.ensure(spec, pull_token=""), engines, specs))
    assert {one.state for one in seen} == {ContainerState.RUNNING}
    assert harness.networks() == {"berth-test-acme"}


def test_ensure_and_remove_of_one_tenant_at_once_end_well(harness: Harness) -> None:
    leaving, coming = [harness.spec() for _ in range(3)], [harness.spec() for _ in range(3)]
    engine = harness.engine()
    for spec in leaving:
        engine.ensure(spec, pull_token="")
    with ThreadPoolExecutor(6) as pool:
        removals = [pool.submit(harness.engine().remove, spec.name, grace_s=0) for spec in leaving]
        arrivals = [pool.submit(harness.engine().ensure, spec, pull_token="") for spec in coming]
        assert all(one.result().state is ContainerState.RUNNING for one in arrivals)
        assert [one.result() for one in removals] == [None] * 3
    assert {one.name for one in engine.list("test")} == {spec.name for spec in coming}
    assert harness.networks() == {"berth-test-acme"}


def test_a_tenants_network_goes_with_its_last_container(harness: Harness, engine: HostEngine) -> None:
    one, two, other = harness.spec(), harness.spec(), harness.spec(tenant="rival")
    for spec in (one, two, other):
        engine.ensure(spec, pull_token="")
    assert harness.networks() == {"berth-test-acme", "berth-test-rival"}
    engine.remove(one.name, grace_s=0)
    assert harness.networks() == {"berth-test-acme", "berth-test-rival"}
    engine.remove(two.name, grace_s=0)
    assert harness.networks() == {"berth-test-rival"}


def test_an_engine_that_does_not_answer_is_told_by_every_verb(harness: Harness) -> None:
    engine, spec = harness.engine(harness.unreachable), harness.spec()
    for verb in (
        engine.ping,
        lambda: engine.ensure(spec, pull_token=""),
        lambda: engine.remove(spec.name, grace_s=0),
        lambda: engine.inspect(spec.name),
        lambda: engine.list("test"),
        lambda: engine.logs(spec.name, tail=1),
        lambda: engine.check(spec.name, ["true"], timeout_s=1),
        lambda: next(engine.events("test", since=None, stop=lambda: False)),
    ):
        with pytest.raises(EngineUnreachable) as caught:
            verb()
        assert caught.value.retryable
        assert len(str(caught.value)) <= 300


def test_a_command_says_how_it_ended_and_both_of_its_outputs(harness: Harness, engine: HostEngine) -> None:
    spec = harness.spec()
    engine.ensure(spec, pull_token="")
    well = engine.check(spec.name, ["/bin/busybox", "true"], timeout_s=5)
    assert (well.exit_code, well.output) == (0, b"")
    script = "echo out; echo err >&2; exit 3"
    ill = engine.check(spec.name, ["/bin/busybox", "sh", "-c", script], timeout_s=5)
    assert (ill.exit_code, sorted(ill.output.split())) == (3, [b"err", b"out"])
    assert engine.inspect(spec.name).state is ContainerState.RUNNING


def test_a_commands_arguments_pass_no_shell(harness: Harness, engine: HostEngine) -> None:
    spec = harness.spec()
    engine.ensure(spec, pull_token="")
    said = engine.check(spec.name, ["/bin/busybox", "echo", "$HOME; `id`", "a b"], timeout_s=5)
    assert said.output == b"$HOME; `id` a b\n"


def test_of_a_long_output_4_kib_are_kept(harness: Harness, engine: HostEngine) -> None:
    spec = harness.spec()
    engine.ensure(spec, pull_token="")
    said = engine.check(spec.name, ["/bin/busybox", "sh", "-c", "yes | head -c 100000"], timeout_s=10)
    assert (said.exit_code, len(said.output)) == (0, 4096)


def test_a_command_that_does_not_end_is_waited_for_no_longer_than_asked(harness: Harness, engine: HostEngine) -> None:
    spec = harness.spec()
    engine.ensure(spec, pull_token="")
    began = time.monotonic()
    for _ in range(3):
        assert engine.check(spec.name, ["/bin/busybox", "sleep", "60"], timeout_s=1).exit_code is None
    assert time.monotonic() - began < 10
    assert harness.processes(spec, "sleep") <= 1, "it does not fill the container with its like"
    assert engine.check(spec.name, ["/bin/busybox", "true"], timeout_s=5).exit_code == 0


def test_a_program_that_is_not_there_fails_the_check(harness: Harness, engine: HostEngine) -> None:
    spec = harness.spec()
    engine.ensure(spec, pull_token="")
    assert engine.check(spec.name, ["/no/such/program"], timeout_s=5).exit_code in (126, 127)


def test_in_a_container_that_does_not_run_nothing_is_checked(harness: Harness, engine: HostEngine) -> None:
    spec = harness.spec()
    with pytest.raises(EngineError):
        engine.check(spec.name, ["/bin/busybox", "true"], timeout_s=5)
    engine.ensure(spec, pull_token="")
    harness.kill(spec)
    with pytest.raises(EngineError):
        engine.check(spec.name, ["/bin/busybox", "true"], timeout_s=5)


@contextmanager
def followed(harness: Harness, *, since: float | None, platform: str = "test") -> Iterator[list[ContainerEvent]]:
    """The events as they come in, on a connection of its own."""
    done, heard = threading.Event(), []
    engine = harness.engine()

    def follow() -> None:
        for event in engine.events(platform, since=since, stop=done.is_set):
            heard.append(event)
            if done.is_set():
                return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield heard
    finally:
        done.set()
        thread.join(15)
        assert not thread.is_alive(), "a stream that is told to stop ends"


def test_a_start_and_an_end_are_told_with_whose_they_are_and_the_exit_code(harness: Harness) -> None:
    engine, spec = harness.engine(), harness.spec()
    with followed(harness, since=harness.now()) as heard:
        engine.ensure(spec, pull_token="")
        eventually(lambda: heard)
        harness.kill(spec)
        eventually(lambda: [event for event in heard if event.kind is EventKind.DIE])
        engine.remove(spec.name, grace_s=0)
        eventually(lambda: [event for event in heard if event.kind is EventKind.DESTROY])
    told = [(event.kind, event.name, event.instance, event.exit_code) for event in heard]
    who = (spec.name, spec.instance)
    assert told == [(EventKind.START, *who, None), (EventKind.DIE, *who, 137), (EventKind.DESTROY, *who, None)]
    assert [event.at for event in heard] == sorted(event.at for event in heard)


def test_what_happened_while_nobody_listened_is_told_to_one_who_comes_back(harness: Harness) -> None:
    engine, first, second = harness.engine(), harness.spec(), harness.spec()
    began = harness.now()
    engine.ensure(first, pull_token="")
    with followed(harness, since=began) as heard:
        eventually(lambda: heard)
    engine.ensure(second, pull_token="")
    harness.kill(second)
    with followed(harness, since=heard[-1].at) as later:
        eventually(lambda: [event for event in later if event.kind is EventKind.DIE])
    told = [(event.kind, event.instance) for event in later if event.at > heard[-1].at]
    assert told == [(EventKind.START, second.instance), (EventKind.DIE, second.instance)]


def test_without_a_past_events_are_told_from_now_on(harness: Harness) -> None:
    engine, before = harness.engine(), harness.spec()
    engine.ensure(before, pull_token="")
    harness.kill(before)
    with followed(harness, since=None) as heard:

        def one_more() -> bool:
            engine.ensure(harness.spec(), pull_token="")
            return bool(heard)

        eventually(one_more)
    assert before.instance not in {event.instance for event in heard}


def test_events_of_other_platforms_and_of_strangers_are_not_told(harness: Harness) -> None:
    engine, ours = harness.engine(), harness.spec()
    began = harness.now()
    harness.stranger("berth-test-shop-another", {"berth.platform": "test", "berth.instance": "i0", "berth.app": "shop"})
    engine.ensure(harness.spec(platform="other"), pull_token="")
    engine.ensure(ours, pull_token="")
    with followed(harness, since=began) as heard:
        eventually(lambda: heard)
    assert {event.instance for event in heard} == {ours.instance}


def known(harness: Harness, engine: HostEngine) -> dict[str, str]:
    """Name -> the id of the image."""
    return {name: one.id for one in engine.images() for name in one.references}


def test_an_image_that_was_pulled_is_listed_by_its_digest_and_goes_once_nothing_is_made_of_it(
    harness: Harness, engine: HostEngine
) -> None:
    spec = harness.spec()
    reference = str(spec.image)
    assert reference not in known(harness, engine)
    engine.ensure(spec, pull_token="")
    (found,) = [one for one in engine.images() if reference in one.references]
    assert found.size_bytes > 0
    assert engine.image_remove(reference) is False
    harness.kill(spec)
    assert engine.image_remove(reference) is False, "a container that ended is made of it too"
    engine.remove(spec.name, grace_s=0)
    assert engine.image_remove(reference) is True
    assert reference not in known(harness, engine)
    assert engine.image_remove(reference) is True
    assert engine.ensure(spec, pull_token="").state is ContainerState.RUNNING, "it is pulled anew"


def test_an_image_that_somebody_tagged_loses_our_name_and_stays(harness: Harness, engine: HostEngine) -> None:
    spec = harness.spec()
    reference = str(spec.image)
    engine.ensure(spec, pull_token="")
    engine.remove(spec.name, grace_s=0)
    harness.tag(spec, "mine:1")
    assert known(harness, engine)["mine:1"] == known(harness, engine)[reference]
    assert engine.image_remove(reference) is True
    assert "mine:1" in known(harness, engine)
    assert reference not in known(harness, engine)


@pytest.mark.parametrize("name", ["mine:1", "", "..", "a/b", "r.test/a@sha256:1", "r.test/../a@sha256:" + "a" * 64])
def test_no_image_is_removed_by_anything_but_its_digest(harness: Harness, engine: HostEngine, name: str) -> None:
    with pytest.raises(SpecRefused):
        engine.image_remove(name)


def test_closing_twice_is_harmless(engine: HostEngine) -> None:
    engine.ping()
    engine.close()
    engine.close()
