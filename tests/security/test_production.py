"""Production refuses to start with a secret that is missing, short or known."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from stack.environment import ROOT

GOOD = {
    "BERTH_SECRET_KEY": "k" + "x9Q" * 20,
    "BERTH_ENCRYPTION_KEYS": "q83vASNFZ4mrze8BI0VniavN7wEjRWeJq83vASNFZ4k=",
    "BERTH_ZOOKEEPER_PUBLISHER": "publisher:" + "p1" * 10,
    "BERTH_ZOOKEEPER_GATEWAY": "gateway:" + "g1" * 10,
    "BERTH_REGISTRY_NOTIFICATION_SECRET": "n1" * 10,
    "BERTH_REGISTRY_TOKEN_KEY": "/etc/berth/token.key",
    "BERTH_PLATFORM_ID": "prod1",
    "BERTH_PORTAL_URL": "https://portal.example.com",
    "DATABASE_URL": "postgres://berth@db/berth",
}


def _start(tmp_path, **changes):
    environment = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    kept = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    return subprocess.run(
        [sys.executable, "-c", "import portal.settings.production"],
        cwd=ROOT,
        env={**kept, "BERTH_VAR": str(tmp_path), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_it_starts_with_everything_set(tmp_path):
    result = _start(tmp_path)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", sorted(GOOD))
def test_a_missing_setting_stops_it_by_name(tmp_path, name):
    result = _start(tmp_path, **{name: None})
    assert result.returncode != 0
    assert f"{name} must" in result.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BERTH_SECRET_KEY", "short"),
        ("BERTH_SECRET_KEY", "django-insecure-" + "x" * 60),
        ("BERTH_SECRET_KEY", "changeme" + "x" * 60),
        ("BERTH_ZOOKEEPER_PUBLISHER", "publisher:secret"),
        ("BERTH_ZOOKEEPER_GATEWAY", "gateway:password-password"),
        ("BERTH_REGISTRY_NOTIFICATION_SECRET", "berth-berth-berth-berth"),
        ("BERTH_PORTAL_URL", "http://portal.example.com"),
        ("DATABASE_URL", "sqlite:////tmp/x"),
        ("BERTH_FAILPOINTS", "failpoints"),
        ("BERTH_GATEWAY_CERTIFICATE_KEY", "short"),
        # The database's own.
        ("BERTH_GATEWAY_CERTIFICATE_KEY", GOOD["BERTH_ENCRYPTION_KEYS"]),
    ],
)
def test_a_weak_setting_stops_it(tmp_path, name, value):
    result = _start(tmp_path, **{name: value})
    assert result.returncode != 0
    assert name in result.stderr
