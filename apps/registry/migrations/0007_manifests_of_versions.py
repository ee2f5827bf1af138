from django.db import migrations


def manifests_made(apps, schema_editor):
    """Versions from before manifests had rows: what they name is read by the next sweep."""
    Version = apps.get_model("registry", "Version")
    Manifest = apps.get_model("registry", "Manifest")
    columns = ("repository_id", "digest", "media_type", "pushed_by", "pushed_at")
    rows = {row[:2]: row for row in Version.objects.order_by("pushed_at", "pk").values_list(*columns)}
    Manifest.objects.bulk_create(
        [Manifest(**dict(zip(columns, row, strict=True))) for row in rows.values()],
        ignore_conflicts=True,
        batch_size=500,
    )


class Migration(migrations.Migration):
    dependencies = [
        ("registry", "0006_deleted_versions"),
    ]

    operations = [
        migrations.RunPython(manifests_made, migrations.RunPython.noop),
    ]
