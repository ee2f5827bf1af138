"""One pull by digest through a Docker Engine, with an end to it.

By hand over the SDK's session, because the SDK's own pull has no timeout at all and, when no credential is given,
looks for one in ~/.docker.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import requests

from apps.hosts.engines.base import ImageRef, ImageUnavailable
from apps.hosts.engines.docker_errors import clean, read_pull_error


def pull(
    session: requests.Session,
    api: str,
    image: ImageRef,
    token: str,
    *,
    connect_s: int,
    idle_s: int,
    total_s: int,
    clock: Callable[[], float],
) -> None:
    """Pull the image; ``api`` is the engine's versioned base URL.

    The token travels as ``registrytoken``, which the engine sends to the registry as a bearer token as it is: the
    host needs no credential of its own and never talks to the token server (moby: existingTokenHandler in
    registry/auth.go). Errors arrive as a status, or later as a line of the stream. Raises ImageNotFound,
    ImageDenied, ImageUnavailable, or SpecRefused for an image of another processor.
    """
    deadline = clock() + total_s
    try:
        with session.post(
            f"{api}/images/create",
            params={"fromImage": f"{image.registry}/{image.repository}", "tag": image.digest},
            headers={"X-Registry-Auth": _credential(token)},
            timeout=(connect_s, idle_s),
            stream=True,
        ) as answer:
            if answer.status_code != 200:
                raise read_pull_error(_field(answer.text, "message") or answer.text)
            for line in answer.iter_lines():
                error = _field(line.decode(errors="replace"), "error")
                if error:
                    raise read_pull_error(error)
                if clock() > deadline:
                    raise ImageUnavailable(f"the pull took longer than {total_s} seconds")
    except requests.exceptions.RequestException as failed:
        # The engine answered a moment ago. Leaving the stream ends its pull too, so the next try starts clean.
        raise ImageUnavailable(clean(f"the pull was cut off: {failed}")) from None


def _credential(token: str) -> str:
    """The header's value, as https://docs.docker.com/engine/api/v1.41/#section/Authentication has it.

    Never without a token, if only one that no registry knows: otherwise the host would fetch whatever address the
    registry's challenge names, in search of one.
    """
    return base64.urlsafe_b64encode(json.dumps({"registrytoken": token or "none"}).encode()).decode()


def _field(text: str, key: str) -> str:
    try:
        answer = json.loads(text)
    except ValueError:
        return ""
    return str(answer.get(key) or "") if isinstance(answer, dict) else ""
