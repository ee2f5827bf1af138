"""Changing the key that signs the registry's tokens: a real registry that is restarted for it, and pulls all along.

A proxy stands before the registry, as in production: it keeps new connections waiting while nobody listens.
"""

from __future__ import annotations

import base64
import sys
import threading
import time
from dataclasses import dataclass, field
from io import StringIO

import httpx
import pytest
from django.core.management import CommandError, call_command

from apps.core.clock import now
from apps.registry.client import accepts
from apps.registry.models import TokenKey
from apps.registry.services import keys
from apps.registry.services.tokens import Access, token_issue
from apps.tenants.services.tokens import token_create
from stack import ports, probes
from stack.environment import Environment
from stack.journey import wait_for
from stack.parts.base import Part, program
from stack.parts.registry import registry
from stack.runner import Stack
from tests.integration.registry_parts import configure, http, image_put, portal_thread

pytestmark = pytest.mark.real
Status = TokenKey.Status


def _proxy(env: Environment, port: int) -> Part:
    config = env.directory / "proxy.cfg"
    config.write_text(
        "defaults\n  mode tcp\n  timeout connect 200ms\n  timeout client 30s\n  timeout server 30s\n  retries 50\n"
        f"frontend registry\n  bind 127.0.0.1:{port}\n  default_backend registry\n"
        f"backend registry\n  server one 127.0.0.1:{env.ports['registry']}\n"
    )
    return Part(
        name="proxy",
        argv=[program("haproxy"), "-db", "-f", str(config)],
        ready=lambda: probes.tcp(port),
        after=("registry",),
    )


@dataclass
class Parts:
    env: Environment
    stack: Stack
    url: str


@pytest.fixture
def parts(tmp_path, world_committed, settings, monkeypatch):
    # Where `python -m stack` looks for the environment.
    monkeypatch.setenv("BERTH_VAR_ROOT", str(tmp_path))
    env = Environment.open(tmp_path / "test")
    configure(settings, env)
    (port,) = ports.choose_free(["proxy"]).values()
    with Stack(env.directory, [registry(env), _proxy(env, port)]) as stack, portal_thread(env.ports["portal"]):
        yield Parts(env, stack, f"https://127.0.0.1:{port}")


@dataclass(eq=False)
class Puller(threading.Thread):
    """Pulls again and again, each time with a new token and over new connections, until it is stopped."""

    parts: Parts
    secret: str
    layer: str
    done: int = 0
    failed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            try:
                self._pull()
                self.done += 1
            except Exception as error:
                self.failed.append(f"{self.done}: {error!r}")

    def _pull(self) -> None:
        basic = base64.b64encode(f"alice:{self.secret}".encode()).decode()
        reply = httpx.get(
            f"http://127.0.0.1:{self.parts.env.ports['portal']}/api/registry/token",
            params={"service": "berth-registry", "scope": "repository:shop:pull"},
            headers={"Authorization": f"Basic {basic}"},
            trust_env=False,
            timeout=30,
        )
        reply.raise_for_status()
        for path in ("manifests/1.0", f"blobs/{self.layer}"):
            with http(self.parts.env, reply.json()["token"], self.parts.url) as client:
                self._get(client, f"/v2/shop/{path}").raise_for_status()

    def _get(self, client: httpx.Client, path: str) -> httpx.Response:
        try:
            return client.get(path)
        except (httpx.RemoteProtocolError, httpx.ReadError):
            # Closed before any answer, by a registry that stopped that moment: asked once more, as docker's and
            # podman's HTTP library does with a GET (RFC 9110, 9.2.2).
            return client.get(path)


def _rotate(parts: Parts, **options) -> str:
    out = StringIO()
    restart = f"{sys.executable} -m stack restart registry test"
    call_command("registry_key_rotate", **{"restart": restart, "wait": 20, **options}, stdout=out)
    return out.getvalue()


def _kids() -> dict[str, str]:
    return {row.status: row.kid for row in TokenKey.objects.exclude(status=Status.REMOVED)}


def test_no_pull_fails_while_the_key_changes_and_the_old_one_is_worth_nothing_afterwards(
    parts, world_committed, monkeypatch
):
    world_committed.app("shop")
    _token, secret = token_create(user=world_committed.alice, name="laptop")
    before = keys.signing_key()
    with http(parts.env, token_issue(subject="", access=[Access("shop", ("pull", "push"))]).token) as client:
        layer = image_put(client, "shop", "1.0")["layer"]
    pullers = [Puller(parts, secret, layer) for _ in range(2)]
    for one in pullers:
        one.start()
    wait_for("the first pulls", lambda: all(one.done for one in pullers), 20)
    _rotate(parts, no_wait=True)
    after = keys.signing_key()
    assert after.kid != before.kid
    assert _kids() == {Status.SIGNING: after.kid, Status.RETIRING: before.kid}
    # What was given out a moment before is good to its end.
    held = token_issue(subject="", access=[Access("shop", ("pull",))], key=before).token
    with http(parts.env, held, parts.url) as client:
        assert client.get("/v2/shop/manifests/1.0").status_code == 200
    monkeypatch.setattr(keys, "TOKEN_S", 0)
    monkeypatch.setattr(keys, "LEEWAY_S", 1)
    wait_for("the old key's time", lambda: now() >= keys.retiring_until(), 10)
    said = _rotate(parts)
    assert "The old key is removed" in said
    enough = [one.done + 10 for one in pullers]
    wait_for("pulls after it", lambda: all(one.done >= least for one, least in zip(pullers, enough, strict=True)), 30)
    for one in pullers:
        one.over.set()
        one.join(30)
    assert [one.failed for one in pullers] == [[], []]
    assert _kids() == {Status.SIGNING: after.kid}
    assert TokenKey.objects.get(status=Status.REMOVED).private_key == ""
    with http(parts.env, held, parts.url) as client:
        assert client.get("/v2/shop/manifests/1.0").status_code == 401


def test_a_rotation_that_was_interrupted_goes_on_where_it_was(parts):
    before = keys.signing_key().kid
    _rotate(parts, prepare=True)
    prepared = _kids()[Status.PREPARED]
    assert keys.signing_key().kid == before
    # Nobody restarts the registry: it does not know the key, so nothing is signed with it.
    began = time.monotonic()
    with pytest.raises(CommandError, match="does not trust the new key yet"):
        _rotate(parts, restart="", wait=0.5)
    assert time.monotonic() - began < 10
    assert keys.signing_key().kid == before
    with pytest.raises(CommandError, match="failed"):
        _rotate(parts, restart="/bin/false")
    parts.stack.restart("registry")
    assert accepts(token_issue(subject="", access=[], key=keys.loaded(TokenKey.objects.get(kid=prepared))).token)
    _rotate(parts, restart="", no_wait=True)
    assert _kids() == {Status.SIGNING: prepared, Status.RETIRING: before}
    # Again, before the old one's time is over: nothing is made anew.
    assert "Run this again after" in _rotate(parts, restart="", no_wait=True)
    assert _kids() == {Status.SIGNING: prepared, Status.RETIRING: before}
