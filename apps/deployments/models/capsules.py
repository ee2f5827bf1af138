"""Failure capsules: what is left to read of an instance that came to a bad end."""

from __future__ import annotations

import enum

from django.db import models

from apps.deployments.models.instances import Instance


class NoLog(enum.StrEnum):
    """Why a capsule has no log, in words for a tenant; the portal has them in other languages too."""

    NEVER_STARTED = "Its container never started, so it wrote nothing."
    WROTE_NOTHING = "It wrote nothing to its standard output or standard error."
    GONE = "Its container was gone before its log could be read."
    HOST_SILENT = "Its host does not answer, so its log could not be read."
    ENGINE_FAILED = "Its host's container engine did not give its log."


class FailureCapsule(models.Model):
    """What is known of how an instance came to its end; it stays when the container is gone."""

    instance = models.OneToOneField(Instance, on_delete=models.CASCADE, related_name="capsule")
    created_at = models.DateTimeField(auto_now_add=True)
    code = models.CharField(max_length=64, blank=True)
    reason = models.TextField(blank=True)
    exit_code = models.IntegerField(null=True, blank=True)
    signal = models.CharField(max_length=16, blank=True, help_text="that ended it, such as SIGKILL")
    out_of_memory = models.BooleanField(default=False)
    log = models.TextField(blank=True, help_text="the last lines that it wrote")
    log_truncated = models.BooleanField(default=False)
    log_missing = models.CharField(max_length=200, blank=True, help_text="why there is no log, if there is none")
    last_check = models.TextField(blank=True, help_text="what the last failed check asked and got")

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"end of {self.instance}"
