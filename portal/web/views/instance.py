"""One instance: how it is, and why it ended."""

from __future__ import annotations

from uuid import UUID

from django.conf import settings
from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from apps.deployments.models import FailureCapsule, Instance
from apps.deployments.selectors import InstanceMissing, app_visible_to, instances_of
from portal.web.gate import MemberRequest, member_page
from portal.web.texts import CODES, NO_LOGS, exit_meaning, sentence

BAD_ENDS = (Instance.Status.FAILED, Instance.Status.UNHEALTHY, Instance.Status.LOST)


@require_safe
@member_page
def instance_page(request: MemberRequest, slug: str, uid: UUID) -> HttpResponse:
    app = app_visible_to(request.user, slug)
    rows = instances_of(app).select_related(None).select_related("replica_set__release__version")
    instance = rows.defer("replica_set__release__env").filter(uid=uid).first()
    if instance is None:
        raise InstanceMissing(f"{app.slug} has no instance {uid}.")
    capsule = FailureCapsule.objects.filter(instance=instance).first()
    context = {
        "app": app,
        "instance": instance,
        "release": instance.replica_set.release,
        "ended": instance.status in BAD_ENDS,
        "capsule": capsule,
        "days": settings.CAPSULE_DAYS,
    }
    if capsule is not None:
        context["told"] = told = sentence(capsule.code, capsule.reason)
        # Where the sentence for people says it already, not again.
        advice = str(CODES.get(capsule.code, ""))
        context["advice"] = "" if advice in told else advice
        context["meaning"] = exit_meaning(capsule.exit_code, capsule.signal, out_of_memory=capsule.out_of_memory)
        context["no_log"] = NO_LOGS.get(capsule.log_missing, capsule.log_missing)
    return render(request, "web/instance.html", context)
