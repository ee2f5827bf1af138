from __future__ import annotations

import os
import socket

import pytest

from stack import ports
from stack.parts.base import Port, StackError


def test_a_taken_port_names_the_port_the_wanter_the_holder_and_the_variable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        number = held.getsockname()[1]
        with pytest.raises(ports.PortTaken) as caught:
            ports.check([Port(number, "redis (Celery's broker)", "BERTH_PORT_REDIS")])
    message = str(caught.value)
    assert f"Port {number} is taken" in message
    assert f"pid {os.getpid()} (" in message
    assert "redis (Celery's broker) wants it" in message
    assert "BERTH_PORT_REDIS=" in message


def test_all_taken_ports_are_named_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        numbers = [held.getsockname()[1] for held in (one, two)]
        with pytest.raises(ports.PortTaken) as caught:
            ports.check(Port(number, "web", "BERTH_PORT_PORTAL") for number in numbers)
    assert all(f"Port {number} is taken" in str(caught.value) for number in numbers)


def test_a_port_freed_a_moment_ago_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", number)) as client:
            accepted, _ = server.accept()
            accepted.close()
            assert client.recv(1) == b""
    ports.check([Port(number, "web", "BERTH_PORT_PORTAL")])


@pytest.mark.parametrize("text", ["no", "0", "65536", "-1", "80 "])
def test_a_variable_that_is_no_port_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("BERTH_PORT_REDIS", text)
    with pytest.raises(StackError, match="BERTH_PORT_REDIS"):
        ports.from_environment("redis")


def test_chosen_ports_differ_and_lie_outside_of_the_kernels_own_range() -> None:
    chosen = ports.choose_free(map(str, range(20)))
    assert len(set(chosen.values())) == 20
    assert max(chosen.values()) < 32768
