"""Where a worker may be made to die after a rollout's move, by what the move changed; see apps.core.failpoints."""

from __future__ import annotations

from apps.core.failpoints import reached
from apps.deployments.models import Rollout
from apps.deployments.services.moves import Move

Phase = Rollout.Phase


def move_made(app: str, move: Move) -> None:
    if move.target_wanted is not None:
        reached("target.grown", app)
    if move.source_wanted is not None:
        reached("source.shrunk", app)
    if move.rebuild:
        reached("places.given", app)
    if move.weight is not None:
        reached("traffic.shifted", app)
    if move.step is not None:
        reached("canary.stepped", app)
    if move.phase == Phase.MOVING:
        reached("phase.moving", app)
    elif move.phase == Phase.JUDGING:
        reached("phase.judging", app)
    elif move.phase == Phase.KEEPING:
        reached("phase.keeping", app)
    elif move.phase == Phase.ENDING:
        reached("phase.ending", app)
