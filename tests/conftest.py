"""The whole platform on real parts, once per run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stack.environment import root_directory
from stack.platform import Platform, whole_platform
from tests import elsewhere

#: One for each module that makes apps: the quota of apps is a tenant's, and apps stay until the run's end.
TENANTS = ("acme", "rival", "fleet", "rollouts", "kills")
#: Hosts 0 and 1 take instances; host 2 is cordoned, for the tests that need a third.
HOSTS = 3


@pytest.fixture(scope="session")
def platform() -> Iterator[Platform]:
    # Long enough for every app of these tests that means to become ready, short enough to wait for one that does not.
    # A worker that is killed keeps its leases for so long; there are many to kill.
    limits = {"BERTH_READY_DEADLINE": "12", "BERTH_LEASE": "3"}
    directory = root_directory() / "e2e"
    armed = {"BERTH_FAILPOINTS": str(directory / "failpoints")}
    # Of all that is not in the internet, the one registry that images are copied from (test_imports).
    trusted = elsewhere.authority(root_directory() / elsewhere.DIRECTORY)
    opened = {"BERTH_GUARD_ALLOW": "127.0.0.1/32", "BERTH_GUARD_CA": str(trusted)}
    with whole_platform(directory, TENANTS, hosts=HOSTS, **limits, **armed, **opened) as platform:
        platform.host_availability(2, "cordoned")
        # Each test has an app of its own, and a name is free again only some minutes after its app was deleted.
        platform.told("from apps.tenants.models import Quota; print(Quota.objects.update(apps=100))")
        yield platform
