"""Settings that every environment shares. Each ``BERTH_*`` variable is listed in docs/operators.md."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import environ
import structlog
from csp.constants import NONE, SELF
from django.urls import reverse_lazy
from django.utils.translation import gettext_lazy as _

from portal.settings.logs import logging_config
from portal.settings.ranges import port_range

ROOT = Path(__file__).resolve().parent.parent.parent
env = environ.Env()

VAR = Path(env.str("BERTH_VAR", default=str(ROOT / "var" / "dev")))

DEBUG = False
SECRET_KEY = env.str("BERTH_SECRET_KEY", default="")
ENCRYPTION_KEYS: list[str] = env.list("BERTH_ENCRYPTION_KEYS", default=[])
ALLOWED_HOSTS: list[str] = env.list("BERTH_ALLOWED_HOSTS", default=["localhost", "127.0.0.1"])
PORTAL_URL = env.str("BERTH_PORTAL_URL", default="http://localhost:8000")
CSRF_TRUSTED_ORIGINS = [PORTAL_URL]

INSTALLED_APPS = [
    "unfold",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "guardian",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_htmx",
    "django_structlog",
    "csp",
    "apps.core",
    "apps.tenants",
    "apps.hosts",
    "apps.registry",
    "apps.deployments",
    "portal.web",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "django_structlog.middlewares.RequestMiddleware",
]

ROOT_URLCONF = "portal.urls"
WSGI_APPLICATION = "portal.wsgi.application"
ASGI_APPLICATION = "portal.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "django.template.context_processors.i18n",
            ]
        },
    }
]


def database(url: str) -> dict[str, Any]:
    """Settings of one database from its URL.

    SQLite: WAL lets readers go on beside the one writer; IMMEDIATE takes the write lock when a transaction
    begins, so that two writers queue (up to 20 s) instead of one failing half-way with "database is locked".
    """
    config: dict[str, Any] = environ.Env.db_url_config(url)
    if config["ENGINE"].endswith("sqlite3"):
        Path(config["NAME"]).parent.mkdir(parents=True, exist_ok=True)
        # The test-suite's database is a file too: threads that race can't share one that is in memory.
        config["TEST"] = {"NAME": f"{config['NAME']}.test"}
        config["OPTIONS"] = {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        }
    else:
        options = config.setdefault("OPTIONS", {})
        options.setdefault("connect_timeout", 5)
        # What is asked again and again is parsed once per connection: 7 % of a placement's time. A pooler between us
        # and PostgreSQL must know prepared statements (PgBouncer does from 1.21), or this is 0 in the URL.
        options["prepare_threshold"] = int(options.get("prepare_threshold", 5)) or None
        options["server_side_binding"] = options["prepare_threshold"] is not None
        pool = env.int("BERTH_DATABASE_POOL", default=0)
        if pool:
            # Under ASGI each request has a thread, and so a connection, of its own: they must come from a bounded
            # pool, or a burst of requests takes every connection that the server has, the workers' too.
            options["pool"] = {"min_size": 1, "max_size": pool, "timeout": 10}
        else:
            config["CONN_MAX_AGE"] = 60
        # After a restart of the server no request may be given a connection that is dead: of the pool neither.
        config["CONN_HEALTH_CHECKS"] = True
    return config


DATABASES = {"default": database(env.str("DATABASE_URL", default="") or f"sqlite:///{VAR / 'berth.sqlite3'}")}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_USER_MODEL = "tenants.User"
AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.ModelBackend",
    "guardian.backends.ObjectPermissionBackend",
]
# guardian: nobody signed out holds a permission, so no anonymous row is made.
ANONYMOUS_USER_NAME = None
GUARDIAN_MONKEY_PATCH_USER = False
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {
        "NAME": "django.contrib.auth.password_validation.MinimumLengthValidator",
        "OPTIONS": {"min_length": 12},
    },
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = reverse_lazy("web:login")
LOGIN_REDIRECT_URL = reverse_lazy("web:apps")

LANGUAGE_CODE = "en"
LANGUAGES = [("en", _("English")), ("zh-hans", _("Simplified Chinese"))]
LOCALE_PATHS = [ROOT / "portal" / "locale"]
TIME_ZONE = "UTC"
USE_TZ = True

STATIC_URL = "static/"
STATIC_ROOT = VAR / "static"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}

SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_HTTPONLY = True
X_FRAME_OPTIONS = "DENY"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
CONTENT_SECURITY_POLICY = {
    "EXCLUDE_URL_PREFIXES": ["/admin/", "/api/docs/"],
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:"],
        "font-src": [SELF],
        "connect-src": [SELF],
        "form-action": [SELF],
        "base-uri": [NONE],
        "frame-ancestors": [NONE],
    },
}

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "portal.api.authentication.ApiTokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["portal.api.parsers.BoundedJSONParser"],
    "DEFAULT_PAGINATION_CLASS": "portal.api.pagination.CursorPages",
    "PAGE_SIZE": 50,
    "DEFAULT_SCHEMA_CLASS": "portal.api.schema.BerthSchema",
    "EXCEPTION_HANDLER": "portal.api.errors.handle",
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Berth",
    "DESCRIPTION": "Push an image, deploy it, reach it.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "COMPONENT_SPLIT_REQUEST": True,
}

UNFOLD = {"SITE_TITLE": "Berth", "SITE_HEADER": "Berth operators"}

REDIS_URL = env.str("BERTH_REDIS_URL", default="redis://127.0.0.1:6379/0")

PLATFORM_ID = env.str("BERTH_PLATFORM_ID", default="dev")
PLATFORM_DOMAIN = env.str("BERTH_PLATFORM_DOMAIN", default="localhost")
GATEWAY_URL_PORT = env.int("BERTH_GATEWAY_URL_PORT", default=80)
# Other host names that are the platform's own: its gateways', for example. Tenants can't have them.
PLATFORM_NAMES = env.list("BERTH_PLATFORM_NAMES", default=[])
# Tenants' own host names are proven in DNS. Servers to ask, "address" or "address:port"; empty: the machine's own.
DNS_RESOLVERS = env.list("BERTH_DNS_RESOLVERS", default=[])
DNS_TIMEOUT_S = env.float("BERTH_DNS_TIMEOUT", default=5)
DOMAINS_PER_TENANT = env.int("BERTH_DOMAINS_PER_TENANT", default=50)
# A claim that is not proven for so long has failed.
DOMAIN_PENDING_DAYS = max(1, env.int("BERTH_DOMAIN_PENDING_DAYS", default=7))
# Ports on which gateways listen for apps of TCP, FIRST-LAST: the same variable as the gateways'.
GATEWAY_TCP_PORTS = port_range("BERTH_GATEWAY_TCP_PORTS", env.str("BERTH_GATEWAY_TCP_PORTS", default=""))
GATEWAY_PORTS_PER_TENANT = max(0, env.int("BERTH_GATEWAY_PORTS_PER_TENANT", default=5))
# Seconds. So long nobody gets a port that was given back: clients that know it must not come to another tenant.
GATEWAY_PORT_REST_S = max(0, env.int("BERTH_GATEWAY_PORT_REST", default=600))

ZOOKEEPER_HOSTS = env.str("BERTH_ZOOKEEPER", default="127.0.0.1:2181")
ZOOKEEPER_PUBLISHER = env.str("BERTH_ZOOKEEPER_PUBLISHER", default="")
ZOOKEEPER_GATEWAY = env.str("BERTH_ZOOKEEPER_GATEWAY", default="")

# Private keys of certificates reach the gateways through ZooKeeper, encrypted with the first of these (Fernet keys),
# which the gateways have too. Without one there is no HTTPS.
GATEWAY_CERTIFICATE_KEYS: list[str] = env.list("BERTH_GATEWAY_CERTIFICATE_KEY", default=[])
# Files of PEM: the platform's own certificate, for *.{platform domain}, and its key. Looked at every hour.
PLATFORM_CERTIFICATE = env.str("BERTH_PLATFORM_CERTIFICATE", default="")
PLATFORM_CERTIFICATE_KEY = env.str("BERTH_PLATFORM_CERTIFICATE_KEY", default="")
# An authority that speaks ACME (RFC 8555), by which tenants' domains get certificates; empty: none are ordered.
ACME_DIRECTORY_URL = env.str("BERTH_ACME_DIRECTORY_URL", default="")
ACME_EMAIL = env.str("BERTH_ACME_EMAIL", default="")
# A file of the certificate that its own address has, where the system does not trust that.
ACME_CA = env.str("BERTH_ACME_CA", default="")
# Orders of the whole platform in an hour: authorities shut out those that ask for more than they allow.
ACME_ORDERS_PER_HOUR = env.int("BERTH_ACME_ORDERS_PER_HOUR", default=80)
# Seconds that one order may take, the gateways' acknowledgement included; and after which a renewal that failed for
# good is tried once more.
ACME_ORDER_S = env.int("BERTH_ACME_ORDER", default=600)
ACME_DAY_S = 86400

REGISTRY_PUBLIC = env.str("BERTH_REGISTRY_PUBLIC", default="localhost:5443")
REGISTRY_FOR_HOSTS = env.str("BERTH_REGISTRY_FOR_HOSTS", default=REGISTRY_PUBLIC)
REGISTRY_URL = env.str("BERTH_REGISTRY_URL", default="https://127.0.0.1:5443")
REGISTRY_CA = env.str("BERTH_REGISTRY_CA", default="")
REGISTRY_SERVICE = env.str("BERTH_REGISTRY_SERVICE", default="berth-registry")
REGISTRY_ISSUER = env.str("BERTH_REGISTRY_ISSUER", default="berth")
REGISTRY_TOKEN_KEY = env.str("BERTH_REGISTRY_TOKEN_KEY", default="")
# The registry's rootcertbundle, which manage.py registry_key_rotate writes.
REGISTRY_TOKEN_CERT = env.str("BERTH_REGISTRY_TOKEN_CERT", default="")
# So long after its last use docker's sign-in ends.
REGISTRY_REFRESH_DAYS = max(1, env.int("BERTH_REGISTRY_REFRESH_DAYS", default=90))
REGISTRY_NOTIFICATION_SECRET = env.str("BERTH_REGISTRY_NOTIFICATION_SECRET", default="")

# Addresses that tenants name are called by apps.core.guarded only. Networks (10.20.0.0/16) that it may reach although
# they are private, and that it may not although they are public, such as the platform's own.
GUARD_ALLOW = env.list("BERTH_GUARD_ALLOW", default=[])
GUARD_DENY = env.list("BERTH_GUARD_DENY", default=[])
# Whether plain http may be named, too: whoever is on the way reads along, passwords included.
GUARD_HTTP = env.bool("BERTH_GUARD_HTTP", default=False)
# A file of certificates that are trusted beside the system's, such as a company's own authority.
GUARD_CA = env.str("BERTH_GUARD_CA", default="")

# Copies of images out of other registries. Per tenant at a time; for one, with the wait for a worker, in seconds.
IMPORTS_PER_TENANT = env.int("BERTH_IMPORTS_PER_TENANT", default=3)
IMPORT_MAX_MB = env.int("BERTH_IMPORT_MAX_MB", default=8192)
IMPORT_WORK_S = env.int("BERTH_IMPORT_WORK", default=3600)
# A registry that keeps copies of one other (distribution's "proxy"): images of that host, asked for without a
# password, are read there. The operators' own, so not guarded.
REGISTRY_CACHE_OF = env.str("BERTH_REGISTRY_CACHE_OF", default="")
REGISTRY_CACHE_URL = env.str("BERTH_REGISTRY_CACHE_URL", default="")

# Image archives that are sent to the portal. The transfers worker must see the same directory.
UPLOAD_DIRECTORY = env.str("BERTH_UPLOAD_DIRECTORY", default=str(VAR / "uploads"))
UPLOAD_MAX_MB = env.int("BERTH_UPLOAD_MAX_MB", default=4096)
# What the compressed layers of one archive may unpack to, together. They are only hashed: nothing of it is stored.
UPLOAD_UNPACKED_MB = env.int("BERTH_UPLOAD_UNPACKED_MB", default=16384)
UPLOADS_PER_TENANT = env.int("BERTH_UPLOADS_PER_TENANT", default=2)
# Seconds: to send it, and then for each of checking and pushing, the wait for a worker included.
UPLOAD_RECEIVE_S = env.int("BERTH_UPLOAD_RECEIVE", default=3600)
UPLOAD_WORK_S = env.int("BERTH_UPLOAD_WORK", default=1800)
# So long a sender may send nothing.
UPLOAD_IDLE_S = env.int("BERTH_UPLOAD_IDLE", default=30)

# Seconds. How long each waiting state of the loop may last; what outlives it ends with a reason.
ROLLOUT_DEADLINE_S = env.int("BERTH_ROLLOUT_DEADLINE", default=180)
# Of one app. Each leaves a release, and rows that are kept as long as the app is.
ROLLOUTS_PER_HOUR = max(1, env.int("BERTH_ROLLOUTS_PER_HOUR", default=300))
START_DEADLINE_S = env.int("BERTH_START_DEADLINE", default=120)
READY_DEADLINE_S = env.int("BERTH_READY_DEADLINE", default=60)
DRAIN_DEADLINE_S = env.int("BERTH_DRAIN_DEADLINE", default=15)
# So long an instance that gets no new requests may go on with those that it has, before its stop signal.
DRAIN_REQUESTS_S = env.int("BERTH_DRAIN_REQUESTS", default=30)
# A host whose engine does not answer for so long takes nothing more; then what it holds is placed elsewhere.
HOST_SUSPECT_AFTER_S = env.int("BERTH_HOST_SUSPECT_AFTER", default=4)
HOST_DOWN_AFTER_S = env.int("BERTH_HOST_DOWN_AFTER", default=9)
HOST_JOIN_DEADLINE_S = env.int("BERTH_HOST_JOIN_DEADLINE", default=900)
# A host with less of its disk free, in per cent, gives up images that no release needs.
HOST_IMAGES_DISK_PERCENT = min(90, max(0, env.int("BERTH_HOST_IMAGES_DISK", default=15)))
# A request that was on its way when its route went may still arrive: a port rests this long after the last gateway's
# acknowledgement could have been given.
PORT_QUARANTINE_S = env.int("BERTH_PORT_QUARANTINE", default=30)
PORT_LEASE_S = env.int("BERTH_PORT_LEASE", default=86400)
GATEWAY_LEASE_S = env.int("BERTH_GATEWAY_LEASE", default=60)
# Where gateways ship lines of the access log to, and where the newest of each app are kept; empty where nowhere.
ACCESS_LOG_REDIS = env.str("BERTH_ACCESS_LOG_REDIS", default="")
ACCESS_LOG_LINES = min(10_000, max(10, env.int("BERTH_ACCESS_LOG_LINES", default=1000)))
ACCESS_LOG_DAYS = min(365, max(1, env.int("BERTH_ACCESS_LOG_DAYS", default=7)))
# A deletion that waits for something so long says for what, by an event, and again each time that this has passed.
DELETE_DEADLINE_S = env.int("BERTH_DELETE_DEADLINE", default=300)
# How long events are kept, and how many of one app at most.
EVENT_DAYS = env.int("BERTH_EVENT_DAYS", default=90)
EVENTS_PER_APP = env.int("BERTH_EVENTS_PER_APP", default=10_000)
# Event streams that one person may have open in each web process.
STREAMS_PER_USER = env.int("BERTH_STREAMS_PER_USER", default=10)
PROBE_FAILURES = env.int("BERTH_PROBE_FAILURES", default=3)
PROBE_SHARDS = env.int("BERTH_PROBE_SHARDS", default=1)
# So many hosts are followed by one watcher at most: each has a thread and a connection.
WATCH_HOSTS = env.int("BERTH_WATCH_HOSTS", default=200)
# Days that a failure capsule is kept; of each app the newest 20 are, in any case.
CAPSULE_DAYS = env.int("BERTH_CAPSULE_DAYS", default=14)
# So long a worker's hold on a row outlives the worker.
LEASE_S = env.float("BERTH_LEASE", default=10)
#: Where tests say at which lines a process is to die (apps.core.failpoints); read by dev and test only.
FAILPOINTS_FILE = ""

DJANGO_STRUCTLOG_CELERY_ENABLED = True
# A reader of an event stream that goes is nothing to worry about.
DJANGO_STRUCTLOG_REQUEST_CANCELLED_LOG_LEVEL = logging.INFO
LOGGING_CONFIG = "logging.config.dictConfig"
LOGGING = logging_config(json=env.bool("BERTH_LOG_JSON", default=True), level=env.str("BERTH_LOG_LEVEL", "INFO"))
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.filter_by_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
    ],
    logger_factory=structlog.stdlib.LoggerFactory(),
    cache_logger_on_first_use=True,
)
