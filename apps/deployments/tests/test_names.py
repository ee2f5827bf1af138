"""Which names a tenant can have at all."""

from __future__ import annotations

import pytest

from apps.core.errors import BerthError
from apps.deployments import names

OWN = {"domains": ["apps.berth-cloud.net"], "hosts": ["console.ops-team.org"]}


def refusal(text: str) -> str:
    """The code, or what the name is."""
    try:
        name = names.host_of(text)
        names.own_refused(name, **OWN)
    except BerthError as error:
        return error.code
    return name


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("www.example.com", "www.example.com"),
        (" WWW.Example.COM. ", "www.example.com"),
        ("*.example.com", "*.example.com"),
        ("bücher.example.com", "xn--bcher-kva.example.com"),
        ("xn--bcher-kva.example.com", "xn--bcher-kva.example.com"),
        ("faß.example.com", "xn--fa-hia.example.com"),
        ("例子.example.com", "xn--fsqu00a.example.com"),
        ("www。example。com", "www.example.com"),
        ("ｗｗｗ.example.com", "www.example.com"),
        ("shop.co.uk", "shop.co.uk"),
        ("*.shop.co.uk", "*.shop.co.uk"),
        ("пример.example.com", "xn--e1afmkfd.example.com"),
        ("東京tokyo.example.com", "xn--tokyo-w91hq39l.example.com"),
    ],
)
def test_a_name_is_kept_as_dns_spells_it(typed: str, name: str) -> None:
    assert names.host_of(typed) == name


def test_a_name_is_shown_as_people_write_it() -> None:
    assert names.shown("xn--bcher-kva.example.com") == "bücher.example.com"
    assert names.shown("*.xn--bcher-kva.example.com") == "*.bücher.example.com"
    assert names.shown("www.example.com") == "www.example.com"


@pytest.mark.parametrize(
    "typed",
    [
        *("", ".", "*", "*.", "*.*.example.com", "a.*.example.com", "w*.example.com", "example.com/x", "a b.com"),
        *("a_b.example.com", "-a.example.com", "a-.example.com", "a..example.com", "xn--zzzzzz.com", "xn--.com"),
        *("1.2.3.4", "*.2.3.4", "[::1]", "::1", "0x7f.1", "a.0x1", "2130706433", "example", "a" * 64 + ".com"),
        *("example.com:80", "http://example.com", "exa\nmple.com", "exa\x00mple.com", "a." * 130 + "com"),
        *("example.com\r\nset server", "$(id).com", "a;b.com", "\u202eexample.com\u202c", "a\u200db.com", "\ud800.com"),
        *("a" * 60 + "." + "b" * 60 + "." + "c" * 60 + "." + "d" * 60 + ".com",),
    ],
)
def test_what_is_no_host_name_is_refused(typed: str) -> None:
    assert refusal(typed) == "domains.invalid"


@pytest.mark.parametrize(
    "typed",
    [
        *("shop.localhost", "printer.local", "db.internal", "x.home.arpa", "4.3.2.1.in-addr.arpa", "x.test"),
        *("shop.onion", "a.lan", "*.co.uk", "com.au", "*.org.br", "a.example", "x.invalid", "nas.home"),
    ],
)
def test_names_that_nobody_can_prove_are_refused(typed: str) -> None:
    assert refusal(typed) == "domains.reserved"


@pytest.mark.parametrize(
    "typed",
    [
        *("apps.berth-cloud.net", "APPS.berth-cloud.net.", "shop.apps.berth-cloud.net", "*.apps.berth-cloud.net"),
        *("a.b.apps.berth-cloud.net", "berth-cloud.net", "*.berth-cloud.net", "ａpps.berth-cloud.net"),
        *("console.ops-team.org", "x.console.ops-team.org", "*.ops-team.org", "*.console.ops-team.org"),
    ],
)
def test_the_platforms_own_names_and_what_is_above_or_below_them_are_refused(typed: str) -> None:
    assert refusal(typed) == "domains.reserved"


@pytest.mark.parametrize("typed", ["ops-team.org", "shop.ops-team.org", "berth-cloud.com", "apps.example.net"])
def test_names_beside_the_platforms_own_are_the_tenants_to_ask_for(typed: str) -> None:
    assert refusal(typed) == typed


@pytest.mark.parametrize(
    "typed",
    [
        "аpps.berth-cloud.net",  # Cyrillic a
        "apps.bеrth-cloud.net",  # Cyrillic e
        "xn--pps-5cd.berth-cloud.com".replace(".com", ".net"),
        "shop.apps.berth-clοud.net",  # Greek omicron
        "*.apps.berth-сloud.net",  # Cyrillic es
        "apps.bérth-cloud.net",
        "àpps.berth-cloud.net",
        "apps.berth-c1oud.net",
        "apps.berth-cl0ud.net",
        "apps.berth-cioud.net",
        "apps.berth-cløud.net",
        "apps.bertħ-cloud.net",
        "console.ops-tearn.org",
        "cоnsоle.ops-team.org",
        "*.оps-team.org",
        "berth-cłoud.net",
    ],
)
def test_what_looks_like_a_name_of_the_platform_is_refused(typed: str) -> None:
    assert refusal(typed) in {"domains.lookalike", "domains.reserved"}


@pytest.mark.parametrize("typed", ["pаypal.example.com", "gοogle.example.com", "xn--pypal-4ve.example.com"])
def test_letters_of_several_scripts_in_one_label_are_refused(typed: str) -> None:
    assert refusal(typed) == "domains.lookalike"


@pytest.mark.parametrize(
    ("typed", "prefix"), [("/", "/"), ("", "/"), ("/api", "/api"), ("/api/", "/api"), (" /a/b.c ", "/a/b.c")]
)
def test_a_prefix_is_kept_without_its_last_slash(typed: str, prefix: str) -> None:
    assert names.prefix_of(typed) == prefix


@pytest.mark.parametrize(
    "typed",
    ["api", "//", "/a//b", "/..", "/a/../b", "/a b", "/%2e", "/a?b", "/a\nb", "/é", "/a/b/c/d/e/f/g/h/i", "/a;x"],
)
def test_what_is_no_prefix_is_refused(typed: str) -> None:
    with pytest.raises(names.DomainInvalid):
        names.prefix_of(typed)


def test_a_wildcard_is_challenged_where_the_name_below_it_is() -> None:
    assert names.challenge_of("*.example.com") == names.challenge_of("example.com") == "_berth-challenge.example.com"


def test_the_names_above_one_end_at_two_labels() -> None:
    assert names.parents("a.b.example.com") == ["b.example.com", "example.com"]
    assert names.parents("*.example.com") == []
