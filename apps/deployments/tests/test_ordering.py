"""One order's steps with an authority in memory: what it waits for, and how each failure ends."""

from __future__ import annotations

from datetime import timedelta

import pytest

from apps.core.clock import now
from apps.deployments.authority_client import Asked, AuthorityError, NotYet
from apps.deployments.models import App, Certificate, Challenge, DomainName
from apps.deployments.reconcile import certificates_publish, gateways_observe, reconcile_certificate
from apps.deployments.reconcile.ordering import BACKOFF_S, MOST_ATTEMPTS
from apps.deployments.reconcile.routes import publish
from apps.deployments.selectors.certificates import orders_due
from apps.deployments.services.certificates import (
    CertificateBusy,
    CertificateTaken,
    NameNotHeld,
    OrderingOff,
    certificate_delete,
    certificate_order,
    certificate_retry,
    renewals_begin,
)
from gateway.tests.pki import SEALING_KEY, Authority

pytestmark = pytest.mark.django_db
NAME = "shop.example.com"
CA = Authority()


class Memory:
    """``says``: what the next step raises instead."""

    def __init__(self):
        self.did = []
        self.says = None
        self.made_for = NAME

    def __call__(self):
        return self

    def _do(self, what):
        self.did.append(what)
        said, self.says = self.says, None
        if said is not None:
            raise said

    def register(self, email):
        raise NotImplementedError

    def begin(self, names):
        self._do("begin")
        issued = CA.issue(self.made_for)
        order = {"uri": "u", "chain": issued.chain, "key": issued.key}
        return order, [Asked(names[0], f"token{len(self.did)}", "token.answer")]

    def answer(self, order):
        self._do("answer")

    def finish(self, order):
        self._do("finish")
        return order["chain"], order["key"]


@pytest.fixture(autouse=True)
def on(settings):
    settings.GATEWAY_CERTIFICATE_KEYS = [SEALING_KEY]
    settings.ACME_DIRECTORY_URL = "https://ca.example.com/directory"


@pytest.fixture
def ca():
    return Memory()


@pytest.fixture
def row(world, loop):
    app = world.app()
    world.holds(app, NAME)
    loop.discovery.served = {"gw1": 0}
    return certificate_order(tenant=world.acme, name=NAME, by=world.alice)


def step(row, ca):
    reconcile_certificate(row.pk, ca)
    row.refresh_from_db()
    return row.status


def gateways_follow(loop, row):
    app = App.objects.get(slug="shop")
    publish(app.pk, app.slug, loop.clients)
    gateways_observe(loop.clients)


def issued(row, ca, loop):
    step(row, ca)
    gateways_follow(loop, row)
    assert step(row, ca) == "ready"


def test_the_authority_is_told_only_once_every_gateway_answers(row, ca, loop):
    assert step(row, ca) == "proving"
    assert step(row, ca) == "proving"
    assert ca.did == ["begin"]
    loop.discovery.automatic = False
    gateways_follow(loop, row)
    assert loop.discovery.challenges["shop"] == {"token1": "token.answer"}
    step(row, ca)
    assert ca.did == ["begin"]
    loop.discovery.served = {"gw1": loop.discovery.zxid, "gw2": 0}
    gateways_observe(loop.clients)
    step(row, ca)
    assert ca.did == ["begin"]
    loop.discovery.served = dict.fromkeys(("gw1", "gw2"), loop.discovery.zxid)
    gateways_observe(loop.clients)
    assert step(row, ca) == "ready"
    assert ca.did == ["begin", "answer", "finish"]
    assert row.order == {}
    assert row.not_after > row.renew_at > now()
    certificates_publish(loop.clients)
    assert list(loop.discovery.certificate_nodes) == [row.node]
    gateways_follow(loop, row)
    assert loop.discovery.challenges["shop"] == {}


def test_one_that_is_answered_is_finished_by_whoever_comes_next(row, ca, loop):
    step(row, ca)
    gateways_follow(loop, row)
    ca.says = RuntimeError("killed")
    with pytest.raises(RuntimeError):
        step(row, ca)
    assert step(row, ca) == "ready"
    assert ca.did == ["begin", "answer", "answer", "finish"]


def test_an_authority_that_is_not_done_is_asked_again_and_not_told_twice(row, ca, loop):
    step(row, ca)
    gateways_follow(loop, row)
    for _ in range(2):
        real, ca._do = ca._do, None

        def do(what, real=real):
            real(what)
            if what == "finish":
                raise NotYet

        ca._do = do
        assert step(row, ca) == "proving"
        ca._do = real
    assert step(row, ca) == "ready"
    assert ca.did.count("answer") == 1


def test_failures_are_tried_again_ever_more_seldom_and_end(row, ca):
    waits = []
    for _ in range(MOST_ATTEMPTS):
        Certificate.objects.filter(pk=row.pk).update(retry_at=None)
        ca.says = AuthorityError("refused", "connection", "no route")
        step(row, ca)
        waits.append((row.retry_at - now()).total_seconds())
    assert row.status == "failed"
    assert row.code == "certificates.connection"
    assert [round(one, -1) for one in waits[:5]] == list(BACKOFF_S)
    assert orders_due(10) == []


def test_an_authority_that_is_away_counts_for_nothing_and_one_that_is_asked_too_much_is_left_alone(row, ca):
    for kind, at_least in (("away", 60), ("limited", 3600)):
        Certificate.objects.filter(pk=row.pk).update(retry_at=None)
        ca.says = AuthorityError(kind, "x", "words")
        assert step(row, ca) == "waiting"
        assert row.attempts == 0
        assert (row.retry_at - now()).total_seconds() > at_least
    ca.says = None
    assert step(row, ca) == "waiting"  # not yet
    assert len(ca.did) == 2


def test_the_platforms_own_limit_makes_orders_wait(row, ca, settings):
    settings.ACME_ORDERS_PER_HOUR = 0
    assert step(row, ca) == "waiting"
    assert (row.code, row.attempts, ca.did) == ("certificates.waits", 0, [])


def test_an_order_that_gateways_do_not_follow_ends_in_time(row, ca):
    step(row, ca)
    Certificate.objects.filter(pk=row.pk).update(deadline_at=now() - timedelta(seconds=1))
    assert step(row, ca) == "waiting"
    assert (row.code, row.attempts) == ("certificates.too_late", 1)
    assert not Challenge.objects.exists()


def test_a_name_that_is_given_up_ends_the_order(row, ca):
    DomainName.objects.filter(name=NAME).delete()
    assert step(row, ca) == "failed"
    assert (row.code, ca.did) == ("certificates.name_lost", [])


def test_a_certificate_for_another_name_is_not_taken(row, ca, loop):
    ca.made_for = "other.example.com"
    step(row, ca)
    gateways_follow(loop, row)
    assert step(row, ca) == "waiting"
    assert (row.code, row.chain) == ("certificates.bad_certificate", "")


def test_a_renewal_that_fails_leaves_the_certificate_and_is_tried_the_next_day(row, ca, loop):
    issued(row, ca, loop)
    chain = row.chain
    Certificate.objects.filter(pk=row.pk).update(renew_at=now())
    assert renewals_begin() == 1
    ca.says = AuthorityError("final", "caa", "forbidden")
    assert step(row, ca) == "failed"
    assert row.chain == chain
    certificates_publish(loop.clients, everything=True)
    assert list(loop.discovery.certificate_nodes) == [row.node]
    assert renewals_begin() == 0
    Certificate.objects.filter(pk=row.pk).update(retry_at=now())
    assert renewals_begin() == 1
    gateways_follow(loop, row)
    issued(row, ca, loop)
    assert row.chain != chain


def test_a_deleted_order_takes_its_answers_along(row, ca, loop, world):
    step(row, ca)
    gateways_follow(loop, row)
    certificate_delete(tenant=world.acme, uid=row.uid, by=world.alice)
    gateways_follow(loop, row)
    assert loop.discovery.challenges["shop"] == {}
    reconcile_certificate(row.pk, ca)
    assert ca.did == ["begin"]


def test_there_is_one_order_for_a_name_and_only_for_a_tenants_own(row, world, settings):
    with pytest.raises(CertificateTaken):
        certificate_order(tenant=world.acme, name=NAME, by=world.alice)
    for name in ("other.example.com", "shop.localhost", "*.example.com", "a b", "SHOP.example.com."):
        with pytest.raises(NameNotHeld):
            certificate_order(tenant=world.acme, name=name, by=world.alice)
    with pytest.raises(NameNotHeld):
        certificate_order(tenant=world.rival, name=NAME, by=world.charlie)
    settings.ACME_DIRECTORY_URL = ""
    with pytest.raises(OrderingOff):
        certificate_order(tenant=world.acme, name=NAME, by=world.alice)


def test_trying_again_by_hand_is_for_what_rests(row, ca, world):
    with pytest.raises(CertificateBusy):
        certificate_retry(tenant=world.acme, uid=row.uid, by=world.alice)
    ca.says = AuthorityError("final", "caa", "forbidden")
    step(row, ca)
    Certificate.objects.filter(pk=row.pk).update(status_since=now() - timedelta(minutes=2))
    assert certificate_retry(tenant=world.acme, uid=row.uid, by=world.alice).status == "waiting"
    assert orders_due(10) == [row.pk]
