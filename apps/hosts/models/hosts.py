"""Clusters and their hosts. Memory is MiB, CPU is thousandths of a core."""

from __future__ import annotations

import re

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models import F, Q
from django.db.models.expressions import CombinedExpression
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Cast, Coalesce

from apps.core.crypto import EncryptedTextField
from apps.core.models import Leased
from apps.tenants.models import Tenant

# Never plain TCP: whoever reaches an engine's API without mutual TLS is root on that host.
ENGINE_URL = r"\A(unix:///[^\s]+|https://[^\s/]+:[0-9]+|memory://[a-z0-9-]+)\Z"
#: As Kubernetes writes them, without a prefix: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/
LABEL_KEY = re.compile(r"[a-z][a-z0-9._-]{0,62}")
LABEL_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
MAX_LABELS = 64
#: What a cluster may weigh hosts by; apps.deployments.scheduler.weighers says what each means.
WEIGHERS = ("free_memory", "idle_cpu", "binpack", "spread", "zone", "image")


def valid_labels(labels: object) -> None:
    """Raises ValidationError unless these are short words by short words."""
    if not isinstance(labels, dict) or len(labels) > MAX_LABELS:
        raise ValidationError(f"Labels are an object of at most {MAX_LABELS} texts.", code="labels.invalid")
    for key, value in labels.items():
        if not LABEL_KEY.fullmatch(key):
            raise ValidationError(
                f"{key[:60]!r} is no label: small letters, digits and . _ -, a letter first, 63 at most.",
                code="labels.invalid",
            )
        if not isinstance(value, str) or not LABEL_VALUE.fullmatch(value):
            raise ValidationError(
                f"The value of {key} must be a text of letters, digits and . _ -, 63 at most.", code="labels.invalid"
            )


def valid_weights(weights: object) -> None:
    """Raises ValidationError unless these are numbers from 0 to 100 by the names of weighers."""
    if not isinstance(weights, dict):
        raise ValidationError("Weights are an object.", code="weights.invalid")
    for name, value in weights.items():
        if name not in WEIGHERS:
            raise ValidationError(
                f"There is no weigher {str(name)[:40]!r}; there are {', '.join(WEIGHERS)}.", code="weights.invalid"
            )
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
            raise ValidationError(f"The weight of {name} must be a number from 0 to 100.", code="weights.invalid")


def _big(name: str) -> Cast:
    """Wide enough for a product with a ratio."""
    return Cast(name, models.BigIntegerField())


def _capacity(total: str, reserve: str, overcommit: str) -> CombinedExpression:
    return (_big(total) - F(reserve)) * F(overcommit) / 100


class Cluster(models.Model):
    class Kind(models.TextChoices):
        DOCKER = "docker"
        MEMORY = "memory", "in memory (tests and benchmarks)"

    slug = models.SlugField(max_length=40, unique=True)
    name = models.CharField(max_length=80)
    kind = models.CharField(max_length=12, choices=Kind, default=Kind.DOCKER)
    is_default = models.BooleanField(default=False)
    memory_overcommit = models.PositiveIntegerField(
        default=100,
        db_default=100,
        validators=[MinValueValidator(10), MaxValueValidator(1000)],
        help_text="per cent of a host's memory that may be promised; above 100 hosts can run out of it",
    )
    cpu_overcommit = models.PositiveIntegerField(
        default=100,
        db_default=100,
        validators=[MinValueValidator(10), MaxValueValidator(10000)],
        help_text="per cent of a host's CPU that may be promised; what is idle is shared in any case",
    )
    weights = models.JSONField(
        default=dict,
        db_default={},
        blank=True,
        validators=[valid_weights],
        help_text='what counts how much in the choice of a host, over the defaults: {"binpack": 5, "free_memory": 0}',
    )
    evictions_stopped_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="since when so many hosts are silent that none is given up"
    )

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["is_default"], condition=Q(is_default=True), name="cluster_one_default"),
        )

    def __str__(self) -> str:
        return self.slug


_TAKES_INSTANCES = Q(status="ready", availability="active", disk_pressure=False)


class Host(Leased):
    """A machine. ``status`` is what is seen of it, ``availability`` what an admin wants of it.

    What may be promised of it (capacity) is worked out by the database from what it has, the system's reserve, and the
    cluster's overcommit ratios, which stand here as copies so that one row holds all that a placement reads.
    """

    class Status(models.TextChoices):
        JOINING = "joining"
        READY = "ready"
        SUSPECT = "suspect"
        DOWN = "down"
        REMOVED = "removed"

    class Availability(models.TextChoices):
        ACTIVE = "active"
        CORDONED = "cordoned"
        DRAINING = "draining"

    cluster = models.ForeignKey(Cluster, on_delete=models.PROTECT, related_name="hosts")
    name = models.SlugField(max_length=63)
    address = models.GenericIPAddressField(help_text="where gateways and probes reach its published ports")
    engine_url = models.CharField(
        max_length=200,
        help_text="unix:///… or https://ADDRESS:2376 (mutual TLS)",
        validators=[RegexValidator(ENGINE_URL, "unix:///path, or https://address:port with mutual TLS.")],
    )
    tls_ca = models.TextField(blank=True, help_text="PEM of the authority that signed the engine's certificate")
    tls_certificate = models.TextField(blank=True, help_text="PEM of the platform's client certificate")
    tls_key = EncryptedTextField(blank=True, help_text="PEM of its private key; encrypted at rest")
    labels = models.JSONField(default=dict, blank=True, validators=[valid_labels])
    dedicated_to = models.ForeignKey(
        Tenant,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="dedicated_hosts",
        help_text="takes this tenant's instances only; others that run there already stay until the host is drained",
    )
    memory_mb = models.PositiveIntegerField(validators=[MinValueValidator(1), MaxValueValidator(2**26)])
    cpu_millis = models.PositiveIntegerField(validators=[MinValueValidator(1), MaxValueValidator(2**23)])
    memory_mb_reserve = models.PositiveIntegerField(
        default=0, db_default=0, help_text="kept for the system and the engine, promised to nobody"
    )
    cpu_millis_reserve = models.PositiveIntegerField(default=0, db_default=0, help_text="kept for the system")
    memory_overcommit = models.PositiveIntegerField(default=100, db_default=100, editable=False)
    cpu_overcommit = models.PositiveIntegerField(default=100, db_default=100, editable=False)
    memory_mb_claimed = models.PositiveIntegerField(default=0, editable=False)
    cpu_millis_claimed = models.PositiveIntegerField(default=0, editable=False)
    port_min = models.PositiveIntegerField(default=20000)
    port_max = models.PositiveIntegerField(default=29999)
    port_next = models.PositiveIntegerField(default=0, editable=False)
    ports_held = models.PositiveIntegerField(
        default=0, db_default=0, editable=False, help_text="claimed or in quarantine"
    )
    memory_mb_capacity = models.GeneratedField(
        expression=_capacity("memory_mb", "memory_mb_reserve", "memory_overcommit"),
        output_field=models.BigIntegerField(),
        db_persist=True,
    )
    cpu_millis_capacity = models.GeneratedField(
        expression=_capacity("cpu_millis", "cpu_millis_reserve", "cpu_overcommit"),
        output_field=models.BigIntegerField(),
        db_persist=True,
    )
    memory_mb_free = models.GeneratedField(
        expression=_capacity("memory_mb", "memory_mb_reserve", "memory_overcommit") - F("memory_mb_claimed"),
        output_field=models.BigIntegerField(),
        db_persist=True,
    )
    zone = models.GeneratedField(
        expression=Coalesce(KeyTextTransform("zone", "labels"), models.Value(""), output_field=models.TextField()),
        output_field=models.TextField(),
        db_persist=True,
    )
    status = models.CharField(max_length=10, choices=Status, default=Status.JOINING)
    availability = models.CharField(
        max_length=10, choices=Availability, default=Availability.ACTIVE, db_default=Availability.ACTIVE
    )
    generation = models.PositiveBigIntegerField(default=0, editable=False)
    engine_version = models.CharField(max_length=60, blank=True, editable=False)
    engine_number = models.PositiveBigIntegerField(
        default=0, db_default=0, editable=False, help_text="the version as one number: 20.10.5 is 20010005"
    )
    # As images name platforms; empty until the engine has said it, and then any image may come.
    os = models.CharField(max_length=20, blank=True, default="", db_default="", editable=False)
    architecture = models.CharField(max_length=20, blank=True, default="", db_default="", editable=False)
    created_at = models.DateTimeField(auto_now_add=True, null=True)
    last_seen_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_error = models.TextField(blank=True, editable=False)
    # What the host says of itself; null where it says nothing.
    sampled_at = models.DateTimeField(null=True, blank=True, editable=False)
    cpu_millis_idle = models.PositiveIntegerField(null=True, blank=True, editable=False)
    memory_mb_idle = models.PositiveIntegerField(null=True, blank=True, editable=False)
    disk_mb = models.PositiveBigIntegerField(null=True, blank=True, editable=False)
    disk_mb_idle = models.PositiveBigIntegerField(null=True, blank=True, editable=False)
    disk_pressure = models.BooleanField(default=False, db_default=False, editable=False)

    class Meta:
        ordering = ("name",)
        constraints = (
            # A removed host's row stays for the sake of history, and its name is free for another machine.
            models.UniqueConstraint(fields=["name"], condition=~Q(status="removed"), name="host_name_once"),
            models.UniqueConstraint(fields=["engine_url"], condition=~Q(status="removed"), name="host_engine_once"),
            models.CheckConstraint(condition=Q(engine_url__regex=ENGINE_URL), name="host_engine_url_is_safe"),
            models.CheckConstraint(
                condition=Q(port_min__gte=1024, port_max__lte=65535, port_max__gte=F("port_min")),
                name="host_port_range_sane",
            ),
        )
        indexes = (
            models.Index(fields=["cluster", "status"]),  # counting why there is no room
            # Candidates of a placement: the emptiest (or, for binpack, the fullest) hosts, of all or of a zone.
            models.Index(
                "cluster", F("memory_mb_free").desc(), "id", condition=_TAKES_INSTANCES, name="host_candidates"
            ),
            models.Index(
                "cluster",
                "zone",
                F("memory_mb_free").desc(),
                "id",
                condition=_TAKES_INSTANCES & ~Q(zone=""),
                name="host_candidates_of_zone",
            ),
        )

    def __str__(self) -> str:
        return self.name

    @property
    def silent(self) -> bool:
        """Whether its engine has not answered lately: then asking it only keeps a worker waiting."""
        return self.status in (self.Status.SUSPECT, self.Status.DOWN, self.Status.REMOVED)
