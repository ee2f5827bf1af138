"""The token server: distribution/distribution, docs/content/spec/auth/{token,oauth}.md.

Not part of /api/v1, since clients know it by its form: docker, podman, skopeo and containerd ask it by GET with Basic
credentials, or by POST as OAuth2 has it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

import structlog
from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest, HttpResponseBase, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_http_methods

from apps.core.errors import BerthError
from apps.core.throttle import Throttled
from apps.registry.api.errors import refused
from apps.registry.services.keys import key_set
from apps.registry.services.sign_in import SignedIn, SignInRefused, refresh_token_create, sign_in, sign_in_again
from apps.registry.services.tokens import Access, PushRefused, Who, asked_for, granted, subject_of, token_issue

log = structlog.get_logger(__name__)


@csrf_exempt
@never_cache
@require_http_methods(["GET", "POST"])
def token(request: HttpRequest) -> HttpResponseBase:
    """Less than was asked for is how it says no."""
    asked = request.GET if request.method == "GET" else request.POST
    if asked.get("service") != settings.REGISTRY_SERVICE:
        return refused("UNSUPPORTED", "This token server does not serve that registry.", 400)
    try:
        return _get(request) if request.method == "GET" else _post(request)
    except SignInRefused as error:
        log.info("registry_login_refused")
        return refused("UNAUTHORIZED", error.detail, 401)
    except Throttled as error:
        wait = int(str(error.extra["retry_after"]))
        log.warning("registry_login_throttled", wait_s=wait)
        return refused("TOOMANYREQUESTS", error.detail, 429, retry_after=wait)
    except PushRefused as error:
        return refused("DENIED", error.detail, 403)


def _get(request: HttpRequest) -> JsonResponse:
    scopes = request.GET.getlist("scope")
    if "Authorization" not in request.headers:
        return _anonymous(scopes)
    name, secret = _basic(request)
    signed_in = sign_in(name=name, secret=secret, address=_address(request))
    offline = request.GET.get("offline_token", "").lower() in {"true", "1"}
    return _issued(signed_in, scopes, _refresh(signed_in, request.GET.get("client_id", "")) if offline else "")


def _post(request: HttpRequest) -> JsonResponse:
    form = request.POST
    scopes = form.getlist("scope")
    grant = form.get("grant_type", "")
    if grant == "password":
        signed_in = sign_in(name=form.get("username", ""), secret=form.get("password", ""), address=_address(request))
        offline = form.get("access_type") == "offline"
        return _issued(signed_in, scopes, _refresh(signed_in, form.get("client_id", "")) if offline else "")
    if grant == "refresh_token":
        secret = form.get("refresh_token", "")
        signed_in = sign_in_again(secret=secret, address=_address(request))
        return _issued(signed_in, scopes, secret)
    return refused("UNSUPPORTED", "The grant_type must be password or refresh_token.", 400)


def _anonymous(scopes: Sequence[str]) -> JsonResponse:
    """Whoever does not sign in gets the pulls that everybody has. Nothing at all is a 401, so that clients sign in."""
    access = granted(AnonymousUser(), asked_for(scopes))
    if not access:
        return refused("UNAUTHORIZED", "Sign in with your user name and an API token: docker login", 401)
    return _answer(AnonymousUser(), access, "")


def _issued(signed_in: SignedIn, scopes: Sequence[str], refresh: str) -> JsonResponse:
    return _answer(signed_in.who, granted(signed_in.who, asked_for(scopes)), refresh)


def _answer(who: Who, access: list[Access], refresh: str) -> JsonResponse:
    issued = token_issue(subject=subject_of(who), access=access)
    body = {
        # Old clients read the first name, OAuth2's the second.
        "token": issued.token,
        "access_token": issued.token,
        "expires_in": issued.expires_in,
        "issued_at": issued.issued_at,
        "scope": " ".join(f"repository:{one.name}:{','.join(one.actions)}" for one in access),
    }
    return JsonResponse({**body, "refresh_token": refresh} if refresh else body)


def _refresh(signed_in: SignedIn, client: str) -> str:
    # RFC 6749, appendix A.1: printable ASCII.
    known = client if client.isascii() and client.isprintable() else ""
    return refresh_token_create(signed_in=signed_in, client=known)


def _basic(request: HttpRequest) -> tuple[str, str]:
    """Raises SignInRefused where the header holds no name and secret: it is no question without credentials."""
    scheme, _, encoded = request.headers["Authorization"].partition(" ")
    try:
        name, colon, secret = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        colon = ""
    if scheme.lower() != "basic" or not colon:
        raise SignInRefused("Sign in with your user name and an API token: docker login")
    return name, secret


def _address(request: HttpRequest) -> str:
    """The client's: the server puts there what a trusted proxy said (docs/operators.md, "Client addresses")."""
    return str(request.META.get("REMOTE_ADDR", ""))


@require_GET
def jwks(request: HttpRequest) -> JsonResponse:
    """The keys by which tokens are to be trusted, for distribution 3.x and whoever else checks them."""
    try:
        reply = JsonResponse(key_set())
    except BerthError as error:
        return refused("UNAVAILABLE", error.detail, 503)
    reply["Cache-Control"] = "public, max-age=60"
    return reply
