"""Clusters and their hosts. Memory is MiB, CPU is thousandths of a core."""

from __future__ import annotations

from django.core.validators import MinValueValidator, RegexValidator
from django.db import models
from django.db.models import F, Q

from apps.core.crypto import EncryptedTextField
from apps.core.models import Leased

# Never plain TCP: whoever reaches an engine's API without mutual TLS is root on that host.
ENGINE_URL = r"\A(unix:///[^\s]+|https://[^\s/]+:[0-9]+|memory://[a-z0-9-]+)\Z"


class Cluster(models.Model):
    class Kind(models.TextChoices):
        DOCKER = "docker"
        MEMORY = "memory", "in memory (tests and benchmarks)"

    slug = models.SlugField(max_length=40, unique=True)
    name = models.CharField(max_length=80)
    kind = models.CharField(max_length=12, choices=Kind, default=Kind.DOCKER)
    is_default = models.BooleanField(default=False)

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["is_default"], condition=Q(is_default=True), name="cluster_one_default"),
        )

    def __str__(self) -> str:
        return self.slug


class Host(Leased):
    class Status(models.TextChoices):
        JOINING = "joining"
        READY = "ready"
        SUSPECT = "suspect"
        DOWN = "down"
        CORDONED = "cordoned"
        DRAINING = "draining"

    cluster = models.ForeignKey(Cluster, on_delete=models.PROTECT, related_name="hosts")
    name = models.SlugField(max_length=63, unique=True)
    address = models.GenericIPAddressField(help_text="where gateways and probes reach its published ports")
    engine_url = models.CharField(
        max_length=200,
        unique=True,
        help_text="unix:///… or https://ADDRESS:2376 (mutual TLS)",
        validators=[RegexValidator(ENGINE_URL, "unix:///path, or https://address:port with mutual TLS.")],
    )
    tls_ca = models.TextField(blank=True, help_text="PEM of the authority that signed the engine's certificate")
    tls_certificate = models.TextField(blank=True, help_text="PEM of the platform's client certificate")
    tls_key = EncryptedTextField(blank=True, help_text="PEM of its private key; encrypted at rest")
    labels = models.JSONField(default=dict, blank=True)
    memory_mb = models.PositiveIntegerField(validators=[MinValueValidator(1)])
    cpu_millis = models.PositiveIntegerField(validators=[MinValueValidator(1)])
    memory_mb_claimed = models.PositiveIntegerField(default=0, editable=False)
    cpu_millis_claimed = models.PositiveIntegerField(default=0, editable=False)
    port_min = models.PositiveIntegerField(default=20000)
    port_max = models.PositiveIntegerField(default=29999)
    port_next = models.PositiveIntegerField(default=0, editable=False)
    status = models.CharField(max_length=10, choices=Status, default=Status.JOINING)
    generation = models.PositiveBigIntegerField(default=0, editable=False)
    engine_version = models.CharField(max_length=60, blank=True, editable=False)
    last_seen_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_error = models.TextField(blank=True, editable=False)

    class Meta:
        ordering = ("name",)
        constraints = (
            # The wall against over-commitment, behind the compare-and-swap on generation.
            models.CheckConstraint(
                condition=Q(memory_mb_claimed__lte=F("memory_mb")), name="host_memory_not_overcommitted"
            ),
            models.CheckConstraint(
                condition=Q(cpu_millis_claimed__lte=F("cpu_millis")), name="host_cpu_not_overcommitted"
            ),
            models.CheckConstraint(condition=Q(engine_url__regex=ENGINE_URL), name="host_engine_url_is_safe"),
            models.CheckConstraint(
                condition=Q(port_min__gte=1024, port_max__lte=65535, port_max__gte=F("port_min")),
                name="host_port_range_sane",
            ),
        )
        indexes = (models.Index(fields=["cluster", "status"]),)  # candidates of a placement

    def __str__(self) -> str:
        return self.name
