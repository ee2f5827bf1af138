"""What stands in HAProxy's maps for the apps that are wanted. Pure.

The letters of POLICY switch rules on, so that a request to an app without any of them costs one look-up.
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Iterator, Mapping

from gateway.contract import Place, Policy, Route
from gateway.model import AppState, Table, Tables, backend_name

#: The slot of an app's canary, for those who ask for it, is assigned under this name behind the app's.
TESTERS = "+testers"

_NUMBERS = (
    ("app_rate", "r", Table.APP_RATE),
    ("client_rate", "c", Table.CLIENT_RATE),
    ("max_body_bytes", "s", Table.BODY),
    ("max_header_bytes", "l", Table.HEADER),
    ("hold_ms", "h", Table.HOLD),
    ("answer_timeout_ms", "t", Table.TIMEOUT),
    ("hsts_seconds", "y", Table.HSTS),
)


def claims(route: Route) -> Iterator[str]:
    """What an app would have of what only one app can have: names, parts of names, ports, and names for TLS."""
    for name in route.domains:
        yield name
    for place in route.places:
        yield place.host if place.prefix == "/" else f"{place.host}{place.prefix}"
    for port in route.ports:
        yield f":{port}"
    for name in route.passthrough:
        yield f"tls:{name}"


def owners(apps: Mapping[str, AppState], previous: Mapping[str, str]) -> dict[str, str]:
    """Claim -> app. Of two apps with one claim, the one that has it keeps it, else the first by id.

    The platform lets only one app claim a name; this keeps a fault there from moving somebody's traffic.
    """
    found: dict[str, str] = {}
    for app in sorted(apps):
        for claim in claims(apps[app].route):
            if claim not in found or previous.get(claim) == app:
                found[claim] = app
    return found


#: App -> its route, backend and canary, and what they came to.
Policies = dict[str, tuple[Route, str, str, dict[Table, dict[str, str]]]]


def tables(
    apps: Mapping[str, AppState],
    slots: Mapping[str, int],
    owned: Mapping[str, str],
    served: frozenset[int],
    policies: Policies | None = None,
) -> Tables:
    """``served``: slots that have servers. ``policies``: of the last time; brought up to date."""
    before = policies if policies is not None else {}
    found: dict[Table, dict[str, str]] = defaultdict(dict)
    _leading(found, apps, slots, owned)
    for app, state in apps.items():
        slot = slots[app]
        if state.route.policy.asleep and slot not in served:
            found[Table.ASLEEP][backend_name(slot)] = "1"
        testers = slots.get(app + TESTERS)
        canary = backend_name(testers) if testers is not None and testers in served else ""
        backend = backend_name(slot)
        known = before.get(app)
        if known is None or known[0] is not state.route or known[1] != backend or known[2] != canary:
            mine: dict[Table, dict[str, str]] = defaultdict(dict)
            _policy(mine, backend, state.route, canary)
            before[app] = known = (state.route, backend, canary, mine)
        for table, entries in known[3].items():
            found[table].update(entries)
    for app in before.keys() - apps.keys():
        del before[app]
    return {table: found[table] for table in Table if found.get(table)}


def _leading(
    found: dict[Table, dict[str, str]],
    apps: Mapping[str, AppState],
    slots: Mapping[str, int],
    owned: Mapping[str, str],
) -> None:
    places: dict[str, dict[str, str]] = defaultdict(dict)
    for claim, app in owned.items():
        backend = backend_name(slots[app])
        tcp = apps[app].route.protocol == "tcp"
        if claim.startswith(":") and tcp:
            found[Table.PORT][claim[1:]] = backend
        elif claim.startswith("tls:") and tcp:
            found[Table.PASSTHROUGH][claim[4:]] = backend
        elif not tcp and not claim.startswith((":", "tls:")):
            host, _, prefix = claim.partition("/")
            places[host][f"/{prefix}"] = backend
    for host, prefixes in places.items():
        if prefixes.keys() == {"/"}:
            found[Table.HOST][host] = prefixes["/"]
        else:
            found[Table.PLACE].update({place_key(Place(host, at)): backend for at, backend in prefixes.items()})


def place_key(place: Place) -> str:
    """A slash at the end: /api leads /api and /api/x somewhere, and /apix nowhere."""
    return f"{place.host}{place.prefix.rstrip('/')}/"


def _policy(found: dict[Table, dict[str, str]], backend: str, route: Route, canary: str) -> None:
    policy = route.policy
    letters = "".join(
        letter
        for letter, on in (
            ("m", policy.maintenance),
            ("e", policy.https_only),
            ("d", policy.deny),
            ("a", policy.allow),
            ("b", policy.sign_in),
            ("k", canary),
            ("w", route.challenges),
        )
        if on
    )
    for name, letter, table in _NUMBERS:
        if value := getattr(policy, name):
            letters += letter
            found[table][backend] = str(value)
    if letters:
        found[Table.POLICY][backend] = letters
    if canary:
        found[Table.CANARY][backend] = canary
    for token, answer in route.challenges.items():
        found[Table.CHALLENGE][f"{backend}/{token}"] = answer
    _guards(found, backend, policy)


def _guards(found: dict[Table, dict[str, str]], backend: str, policy: Policy) -> None:
    for table, networks in ((Table.DENY, policy.deny), (Table.ALLOW, policy.allow)):
        for network in networks:
            for digits in network_digits(network):
                found[table][f"{backend}/{digits}"] = "1"
    if policy.sign_in is not None:
        found[Table.SALT][backend] = policy.sign_in.salt
        for digest in policy.sign_in.digests:
            found[Table.PERSON][f"{backend}/{digest}"] = "1"


def network_digits(network: str) -> Iterator[str]:
    """A network as beginnings of addresses in hexadecimal digits, the number of digits in front: at most eight.

    HAProxy finds the longest beginning in a tree, whatever the number of networks. It has no look-up of networks that
    goes by app.
    """
    found = ipaddress.ip_network(network)
    bits = -(-found.prefixlen // 4) * 4
    for one in found.subnets(new_prefix=bits) if bits > found.prefixlen else [found]:
        yield f"{one.max_prefixlen // 4}/{one.network_address.packed.hex().upper()[: bits // 4]}"
