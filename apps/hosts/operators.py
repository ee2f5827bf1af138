"""Hosts as operators see them. Whoever is none finds nothing here: for them the addresses do not exist."""

from __future__ import annotations

from django.db.models import QuerySet

from apps.core.errors import Missing
from apps.hosts.models import Cluster, Host, JoinToken
from apps.hosts.selectors import HostMissing, default_cluster
from apps.hosts.services.joining import JoinTokenMissing
from apps.tenants.permissions import Viewer, operates

#: Django's permissions on the models, which superusers have and which other staff are given in the admin.
VIEW_HOSTS = "hosts.view_host"
CHANGE_HOSTS = "hosts.change_host"
REMOVE_HOSTS = "hosts.delete_host"
VIEW_TOKENS = "hosts.view_jointoken"
MAKE_TOKENS = "hosts.add_jointoken"
REVOKE_TOKENS = "hosts.change_jointoken"


def require_operator(viewer: Viewer, permission: str) -> None:
    """Raises Missing: who may not see the platform's hosts is not told that there is something to see."""
    if not operates(viewer, permission):
        raise Missing("There is nothing at this address.")


def hosts_listed() -> QuerySet[Host]:
    return Host.objects.exclude(status=Host.Status.REMOVED).select_related("cluster", "identity").order_by("name")


def host_named(name: str) -> Host:
    host = hosts_listed().filter(name=name).first()
    if host is None:
        raise HostMissing(f"There is no host {name[:63]!r}.")
    return host


def tokens_listed() -> QuerySet[JoinToken]:
    return JoinToken.objects.select_related("cluster", "created_by", "host")


def token_numbered(pk: int) -> JoinToken:
    token = tokens_listed().filter(pk=pk).first()
    if token is None:
        raise JoinTokenMissing("There is no such join token.")
    return token


def cluster_for(slug: str) -> Cluster:
    """The cluster of this slug, or the default one for an empty slug."""
    if not slug:
        return default_cluster()
    cluster = Cluster.objects.filter(slug=slug).first()
    if cluster is None:
        raise Missing(f"There is no cluster {slug[:40]!r}.")
    return cluster
