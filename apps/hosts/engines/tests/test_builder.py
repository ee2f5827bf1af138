"""The allow-list: nothing but what is listed here can ever be asked of an engine."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.hosts.engines.base import ContainerSpec, ImageRef, Limits, SpecRefused
from apps.hosts.engines.builder import ALLOWED_CAPABILITIES, build

ANYWHERE = ("0.0.0.0", "::")
# Adding a line here is a security decision.
GOLDEN = {"Image", "Hostname", "Env", "Labels", "ExposedPorts", "StopSignal", "Healthcheck", "HostConfig", "Cmd"}
GOLDEN_HOST = {
    "CapDrop",
    "CapAdd",
    "SecurityOpt",
    "Privileged",
    "IpcMode",
    "CgroupnsMode",
    "PidsLimit",
    "Memory",
    "MemorySwap",
    "CpuShares",
    "Ulimits",
    "LogConfig",
    "RestartPolicy",
    "NetworkMode",
    "PortBindings",
}
SPEC = ContainerSpec(
    platform="berth",
    tenant="acme",
    app="shop",
    release=7,
    instance="i42",
    image=ImageRef("registry.example.com:5000", "shop/web", "sha256:" + "a" * 64),
    container_port=8080,
    host_ip="10.0.0.5",
    host_port=30001,
    limits=Limits(memory_mb=256, cpu_millis=500),
    env={"B": "2", "A": "1"},
)


def test_the_whole_body_word_for_word() -> None:
    assert build(replace(SPEC, command=("serve", "--now"), limits=replace(SPEC.limits, capabilities=("SETUID",)))) == {
        "Image": "registry.example.com:5000/shop/web@sha256:" + "a" * 64,
        "Hostname": "i42",
        "Env": ["A=1", "B=2", "PORT=8080"],
        "Cmd": ["serve", "--now"],
        "Labels": {
            "berth.platform": "berth",
            "berth.tenant": "acme",
            "berth.app": "shop",
            "berth.release": "7",
            "berth.instance": "i42",
            "berth.spec": replace(
                SPEC, command=("serve", "--now"), limits=replace(SPEC.limits, capabilities=("SETUID",))
            ).fingerprint,
        },
        "ExposedPorts": {"8080/tcp": {}},
        "StopSignal": "SIGTERM",
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {
            "CapDrop": ["ALL"],
            "CapAdd": ["SETUID"],
            "SecurityOpt": ["no-new-privileges:true"],
            "Privileged": False,
            "IpcMode": "private",
            "CgroupnsMode": "private",
            "PidsLimit": 512,
            "Memory": 256 * 1024 * 1024,
            "MemorySwap": 256 * 1024 * 1024,
            "CpuShares": 512,
            "Ulimits": [{"Name": "nofile", "Soft": 16384, "Hard": 16384}],
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}},
            "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
            "NetworkMode": "berth-berth-acme",
            "PortBindings": {"8080/tcp": [{"HostIp": "10.0.0.5", "HostPort": "30001"}]},
        },
    }


def test_no_command_leaves_the_images_own() -> None:
    assert set(build(SPEC)) == GOLDEN - {"Cmd"}


def test_the_tenants_own_port_does_not_override() -> None:
    env = build(replace(SPEC, env={"PORT": "1", "PORT_": "2"}))["Env"]
    assert env == ["PORT_=2", "PORT=8080"]


@pytest.mark.parametrize(("millis", "shares"), [(1, 2), (1000, 1024), (250, 256), (4_096_000, 262_144)])
def test_cpu_becomes_shares(millis: int, shares: int) -> None:
    assert build(replace(SPEC, limits=replace(SPEC.limits, cpu_millis=millis)))["HostConfig"]["CpuShares"] == shares


@pytest.mark.parametrize(
    "wrong",
    [
        *({name: bad} for name in ("platform", "tenant", "app", "instance") for bad in (
            "", "-a", "a-", "A", "a/b", "../x", "a\n", "a b", "a" * 64, None, 7
        )),
        *({"host_ip": bad} for bad in ("", *ANYWHERE, "8.8.8.8.8", "host", "fe80::1%eth0", "224.0.0.1", 1, None)),
        *({name: bad} for name in ("container_port", "host_port") for bad in (0, 65536, -1, "80", True, 1.0, None)),
        *({"release": bad} for bad in (-1, "1", True, None)),
        *({"stop_signal": bad} for bad in ("", "TERM", "SIGSTOP", "9", "SIGTERM\n")),
        *({"env": {bad: "x"}} for bad in ("", "1A", "A-B", "A=B", "A\n", "É", "A\0")),
        *({"env": {"A": bad}} for bad in ("a\0b", "\ud800", 1, None, "x" * 131_072)),
        {"env": {f"A{number}": "x" * 100_000 for number in range(11)}},
        *({"command": bad} for bad in ("sh -c x", ["sh"], ("a\0",), (1,), ("\ud800",), ("x" * 131_072,))),
        *({"image": replace(SPEC.image, registry=bad)} for bad in (
            "", "library", "a.b/c", "a.b:0", "a.b:99999", "a.b:x", "user@a.b", "A.b", "a.b\n", "http://a.b", None
        )),
        *({"image": replace(SPEC.image, repository=bad)} for bad in (
            "", "/a", "a/", "a//b", "../a", "a:1", "a@b", "A", "a" * 256, "a\n", None
        )),
        *({"image": replace(SPEC.image, digest=bad)} for bad in (
            "", "latest", "sha256:" + "A" * 64, "sha256:" + "a" * 63, "sha512:" + "a" * 64, "sha256:" + "a" * 64 + "\n"
        )),
        *({"limits": replace(SPEC.limits, memory_mb=bad)} for bad in (0, 5, -1, "64", 2**40, True)),
        *({"limits": replace(SPEC.limits, cpu_millis=bad)} for bad in (0, -1, "1", 2**40)),
        *({"limits": replace(SPEC.limits, pids=bad)} for bad in (0, -1, None, 2**40)),
        *({"limits": replace(SPEC.limits, nofile=bad)} for bad in (0, -1, None, 2**40)),
        *({"limits": replace(SPEC.limits, capabilities=bad)} for bad in (
            ("ALL",), ("SYS_ADMIN",), ("NET_RAW",), ("CAP_CHOWN",), ("chown",), ("CHOWN", ""), "CHOWN", (1,)
        )),
    ],
    ids=lambda wrong: str(wrong)[:60],
)  # fmt: skip
def test_what_is_not_exactly_right_is_refused_without_its_value(wrong: dict[str, Any]) -> None:
    with pytest.raises(SpecRefused) as caught:
        build(replace(SPEC, **wrong))
    assert len(str(caught.value)) < 120


def test_a_registry_without_dot_or_port_is_refused_because_docker_hub_would_answer() -> None:
    with pytest.raises(SpecRefused, match="registry"):
        build(replace(SPEC, image=replace(SPEC.image, registry="registry")))
    assert build(replace(SPEC, image=replace(SPEC.image, registry="localhost")))["Image"].startswith("localhost/")


texts = st.text(max_size=40) | st.sampled_from(
    ["host", "container:x", "/:/host", "seccomp=unconfined", "--privileged", '"}, "Privileged": true', "bind,src=/"]
)
slugs = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True) | texts
# What a spec may hold apart from what is checked: most of it legal, so that builds go through.
specs = st.builds(
    ContainerSpec,
    platform=slugs,
    tenant=slugs,
    app=slugs,
    release=st.integers(),
    instance=slugs,
    image=st.builds(ImageRef, st.just("r.test") | texts, slugs, st.just("sha256:" + "0" * 64) | texts),
    container_port=st.integers(0, 70000),
    host_ip=st.ip_addresses().map(str) | texts,
    host_port=st.integers(0, 70000),
    limits=st.builds(
        Limits,
        memory_mb=st.integers(0, 10**9),
        cpu_millis=st.integers(0, 10**7),
        capabilities=st.lists(st.sampled_from(sorted(ALLOWED_CAPABILITIES)) | texts, max_size=3).map(tuple),
    ),
    env=st.dictionaries(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,9}", fullmatch=True) | texts, texts, max_size=4),
    command=st.lists(texts, max_size=4).map(tuple),
)


def _hold(body: dict[str, Any], spec: ContainerSpec) -> None:
    host = body["HostConfig"]
    assert set(body) <= GOLDEN
    assert set(host) == GOLDEN_HOST
    assert host["CapDrop"] == ["ALL"]
    assert set(host["CapAdd"]) <= ALLOWED_CAPABILITIES
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["Privileged"] is False
    assert (host["IpcMode"], host["CgroupnsMode"]) == ("private", "private")
    assert host["NetworkMode"] == f"berth-{spec.platform}-{spec.tenant}"
    assert host["Memory"] == host["MemorySwap"] > 0
    assert host["PidsLimit"] > 0
    assert 2 <= host["CpuShares"] <= 262_144
    assert set(host["LogConfig"]["Config"]) == {"max-size", "max-file"}
    assert len(host["PortBindings"]) == len(body["ExposedPorts"]) == 1
    ((binding,),) = host["PortBindings"].values()
    assert binding["HostIp"] not in ("", *ANYWHERE)
    assert body["Env"][-1] == f"PORT={spec.container_port}"
    assert sum(entry.startswith("PORT=") for entry in body["Env"]) == 1
    assert json.loads(json.dumps(body)) == body


@given(specs)
def test_whatever_strings_are_in_the_spec_nothing_outside_the_list_comes_out(spec: ContainerSpec) -> None:
    try:
        body = build(spec)
    except SpecRefused:
        return
    _hold(body, spec)


@given(
    texts.filter(lambda text: "\0" not in text),
    st.lists(texts.filter(lambda text: "\0" not in text), min_size=1, max_size=5),
)
def test_free_texts_pass_unchanged_and_only_where_they_belong(value: str, command: list[str]) -> None:
    spec = replace(SPEC, env={"VALUE": value}, command=tuple(command))
    body = build(spec)
    _hold(body, spec)
    assert body["Env"][0] == f"VALUE={value}"
    assert body["Cmd"] == command
    plain = build(SPEC)
    for key in GOLDEN - {"Env", "Cmd", "Labels"}:
        assert body[key] == plain[key]


def test_the_fingerprint_tells_every_change_but_the_registrys_address() -> None:
    def moved(**change: Any) -> str:
        return replace(SPEC, **change).fingerprint

    assert moved(image=replace(SPEC.image, registry="elsewhere.test")) == SPEC.fingerprint
    assert moved(env={"A": "1", "B": "2"}) == SPEC.fingerprint, "the order of env says nothing"
    others = [
        moved(env={"A": "1"}),
        moved(command=("x",)),
        moved(host_port=30002),
        moved(image=replace(SPEC.image, digest="sha256:" + "b" * 64)),
        moved(limits=replace(SPEC.limits, memory_mb=257)),
    ]
    assert len({SPEC.fingerprint, *others}) == len(others) + 1


def test_neither_the_spec_nor_its_image_show_env_when_printed() -> None:
    assert "secret-value" not in repr(replace(SPEC, env={"A": "secret-value"}))
