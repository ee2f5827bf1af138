"""What a demo or a test on real parts begins with: an operator, a tenant with two members, and hosts."""

from __future__ import annotations

import json
import secrets
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import transaction

from apps.hosts.models import Cluster, Host
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
        parser.add_argument("--hosts", default="[]", help="JSON list of objects with the fields of a host, - for stdin")

    @transaction.atomic
    def handle(self, *args: Any, **options: Any) -> None:
        plan, _ = Plan.objects.get_or_create(slug="standard", defaults={"name": "Standard"})
        cluster, _ = Cluster.objects.get_or_create(slug="main", defaults={"name": "Main", "is_default": True})
        admin, password = self._person("admin", staff=True)
        told: dict[str, Any] = {"admin": {"username": admin.username, "password": password}, "tenants": {}}
        for slug in options["tenant"]:
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
        text = input() if options["hosts"] == "-" else options["hosts"]
        for values in json.loads(text):
            Host.objects.update_or_create(
                name=values.pop("name"), defaults={**values, "cluster": cluster, "status": Host.Status.JOINING}
            )
        self.stdout.write(json.dumps(told))

    def _person(self, username: str, *, staff: bool = False) -> tuple[User, str]:
        user, _ = User.objects.get_or_create(username=username, defaults={"email": f"{username}@example.invalid"})
        password = secrets.token_urlsafe(12)
        user.set_password(password)
        user.is_staff = user.is_superuser = staff
        user.save()
        return user, password
