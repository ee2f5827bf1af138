"""Words for what a rollout is, does, waits for and has done. Pure, but for the reader's language."""

from __future__ import annotations

import re
from typing import Final

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

Text = str | Promise

KINDS: Final[dict[str, Text]] = {
    "deploy": _("deploy"),
    "rollback": _("rollback"),
    "undeploy": _("undeploy"),
}
PHASES: Final[dict[str, Text]] = {
    "moving": _("Bringing up the new version"),
    "judging": _("The new version is in traffic"),
    "keeping": _("The old version is kept for a switch back"),
    "ending": _("Taking the old version down"),
}
#: What services.moves and reconcile.rollouts write into the timeline.
_MARKS: Final[dict[str, Text]] = {
    "asked": _("Asked for"),
    "began": _("Began"),
    "all ready": _("All new ones are ready; the old ones go"),
    "comparing": _("Comparing the two versions"),
    "compared": _("Compared: nothing speaks against the new version"),
    "waits to be continued": _("Waits until somebody continues it"),
    "next step": _("On to the next step"),
    "old version kept": _("The old version is kept"),
    "old version goes": _("The old version goes"),
    "paused": _("Paused"),
    "continued": _("Continued"),
    "ended": _("Ended"),
}
_COUNTED: Final[tuple[tuple[re.Pattern[str], Text], ...]] = (
    (re.compile(r"(\d+) new ready"), _("New instances ready: %(n)s")),
    (re.compile(r"(\d+) new wanted"), _("New instances wanted: %(n)s")),
    (re.compile(r"(\d+) old left"), _("Old instances left: %(n)s")),
    (re.compile(r"(\d+) rebuilt in place"), _("Rebuilt in place: %(n)s")),
    (re.compile(r"(\d+) % of the traffic"), _("The new version gets %(n)s %% of the traffic")),
)
STAGES: Final[dict[str, Text]] = {
    "start": _("start"),
    "become ready": _("become ready"),
    "leave the gateways": _("leave the gateways"),
    "stop and be removed": _("stop and be removed"),
}


def step_words(mark: str) -> str:
    """In the reader's language; a mark that has no words here yet stays as it is."""
    for pattern, words in _COUNTED:
        if matched := pattern.fullmatch(mark):
            return str(words) % {"n": matched[1]}
    return str(_MARKS.get(mark, mark))
