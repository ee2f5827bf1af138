"""Gateways as the platform last saw them in ZooKeeper."""

from __future__ import annotations

from django.db import models


class Gateway(models.Model):
    """One that vanished from ZooKeeper may still serve its last good state, so it counts until its lease ends."""

    name = models.CharField(max_length=63, unique=True)
    epoch = models.CharField(max_length=36, blank=True)
    served = models.BigIntegerField(default=0, help_text="ZooKeeper transaction up to which it serves")
    last_seen_at = models.DateTimeField()
    stats = models.CharField(
        max_length=60, blank=True, default="", db_default="", help_text="where its counters are read"
    )

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name
