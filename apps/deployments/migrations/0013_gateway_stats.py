from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("deployments", "0012_certificates"),
    ]

    operations = [
        migrations.AddField(
            model_name="gateway",
            name="stats",
            field=models.CharField(
                blank=True, db_default="", default="", help_text="where its counters are read", max_length=60
            ),
        ),
    ]
