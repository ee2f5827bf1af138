"""The distribution registry, over TLS under the environment's own authority, with the portal as token server."""

from __future__ import annotations

import json

from stack import probes
from stack.environment import NOTIFICATIONS_PATH, REALM_PATH, REGISTRY_ISSUER, REGISTRY_SERVICE, Environment
from stack.parts.base import Need, Part, program
from stack.pki import write_private


def registry(env: Environment, *, token_auth: bool = True) -> Part:
    """Without ``token_auth`` anybody may push and pull: only for tests of the runner itself.

    Keys of the file: distribution 2.8, "Configuring a registry". It is YAML, of which JSON is a part.
    """
    directory = env.part_directory("registry")
    config = directory / "config.yml"
    port = env.ports["registry"]
    pair = env.registry_pair
    trusted = probes.trusting(env.registry_authority.pair.cert)

    def prepare() -> None:
        settings: dict[str, object] = {
            "version": "0.1",
            "log": {"level": "info", "formatter": "json", "accesslog": {"disabled": False}},
            "storage": {
                "filesystem": {"rootdirectory": str(directory / "data")},
                "delete": {"enabled": True},
                # No cache of blob descriptors: it would answer for blobs that were collected (docs/decisions/0026).
                "maintenance": {"uploadpurging": {"enabled": True, "age": "24h", "interval": "6h", "dryrun": False}},
            },
            "http": {
                # Docker hosts come through their bridge: stack/network.py leads them to loopback.
                "addr": f"127.0.0.1:{port}",
                "secret": env.secrets["registry_http"],
                "relativeurls": True,
                # What it is at when it is stopped it finishes: a restart then cuts no pull short.
                "draintimeout": "4s",
                "tls": {"certificate": str(pair.cert), "key": str(pair.key)},
            },
            "notifications": {
                "endpoints": [
                    {
                        "name": "portal",
                        "url": f"http://127.0.0.1:{env.ports['portal']}{NOTIFICATIONS_PATH}",
                        "headers": {"Authorization": [f"Bearer {env.secrets['registry_notifications']}"]},
                        "timeout": "5s",
                        "threshold": 5,
                        "backoff": "1s",
                        "ignoredmediatypes": ["application/octet-stream"],
                    }
                ]
            },
        }
        if token_auth:
            settings["auth"] = {
                "token": {
                    "realm": f"{env.portal_url}{REALM_PATH}",
                    "service": REGISTRY_SERVICE,
                    "issuer": REGISTRY_ISSUER,
                    "rootcertbundle": str(env.token_pair.cert),
                }
            }
        else:
            del settings["notifications"]
        write_private(config, json.dumps(settings, indent=2).encode())

    def ready() -> bool:
        return probes.https_status("127.0.0.1", port, "/v2/", trusted) in {200, 401}

    return Part(
        name="registry",
        argv=[program("docker-registry"), "serve", str(config)],
        ready=ready,
        # Its tracing exporter is off unless a collector is named; its debug server stays unset.
        cwd=directory,
        needs=[Need("docker-registry", "docker-registry")],
        ports=[env.port("registry", "registry (tenants' images)")],
        prepare=prepare,
        stop_wait_s=5,
    )
