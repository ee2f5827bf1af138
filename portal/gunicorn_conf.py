"""How gunicorn serves the portal: ``gunicorn --config python:portal.gunicorn_conf portal.asgi:application``.

Workers, addresses and directories come from the command line; what every installation wants stands here.
"""

from __future__ import annotations

import os

from portal.settings.logs import logging_config

# Connections to PostgreSQL of each process; portal/settings/base.py says why. Read before Django is set up.
os.environ.setdefault("BERTH_DATABASE_POOL", "10")
worker_class = "uvicorn_worker.UvicornWorker"
# Its own lines in the same form as ours; requests are logged by django-structlog, with user and request id.
logconfig_dict = logging_config(
    json=os.environ.get("BERTH_LOG_JSON", "1").lower() not in {"0", "false", "no", "off"},
    level=os.environ.get("BERTH_LOG_LEVEL", "INFO"),
)
# gunicorn cuts its loggers off from the root; without handlers of their own they would write plain text.
for _name in ("gunicorn.error", "gunicorn.access"):
    logconfig_dict["loggers"][_name] = {"propagate": True}
# A socket below the home directory that every gunicorn of the user would share.
control_socket_disable = True
graceful_timeout = 10
# Seconds that an idle connection stays open. Longer than clients and proxies keep theirs (httpx 5, nginx 60, AWS' load
# balancer 60): the side that closes first must be the one that sends the next request, or a request meets the closing
# connection and is reset. gunicorn's own 2 seconds did that to a client that asked every two seconds.
keepalive = 75
