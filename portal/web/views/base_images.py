"""The platform's own images, and an app from one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django import forms
from django.conf import settings
from django.http import HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_http_methods, require_safe

from apps.core.errors import BerthError, Denied
from apps.deployments.services.base_images import Made, app_from_base
from apps.registry.base_images import BaseImage, base_image, base_images
from apps.tenants.models import Tenant
from portal.web.forms import AppForm
from portal.web.gate import MemberRequest, member_page
from portal.web.queries import creatable_in
from portal.web.texts import speaks_english

_PLAIN = {"autocapitalize": "none", "autocomplete": "off", "spellcheck": "false"}
_FIELDS = {"slug.invalid": "slug", "slug.taken": "slug", "version": "version"}


class BaseAppForm(AppForm):
    def __init__(self, *args: Any, image: BaseImage, tenants: Sequence[Tenant], **kwargs: Any) -> None:
        fields: dict[str, forms.Field] = {
            "version": forms.ChoiceField(label=_("Version"), choices=[(one, one) for one in image.versions])
        }
        for one in image.env:
            secret = one.kind == "password"
            hint = _("Empty: one is made, and shown once.") if secret else ""
            typed, hidden = forms.TextInput(attrs=_PLAIN), forms.PasswordInput(attrs={"autocomplete": "new-password"})
            fields[one.name] = forms.CharField(
                label=one.name,
                required=False,
                max_length=128,
                initial=one.default,
                widget=hidden if secret else typed,
                help_text=f"{one.words[language()]} {hint}".strip(),
            )
        super().__init__(*args, tenants=tenants, **kwargs)
        # The image says what it speaks.
        del self.fields["protocol"]
        self.fields.update(fields)
        self.dress()
        self.named = [self[one.name] for one in image.env]
        self.env_names = [one.name for one in image.env]

    def env(self) -> dict[str, str]:
        return {name: self.cleaned_data[name] for name in self.env_names}


def language() -> str:
    return "en" if speaks_english() else "zh"


@require_safe
@member_page
def base_images_page(request: MemberRequest) -> HttpResponse:
    rows = [{"image": one, "purpose": one.purpose[language()]} for one in base_images().values()]
    context = {"rows": rows, "registry": settings.REGISTRY_PUBLIC, "may_create": bool(creatable_in(request.user))}
    return render(request, "web/base_images.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@member_page
def base_image_page(request: MemberRequest, name: str) -> HttpResponse:
    """The answer to the POST is the only place where a password that was made ever stands: no redirect."""
    image = base_image(name)
    tenants = creatable_in(request.user)
    if not tenants or not image.app:
        raise Denied("You may not make an app of this image.")
    initial = {"tenant": tenants[0].slug, "slug": image.name, "version": image.versions[-1]}
    form, made, status = BaseAppForm(request.POST or None, image=image, tenants=tenants, initial=initial), None, 200
    if request.method == "POST":
        status = 400
        if form.is_valid():
            try:
                made, status = _made(request, form, image), 201
            except Denied:
                raise
            except BerthError as error:
                form.add_refusal(error, {**_FIELDS, **{one: one for one in form.env_names}})
                status = error.status
    context = {
        "image": image,
        "purpose": image.purpose[language()],
        "form": form,
        "made": made,
        "one_tenant": len(tenants) == 1,
    }
    return render(request, "web/base_image.html", context, status=status)


def _made(request: MemberRequest, form: BaseAppForm, image: BaseImage) -> Made:
    data = form.cleaned_data
    return app_from_base(
        tenant=data["tenant"],
        slug=data["slug"],
        image=image.name,
        version=data["version"],
        env=form.env(),
        by=request.user,
    )
