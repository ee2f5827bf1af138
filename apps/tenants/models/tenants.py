"""Tenants, their members, and how much they may use. Memory is MiB, CPU is thousandths of a core."""

from __future__ import annotations

from django.conf import settings
from django.core.validators import RegexValidator
from django.db import models
from django.db.models import F, Q

from apps.tenants.models.accounts import User

# One DNS label, without a leading digit; and no "--", which punycode (RFC 3492) needs for itself.
# \Z and not $: that would let a line end through.
SLUG = r"\A(?=.{2,40}\Z)[a-z](-?[a-z0-9])+\Z"
SLUG_HELP = "2 to 40 characters: small letters, digits and single hyphens, beginning with a letter."
valid_slug = RegexValidator(SLUG, SLUG_HELP, code="slug.invalid")


class Role(models.TextChoices):
    OWNER = "owner"
    ADMIN = "admin"
    DEVELOPER = "developer"
    VIEWER = "viewer"


class Plan(models.Model):
    """What a new tenant gets."""

    slug = models.CharField(max_length=40, unique=True, validators=[valid_slug])
    name = models.CharField(max_length=80)
    memory_mb = models.PositiveIntegerField(default=4096)
    cpu_millis = models.PositiveIntegerField(default=4000)
    instances = models.PositiveIntegerField(default=20)
    apps = models.PositiveIntegerField(default=10)
    storage_mb = models.PositiveIntegerField(
        default=10240, db_default=10240, help_text="images in the registry, each blob counted once (MiB)"
    )
    pids = models.PositiveIntegerField(default=512, help_text="processes per container")
    capabilities = models.JSONField(default=list, blank=True, help_text="Linux capabilities that containers get back")

    def __str__(self) -> str:
        return self.name


class Tenant(models.Model):
    slug = models.CharField(max_length=40, unique=True, validators=[valid_slug])
    name = models.CharField(max_length=80)
    plan = models.ForeignKey(Plan, on_delete=models.PROTECT, related_name="tenants")
    is_active = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)
    deleting_at = models.DateTimeField(null=True, blank=True, editable=False, help_text="since when it is taken apart")
    members: models.ManyToManyField[User, Membership] = models.ManyToManyField(
        settings.AUTH_USER_MODEL, through="Membership", related_name="tenants"
    )

    class Meta:
        ordering = ("slug",)
        constraints = (models.CheckConstraint(condition=Q(slug__regex=SLUG), name="tenant_slug_is_a_label"),)

    def __str__(self) -> str:
        return self.slug


class Membership(models.Model):
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=12, choices=Role)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["tenant", "user"], name="membership_once"),
            models.CheckConstraint(condition=Q(role__in=Role.values), name="membership_role_known"),
        )

    def __str__(self) -> str:
        return f"{self.user} is {self.role} of {self.tenant}"


class Quota(models.Model):
    """A tenant's limits, and what its instances hold right now.

    Claims add to ``*_used`` by one conditional UPDATE, so that two placements can't both take the last of it.
    An admin may lower a limit below its use: nothing is stopped, nothing more is placed.
    """

    tenant = models.OneToOneField(Tenant, on_delete=models.CASCADE, related_name="quota")
    memory_mb = models.PositiveIntegerField()
    cpu_millis = models.PositiveIntegerField()
    instances = models.PositiveIntegerField()
    apps = models.PositiveIntegerField()
    storage_mb = models.PositiveIntegerField(
        default=10240, db_default=10240, help_text="images in the registry, each blob counted once (MiB)"
    )
    memory_mb_used = models.PositiveIntegerField(default=0, editable=False)
    cpu_millis_used = models.PositiveIntegerField(default=0, editable=False)
    instances_used = models.PositiveIntegerField(default=0, editable=False)
    storage_bytes_used = models.PositiveBigIntegerField(
        default=0, db_default=0, editable=False, help_text="counted from the registry's manifests; a little late"
    )
    storage_counted_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        constraints = (
            models.CheckConstraint(
                condition=Q(memory_mb_used__gte=0, cpu_millis_used__gte=0, instances_used__gte=0),
                name="quota_use_not_negative",
            ),
        )

    def __str__(self) -> str:
        return f"quota of {self.tenant}"

    @staticmethod
    def room_for(memory_mb: int, cpu_millis: int, instances: int) -> Q:
        return Q(
            memory_mb__gte=F("memory_mb_used") + memory_mb,
            cpu_millis__gte=F("cpu_millis_used") + cpu_millis,
            instances__gte=F("instances_used") + instances,
        )
