"""Production: every secret must be given, and none may be empty, short or well known."""

from __future__ import annotations

from django.core.exceptions import ImproperlyConfigured

from portal.settings.base import *  # noqa: F403
from portal.settings.base import (
    DATABASES,
    ENCRYPTION_KEYS,
    GATEWAY_CERTIFICATE_KEYS,
    PLATFORM_ID,
    PORTAL_URL,
    REGISTRY_NOTIFICATION_SECRET,
    REGISTRY_TOKEN_KEY,
    SECRET_KEY,
    ZOOKEEPER_GATEWAY,
    ZOOKEEPER_PUBLISHER,
    env,
)

_KNOWN = {"secret", "password", "changeme", "change-me", "admin", "berth", "test", "django-insecure"}


def _refuse_weak(name: str, value: str, least: int) -> None:
    text = value.rpartition(":")[2]
    if len(text) < least or any(text.lower().startswith(known) for known in _KNOWN):
        raise ImproperlyConfigured(f"{name} must be set to a secret of at least {least} characters.")


_refuse_weak("BERTH_SECRET_KEY", SECRET_KEY, 40)
_refuse_weak("BERTH_ENCRYPTION_KEYS", ENCRYPTION_KEYS[0] if ENCRYPTION_KEYS else "", 40)
_refuse_weak("BERTH_ZOOKEEPER_PUBLISHER", ZOOKEEPER_PUBLISHER, 16)
_refuse_weak("BERTH_ZOOKEEPER_GATEWAY", ZOOKEEPER_GATEWAY, 16)
_refuse_weak("BERTH_REGISTRY_NOTIFICATION_SECRET", REGISTRY_NOTIFICATION_SECRET, 16)
if env.str("BERTH_FAILPOINTS", default=""):
    raise ImproperlyConfigured("BERTH_FAILPOINTS must not be set in production: it makes processes kill themselves.")
if PLATFORM_ID == "dev":
    raise ImproperlyConfigured(
        "BERTH_PLATFORM_ID must be set to a name of this installation: on an engine that two installations share, "
        "it tells their containers apart."
    )
if set(GATEWAY_CERTIFICATE_KEYS) & set(ENCRYPTION_KEYS):
    raise ImproperlyConfigured("BERTH_GATEWAY_CERTIFICATE_KEY must not open the database: gateways know it.")
for key in GATEWAY_CERTIFICATE_KEYS:
    _refuse_weak("BERTH_GATEWAY_CERTIFICATE_KEY", key, 40)
if not REGISTRY_TOKEN_KEY:
    raise ImproperlyConfigured("BERTH_REGISTRY_TOKEN_KEY must name the private key that signs registry tokens.")
if not PORTAL_URL.startswith("https://"):
    raise ImproperlyConfigured("BERTH_PORTAL_URL must be https:// in production.")
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    raise ImproperlyConfigured("DATABASE_URL must name a PostgreSQL database in production.")

SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SECURE_SSL_REDIRECT = True
# Asked from inside, past the proxy that ends TLS.
SECURE_REDIRECT_EXEMPT = [r"^healthz$", r"^readyz$", r"^api/registry/notifications$"]
SECURE_HSTS_SECONDS = 31536000
SESSION_COOKIE_SECURE = True
CSRF_COOKIE_SECURE = True
# The prefix makes browsers refuse a cookie of that name from any other host, such as a tenant's app beside the portal
# (RFC 6265bis, "Cookie Name Prefixes").
SESSION_COOKIE_NAME = "__Host-sessionid"
CSRF_COOKIE_NAME = "__Host-csrftoken"
