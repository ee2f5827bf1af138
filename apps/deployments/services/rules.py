"""Placement rules as they are asked for and stored, and as the scheduler takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apps.core.errors import Invalid
from apps.deployments.models import App
from apps.deployments.scheduler.constraints import HELP, parse
from apps.deployments.scheduler.types import Rules
from apps.deployments.selectors import apps_visible_to
from apps.hosts.engines_version import number_of
from apps.tenants.permissions import Viewer

MAX_CONSTRAINTS = 16
MAX_BESIDE = 8
ANTI_AFFINITY = ("preferred", "hard")
KEYS = ("constraints", "affinity", "anti_affinity", "min_engine", "global")


class RulesInvalid(Invalid):
    code = "placement.rules_invalid"


def rules_checked(asked: Mapping[str, Any], *, app: App, viewer: Viewer) -> dict[str, Any]:
    """The rules as they are stored: every key known, every text in its one form, defaults left out.

    Raises RulesInvalid. An app to be beside must be one of the same tenant that the viewer sees; others are not told
    from missing ones.
    """
    unknown = sorted(set(asked) - set(KEYS))
    if unknown:
        raise RulesInvalid(
            f"There is no rule {str(unknown[0])[:40]!r}; there are {', '.join(KEYS)}.", field="placement"
        )
    kept: dict[str, Any] = {}
    if texts := _texts(asked, "constraints", MAX_CONSTRAINTS):
        try:
            kept["constraints"] = [str(parse(text)) for text in texts]
        except ValueError as error:
            raise RulesInvalid(str(error), field="placement") from None
    if beside := _texts(asked, "affinity", MAX_BESIDE):
        apps = apps_visible_to(viewer).filter(tenant_id=app.tenant_id, slug__in=beside)
        known = set(apps.values_list("slug", flat=True))
        for slug in beside:
            if slug not in known or slug == app.slug:
                raise RulesInvalid(
                    f"There is no other app {slug[:40]!r} in the tenant to be beside.", field="placement"
                )
        kept["affinity"] = sorted(set(beside))
    anti = asked.get("anti_affinity") or "preferred"
    if anti not in ANTI_AFFINITY:
        raise RulesInvalid(f"anti_affinity is one of {', '.join(ANTI_AFFINITY)}.", field="placement")
    if anti != "preferred":
        kept["anti_affinity"] = anti
    if oldest := asked.get("min_engine"):
        if not isinstance(oldest, str) or not number_of(oldest) or len(oldest) > 20:
            raise RulesInvalid("min_engine is a version such as 20.10 or 24.0.7.", field="placement")
        kept["min_engine"] = oldest
    everywhere = asked.get("global", False)
    if not isinstance(everywhere, bool):
        raise RulesInvalid("global is true or false.", field="placement")
    if everywhere:
        kept["global"] = True
    return kept


def _texts(asked: Mapping[str, Any], key: str, most: int) -> list[str]:
    given = asked.get(key) or []
    if not isinstance(given, list) or len(given) > most or not all(isinstance(one, str) for one in given):
        raise RulesInvalid(f"{key} is a list of at most {most} texts. {HELP if key == 'constraints' else ''}".strip())
    return list(given)


def rules_of(stored: Mapping[str, Any]) -> Rules:
    """What the scheduler works with, of what ``rules_checked`` returned."""
    oldest = stored.get("min_engine", "")
    return Rules(
        constraints=tuple(parse(text) for text in stored.get("constraints", ())),
        beside=tuple(stored.get("affinity", ())),
        # One on every matching host is at most one on each.
        one_per_host=stored.get("anti_affinity") == "hard" or bool(stored.get("global")),
        min_engine=number_of(oldest),
        min_engine_text=oldest,
    )
