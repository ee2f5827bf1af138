"""One-time tokens and the hosts that they make; what hosts report; disk pressure; renewal."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from django.db import connection

from apps.core import jobs
from apps.core.clock import now
from apps.core.errors import BerthError
from apps.core.models import Event
from apps.hosts.engines.base import EngineAddress, TLSMaterial
from apps.hosts.engines.docker_tls import base_url
from apps.hosts.models import Host, HostIdentity, JoinToken
from apps.hosts.samples import FRESH, fresh_samples, sampled_lately
from apps.hosts.services.authority import SERVER_LIFE, CsrInvalid
from apps.hosts.services.hosts import HostInvalid, host_remove
from apps.hosts.services.joining import (
    AddressTaken,
    JoinTokenInvalid,
    NameTaken,
    host_join,
    join_token_create,
    join_token_revoke,
)
from apps.hosts.services.reports import LOST_AFTER, HostUnknown, Sample, host_report, identity_of
from apps.hosts.tests.machine import KEY, csr, facts, sample


@pytest.fixture
def token(world):
    return join_token_create(cluster=world.cluster, by=world.alice)


def _join(world, **values):
    _, secret = join_token_create(cluster=world.cluster, by=world.alice)
    return host_join(secret=secret, **facts(**values))


def test_a_machine_joins_with_what_it_measured_and_is_asked_at_once(
    world, nudges, django_capture_on_commit_callbacks, token
):
    world.cluster.memory_overcommit = 150
    world.cluster.save()
    row, secret = token
    with django_capture_on_commit_callbacks(execute=True):
        joined = host_join(secret=secret, **facts())
    host = Host.objects.get(name="metal-1")
    assert (host.status, host.availability, host.engine_url) == ("joining", "active", "https://10.0.0.11:2376")
    assert (host.memory_mb, host.cpu_millis, host.disk_mb) == (16000, 4000, 200000)
    assert (host.memory_mb_reserve, host.cpu_millis_reserve) == (800, 200)
    assert host.memory_mb_capacity == (16000 - 800) * 150 // 100
    assert (host.labels, host.tls_ca, host.tls_key) == ({"disk": "ssd"}, "", "")
    assert (jobs.OBSERVE_HOST, (host.pk,)) in nudges
    row.refresh_from_db()
    assert (row.host, row.used_at is not None, row.state(now())) == (host, True, "used")
    made = x509.load_pem_x509_certificate(joined.certificate.encode())
    assert int(host.identity.certificate_serial, 16) == made.serial_number
    assert identity_of(secret=joined.report_secret).host == host
    assert Event.objects.get(code="host.joined").actor == "alice"


def test_secrets_are_kept_as_digests_only(world, token):
    row, secret = token
    joined = host_join(secret=secret, **facts())
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM hosts_jointoken")
        stored = repr(cursor.fetchall())
        cursor.execute("SELECT * FROM hosts_hostidentity")
        stored += repr(cursor.fetchall())
    for one in (secret, joined.report_secret):
        assert one not in stored
        assert one not in repr(joined)
    assert row.prefix == secret[:8]


def test_used_revoked_expired_and_unknown_tokens_get_one_and_the_same_answer(world):
    used, revoked, expired = (join_token_create(cluster=world.cluster, by=world.alice) for _ in range(3))
    host_join(secret=used[1], **facts())
    assert join_token_revoke(token=revoked[0], by="alice")
    JoinToken.objects.filter(pk=expired[0].pk).update(expires_at=now())
    answers = set()
    for secret in (used[1], revoked[1], expired[1], "brj_" + "x" * 43, "", "é\0"):
        with pytest.raises(JoinTokenInvalid) as caught:
            host_join(secret=secret, **facts(name="metal-2", address="10.0.0.12"))
        answers.add((caught.value.code, caught.value.detail, str(caught.value.extra)))
    assert len(answers) == 1
    assert Host.objects.count() == 1


def test_a_used_token_cannot_be_revoked_any_more(world, token):
    row, secret = token
    host_join(secret=secret, **facts())
    assert not join_token_revoke(token=row)
    assert not Event.objects.filter(code="host.join_token_revoked").exists()


@pytest.mark.parametrize("valid_s", [0, 59, 7 * 86400 + 1])
def test_tokens_live_for_a_minute_to_a_week(world, valid_s):
    with pytest.raises(HostInvalid):
        join_token_create(cluster=world.cluster, by=world.alice, valid_s=valid_s)


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({"name": "Metal"}, HostInvalid),
        ({"name": "-metal"}, HostInvalid),
        ({"name": "metal\n"}, HostInvalid),
        ({"name": "a" * 64}, HostInvalid),
        ({"name": "join"}, HostInvalid),
        ({"address": "127.0.0.1"}, HostInvalid),
        ({"address": "127.8.8.8"}, HostInvalid),
        ({"address": "::1"}, HostInvalid),
        ({"address": "0.0.0.0"}, HostInvalid),
        ({"address": "::"}, HostInvalid),
        ({"address": "224.0.0.1"}, HostInvalid),
        ({"address": "ff02::1"}, HostInvalid),
        ({"address": "169.254.169.254"}, HostInvalid),
        ({"address": "fe80::1"}, HostInvalid),
        ({"address": "fe80::1%eth0"}, HostInvalid),
        ({"address": "fd00::1%eth0"}, HostInvalid),
        ({"address": "::ffff:127.0.0.1"}, HostInvalid),
        ({"address": "255.255.255.255"}, HostInvalid),
        ({"address": "host.example"}, HostInvalid),
        ({"address": "10.0.0.1:80"}, HostInvalid),
        ({"address": "10.0.0.011"}, HostInvalid),
        ({"labels": {"Zone": "a"}}, HostInvalid),
        ({"labels": {"zone": "a b"}}, HostInvalid),
        ({"labels": {"zone": 1}}, HostInvalid),
        ({"labels": {f"k{number}": "v" for number in range(65)}}, HostInvalid),
        ({"engine_version": "20.10; rm -rf /"}, HostInvalid),
        ({"memory_mb": 0}, HostInvalid),
        ({"memory_mb": 2**26 + 1}, HostInvalid),
        ({"cpu_millis": 0}, HostInvalid),
        ({"disk_mb": -1}, HostInvalid),
        ({"csr": "none"}, CsrInvalid),
    ],
)
def test_a_machine_that_says_nonsense_is_refused_and_its_token_stays_good(world, token, bad, error):
    with pytest.raises(error):
        host_join(secret=token[1], **facts(**bad))
    assert not Host.objects.exists()
    assert host_join(secret=token[1], **facts()).host.name == "metal-1"


def test_taken_names_and_addresses_are_refused_and_the_token_stays_good(world, token):
    _join(world)
    with pytest.raises(NameTaken):
        host_join(secret=token[1], **facts(address="10.0.0.12"))
    with pytest.raises(AddressTaken):
        host_join(secret=token[1], **facts(name="metal-2"))
    assert host_join(secret=token[1], **facts(name="metal-2", address="10.0.0.12")).host.name == "metal-2"


def test_a_removed_hosts_name_and_address_are_free_again_and_its_secret_is_no_good(world):
    old = _join(world)
    host_remove(host=old.host)
    with pytest.raises(HostUnknown):
        identity_of(secret=old.report_secret)
    new = _join(world)
    assert new.host.pk != old.host.pk
    assert identity_of(secret=new.report_secret).host == new.host


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("fd00:0:0:0::0011", "https://[fd00::11]:2376"),
        ("2a01:4f8::1", "https://[2a01:4f8::1]:2376"),
        ("192.168.7.9", "https://192.168.7.9:2376"),
        ("100.64.0.9", "https://100.64.0.9:2376"),
    ],
)
def test_addresses_are_written_in_one_way_and_the_engine_can_be_asked_there(world, address, url):
    host = _join(world, address=address).host
    host.refresh_from_db()
    assert host.engine_url == url
    host.full_clean(exclude=["cluster"])
    assert base_url(EngineAddress("docker", host.engine_url, TLSMaterial("a", "b", "c"))) == url


def test_the_tokens_presets_go_before_what_the_machine_says(world):
    _, secret = join_token_create(
        cluster=world.cluster, by=world.alice, labels={"zone": "a"}, memory_mb_reserve=2000, cpu_millis_reserve=0
    )
    host = host_join(secret=secret, **facts(labels={"zone": "b", "disk": "ssd"})).host
    assert host.labels == {"zone": "a", "disk": "ssd"}
    assert (host.memory_mb_reserve, host.cpu_millis_reserve) == (2000, 0)


@pytest.mark.parametrize(("memory_mb", "kept"), [(64, 32), (400, 200), (1024, 256), (5120, 256), (64000, 3200)])
def test_a_host_keeps_something_for_itself_and_never_more_than_half(world, memory_mb, kept):
    assert _join(world, memory_mb=memory_mb).host.memory_mb_reserve == kept


def test_two_machines_with_one_token_are_one_host(world_committed):
    world = world_committed
    _, secret = join_token_create(cluster=world.cluster, by=world.alice)
    outcomes = _both(
        lambda number: host_join(secret=secret, **facts(name=f"metal-{number}", address=f"10.0.0.1{number}"))
    )
    assert sorted(outcomes) == ["JoinTokenInvalid", "Joined"]
    assert Host.objects.count() == HostIdentity.objects.count() == 1


def test_two_machines_of_one_address_with_two_tokens_are_one_host(world_committed):
    world = world_committed
    secrets = [join_token_create(cluster=world.cluster, by=world.alice)[1] for _ in range(2)]
    outcomes = _both(lambda number: host_join(secret=secrets[number], **facts(name=f"metal-{number}")))
    assert sorted(outcomes) == ["AddressTaken", "Joined"]
    assert JoinToken.objects.filter(used_at=None).count() == 1, "the loser's token stays good"


def _both(act):
    """What two threads got that did it at the same time: the names of results or errors."""
    together, outcomes = threading.Barrier(2), []

    def run(number):
        try:
            together.wait(20)
            outcomes.append(type(act(number)).__name__)
        except BerthError as error:
            outcomes.append(type(error).__name__)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


# --- reports ---


def _report(joined, serial="", csr="", **values):
    return host_report(
        identity=identity_of(secret=joined.report_secret), sample=Sample(**sample(**values)), serial=serial, csr=csr
    )


def test_a_report_is_written_down_and_an_old_one_counts_as_none(world):
    joined = _join(world)
    assert fresh_samples(joined.host) is None
    assert not _report(joined).renew
    host = Host.objects.get()
    found = fresh_samples(host)
    assert (found.cpu_millis_idle, found.memory_mb_idle, found.disk_mb, found.disk_mb_idle) == (
        *(2000, 8000),
        *(200000, 100000),
    )
    assert Host.objects.filter(sampled_lately()).exists()
    later = now() + FRESH + timedelta(seconds=1)
    assert fresh_samples(host, later) is None
    assert not Host.objects.filter(sampled_lately(later)).exists()


def test_a_host_can_not_claim_to_have_more_idle_than_it_has(world):
    joined = _join(world)
    _report(joined, cpu_idle_permille=5000, memory_mb_idle=10**9, disk_mb=100, disk_mb_idle=10**12)
    host = Host.objects.get()
    assert (host.cpu_millis_idle, host.memory_mb_idle, host.disk_mb_idle) == (4000, 16000, 100)


def test_disk_pressure_comes_below_a_twentieth_and_goes_above_half_as_much_again(world):
    joined = _join(world)

    def after(idle):
        _report(joined, disk_mb=200000, disk_mb_idle=idle)
        return Host.objects.get().disk_pressure

    assert [after(idle) for idle in (10000, 9999, 12000, 15000, 15001, 10000)] == [
        *(False, True, True, True, False, False)
    ]
    codes = Event.objects.filter(code__startswith="host.disk").order_by("pk").values_list("code", flat=True)
    assert list(codes) == ["host.disk_pressure", "host.disk_pressure_ended"]


@pytest.mark.parametrize(
    ("disk_mb", "idle", "pressure"),
    [(20000, 2047, True), (20000, 2049, False), (4000, 900, True), (4000, 1100, False), (0, 0, False)],
)
def test_small_disks_are_under_pressure_below_2_gib_or_a_quarter(world, disk_mb, idle, pressure):
    _report(_join(world), disk_mb=disk_mb, disk_mb_idle=idle)
    assert Host.objects.get().disk_pressure is pressure


def test_a_certificate_is_renewed_a_month_before_its_end_and_not_sooner(world):
    joined = _join(world)
    identity = HostIdentity.objects.get()
    early = _report(joined, csr=csr())
    assert (early.renew, early.certificate) == (False, "")
    HostIdentity.objects.update(certificate_expires_at=now() + timedelta(days=29))
    assert _report(joined).renew
    answer = _report(joined, csr=csr())
    made = x509.load_pem_x509_certificate(answer.certificate.encode())
    renewed = HostIdentity.objects.get()
    assert not answer.renew
    assert made.public_key() == KEY.public_key()
    assert int(renewed.certificate_serial, 16) == made.serial_number
    assert renewed.certificate_serial != identity.certificate_serial
    assert renewed.certificate_expires_at - now() > timedelta(days=89)
    assert Event.objects.filter(code="host.certificate_renewed").count() == 1


def test_a_host_that_never_got_its_new_certificate_gets_another(world):
    joined = _join(world)
    old = HostIdentity.objects.get().certificate_serial
    HostIdentity.objects.update(certificate_expires_at=now() + timedelta(days=1))
    _report(joined, csr=csr())  # the answer is lost
    assert not _report(joined, serial=HostIdentity.objects.get().certificate_serial.upper().rjust(40, "0")).renew
    assert not _report(joined, serial=old, csr=csr()).certificate, "each one restarts the engine: not at once"
    HostIdentity.objects.update(certificate_expires_at=now() + SERVER_LIFE - LOST_AFTER - timedelta(minutes=1))
    assert _report(joined, serial=old).renew
    assert _report(joined, serial=old, csr=csr()).certificate


def test_a_certificate_is_renewed_for_the_key_that_joined_and_no_other(world):
    """The report's secret passes the portal's TLS front; the key never leaves the host."""
    joined = _join(world)
    HostIdentity.objects.update(certificate_expires_at=now() + timedelta(days=1))
    before = HostIdentity.objects.get().certificate_serial
    with pytest.raises(CsrInvalid, match="not the key"):
        _report(joined, csr=csr(ec.generate_private_key(ec.SECP256R1())))
    assert HostIdentity.objects.get().certificate_serial == before
    assert _report(joined, csr=csr()).certificate


def test_a_bad_request_for_renewal_is_refused(world):
    joined = _join(world)
    HostIdentity.objects.update(certificate_expires_at=now())
    with pytest.raises(CsrInvalid):
        _report(joined, csr="none")
