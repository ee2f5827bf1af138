"""docker, skopeo and podman against a real registry and our token server, each as everybody there is.

A table for each client: person x action -> whether it works. Images are made by hand; nothing comes from outside.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from apps.core.models import FailedSignIns
from apps.registry.models import RefreshToken, Repository, Version
from apps.registry.services.robots import robot_create
from apps.tenants.services.tokens import token_create, token_revoke
from stack.environment import Environment
from stack.hosts import DockerHosts
from stack.journey import wait_for
from stack.parts.base import program
from stack.parts.registry import registry
from stack.runner import Stack
from tests.integration.registry_parts import Told, blob_put, configure, http, image_put, layout, portal_thread, tell

pytestmark = pytest.mark.real

OWNER, DEVELOPER, VIEWER, ROBOT, READER, STRANGER, NOBODY = (
    *("owner", "developer", "viewer", "robot", "reader", "stranger", "nobody"),
)
EVERYBODY = (OWNER, DEVELOPER, VIEWER, ROBOT, READER, STRANGER, NOBODY)
#: Who may do what with acme's repository. The robot may pull and push, the reader is a robot that may pull.
SIGN_IN = {OWNER, DEVELOPER, VIEWER, ROBOT, READER, STRANGER}
PULL = {OWNER, DEVELOPER, VIEWER, ROBOT, READER}
PUSH = {OWNER, DEVELOPER, ROBOT}
DELETE = {OWNER}


@dataclass
class Parts:
    env: Environment
    docker_host: str
    scratch: Path
    #: podman wants a path of 50 characters at most.
    podman: Path

    @property
    def registry(self) -> str:
        return f"localhost:{self.env.ports['registry']}"

    def certificates(self) -> str:
        """What skopeo and podman trust the registry by."""
        directory = self.scratch / "certs"
        directory.mkdir(exist_ok=True)
        shutil.copy(self.env.registry_authority.pair.cert, directory / "ca.crt")
        return str(directory)


@dataclass
class Clients:
    """``secrets`` has the name and secret of each of EVERYBODY but nobody."""

    parts: Parts
    home: Path
    secrets: dict[str, tuple[str, str]]

    def folder(self, who: str) -> Path:
        path = self.home / who
        path.mkdir(exist_ok=True)
        return path

    def skopeo(self, who: str, *arguments: str) -> Told:
        return tell("skopeo", *arguments, env={"REGISTRY_AUTH_FILE": str(self.folder(who) / "auth.json")})

    def skopeo_login(self, who: str) -> Told:
        if who == NOBODY:
            return Told(1, "nobody has no secret")
        name, secret = self.secrets[who]
        command = ("skopeo", "login", "--cert-dir", self.parts.certificates(), "-u", name, "--password-stdin")
        auth = {"REGISTRY_AUTH_FILE": str(self.folder(who) / "auth.json")}
        return tell(*command, self.parts.registry, stdin=secret, env=auth)

    def copy(self, who: str, source: str, target: str, *more: str) -> Told:
        certs = self.parts.certificates()
        flags = ("--insecure-policy", "copy", "--src-cert-dir", certs, "--dest-cert-dir", certs, *more)
        return self.skopeo(who, *flags, source, target)

    def of_registry(self, name: str) -> str:
        return f"docker://{self.parts.registry}/{name}"

    def docker(self, who: str, *arguments: str, stdin: str = "") -> Told:
        config = self.folder(who) / "docker"
        config.mkdir(exist_ok=True)
        env = {"DOCKER_CONFIG": str(config), "DOCKER_HOST": self.parts.docker_host, "DOCKER_BUILDKIT": "0"}
        return tell(program("docker"), *arguments, stdin=stdin, env=env)

    def docker_login(self, who: str, secret: str = "") -> Told:
        if who == NOBODY:
            return Told(1, "nobody has no secret")
        name, own = self.secrets[who]
        arguments = ("login", self.parts.env.registry_public, "-u", name, "--password-stdin")
        return self.docker(who, *arguments, stdin=secret or own)

    def podman(self, who: str, command: str, *arguments: str, stdin: str = "") -> Told:
        store = self.parts.podman
        auth = self.folder(who) / "podman.json"
        if not auth.exists():
            auth.write_text("{}")
        place = ("--root", str(store / "root"), "--runroot", str(store / "run"), "--storage-driver", "vfs")
        flags = ("--authfile", str(auth), "--cert-dir", self.parts.certificates())
        return tell("podman", *place, command, *flags, *arguments, stdin=stdin)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    scratch = tmp_path_factory.mktemp("clients")
    env = Environment.open(scratch / "env")
    hosts = DockerHosts(env, 1)
    with (
        Stack(env.directory, [*hosts.parts, registry(env)]),
        portal_thread(env.ports["portal"]),
        tempfile.TemporaryDirectory(prefix="podman-") as podman,
    ):
        yield Parts(env, hosts.hosts[0].docker_host, scratch, Path(podman))


@pytest.fixture
def clients(parts, world_committed, settings, tmp_path):
    configure(settings, parts.env)
    settings.REGISTRY_PUBLIC = parts.env.registry_public
    world = world_committed
    world.app("shop")
    world.app("theirs", tenant=world.rival, by=world.charlie)
    secrets = {}
    for who, user in ((OWNER, world.alice), (DEVELOPER, world.bob), (VIEWER, world.vera), (STRANGER, world.charlie)):
        _token, secret = token_create(user=user, name="client", scopes=["registry"])
        secrets[who] = (user.username, secret)
    for who, actions in ((ROBOT, ["pull", "push"]), (READER, ["pull"])):
        robot, secret = robot_create(tenant=world.acme, by=world.alice, name=who, actions=actions, app="shop")
        secrets[who] = (robot.login, secret)
    return Clients(parts, tmp_path, secrets)


def _table(actions: dict[str, Callable[[str], Told]]) -> tuple[dict[str, set[str]], dict[tuple[str, str], str]]:
    """action -> who could, and what each was told."""
    told = {(action, who): run(who) for action, run in actions.items() for who in EVERYBODY}
    able = {action: {who for who in EVERYBODY if told[action, who].ok} for action in actions}
    return able, {key: one.text for key, one in told.items()}


def _first(clients: Clients, tag: str = "1.0") -> str:
    """The image that is there before anybody asks. Returns its layout."""
    one = layout(clients.home / "one")
    assert clients.skopeo_login(OWNER).ok
    pushed = clients.copy(OWNER, f"oci:{one}:image", clients.of_registry(f"shop:{tag}"))
    assert pushed.ok, pushed.text
    return str(one)


def test_skopeo_does_for_each_what_the_role_allows(clients):
    one = _first(clients)
    other = layout(clients.home / "other", text="two")
    multi = layout(clients.home / "multi", architectures=("amd64", "arm64"))
    place = clients.of_registry

    def pulled(who: str) -> Told:
        return clients.copy(who, place("shop:1.0"), f"oci:{clients.folder(who)}/pulled:x")

    def again(who: str) -> Told:
        first = clients.copy(who, f"oci:{one}:image", place(f"shop:again-{who}"))
        return clients.copy(who, f"oci:{other}:image", place(f"shop:again-{who}")) if first.ok else first

    def deleted(who: str) -> Told:
        doomed = layout(clients.home / f"doomed-{who}", text=f"doomed {who}")
        assert clients.copy(OWNER, f"oci:{doomed}:image", place(f"shop:doomed-{who}")).ok
        certs = clients.parts.certificates()
        return clients.skopeo(who, "delete", "--cert-dir", certs, place(f"shop:doomed-{who}"))

    able, told = _table(
        {
            "login": clients.skopeo_login,
            "pull": pulled,
            "push": lambda who: clients.copy(who, f"oci:{one}:image", place(f"shop:by-{who}")),
            "push many platforms": lambda who: clients.copy(
                who, f"oci:{multi}:image", place(f"shop:multi-{who}"), "--all"
            ),
            "copy many platforms": lambda who: clients.copy(
                who, place("shop:multi-owner"), f"oci:{clients.folder(who)}/multi:x", "--all"
            ),
            "push a tag again": again,
            "list tags": lambda who: clients.skopeo(
                who, "list-tags", "--cert-dir", clients.parts.certificates(), place("shop")
            ),
            "delete": deleted,
        }
    )
    assert able == {
        "login": SIGN_IN,
        "pull": PULL,
        "push": PUSH,
        "push many platforms": PUSH,
        "copy many platforms": PULL,
        "push a tag again": PUSH,
        "list tags": PULL,
        "delete": DELETE,
    }, {key: text[-300:] for key, text in told.items()}
    assert _images(clients.folder(READER) / "multi") == _images(multi)
    assert {architecture for architecture, _digest in _images(multi)} == {"amd64", "arm64"}
    pushes = {"by-robot": "robot/acme/robot", "by-developer": "bob", "by-owner": "alice"}
    wait_for("the registry's word of the pushes", lambda: _pushed_by(pushes) == pushes, 20)
    current = Version.objects.filter(tag="again-developer")
    wait_for("the second push of a tag", lambda: current.filter(is_current=True).count() == 1 and current.count() == 2)


def _images(directory: Path) -> set[tuple[str, str]]:
    """Architecture and digest of each image of a layout's index."""

    def blob(descriptor: dict[str, Any]) -> Any:
        return json.loads((directory / "blobs" / "sha256" / descriptor["digest"].partition(":")[2]).read_text())

    (top,) = json.loads((directory / "index.json").read_text())["manifests"]
    return {(one["platform"]["architecture"], one["digest"]) for one in blob(top)["manifests"]}


def _pushed_by(tags: dict[str, str]) -> dict[str, str]:
    return dict(Version.objects.filter(tag__in=tags).values_list("tag", "pushed_by"))


def test_docker_does_for_each_what_the_role_allows(clients):
    one = _first(clients)
    name = f"{clients.parts.env.registry_public}/shop"
    archive = clients.home / "one.tar"
    assert clients.copy(OWNER, f"oci:{one}:image", f"docker-archive:{archive}:{name}:local").ok
    loaded = clients.docker(OWNER, "load", "--input", str(archive))
    assert loaded.ok, loaded.text

    def pushed(who: str) -> Told:
        clients.docker(who, "tag", f"{name}:local", f"{name}:docker-{who}")
        return clients.docker(who, "push", f"{name}:docker-{who}")

    def twice(who: str) -> Told:
        return clients.docker(who, "push", f"{name}:docker-{who}")

    able, told = _table(
        {
            "login": clients.docker_login,
            "pull": lambda who: clients.docker(who, "pull", f"{name}:1.0"),
            "push": pushed,
            "push again": twice,
        }
    )
    assert able == {"login": SIGN_IN, "pull": PULL, "push": PUSH, "push again": PUSH}, told
    # docker keeps no secret that somebody typed, but what ends with it.
    kept = (clients.folder(DEVELOPER) / "docker" / "config.json").read_text()
    assert "identitytoken" in kept
    assert clients.secrets[DEVELOPER][1] not in kept
    assert RefreshToken.objects.filter(api_token__user__username="bob", client="docker").count() == 1


def test_podman_does_for_each_what_the_role_allows(clients):
    one = _first(clients)
    name = f"{clients.parts.registry}/shop"
    loaded = clients.podman(OWNER, "pull", f"oci:{one}:image")
    assert loaded.ok, loaded.text
    image = loaded.out.strip()

    def login(who: str) -> Told:
        if who == NOBODY:
            return Told(1, "nobody has no secret")
        user, secret = clients.secrets[who]
        return clients.podman(who, "login", "-u", user, "--password-stdin", clients.parts.registry, stdin=secret)

    able, told = _table(
        {
            "login": login,
            "pull": lambda who: clients.podman(who, "pull", f"{name}:1.0"),
            "push": lambda who: clients.podman(who, "push", image, f"docker://{name}:podman-{who}"),
        }
    )
    assert able == {"login": SIGN_IN, "pull": PULL, "push": PUSH}, told


def test_a_public_repository_is_pulled_by_everybody_and_pushed_by_its_own(clients):
    one = _first(clients)
    Repository.objects.filter(name="shop").update(is_public=True)
    for who in (STRANGER, READER):
        assert clients.skopeo_login(who).ok
    able, told = _table(
        {
            "pull": lambda who: clients.copy(
                who, clients.of_registry("shop:1.0"), f"oci:{clients.folder(who)}/public:x"
            ),
            "push": lambda who: clients.copy(who, f"oci:{one}:image", clients.of_registry(f"shop:public-{who}")),
        }
    )
    assert able["pull"] == set(EVERYBODY), told
    assert able["push"] == {OWNER}, told
    name = f"{clients.parts.env.registry_public}/shop:1.0"
    assert clients.docker(NOBODY, "pull", name).ok


def test_what_ends_a_sign_in_ends_dockers_too(clients, world_committed):
    _first(clients)
    name = f"{clients.parts.env.registry_public}/shop:1.0"
    for who in (DEVELOPER, ROBOT):
        assert clients.docker_login(who).ok
        assert clients.docker(who, "pull", name).ok
    token_revoke(user=world_committed.bob, pk=world_committed.bob.api_tokens.get().pk)
    world_committed.acme.robots.filter(name=ROBOT).update(is_active=False)
    for who in (DEVELOPER, ROBOT):
        told = clients.docker(who, "pull", name)
        assert not told.ok
        assert "This sign-in has ended. Sign in again: docker login" in told.text


def test_docker_shows_why_it_is_refused(clients, monkeypatch):
    one = _first(clients)
    name = f"{clients.parts.env.registry_public}/shop"
    wrong = "brt_" + "x" * 43
    for _ in range(5):
        told = clients.docker_login(DEVELOPER, secret=wrong)
        assert not told.ok
        assert "not your password" in told.text
    locked = clients.docker_login(DEVELOPER)
    assert not locked.ok
    assert "Too many failed sign-ins. Wait" in locked.text
    FailedSignIns.objects.all().delete()
    assert clients.docker_login(DEVELOPER).ok
    monkeypatch.setattr(
        "apps.registry.services.tokens.push_refusal",
        lambda repository: "The storage of acme is full: delete something.",
    )
    assert clients.docker(DEVELOPER, "pull", f"{name}:1.0").ok
    refused = clients.docker(DEVELOPER, "push", f"{name}:1.0")
    assert not refused.ok
    assert "The storage of acme is full: delete something." in refused.text
    by_skopeo = clients.copy(OWNER, f"oci:{one}:image", clients.of_registry("shop:more"))
    # Debian 12's shows the status only; later ones the sentence.
    assert not by_skopeo.ok
    assert "403" in by_skopeo.text
    deleted = clients.skopeo(
        OWNER, "delete", "--cert-dir", clients.parts.certificates(), clients.of_registry("shop:1.0")
    )
    assert deleted.ok, deleted.text


def _token(clients: Clients, who: str, *scopes: str) -> str:
    import base64

    import httpx

    name, secret = clients.secrets[who]
    basic = base64.b64encode(f"{name}:{secret}".encode()).decode()
    reply = httpx.get(
        f"http://127.0.0.1:{clients.parts.env.ports['portal']}/api/registry/token",
        params={"service": "berth-registry", "scope": list(scopes)},
        headers={"Authorization": f"Basic {basic}"},
        trust_env=False,
    )
    assert reply.status_code == 200, reply.text
    return str(reply.json()["token"])


def test_nothing_of_one_tenant_is_visible_to_another(clients):
    """By any question of the API there is: names, tags, manifests, blobs, uploads, mounts, referrers, the catalogue."""
    env = clients.parts.env
    with http(env, _token(clients, OWNER, "repository:shop:pull,push")) as owner:
        image = image_put(owner, "shop", "secret-tag", b"secret of acme")
    everything = [
        "repository:shop:pull,push,delete,*",
        "repository:theirs:pull,push,delete",
        "registry:catalog:*",
        f"repository:localhost:{env.ports['registry']}/shop:pull",
        "repository(plugin):shop:pull",
        "repository:shop/:pull",
        "repository:theirs/../shop:pull",
    ]
    with http(env, _token(clients, STRANGER, *everything)) as stranger:
        own = blob_put(stranger, "theirs", b"of rival")
        answers = [
            stranger.get("/v2/_catalog"),
            stranger.get("/v2/_catalog?n=1000&last=a"),
            stranger.get("/v2/shop/tags/list"),
            stranger.get("/v2/shop/manifests/secret-tag"),
            stranger.get(f"/v2/shop/manifests/{image['manifest']}"),
            stranger.head("/v2/shop/manifests/secret-tag"),
            stranger.get(f"/v2/shop/blobs/{image['layer']}"),
            stranger.get(f"/v2/shop/referrers/{image['manifest']}"),
            stranger.post("/v2/shop/blobs/uploads/"),
            stranger.post("/v2/shop/blobs/uploads/", params={"mount": own, "from": "theirs"}),
            stranger.put("/v2/shop/manifests/x", content=b"{}"),
            stranger.delete(f"/v2/shop/manifests/{image['manifest']}"),
            stranger.delete(f"/v2/shop/blobs/{image['layer']}"),
            stranger.get("/v2/theirs/../shop/tags/list"),
            stranger.get("/v2/theirs/%2e%2e/shop/manifests/secret-tag"),
            *[stranger.get(f"/v2/theirs/blobs/{digest}") for digest in image.values()],
            *[stranger.head(f"/v2/theirs/blobs/{digest}") for digest in image.values()],
            stranger.get(f"/v2/theirs/manifests/{image['manifest']}"),
            *[
                stranger.post("/v2/theirs/blobs/uploads/", params={"mount": digest, "from": "shop"})
                for digest in image.values()
            ],
        ]
        for reply in answers:
            assert reply.status_code in {301, 400, 401, 404, 405}, (reply.request.method, reply.request.url, reply)
            for secret in (b"secret-tag", b"secret of acme", image["manifest"].encode()):
                told = reply.content if secret not in str(reply.request.url).encode() else b""
                assert secret not in told
        # A mount of what is there already, without a place it came from, says no more than that an upload begins.
        begun = stranger.post("/v2/theirs/blobs/uploads/", params={"mount": image["layer"]})
        assert begun.status_code == 202
        assert stranger.get("/v2/theirs/tags/list").status_code in {200, 404}
    with http(env) as nobody:
        assert nobody.get("/v2/_catalog").status_code == 401
        assert nobody.get("/v2/shop/tags/list").status_code == 401


def test_strangers_clients_find_no_tag_and_no_name(clients):
    _first(clients)
    assert clients.skopeo_login(STRANGER).ok
    certs = clients.parts.certificates()
    told = [
        clients.skopeo(STRANGER, "list-tags", "--cert-dir", certs, clients.of_registry("shop")),
        clients.skopeo(STRANGER, "inspect", "--cert-dir", certs, clients.of_registry("shop:1.0")),
        clients.skopeo(STRANGER, "inspect", "--cert-dir", certs, clients.of_registry("no-such-app:1.0")),
    ]
    assert not any(one.ok for one in told)
    there, nowhere = (one.text.rpartition("msg=")[2].replace("no-such-app", "shop") for one in told[1:])
    assert there == nowhere, "a repository that is there looks like one that is not"
    assert clients.docker_login(STRANGER).ok
    name = f"{clients.parts.env.registry_public}"
    assert not clients.docker(STRANGER, "search", f"{name}/shop").ok
    pulls: list[Any] = [clients.docker(STRANGER, "pull", f"{name}/{app}:1.0") for app in ("shop", "no-such-app")]
    assert pulls[0].text.replace("shop", "no-such-app") == pulls[1].text
