"""Host names: claimed, proven in DNS, routed; and whose they are when two want one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from apps.core.clock import now
from apps.core.errors import BerthError, Denied
from apps.deployments.models import App, Domain, DomainName, FormerName
from apps.deployments.selectors import publication_of
from apps.deployments.selectors.domains import names_due
from apps.deployments.selectors.names import names_held
from apps.deployments.services.deleting import app_delete
from apps.deployments.services.domains import (
    PREFIXES_OF_NAME,
    domain_add,
    domain_change,
    domain_check,
    domain_remove,
)
from apps.deployments.tests.naming import Naming, told
from apps.tenants.services.tenants import QuotaExceeded
from tests.nameserver import name_server


@pytest.fixture
def naming() -> Iterator[Naming]:
    with name_server() as server:
        yield Naming(server)


@pytest.fixture
def shop(world):
    return world.app("shop")


@pytest.fixture
def theirs(world):
    """An app of the other tenant."""
    return world.app("theirs", tenant=world.rival, by=world.charlie)


def leads(app):
    found = publication_of(app.pk)
    return found.domains, found.places


def code_of(call):
    with pytest.raises(BerthError) as caught:
        call()
    return caught.value.code


# Proving ------------------------------------------------------------------------------------------------------


def test_a_name_routes_once_its_text_record_is_in_dns_and_not_before(world, shop, naming, nudges):
    domain = domain_add(app=shop, name="www.example.com", by=world.alice)
    assert ("deployments.check_domain", (domain.held.pk,)) in nudges or domain.held.check_at <= now()
    claim = naming.look(domain)
    assert (claim.status, claim.code) == ("pending", "domains.no_such_name")
    assert leads(shop) == (("shop.localhost",), ())
    wanted = App.objects.get(pk=shop.pk).route_wanted
    naming.server.txt("_berth-challenge.www.example.com", "berth-verify=wrong")
    assert naming.look(domain).code == "domains.proof_wrong"
    claim = naming.proven(domain)
    assert (claim.proof, claim.code) == ("txt", "")
    assert leads(shop) == (("shop.localhost", "www.example.com"), ())
    assert App.objects.get(pk=shop.pk).route_wanted > wanted
    assert told("domain.proven") == ["www.example.com is proven (txt), and routes."]
    assert names_held(shop.tenant_id) == {"www.example.com"}


def test_a_name_that_is_an_alias_of_one_of_the_tenants_apps_is_proven(world, shop, naming):
    world.app("blog")
    domain = domain_add(app=shop, name="www.example.com", by=world.alice)
    naming.server.cname("www.example.com", "elsewhere.example.net")
    assert naming.look(domain).code == "domains.proof_missing"
    naming.server.cname("www.example.com", "blog.localhost")
    claim = naming.look(domain)
    assert (claim.status, claim.proof) == ("proven", "cname")


def test_an_alias_of_anothers_app_proves_nothing(world, shop, theirs, naming):
    domain = domain_add(app=shop, name="www.example.com", by=world.alice)
    naming.server.cname("www.example.com", "theirs.localhost")
    assert naming.look(domain).status == "pending"


def test_anothers_record_proves_nothing(world, shop, theirs, naming):
    mine = domain_add(app=shop, name="www.example.com", by=world.alice)
    other = domain_add(app=theirs, name="www.example.com", by=world.charlie)
    naming.server.txt(mine.held.record_name, other.held.record_value)
    assert naming.look(mine).code == "domains.proof_wrong"


def test_a_wildcard_is_proven_by_a_text_record_only(world, shop, naming):
    domain = domain_add(app=shop, name="*.example.com", by=world.alice)
    naming.server.cname("*.example.com", "shop.localhost")
    naming.server.cname("example.com", "shop.localhost")
    assert naming.look(domain).status == "pending"
    naming.proven(domain)
    assert leads(shop) == (("shop.localhost",), (("*.example.com", "/"),))


@pytest.mark.parametrize(("broken", "code"), [("silent", "domains.dns_timeout"), ("SERVFAIL", "domains.dns_failed")])
def test_a_dns_that_cannot_be_asked_is_told_apart_from_one_that_says_no(world, shop, naming, broken, code):
    domain = domain_add(app=shop, name="www.example.com", by=world.alice)
    naming.server.broken["_berth-challenge.www.example.com"] = broken
    claim = naming.look(domain)
    assert (claim.status, claim.code) == ("pending", code)


def test_looks_come_further_and_further_apart_and_end_with_the_claim(world, shop, naming):
    domain = domain_add(app=shop, name="www.example.com", by=world.alice)
    waits = []
    for _ in range(10):
        claim = naming.look(domain)
        waits.append(round((claim.check_at - claim.checked_at).total_seconds()))
    assert waits == [15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 3600]
    DomainName.objects.update(expires_at=now())
    claim = naming.look(domain)
    assert (claim.status, claim.code, claim.check_at) == ("failed", "domains.expired", None)
    assert len(told("domain.failed")) == 1
    assert names_due(10) == []


def test_a_failed_claim_begins_anew_when_somebody_asks(world, shop, naming):
    domain = domain_add(app=shop, name="www.example.com", by=world.alice)
    DomainName.objects.update(expires_at=now())
    naming.look(domain)
    domain = Domain.objects.select_related("app", "held").get(pk=domain.pk)
    domain_check(domain=domain, by=world.alice)
    assert names_due(10) == [domain.held_id]
    assert naming.proven(domain).status == "proven"


def test_a_proof_that_comes_at_the_last_look_counts(world, shop, naming):
    domain = domain_add(app=shop, name="www.example.com", by=world.alice)
    DomainName.objects.update(expires_at=now() - timedelta(days=1))
    assert naming.proven(domain).status == "proven"


def test_what_is_not_due_is_not_looked_at(world, shop, naming):
    from apps.deployments import reconcile

    domain = domain_add(app=shop, name="www.example.com", by=world.alice)
    naming.look(domain)
    asked = len(naming.server.asked)
    reconcile.domain_prove(domain.held_id, naming.clients)
    assert len(naming.server.asked) == asked
    assert names_due(10) == []


def test_asking_for_looks_again_and_again_gives_one_at_a_time(world, shop, naming):
    domain = domain_add(app=shop, name="www.example.com", by=world.alice)
    naming.look(domain)
    domain = Domain.objects.select_related("app", "held").get(pk=domain.pk)
    domain_check(domain=domain, by=world.alice)
    assert names_due(10) == []
    DomainName.objects.update(checked_at=now() - timedelta(seconds=11))
    domain_check(domain=domain, by=world.alice)
    assert names_due(10) == [domain.held_id]


# Held ---------------------------------------------------------------------------------------------------------


def test_a_proof_that_goes_is_told_once_and_stops_no_traffic(world, shop, naming):
    domain = domain_add(app=shop, name="www.example.com", by=world.alice)
    naming.proven(domain)
    naming.server.forget()
    for _ in range(3):
        claim = naming.look(domain)
    assert (claim.status, claim.code) == ("proven", "domains.no_such_name")
    assert claim.missing_since is not None
    assert "www.example.com" in leads(shop)[0]
    assert len(told("domain.proof_gone")) == 1
    assert naming.proven(domain).missing_since is None
    assert len(told("domain.proof_back")) == 1


def test_a_dns_that_cannot_be_asked_says_nothing_about_what_is_held(world, shop, naming):
    domain = domain_add(app=shop, name="www.example.com", by=world.alice)
    naming.proven(domain)
    naming.server.broken["_berth-challenge.www.example.com"] = "SERVFAIL"
    claim = naming.look(domain)
    assert (claim.status, claim.missing_since, claim.code) == ("proven", None, "domains.dns_failed")
    assert told("domain.proof_gone") == []


def test_a_held_name_is_looked_at_once_a_day(world, shop, naming):
    claim = naming.proven(domain_add(app=shop, name="www.example.com", by=world.alice))
    assert claim.check_at - claim.checked_at == timedelta(days=1)


# Two tenants --------------------------------------------------------------------------------------------------


def test_of_two_who_wait_the_first_that_proves_gets_it_and_the_other_is_told(world, shop, theirs, naming):
    mine = domain_add(app=shop, name="www.example.com", by=world.alice)
    other = domain_add(app=theirs, name="www.example.com", by=world.charlie)
    assert mine.held.token != other.held.token
    naming.server.txt(mine.held.record_name, other.held.record_value, mine.held.record_value)
    assert naming.look(other).status == "proven"
    assert DomainName.objects.get(pk=mine.held_id).code == "domains.held"
    assert len(told("domain.held")) == 1
    # Also when it could prove it as well: the name has a holder, whose proof stands.
    claim = naming.look(mine)
    assert (claim.status, claim.code) == ("pending", "domains.held")
    assert leads(shop)[0] == ("shop.localhost",)
    assert leads(theirs)[0] == ("theirs.localhost", "www.example.com")


@pytest.mark.parametrize(
    ("held", "asked"),
    [
        ("www.example.com", "www.example.com"),
        ("www.example.com", "WWW.EXAMPLE.COM."),
        ("*.example.com", "*.example.com"),
        ("*.example.com", "shop.example.com"),
        ("*.example.com", "a.b.example.com"),
        ("*.example.com", "*.b.example.com"),
        ("shop.example.com", "*.example.com"),
        ("a.b.example.com", "*.example.com"),
        ("*.b.example.com", "*.example.com"),
        ("bücher.example.com", "xn--bcher-kva.example.com"),
    ],
)
def test_what_another_tenant_holds_or_covers_is_refused(world, shop, theirs, naming, held, asked):
    naming.proven(domain_add(app=theirs, name=held, by=world.charlie))
    assert code_of(lambda: domain_add(app=shop, name=asked, by=world.alice)) == "domains.held"
    assert not DomainName.objects.filter(tenant=world.acme).exists()


@pytest.mark.parametrize(
    ("held", "asked"),
    [
        ("example.com", "www.example.com"),
        ("www.example.com", "example.com"),
        ("*.example.com", "example.com"),
        ("*.a.example.com", "b.example.com"),
        ("www.example.com", "www.example.org"),
        ("xexample.com", "*.example.com"),
    ],
)
def test_what_does_not_meet_may_be_another_tenants(world, shop, theirs, naming, held, asked):
    naming.proven(domain_add(app=theirs, name=held, by=world.charlie))
    naming.proven(domain_add(app=shop, name=asked, by=world.alice))


def test_the_tenants_own_names_may_meet(world, shop, naming):
    for name in ("*.example.com", "www.example.com", "example.com"):
        naming.proven(domain_add(app=shop, name=name, by=world.alice))


@pytest.mark.parametrize(("first", "second"), [("*.example.com", "a.example.com"), ("a.example.com", "*.example.com")])
def test_names_that_meet_and_waited_together_are_held_by_the_first_that_proves(
    world, shop, theirs, naming, first, second
):
    mine = domain_add(app=shop, name=first, by=world.alice)
    other = domain_add(app=theirs, name=second, by=world.charlie)
    naming.proven(mine)
    naming.server.txt(other.held.record_name, mine.held.record_value, other.held.record_value)
    claim = naming.look(other)
    assert (claim.status, claim.code) == ("pending", "domains.held")


def test_a_name_passes_on_once_the_old_proof_is_gone_and_the_new_one_is_there(world, shop, theirs, naming):
    old = domain_add(app=theirs, name="www.example.com", by=world.charlie)
    naming.proven(old)
    naming.server.forget()
    naming.look(old)
    new = domain_add(app=shop, name="www.example.com", by=world.alice)
    assert naming.look(new).status == "pending"
    assert "www.example.com" in leads(theirs)[0]
    naming.proven(new)
    lost = DomainName.objects.get(pk=old.held_id)
    assert (lost.status, lost.code) == ("failed", "domains.lost")
    assert leads(theirs)[0] == ("theirs.localhost",)
    assert leads(shop)[0] == ("shop.localhost", "www.example.com")
    assert len(told("domain.lost")) == 1


def test_a_holder_whose_proof_came_back_keeps_the_name(world, shop, theirs, naming):
    old = domain_add(app=theirs, name="www.example.com", by=world.charlie)
    naming.proven(old)
    naming.server.forget()
    naming.look(old)
    new = domain_add(app=shop, name="www.example.com", by=world.alice)
    naming.server.txt(old.held.record_name, old.held.record_value, new.held.record_value)
    assert naming.look(new).code == "domains.held"
    assert DomainName.objects.get(pk=old.held_id).status == "proven"


def test_a_holder_whose_proof_cannot_be_asked_for_keeps_the_name(world, shop, theirs, naming):
    old = domain_add(app=theirs, name="a.example.com", by=world.charlie)
    naming.proven(old)
    naming.server.forget()
    naming.look(old)
    new = domain_add(app=shop, name="*.example.com", by=world.alice)
    naming.server.txt(new.held.record_name, new.held.record_value)
    naming.server.broken["_berth-challenge.a.example.com"] = "SERVFAIL"
    assert naming.look(new).code == "domains.held"


def test_an_alias_alone_takes_no_name_from_who_held_it(world, shop, theirs, naming):
    """DNS may still point here from the other's time: whoever makes an app of that name must not get it so."""
    old = domain_add(app=theirs, name="www.example.com", by=world.charlie)
    naming.proven(old)
    domain_remove(domain=old, by=world.charlie)
    naming.server.forget()
    new = domain_add(app=shop, name="www.example.com", by=world.alice)
    naming.server.cname("www.example.com", "shop.localhost")
    claim = naming.look(new)
    assert (claim.status, claim.code) == ("pending", "domains.txt_needed")
    naming.proven(new)


def test_an_alias_of_an_app_that_was_anothers_proves_nothing(world, shop, theirs, naming, loop):
    FormerName.objects.create(name="shop.localhost", tenant_id=world.rival.pk, ended_at=now())
    new = domain_add(app=shop, name="www.example.com", by=world.alice)
    naming.server.cname("www.example.com", "shop.localhost")
    assert naming.look(new).code == "domains.txt_needed"


def test_a_held_name_that_is_refused_to_others_is_looked_at_soon(world, shop, theirs, naming):
    old = domain_add(app=theirs, name="www.example.com", by=world.charlie)
    naming.proven(old)
    assert code_of(lambda: domain_add(app=shop, name="www.example.com", by=world.alice)) == "domains.held"
    assert names_due(10) == []
    DomainName.objects.update(checked_at=now() - timedelta(minutes=11))
    assert code_of(lambda: domain_add(app=shop, name="www.example.com", by=world.alice)) == "domains.held"
    assert names_due(10) == [old.held_id]


# What leads where ---------------------------------------------------------------------------------------------


def test_parts_of_a_name_lead_to_different_apps_of_the_tenant(world, shop, naming):
    api = world.app("api2")
    whole = domain_add(app=shop, name="example.com", by=world.alice)
    naming.proven(whole)
    part = domain_add(app=api, name="example.com", prefix="/api/", by=world.alice)
    assert part.held_id == whole.held_id
    assert leads(shop) == (("example.com", "shop.localhost"), ())
    assert leads(api) == (("api2.localhost",), (("example.com", "/api"),))
    assert code_of(lambda: domain_add(app=shop, name="example.com", prefix="/api", by=world.alice)) == "domains.exists"


def test_a_name_moves_to_another_app_or_another_prefix(world, shop, naming):
    blog = world.app("blog")
    domain = domain_add(app=shop, name="example.com", by=world.alice)
    naming.proven(domain)
    domain = domain_change(domain=domain, app=blog, by=world.alice)
    assert (leads(shop)[0], leads(blog)[0]) == (("shop.localhost",), ("blog.localhost", "example.com"))
    domain = domain_change(domain=domain, prefix="/x", by=world.alice)
    assert leads(blog)[1] == (("example.com", "/x"),)
    domain_add(app=shop, name="example.com", by=world.alice)
    assert code_of(lambda: domain_change(domain=domain, prefix="/", by=world.alice)) == "domains.exists"


def test_a_name_does_not_move_to_another_tenants_app(world, shop, theirs, naming):
    domain = domain_add(app=shop, name="example.com", by=world.alice)
    assert code_of(lambda: domain_change(domain=domain, app=theirs, by=world.alice)) == "domains.invalid"


def test_a_name_that_is_removed_stops_routing_and_is_anybodys(world, shop, theirs, naming):
    domain = domain_add(app=shop, name="example.com", by=world.alice)
    naming.proven(domain)
    domain_remove(domain=domain, by=world.alice)
    assert leads(shop) == (("shop.localhost",), ())
    assert not DomainName.objects.exists()
    naming.server.forget()
    naming.proven(domain_add(app=theirs, name="example.com", by=world.charlie))


def test_the_platforms_address_stays(world, shop):
    own = shop.domains.get(is_platform=True)
    for call in (domain_remove, domain_check, domain_change):
        assert code_of(lambda call=call: call(domain=own, by=world.alice)) == "domains.of_platform"


def test_deleting_an_app_gives_back_names_that_lead_nowhere_else(world, shop, naming, loop):
    blog = world.app("blog")
    naming.proven(domain_add(app=shop, name="one.example.com", by=world.alice))
    naming.proven(domain_add(app=shop, name="both.example.com", by=world.alice))
    domain_add(app=blog, name="both.example.com", prefix="/blog", by=world.alice)
    app_delete(app=shop, by=world.alice, confirm="shop")
    loop.settle()
    assert not App.objects.filter(slug="shop").exists()
    assert list(DomainName.objects.values_list("name", flat=True)) == ["both.example.com"]
    former = FormerName.objects.filter(tenant_id=world.acme.pk).values_list("name", flat=True)
    assert set(former) == {"one.example.com", "shop.localhost"}


def test_an_app_that_is_being_deleted_takes_no_name(world, shop):
    App.objects.filter(pk=shop.pk).update(deleting_at=now())
    assert code_of(lambda: domain_add(app=shop, name="example.com", by=world.alice)) == "apps.deleting"


# Limits and roles ---------------------------------------------------------------------------------------------


def test_a_tenant_has_so_many_names_and_a_name_so_many_prefixes(world, shop, settings):
    settings.DOMAINS_PER_TENANT = 2
    for name in ("a.example.com", "b.example.com"):
        domain_add(app=shop, name=name, by=world.alice)
    with pytest.raises(QuotaExceeded):
        domain_add(app=shop, name="c.example.com", by=world.alice)
    for number in range(PREFIXES_OF_NAME - 1):
        domain_add(app=shop, name="a.example.com", prefix=f"/{number}", by=world.alice)
    with pytest.raises(QuotaExceeded):
        domain_add(app=shop, name="a.example.com", prefix="/more", by=world.alice)


@pytest.mark.parametrize("name", ["bob", "vera", "charlie"])
def test_only_who_manages_the_app_changes_its_names(world, shop, name):
    by = getattr(world, name)
    with pytest.raises(Denied):
        domain_add(app=shop, name="example.com", by=by)
    domain = domain_add(app=shop, name="example.com", by=world.alice)
    for call in (domain_remove, domain_check, domain_change):
        with pytest.raises(Denied):
            call(domain=domain, by=by)


@pytest.mark.parametrize("name", ["x.localhost", "localhost", "registry.local", "*.com", "10.0.0.1"])
def test_names_that_can_be_nobodys_are_refused_before_anything_is_kept(world, shop, name):
    assert code_of(lambda: domain_add(app=shop, name=name, by=world.alice)).startswith("domains.")
    assert not DomainName.objects.exists()


def test_the_platforms_portal_and_registry_and_what_operators_list_are_its_own(world, shop, settings):
    settings.PLATFORM_DOMAIN = "apps.example.net"
    settings.PORTAL_URL = "https://console.example.org"
    settings.REGISTRY_PUBLIC = "images.example.org:5443"
    settings.PLATFORM_NAMES = ["gw1.example.org"]
    for name in ("apps.example.net", "x.apps.example.net", "example.net", "console.example.org", "images.example.org"):
        assert code_of(lambda name=name: domain_add(app=shop, name=name, by=world.alice)) == "domains.reserved"
    assert code_of(lambda: domain_add(app=shop, name="gw1.example.org", by=world.alice)) == "domains.reserved"
    assert code_of(lambda: domain_add(app=shop, name="cоnsole.example.org", by=world.alice)) == "domains.lookalike"
    domain_add(app=shop, name="example.org", by=world.alice)
