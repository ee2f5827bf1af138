"""How long what failed rests, as Cloud Foundry does it: three tries at once, then after 30 s doubling to 16 min."""

from __future__ import annotations

IMMEDIATE_RESTARTS = 3
BACKOFF_S = 30
BACKOFF_MAX_S = 960


def delay_s(restarts: int) -> int:
    """Seconds before the next try, after so many that failed."""
    if restarts < IMMEDIATE_RESTARTS:
        return 0
    # The exponent is bounded before the power is taken: a count may be large.
    return min(BACKOFF_S << min(restarts - IMMEDIATE_RESTARTS, 10), BACKOFF_MAX_S)
