"""The configuration's text, and what may not get into it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import cli, contract
from gateway.certificates import fallback
from gateway.contract import Address, ContractError
from gateway.frame import CERTIFICATES, Frame
from gateway.model import Plane, Server, Table
from gateway.render import FALLBACK, configuration, maps, pages

GOLDEN = Path(__file__).with_name("golden.cfg")
FRAME = Frame(Address("127.0.0.1", 8080), 2, 4000, Address("127.0.0.1", 9514), "gw-1")
PLANE = Plane(
    3,
    {
        0: {
            "bbbbbbbbbbbb": Server("bbbbbbbbbbbb", Address("10.0.0.2", 31001), 50),
            "aaaaaaaaaaaa": Server("aaaaaaaaaaaa", Address("10.0.0.1", 31000), 100),
        },
        2: {"cccccccccccc": Server("cccccccccccc", Address("fd00::1", 31000), 0)},
    },
    {
        Table.HOST: {"shop.example.com": "s00000", "blog.example.com": "s00002", "*.idle.example.com": "s00001"},
        Table.ASLEEP: {"s00001": "1"},
    },
    1,
)


def test_the_configuration_is_the_golden_one() -> None:
    """After a meant change: write `configuration(FRAME, PLANE)` to golden.cfg, and read the difference."""
    assert configuration(FRAME, PLANE) == GOLDEN.read_text()


def test_the_maps_name_backends() -> None:
    texts = maps(PLANE)
    assert texts.keys() == {*Table, CERTIFICATES}
    assert {name: text for name, text in texts.items() if text} == {
        "host.map": "*.idle.example.com s00001\nblog.example.com s00002\nshop.example.com s00000\n",
        "asleep.map": "s00001 1\n",
        "certificates.list": "fallback.pem\n",
    }


@pytest.mark.real
def test_haproxy_takes_the_golden_configuration(tmp_path: Path) -> None:
    for name, text in {**pages(), **maps(PLANE), "haproxy.cfg": configuration(FRAME, PLANE)}.items():
        (tmp_path / name).write_text(text, newline="")
    fallback(tmp_path / FALLBACK)
    command = ["/usr/sbin/haproxy", "-c", "-f", "haproxy.cfg"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, "WARNING" in done.stderr) == (0, False), done.stderr


def test_the_503_page_is_one_http_response() -> None:
    head, _, body = pages()["503.http"].partition("\r\n\r\n")
    assert f"Content-Length: {len(body.encode())}" in head
    assert "Retry-After: 5" in head


@pytest.mark.parametrize("name", ["a b", "a\nb", "a;b", "", "-a", "a#b", "a'b", 'a"b', "a\\b"])
def test_text_that_haproxy_would_read_otherwise_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not fit"):
        maps(Plane(1, {}, {Table.HOST: {name: "s00000"}}))
    with pytest.raises(ValueError, match="not fit"):
        configuration(FRAME, Plane(1, {0: {name: Server(name, Address("10.0.0.1", 1), 1)}}))


@given(st.text())
def test_a_host_name_is_safe_wherever_it_goes(text: str) -> None:
    try:
        name = contract.host_name(text)
    except ContractError:
        return
    assert maps(Plane(1, {}, {Table.HOST: {name: "s00000"}}))["host.map"] == f"{name} s00000\n"


@given(st.one_of(st.text(), st.from_regex(r"\A\[[0-9a-f:]{2,20}%.{0,10}\]:[0-9]{1,5}\Z")))
def test_an_address_is_an_ip_and_a_port_or_nothing(text: str) -> None:
    try:
        address = Address.parse(text)
    except ContractError:
        return
    assert Address.parse(str(address)) == address
    assert set(str(address)) <= set("0123456789abcdef.:[]")


@pytest.mark.parametrize("command", ["show info;quit", "show\ninfo", "", " show", "add map x 'y'", "a\\b", "x <<"])
def test_a_command_is_one_plain_line(command: str) -> None:
    with pytest.raises(cli.CommandError):
        list(cli._batches([command]))


def test_commands_are_sent_in_batches_that_fit_the_buffer() -> None:
    sent = ["show info " + "x" * 90] * 500
    batches = list(cli._batches(sent))
    assert [command for batch in batches for command in batch] == sent
    assert all(sum(len(command) + 1 for command in batch) <= cli.BATCH_BYTES + 1 for batch in batches)
