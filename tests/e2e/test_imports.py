"""An image of another registry: copied by the platform, deployed from ours, and not asked for there again."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stack import sample
from stack.environment import Environment, root_directory
from stack.journey import Member, gateway_get, wait_for
from stack.parts.base import program
from stack.platform import Platform
from stack.runner import Stack
from tests import elsewhere

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]
APP = "imported"
IMAGE = "team/app:1.0"
ENDED = {"done", "failed", "expired"}


@pytest.fixture(scope="module")
def member(platform: Platform) -> Iterator[Member]:
    owner = platform.member("acme", "owner")
    owner.app_create("acme", APP)
    yield owner
    if owner.instances(APP):
        owner.undeploy(APP)


@pytest.fixture
def there(platform: Platform, member: Member, tmp_path: Path) -> Iterator[tuple[Environment, Stack, str]]:
    """The other registry with the sample image in it, and that one's digest."""
    # Opened only now: its ports are to be free beside the platform's. Its directory is in the fixture's settings.
    env = Environment.open(root_directory() / elsewhere.DIRECTORY)
    saved, digest = tmp_path / "sample.tar", tmp_path / "digest"
    # In a directory of its own, as skopeo wants it.
    (tmp_path / "certs").mkdir()
    shutil.copy(env.registry_authority.pair.cert, tmp_path / "certs" / "ca.crt")
    sample.build("sample:there", env=member.docker_env)
    member.docker("save", "--output", str(saved), "sample:there")
    with Stack(env.directory, [elsewhere.elsewhere(env)], forget=("registry",)) as stack:
        subprocess.run(
            [
                *(program("skopeo"), "copy", "--quiet", "--digestfile", str(digest)),
                *("--dest-cert-dir", str(tmp_path / "certs")),
                *("--dest-creds", f"{elsewhere.USERNAME}:{elsewhere.PASSWORD}"),
                *(f"docker-archive:{saved}", f"docker://{elsewhere.place(env)}/{IMAGE}"),
            ],
            check=True,
            timeout=60,
        )
        yield env, stack, digest.read_text()


def _copied(member: Member, source: str, **more: Any) -> Any:
    begun = member.request("POST", f"apps/{APP}/imports/", {"source": source, **more})

    def ended() -> Any:
        one = member.request("GET", f"apps/{APP}/imports/{begun['id']}/")
        return one if one["status"] in ENDED else None

    return wait_for("the copy's end", ended)


def test_an_image_of_another_registry_is_copied_deployed_and_outlives_that_registry(
    platform: Platform, member: Member, there: tuple[Environment, Stack, str]
) -> None:
    env, stack, digest = there
    source = f"{elsewhere.place(env)}/{IMAGE}"
    # What an operator has not opened stays shut: here this machine's own other address.
    inner = _copied(member, f"{platform.env.bridge_address}:{platform.env.ports['portal']}/{IMAGE}")
    assert (inner["status"], inner["code"]) == ("failed", "address.refused")
    assert _copied(member, source)["code"] == "imports.source_denied"

    keys = {"username": elsewhere.USERNAME, "password": elsewhere.PASSWORD}
    kept = member.request("POST", "tenants/acme/registries/", {"name": "there", "host": elsewhere.place(env), **keys})
    assert elsewhere.PASSWORD not in str(kept)
    assert member.request("POST", "tenants/acme/registries/there/test/")["test_code"] == ""

    copy = _copied(member, source, deploy=True)
    assert (copy["status"], copy["code"], copy["source_digest"], copy["digest"]) == ("done", "", digest, digest)
    wait_for("its rollout", lambda: member.request("GET", f"apps/{APP}/rollouts/")["results"])
    rollout = member.rollout_wait(APP, 1)
    assert (rollout["status"], rollout["version"]) == ("succeeded", "1.0"), rollout
    assert gateway_get(platform.env, APP).status_code == 200

    # The second host never had the image, and can't have it from there any more.
    stack.kill("registry")
    member.request("POST", f"apps/{APP}/scale/", {"instances": 2})
    wait_for("one instance on each host", lambda: len(_images(platform)) == 2 and len(member.instances(APP)) == 2)
    assert set(_images(platform)) == {f"{platform.env.registry_public}/{APP}@{digest}"}


def _images(platform: Platform) -> list[str]:
    """What the app's containers were made of, as their engines have it."""
    return [
        platform.member("acme", "owner", host).docker("inspect", "--format", "{{.Config.Image}}", one).strip()
        for host in (0, 1)
        for one in platform.labelled(host, APP, all_=False)
    ]
