from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("registry", "0010_external_registries"),
    ]

    operations = [
        migrations.AddField(
            model_name="version",
            name="current_until",
            field=models.DateTimeField(
                blank=True, help_text="when the tag was last seen to name it no more, or to be gone", null=True
            ),
        ),
    ]
