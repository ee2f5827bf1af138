"""Asks gateways what they counted of an app. Plain HTTP to the addresses that gateways' nodes name, all at once."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable, Sequence

import httpx
import structlog

from gateway.contract import Address, AppTraffic, ContractError, GatewayState, app_id

#: All gateways are asked at once, and whoever has not answered by then is left out. Seconds.
TIMEOUT_S = 1.0
#: An app of a thousand containers tells about a tenth of this.
MAX_BYTES = 4_000_000

log = structlog.get_logger(__name__)


class Traffic:
    def of(self, app: str, states: Sequence[GatewayState], *, windows: bool = False) -> dict[str, AppTraffic]:
        """Gateway -> its counters of the app, of those that answer within TIMEOUT_S. Never raises.

        A gateway that names no address, or that does not know the app, is left out. ``windows``: with those.
        """
        try:
            asked = [(state.gateway, Address.parse(state.stats)) for state in states if state.stats]
            if not asked:
                return {}
            return asyncio.run(_ask_all(app_id(app), asked, windows))
        except Exception as error:
            # What is not known is not judged; a rollout must never stop because it could not be looked at.
            log.warning("traffic_unseen", app=app, error=repr(error))
            return {}


async def _ask_all(app: str, asked: Iterable[tuple[str, Address]], windows: bool) -> dict[str, AppTraffic]:
    # Made without any authority's certificate, which costs nothing; loading them all takes longer than the question.
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    async with httpx.AsyncClient(verify=nobody, timeout=TIMEOUT_S, trust_env=False) as client:
        params = {"app": app, "windows": "1"} if windows else {"app": app}
        found = await asyncio.gather(*(_ask(client, params, gateway, address) for gateway, address in asked))
    return {traffic.gateway: traffic for traffic in found if traffic is not None}


async def _ask(client: httpx.AsyncClient, params: dict[str, str], gateway: str, address: Address) -> AppTraffic | None:
    app = params["app"]
    try:
        async with asyncio.timeout(TIMEOUT_S):
            body = await _body(client, f"http://{address}/stats", params)
        if body is None:
            return None
        traffic = AppTraffic.from_json(body)
        if (traffic.gateway, traffic.app) != (gateway, app):
            raise ContractError(f"{traffic.gateway} answers about {traffic.app}")
    except (httpx.HTTPError, TimeoutError, OSError, ValueError, RecursionError) as error:
        log.warning("gateway_untold", gateway=gateway, app=app, error=repr(error))
        return None
    return traffic


async def _body(client: httpx.AsyncClient, url: str, params: dict[str, str]) -> bytes | None:
    """None where the gateway does not know the app. Raises ContractError for an answer that is too long."""
    body = b""
    async with client.stream("GET", url, params=params) as reply:
        if reply.status_code == httpx.codes.NOT_FOUND:
            return None
        reply.raise_for_status()
        async for chunk in reply.aiter_bytes():
            body += chunk
            if len(body) > MAX_BYTES:
                raise ContractError(f"more than {MAX_BYTES} bytes")
    return body
