"""The engines under test. The Docker one is real: its own dockerd, gone without a trace at the end."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from apps.hosts.engines.connect import HostEngine
from tests.contract.dockerd import Dockerd
from tests.contract.harness import DockerHarness, Harness, MemoryHarness


@pytest.fixture(scope="session")
def dockerd() -> Iterator[Dockerd]:
    # Not pytest's tmp_path: a socket's path may have 107 bytes, and nothing is to be kept.
    daemon = Dockerd(Path(tempfile.mkdtemp(prefix="berth-ct-")))
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.stop()


@pytest.fixture
def docker_harness(dockerd: Dockerd) -> Iterator[DockerHarness]:
    harness = DockerHarness(dockerd)
    yield harness
    harness.close()


@pytest.fixture(params=["memory", pytest.param("docker", marks=pytest.mark.real)])
def harness(request: pytest.FixtureRequest) -> Iterator[Harness]:
    if request.param == "docker":
        yield request.getfixturevalue("docker_harness")
        return
    harness = MemoryHarness()
    yield harness
    harness.close()


@pytest.fixture
def engine(harness: Harness) -> HostEngine:
    return harness.engine()
