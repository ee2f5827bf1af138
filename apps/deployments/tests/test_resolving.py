"""Questions to a real DNS server on loopback: each kind of answer is told from the others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from apps.deployments.resolving import Answer, Outcome, PublicResolver
from tests.nameserver import NameServer, name_server


@pytest.fixture
def server() -> Iterator[NameServer]:
    with name_server() as made:
        yield made


@pytest.fixture
def resolver(server: NameServer) -> PublicResolver:
    return PublicResolver([server.address], timeout_s=0.6)


def test_texts_come_whole_and_all_of_them(server: NameServer, resolver: PublicResolver) -> None:
    server.records["a.example.com"]["TXT"] = ['"berth-" "verify=1"', '"v=spf1 -all"']
    answer = resolver.txt("a.example.com")
    assert answer.outcome == Outcome.FOUND
    assert sorted(answer.values) == ["berth-verify=1", "v=spf1 -all"]


def test_texts_behind_an_alias_are_found(server: NameServer, resolver: PublicResolver) -> None:
    server.cname("a.example.com", "b.example.net")
    server.txt("b.example.net", "there")
    assert resolver.txt("a.example.com").values == ("there",)


def test_an_alias_is_answered_as_dns_compares_names(server: NameServer, resolver: PublicResolver) -> None:
    server.cname("a.example.com", "Shop.LocalHost")
    assert resolver.cname("a.example.com") == Answer(Outcome.FOUND, ("shop.localhost",))


def test_no_such_name_no_such_record_silence_and_failure_are_four_answers(
    server: NameServer, resolver: PublicResolver
) -> None:
    server.cname("a.example.com", "b.example.com")
    server.txt("c.example.com", "x")
    server.broken |= {"s.example.com": "silent", "f.example.com": "SERVFAIL", "r.example.com": "REFUSED"}
    assert resolver.txt("n.example.com").outcome == Outcome.NO_NAME
    assert resolver.cname("c.example.com").outcome == Outcome.NONE
    assert resolver.txt("s.example.com").outcome == Outcome.TIMEOUT
    assert resolver.txt("f.example.com").outcome == Outcome.FAILED
    assert resolver.txt("r.example.com").outcome == Outcome.FAILED
    assert [Answer(one).is_sure for one in Outcome] == [True, True, True, False, False]


def test_bytes_that_are_no_text_and_floods_of_records_do_no_harm(server: NameServer, resolver: PublicResolver) -> None:
    server.records["a.example.com"]["TXT"] = ['"\\255\\000\\027"', *(f'"{number}"' for number in range(90))]
    answer = resolver.txt("a.example.com")
    assert answer.outcome == Outcome.FOUND
    assert "7" in answer.values


@pytest.mark.parametrize("text", ["9.9.9.9", "9.9.9.9:5353", "2620:fe::fe", "[2620:fe::fe]:53"])
def test_servers_are_named_by_address_with_or_without_a_port(text: str) -> None:
    PublicResolver([text])


def test_a_server_that_is_no_address_is_refused() -> None:
    with pytest.raises(ValueError, match="address"):
        PublicResolver(["dns.example.com"])
