"""The platform's own certificate, from files that the operators' tools keep renewed."""

from __future__ import annotations

from pathlib import Path

import structlog
from django.conf import settings

from apps.deployments.pem import CertificateInvalid
from apps.deployments.services.certificates import certificate_of_platform

log = structlog.get_logger(__name__)


def platform_certificate_read() -> bool:
    """Take the files that the settings name. False where there are none, or they are no good; then the last stays."""
    chain, key = settings.PLATFORM_CERTIFICATE, settings.PLATFORM_CERTIFICATE_KEY
    if not chain or not key:
        return False
    try:
        certificate_of_platform(chain=Path(chain).read_text("ascii"), key=Path(key).read_text("ascii"))
    except (OSError, UnicodeDecodeError) as error:
        log.error("platform_certificate_unread", error=str(error))
        return False
    except CertificateInvalid as error:
        log.error("platform_certificate_refused", error=error.detail)
        return False
    return True
