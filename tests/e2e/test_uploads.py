"""Archives that real tools wrote, sent to the real portal, pushed to the real registry, and run."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from stack.journey import Member, gateway_get, wait_for
from stack.parts.base import program
from stack.platform import Platform
from stack.processes import descendants
from tests.archives import make_big, tar_of

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]
APP = "archived"
ENDED = {"done", "failed", "expired"}


def _put(member: Member, tag: str, body: Path | bytes, app: str = APP) -> Any:
    """As ``curl -T``: the file is read as it goes."""

    def parts(file: Path) -> Iterator[bytes]:
        with file.open("rb") as source:
            while part := source.read(1 << 16):
                yield part

    content = parts(body) if isinstance(body, Path) else body
    size = body.stat().st_size if isinstance(body, Path) else len(body)
    return member.api.put(
        f"apps/{app}/uploads/",
        params={"tag": tag},
        content=content,
        headers={"Content-Length": str(size), "Content-Type": "application/x-tar"},
        timeout=120,
    )


def _ended(member: Member, upload: Any, app: str = APP) -> Any:
    def told() -> Any:
        found = member.request("GET", f"apps/{app}/uploads/{upload['id']}/")
        return found if found["status"] in ENDED else None

    return wait_for("the upload's end", told, 60)


def _skopeo(*arguments: str) -> None:
    subprocess.run([program("skopeo"), *arguments], check=True, capture_output=True, timeout=120)


@pytest.fixture(scope="module")
def member(platform: Platform) -> Member:
    owner = platform.member("acme", "owner")
    owner.app_create("acme", APP)
    return owner


@pytest.fixture(scope="module")
def saved(member: Member, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``docker save`` wrote, of the engine that is installed here."""
    from stack import sample

    path = tmp_path_factory.mktemp("saved") / "docker.tar"
    sample.build("sample:1", env=member.docker_env)
    member.docker("save", "--output", str(path), "sample:1")
    return path


def _by_skopeo(kind: str) -> Callable[[Path], Path]:
    def convert(saved: Path) -> Path:
        path = saved.with_name(f"{kind}.tar")
        if not path.exists():
            _skopeo("copy", f"docker-archive:{saved}", f"{kind}:{path}:sample:1")
        return path

    return convert


def _packed(saved: Path) -> Path:
    path = saved.with_name("docker.tar.gz")
    with path.open("wb") as out:
        subprocess.run(["gzip", "-c", str(saved)], stdout=out, check=True)
    return path


WRITERS: dict[str, Callable[[Path], Path]] = {
    "docker-save": lambda saved: saved,
    "docker-save-packed": _packed,
    "skopeo-docker-archive": _by_skopeo("docker-archive"),
    "skopeo-oci-archive": _by_skopeo("oci-archive"),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_what_real_tools_write_becomes_a_version_that_can_be_pulled(
    writer: str, platform: Platform, member: Member, saved: Path
) -> None:
    answer = _put(member, writer, WRITERS[writer](saved))
    assert answer.status_code == 202, answer.text
    upload = _ended(member, answer.json())
    assert (upload["status"], upload["code"]) == ("done", ""), upload["detail"]
    (version,) = [one for one in member.request("GET", f"apps/{APP}/versions/")["results"] if one["tag"] == writer]
    assert (version["digest"], version["pushed_by"]) == (upload["digest"], member.username)
    member.login()
    reference = f"{platform.env.registry_public}/{APP}@{upload['digest']}"
    member.docker("pull", reference)
    built, pulled = (
        member.docker("image", "inspect", "--format", "{{json .RootFS.Layers}} {{json .Config.Cmd}}", one).strip()
        for one in ("sample:1", reference)
    )
    assert pulled == built


def test_it_can_be_deployed(platform: Platform, member: Member, saved: Path) -> None:
    assert _ended(member, _put(member, "run", saved).json())["status"] == "done"
    rollout = member.deploy(APP, "run", instances=1, memory_mb=64, cpu_millis=50)
    assert rollout["status"] == "succeeded", rollout
    wait_for("the app's answer", lambda: gateway_get(platform.env, APP, "/").status_code == 200)
    member.undeploy(APP)


def test_a_hostile_one_is_refused_and_leaves_no_file(platform: Platform, member: Member) -> None:
    upload = _ended(member, _put(member, "evil", tar_of({"../../../tmp/evil": b"x"})).json())
    assert (upload["status"], upload["code"]) == ("failed", "uploads.entry_refused")
    spool = Path(platform.env.variables()["BERTH_VAR"]) / "uploads"
    wait_for("the spool to be empty", lambda: not [*spool.glob("*.upload"), *spool.glob("*.tar")])
    assert spool.stat().st_mode & 0o777 == 0o700


def test_a_stranger_is_told_nothing_and_sends_nothing(platform: Platform, member: Member, saved: Path) -> None:
    stranger = platform.member("rival", "owner")
    answer = _put(stranger, "1.0", b"x")
    assert (answer.status_code, answer.json()["code"]) == (404, "apps.not_found")
    # A client that waits for leave sends not one byte of what is not taken.
    assert _curl(platform, stranger, saved) == "404 0"
    assert _curl(platform, member, saved) == f"202 {saved.stat().st_size}"


def _curl(platform: Platform, member: Member, file: Path) -> str:
    return subprocess.run(
        [
            *("curl", "--silent", "--show-error", "--noproxy", "*", "--upload-file", str(file)),
            *("--expect100-timeout", "20", "--header", "Expect: 100-continue"),
            *("--header", f"Authorization: Bearer {member.token}"),
            *("--output", os.devnull, "--write-out", "%{http_code} %{size_upload}"),
            f"{platform.env.portal_url}/api/v1/apps/{APP}/uploads?tag=1.0",
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def test_processes_stay_small_while_much_is_sent(platform: Platform, member: Member, tmp_path: Path) -> None:
    """The benchmark asks the same of 1 GiB (make bench-upload)."""
    from benchmarks.upload import Watch

    path = tmp_path / "big.tar"
    make_big(path, 200 << 20)
    with Watch(platform.stack) as watch:
        upload = _ended(member, _put(member, "big", path).json())
    assert upload["status"] == "done", upload["detail"]
    assert watch.growth_mb, "it watched some"
    assert max(watch.growth_mb.values()) < 60, watch.growth_mb


def test_a_worker_that_is_killed_is_no_loss(platform: Platform, member: Member, tmp_path: Path) -> None:
    path = tmp_path / "big.tar"
    make_big(path, 100 << 20)
    answer = _put(member, "killed", path)
    platform.stack.kill("transfers")
    upload = _ended(member, answer.json())
    assert upload["status"] == "done", upload["detail"]


def test_a_portal_that_is_killed_while_it_receives_says_so(platform: Platform, member: Member) -> None:
    other = platform.member("acme", "owner")

    def told() -> Any:
        try:
            listed = other.request("GET", f"apps/{APP}/uploads/")["results"]
        except httpx.HTTPError:
            return None
        return next((one for one in listed if one["tag"] == "cut"), None)

    def endless() -> Iterator[bytes]:
        yield bytes(1 << 16)
        wait_for("the upload to begin", told)
        for pid in descendants(platform.stack.pid("web")):
            os.kill(pid, signal.SIGKILL)
        while True:
            yield bytes(1 << 16)

    with pytest.raises(httpx.HTTPError):
        member.api.put(f"apps/{APP}/uploads/", params={"tag": "cut"}, content=endless(), timeout=30)
    wait_for("the upload's end", lambda: (told() or {}).get("status") in ENDED, 90)
    upload = told()
    assert (upload["status"], upload["code"]) == ("failed", "uploads.interrupted")
