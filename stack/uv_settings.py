"""Prints shell exports that make uv and pip use the package indexes and certificates which pip is configured for.

uv reads neither pip.conf nor PIP_*. Run with the interpreter of the virtual environment; standard library only,
because it runs before anything is installed. The names: https://docs.astral.sh/uv/reference/environment/ .
"""

from __future__ import annotations

import ast
import os
import shlex
import subprocess
import sys
from pathlib import Path

_SYSTEM_AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")


def pip_settings() -> dict[str, str]:
    """pip's settings by their long names; the environment's win, as they do for pip."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    found: dict[str, str] = {}
    from_environment: dict[str, str] = {}
    for line in listed.splitlines():
        name, _, quoted = line.partition("=")
        section, _, key = name.rpartition(".")
        try:
            value = str(ast.literal_eval(quoted))
        except (SyntaxError, ValueError):
            continue
        if section == ":env:":
            from_environment[key] = value
        elif section in {"global", "install"}:
            found[key] = value
    return {**found, **from_environment}


def exports(pip: dict[str, str], environment: dict[str, str]) -> dict[str, str]:
    """What is set already by the user is left as it is."""
    wanted: dict[str, str] = {}
    if "index-url" in pip:
        wanted["UV_DEFAULT_INDEX"] = pip["index-url"]
    if "extra-index-url" in pip:
        # uv takes the first index that has a package; pip, and so whoever wrote this, means the best of all.
        wanted["UV_INDEX"] = " ".join(pip["extra-index-url"].split())
        wanted["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    if "find-links" in pip:
        wanted["UV_FIND_LINKS"] = ",".join(pip["find-links"].split())
    if "trusted-host" in pip:
        wanted["UV_INSECURE_HOST"] = " ".join(pip["trusted-host"].split())
    if pip.get("no-index", "").lower() in {"1", "true", "yes", "on"}:
        wanted["UV_NO_INDEX"] = "1"
    # The machine's authorities and not uv's own list: a company's are among them.
    wanted["UV_SYSTEM_CERTS"] = "1"
    if "cert" in pip:
        wanted["SSL_CERT_FILE"] = pip["cert"]
    elif _SYSTEM_AUTHORITIES.exists():
        wanted["PIP_CERT"] = str(_SYSTEM_AUTHORITIES)
    if _SYSTEM_AUTHORITIES.exists():
        wanted["NODE_EXTRA_CA_CERTS"] = str(_SYSTEM_AUTHORITIES)
    return {name: value for name, value in wanted.items() if not environment.get(name)}


if __name__ == "__main__":
    for name, value in exports(pip_settings(), dict(os.environ)).items():
        print(f"export {name}={shlex.quote(value)}")
