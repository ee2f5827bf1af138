"""What the new columns hold for hosts that were there before: what an admin wants, and how many ports are held."""

from __future__ import annotations

from django.db import migrations
from django.db.models import Count


def fill(apps, schema_editor):
    host = apps.get_model("hosts", "Host")
    for status in ("cordoned", "draining"):
        # Until its engine answers it is suspect: nothing is placed there meanwhile.
        host.objects.filter(status=status).update(status="suspect", availability=status)
    ports = apps.get_model("hosts", "PortAllocation").objects.order_by().values_list("host_id")
    for pk, held in ports.annotate(held=Count("pk")):
        host.objects.filter(pk=pk).update(ports_held=held)


class Migration(migrations.Migration):
    dependencies = [("hosts", "0002_placement")]
    operations = [migrations.RunPython(fill, migrations.RunPython.noop)]
