"""Signing in."""

from __future__ import annotations

from django.contrib.auth.views import LoginView

from portal.web.forms import LoginForm


class Login(LoginView):
    authentication_form = LoginForm
    template_name = "web/login.html"
    redirect_authenticated_user = True
