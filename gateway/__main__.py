"""``python -m gateway``: runs a gateway until SIGTERM or SIGINT. Exits 2 when it cannot begin."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

import structlog

from gateway import logs
from gateway.agent import Agent, AgentError
from gateway.settings import Settings, SettingsError
from gateway.status import StatusServer


def main() -> int:
    logs.configure(os.environ.get("BERTH_GATEWAY_ID", "")[:63])
    log = structlog.get_logger("gateway")
    try:
        settings = Settings.from_environment(os.environ)
        agent = Agent(settings)
        status = StatusServer(settings.status_bind, agent)
    except (SettingsError, AgentError, OSError) as error:
        log.error("gateway.cannot_start", error=str(error))
        return 2

    def stop(number: int, frame: FrameType | None) -> None:
        agent.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    status.begin()
    agent.run()
    status.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
