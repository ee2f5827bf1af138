"""The connections of one worker process: made when first needed, and anew in each forked child."""

from __future__ import annotations

import os
from functools import lru_cache

from apps.deployments.reconcile import Clients


@lru_cache(maxsize=1)
def _of_process(pid: int) -> Clients:
    return Clients()


def clients() -> Clients:
    return _of_process(os.getpid())
