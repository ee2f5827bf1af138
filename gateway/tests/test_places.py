"""Parts of host names, and wildcards, lead to apps: real HAProxy, real ZooKeeper."""

from __future__ import annotations

import http.client
from collections.abc import Callable

import pytest

from gateway.contract import Place
from gateway.tests.parts import App, Client, Gateway, Load, Publisher

pytestmark = pytest.mark.real
Make = Callable[..., App]


def _publish(publisher: Publisher, app: App, *places: Place, domains: tuple[str, ...] = ()) -> None:
    zxid = publisher.publish(app.name, {"1.0": {app.container: app.address}}, domains=domains, places=places)
    publisher.await_served(zxid)


def test_the_longest_prefix_counts_and_a_name_before_a_wildcard(
    gateway: Gateway, publisher: Publisher, make_app: Make
) -> None:
    root, api, deep, wild = (make_app(name) for name in ("root", "api", "deep", "wild"))
    _publish(publisher, root, domains=("www.example.com",))
    _publish(publisher, api, Place("www.example.com", "/api"), Place("*.example.com", "/only"))
    _publish(publisher, deep, Place("www.example.com", "/api/v2"))
    _publish(publisher, wild, Place("*.example.com"))
    client = Client(gateway.port)
    for path, answer in (
        ("/", "root"),
        ("/apix", "root"),
        ("/api", "api"),
        ("/api?x=/api/v2", "api"),
        ("/api/v1", "api"),
        ("/api/v2", "deep"),
        ("/api/v2/x/", "deep"),
        ("/API", "root"),
    ):
        assert client.get("www.example.com", path) == (200, answer), path
    assert client.get("shop.example.com", "/api") == (200, "wild")
    assert client.get("SHOP.example.com.:80", "/only") == (200, "api")
    # One label, as a wildcard certificate has it; and not the name above.
    assert client.get("a.b.example.com")[0] == 404
    assert client.get("example.com")[0] == 404
    assert client.get("*.example.com") == (200, "wild")


@pytest.mark.parametrize(
    "path",
    ["/api/../x", "/api/..", "/api/%2e%2e/x", "/api/%2E%2e/", "/api/..%2fx", "/api/./x", "/api/x\\..\\y", "/api/%5c.."],
)
def test_where_paths_decide_a_way_out_of_one_is_refused(
    gateway: Gateway, publisher: Publisher, make_app: Make, path: str
) -> None:
    root, api = make_app("root"), make_app("api")
    _publish(publisher, root, domains=("www.example.com", "other.example.com"))
    _publish(publisher, api, Place("www.example.com", "/api"))
    assert gateway.get("www.example.com", path)[0] == 400
    assert not api.requests
    # What an app makes of its paths is its own business where nobody else's are beside them.
    assert gateway.get("other.example.com", path)[0] == 200


def test_a_name_gets_parts_and_loses_them_and_no_request_fails(
    gateway: Gateway, publisher: Publisher, make_app: Make
) -> None:
    root, api = make_app("root"), make_app("api")
    _publish(publisher, root, domains=("www.example.com",))
    with Load(gateway.port, "www.example.com") as load:
        for _ in range(10):
            _publish(publisher, api, Place("www.example.com", "/api"))
            assert gateway.get("www.example.com", "/api/x") == (200, "api")
            load.after(30)
            _publish(publisher, api)
            assert gateway.get("www.example.com", "/api/x") == (200, "root")
            load.after(30)
    assert load.failures == []
    assert load.answers.keys() == {"root"}


def test_parts_are_there_after_a_restart_of_haproxy_and_of_the_agent(
    gateway: Gateway, publisher: Publisher, make_app: Make
) -> None:
    root, api = make_app("root"), make_app("api")
    _publish(publisher, root, domains=("www.example.com",))
    _publish(publisher, api, Place("www.example.com", "/api"), Place("*.example.com"))
    gateway.set("BERTH_GATEWAY_KEEP_HAPROXY", "1")
    for _ in range(2):
        gateway.end()
        gateway.start()
        assert gateway.get("www.example.com", "/api") == (200, "api")
        assert gateway.get("x.example.com") == (200, "api")
        assert gateway.get("www.example.com") == (200, "root")


def test_a_host_with_a_slash_in_it_is_no_way_into_a_part(
    gateway: Gateway, publisher: Publisher, make_app: Make
) -> None:
    api = make_app("api")
    _publish(publisher, api, Place("www.example.com", "/api"))
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
    connection.putrequest("GET", "/x", skip_host=True)
    connection.putheader("Host", "www.example.com/api")
    connection.endheaders()
    assert connection.getresponse().status in (400, 404)
    assert not api.requests
    connection.close()
