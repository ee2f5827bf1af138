"""What an app's owner asks of the gateway is done: real HAProxy, real ZooKeeper."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import ipaddress
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.contract import ContractError, Policy, SignIn, network
from gateway.tables import network_digits
from gateway.tests.parts import App, Client, Gateway, Publisher, until
from gateway.tests.zookeeper import ZooKeeper

Make = Callable[..., App]
real = pytest.mark.real


@pytest.fixture
def shop(gateway: Gateway, publisher: Publisher, make_app: Make) -> Callable[..., App]:
    """Publishes shop.test, of one instance, with a policy."""
    one = make_app("one")

    def publish(**policy: Any) -> App:
        instances = {"1.0": {one.container: one.address}}
        publisher.await_served(publisher.publish("shop", instances, policy=Policy(**policy)))
        return one

    return publish


def _ask(
    gateway: Gateway, method: str = "GET", path: str = "/", body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
    try:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, {"Host": "shop.test", **names})
        response = connection.getresponse()
        response.read()
        return response.status, {name.lower(): value for name, value in response.getheaders()}
    finally:
        connection.close()


@real
def test_what_is_switched_off_again_is_off(gateway: Gateway, shop: Callable[..., App]) -> None:
    before = gateway.status()["haproxy_reloads"]
    for policy in (
        {"maintenance": True},
        {"https_only": True},
        {"deny": ("127.0.0.1",)},
        {"allow": ("10.0.0.0/8",)},
        {"sign_in": SignIn(base64.b64encode(b"x" * 16).decode(), ("0" * 64,))},
    ):
        shop()
        assert _ask(gateway)[0] == 200
        shop(**policy)
        assert _ask(gateway)[0] in (503, 308, 403, 401)
    shop()
    assert _ask(gateway)[0] == 200
    # All of it at run time.
    assert gateway.status()["haproxy_reloads"] == before


@real
def test_a_policy_is_one_app_s_alone_and_survives_a_reload(
    gateway: Gateway, publisher: Publisher, shop: Callable[..., App], make_app: Make
) -> None:
    shop(maintenance=True, deny=("10.0.0.0/8",), app_rate=5)
    other = make_app("other")
    zxid = 0
    for number in range(20):
        zxid = publisher.publish(f"app{number}", {"1.0": {other.container: other.address}})
    publisher.await_served(zxid)
    assert gateway.status()["haproxy_reloads"] > 0
    assert gateway.get("app3.test") == (200, "other")
    status, headers = _ask(gateway)
    assert (status, headers["retry-after"], headers["cache-control"]) == (503, "300", "no-store")
    publisher.await_served(publisher.remove("shop"))
    assert _ask(gateway)[0] == 404


@real
@pytest.mark.parametrize(
    ("policy", "status"),
    [
        ({"deny": ("127.0.0.0/8",)}, 403),
        ({"deny": ("127.0.0.0/31",)}, 403),
        ({"deny": ("127.0.0.2/31", "126.0.0.0/8", "::/0")}, 200),
        ({"deny": ("0.0.0.0/0",)}, 403),
        ({"allow": ("127.0.0.1",)}, 200),
        ({"allow": ("192.168.0.0/16", "2001:db8::/32")}, 403),
        ({"allow": ("127.0.0.0/8",), "deny": ("127.0.0.1",)}, 403),
    ],
)
def test_addresses_are_let_in_or_kept_out(
    gateway: Gateway, shop: Callable[..., App], policy: dict[str, Any], status: int
) -> None:
    shop(**policy)
    assert _ask(gateway, X_Forwarded_For="8.8.8.8")[0] == status


@real
def test_addresses_of_ipv6_are_too(
    publisher: Publisher, shared_zookeeper: ZooKeeper, make_gateway: Callable[..., Gateway], make_app: Make
) -> None:
    one = make_app("one")
    gateway = make_gateway(shared_zookeeper.hosts)
    gateway.end()
    gateway.set("BERTH_GATEWAY_HTTP_BIND", f"[::1]:{gateway.port}")
    gateway.start()

    def status(**policy: Any) -> int:
        zxid = publisher.publish("shop", {"1.0": {one.container: one.address}}, policy=Policy(**policy))
        publisher.await_served(zxid)
        connection = http.client.HTTPConnection("::1", gateway.port, timeout=10)
        connection.request("GET", "/", headers={"Host": "shop.test"})
        found = connection.getresponse().status
        connection.close()
        return found

    assert status(deny=("::1",)) == 403
    assert status(deny=("::/3",)) == 403
    assert status(deny=("0.0.0.0/0", "2001:db8::/32")) == 200
    assert status(allow=("::/127",)) == 200
    assert status(client_rate=1000) == 200


_any_network = st.one_of(
    st.builds(
        lambda raw, bits: str(ipaddress.ip_network((raw, bits), strict=False)),
        st.integers(0, 2**32 - 1),
        st.integers(0, 32),
    ),
    st.builds(
        lambda raw, bits: str(ipaddress.ip_network((raw.to_bytes(16, "big"), bits), strict=False)),
        st.integers(0, 2**128 - 1),
        st.integers(0, 128),
    ),
)


@given(_any_network, st.integers(0, 2**32 - 1), st.integers(0, 2**128 - 1))
def test_an_address_begins_with_a_networks_digits_exactly_where_it_is_inside(text: str, four: int, six: int) -> None:
    try:
        wanted = ipaddress.ip_network(network(text))
    except ContractError:
        return
    inside = wanted.network_address + (four % wanted.num_addresses)
    for address in (ipaddress.IPv4Address(four), ipaddress.IPv6Address(six), inside):
        packed = address.packed.hex().upper()
        told = any(f"{len(packed)}/{packed}".startswith(digits) for digits in network_digits(text))
        assert told == (address.version == wanted.version and address in wanted)


@real
def test_what_is_beyond_the_rate_gets_429_and_the_rest_passes(gateway: Gateway, shop: Callable[..., App]) -> None:
    one = shop(app_rate=20)
    answers = Counter(_ask(gateway)[0] for _ in range(120))
    assert set(answers) == {200, 429}
    assert 20 <= answers[200] == len(one.requests)
    # Who was refused does not count: it goes on at the rate, and not never.
    until(lambda: _ask(gateway)[0] == 200, "it is let in again", 3)


@real
def test_each_client_has_a_rate_of_its_own(gateway: Gateway, shop: Callable[..., App]) -> None:
    shop(client_rate=5)
    assert {_ask(gateway)[0] for _ in range(40)} == {200, 429}
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10, source_address=("127.0.0.9", 0))
    connection.request("GET", "/", headers={"Host": "shop.test"})
    assert connection.getresponse().status == 200
    connection.close()


@real
def test_http_leads_to_https_and_a_challenge_of_acme_is_answered_all_the_same(
    gateway: Gateway, publisher: Publisher, make_app: Make
) -> None:
    one = make_app("one")
    instances = {"1.0": {one.container: one.address}}
    policy = Policy(https_only=True, hsts_seconds=3600, maintenance=True)
    zxid = publisher.publish("shop", instances, policy=policy, challenges={"tok_en-1": "tok_en-1.thumb_print"})
    publisher.await_served(zxid)
    status, headers = _ask(gateway, "POST", "/a/b?c=d", b"x")
    assert (status, headers["location"]) == (308, "https://shop.test/a/b?c=d")
    assert "strict-transport-security" not in headers, "not over HTTP (RFC 6797, 7.2)"
    client = Client(gateway.port)
    assert client.get("shop.test", "/.well-known/acme-challenge/tok_en-1") == (200, "tok_en-1.thumb_print")
    assert client.get("shop.test", "/.well-known/acme-challenge/other")[0] == 308
    assert client.get("shop.test", "/x/acme-challenge/tok_en-1")[0] == 308
    assert not one.requests


@real
def test_only_people_with_a_password_come_in_and_it_stays_here(gateway: Gateway, shop: Callable[..., App]) -> None:
    salt = bytes(range(16))

    def header(name: str, password: str) -> str:
        return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()

    digests = tuple(
        hmac.new(salt, header(*pair).encode(), hashlib.sha256).hexdigest() for pair in (("ann", "pä:ss"), ("ben", "b"))
    )
    one = shop(sign_in=SignIn(base64.b64encode(salt).decode(), digests))
    status, headers = _ask(gateway)
    assert (status, headers["www-authenticate"].split()[0]) == (401, "Basic")
    assert _ask(gateway, Authorization=header("ann", "pä:ss"))[0] == 200
    assert _ask(gateway, Authorization=header("ben", "b"))[0] == 200
    for wrong in (header("ann", "b"), "Basic", "", header("ann", ""), "Bearer x", header("ann", "pä:ss") + "x"):
        assert _ask(gateway, Authorization=wrong)[0] == 401, wrong
    assert all("Authorization" not in seen for seen in one.requests)


@real
def test_bodies_and_headers_are_as_large_as_the_owner_lets_them(gateway: Gateway, shop: Callable[..., App]) -> None:
    one = shop(max_body_bytes=1000, max_header_bytes=2000)
    assert _ask(gateway, "POST", body=b"x" * 1000)[0] == 200
    assert _ask(gateway, "POST", body=b"x" * 1001)[0] == 413
    # A number that is small once it is cut to 32 bits.
    assert _ask(gateway, "POST", body=b"x" * 10, Content_Length=str((1 << 32) + 10))[0] == 413
    assert _ask(gateway, "POST", body=None, Transfer_Encoding="chunked")[0] == 411
    assert _ask(gateway, X_Long="y" * 1500)[0] == 200
    assert _ask(gateway, X_Long="y" * 2500)[0] == 431
    assert len(one.requests) == 2


@real
def test_an_answer_that_takes_too_long_ends_as_504(gateway: Gateway, shop: Callable[..., App]) -> None:
    one = shop(answer_timeout_ms=300)
    one.gate = threading.Event()
    assert _ask(gateway, path="/slow")[0] == 504
    one.gate.set()
    assert _ask(gateway)[0] == 200


@real
def test_a_request_waits_for_the_first_instance(gateway: Gateway, publisher: Publisher, make_app: Make) -> None:
    one = make_app("one")
    publisher.await_served(publisher.publish("shop", {}, {"1.0": 100}, policy=Policy(hold_ms=20_000)))
    answers: list[int] = []
    waiting = [threading.Thread(target=lambda: answers.append(_ask(gateway)[0])) for _ in range(10)]
    for thread in waiting:
        thread.start()
    until(lambda: gateway.connections() >= 10, "they wait")
    assert not answers
    publisher.await_served(
        publisher.publish("shop", {"1.0": {one.container: one.address}}, policy=Policy(hold_ms=20_000))
    )
    for thread in waiting:
        thread.join(10)
    assert answers == [200] * 10
    publisher.await_served(publisher.publish("shop", {}, {"1.0": 100}, policy=Policy(hold_ms=200)))
    assert _ask(gateway)[0] == 503, "not for ever"


@real
def test_whoever_asks_for_the_canary_gets_it_and_nobody_else(
    gateway: Gateway, publisher: Publisher, make_app: Make
) -> None:
    old, new = make_app("old"), make_app("new")
    instances = {"1.0": {old.container: old.address}, "2.0": {new.container: new.address}}
    policy = Policy(testers=(new.container,), answer_timeout_ms=300)
    zxid = publisher.publish("shop", instances, {"1.0": 100, "2.0": 0}, policy=policy)
    publisher.await_served(zxid)
    client = Client(gateway.port)
    assert {client.get("shop.test")[1] for _ in range(20)} == {"old"}
    assert client.get("shop.test", headers={"X-Berth-Canary": "always"}) == (200, "new")
    assert client.get("shop.test", headers={"Cookie": "a=b; berth-canary=always"}) == (200, "new")
    assert client.get("shop.test", headers={"Cookie": "berth-canary=never"}) == (200, "old")
    until(
        lambda: (counted := gateway.traffic("shop").containers.get(new.container)) and counted.requests == 2, "counted"
    )
    # The app's rules are its canary's too.
    new.gate = threading.Event()
    assert client.get("shop.test", "/slow", {"X-Berth-Canary": "always"})[0] == 504
    new.gate.set()
    publisher.await_served(publisher.publish("shop", {"1.0": instances["1.0"]}, {"1.0": 100}))
    assert client.get("shop.test", headers={"X-Berth-Canary": "always"}) == (200, "old")
