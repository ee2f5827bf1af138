"""Which versions of an app are kept."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from apps.deployments.models.apps import App


class Retention(models.Model):
    """An app's rules. One without a row has the defaults: every tag stays, until somebody says otherwise."""

    app = models.OneToOneField(App, on_delete=models.CASCADE, related_name="retention")
    is_on = models.BooleanField(default=False, help_text="tags that no rule keeps are deleted, once a day")
    keep_last = models.PositiveIntegerField(default=20, help_text="so many of the newest versions")
    keep_days = models.PositiveIntegerField(
        default=0, help_text="whatever was pushed within so many days; 0: no matter"
    )
    keep_tags = models.CharField(max_length=1000, blank=True, help_text="patterns with * and ?, one beside the other")
    rollback_releases = models.PositiveIntegerField(
        default=10, help_text="the newest releases, that can be gone back to: their images stay"
    )
    updated_at = models.DateTimeField(auto_now=True)
    updated_by = models.CharField(max_length=150, blank=True)

    class Meta:
        constraints = (models.CheckConstraint(condition=Q(keep_last__gte=1), name="retention_keeps_one"),)

    def __str__(self) -> str:
        return f"retention of {self.app}"
