"""Why a placement went as it did, kept."""

from __future__ import annotations

from django.db import models

from apps.deployments.models.apps import App


class Explanation(models.Model):
    """The answer of ``explain`` at the moment of a refusal: later the hosts are others."""

    app = models.ForeignKey(App, on_delete=models.CASCADE, related_name="explanations")
    at = models.DateTimeField(auto_now_add=True)
    asked_by = models.CharField(max_length=150, blank=True)
    code = models.CharField(max_length=64, help_text="of the error that it belongs to")
    request = models.JSONField(default=dict)
    result = models.JSONField(default=dict)

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"{self.code} of {self.app} at {self.at:%Y-%m-%d %H:%M}"
