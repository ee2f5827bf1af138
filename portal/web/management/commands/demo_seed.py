"""What a demo or a test on real parts begins with: an operator, a tenant with two members, and hosts."""

from __future__ import annotations

import json
import secrets
import sys
import time
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from apps.hosts.models import Cluster, Host
from apps.hosts.services.hosts import host_register
from apps.tenants.models import Plan, Role, Tenant, User
from apps.tenants.services.tenants import member_add, tenant_create
from apps.tenants.services.tokens import token_create


class Command(BaseCommand):
    help = (
        "Make an admin, tenants with an owner and a developer each, and the hosts given as JSON on standard input. "
        "Prints the credentials as JSON, once: passwords and tokens are new at every call."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--tenant", action="append", required=True, help="slug; may be given more than once")
        parser.add_argument("--wait", type=float, default=30, help="seconds to wait until the hosts are ready")

    def handle(self, *args: Any, **options: Any) -> None:
        hosts = json.load(sys.stdin)
        told = self._seed(options["tenant"], hosts)
        self._wait([one["name"] for one in hosts], options["wait"])
        self.stdout.write(json.dumps(told))

    @transaction.atomic
    def _seed(self, tenants: list[str], hosts: list[dict[str, Any]]) -> dict[str, Any]:
        plan, _ = Plan.objects.get_or_create(slug="standard", defaults={"name": "Standard"})
        cluster, _ = Cluster.objects.get_or_create(slug="main", defaults={"name": "Main", "is_default": True})
        admin, password = self._person("admin", staff=True)
        told: dict[str, Any] = {"admin": {"username": admin.username, "password": password}, "tenants": {}}
        for slug in tenants:
            owner, owner_password = self._person(f"{slug}-owner")
            developer, developer_password = self._person(f"{slug}-dev")
            tenant = Tenant.objects.filter(slug=slug).first()
            if tenant is None:
                tenant = tenant_create(slug=slug, name=slug.capitalize(), plan=plan, owner=owner)
            member_add(tenant=tenant, user=developer, role=Role.DEVELOPER)
            told["tenants"][slug] = [
                {
                    "username": user.username,
                    "role": role,
                    "password": secret,
                    "token": token_create(user=user, name="made by demo_seed")[1],
                }
                for user, role, secret in (
                    (owner, "owner", owner_password),
                    (developer, "developer", developer_password),
                )
            ]
        for values in hosts:
            host_register(cluster=cluster, **values)
        return told

    def _wait(self, names: list[str], seconds: float) -> None:
        """Until the workers have found every host's engine answering."""
        deadline = time.monotonic() + seconds
        while waiting := Host.objects.filter(name__in=names).exclude(status=Host.Status.READY):
            if time.monotonic() >= deadline:
                told = "; ".join(f"{host.name}: {host.last_error or 'not asked yet'}" for host in waiting)
                raise CommandError(f"Not ready after {seconds:g} s: {told}")
            time.sleep(0.1)

    def _person(self, username: str, *, staff: bool = False) -> tuple[User, str]:
        user, _ = User.objects.get_or_create(username=username, defaults={"email": f"{username}@example.invalid"})
        password = secrets.token_urlsafe(12)
        user.set_password(password)
        user.is_staff = user.is_superuser = staff
        user.save()
        return user, password
