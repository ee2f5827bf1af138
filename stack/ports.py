"""Ports: the demo's fixed ones, free ones for tests, and who holds one that is taken."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

from stack.parts.base import Port, StackError
from stack.processes import all_pids, command_line

DEFAULTS: Mapping[str, int] = {
    "portal": 8000,
    "gateway": 8080,
    "registry": 5443,
    "registry_cache": 5444,
    "redis": 17379,
    "zookeeper": 17181,
    "postgres": 17432,
    "gateway_status": 17404,
    # UDP, on loopback: HAProxy's lines to the agent.
    "gateway_log": 17514,
}
# Below net.ipv4.ip_local_port_range, so that no outgoing connection takes one between choice and use.
_TEST_RANGE = range(20000, 32000)
_LISTEN = "0A"


class PortTaken(StackError):
    """A port that a part needs is held by another program."""


def variable(name: str) -> str:
    return f"BERTH_PORT_{name.upper()}"


def from_environment(name: str) -> int | None:
    """The port that the user chose by BERTH_PORT_*; StackError when it is not a port."""
    text = os.environ.get(variable(name), "")
    if not text:
        return None
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise StackError(f"{variable(name)}={text!r} is not a port: give a number from 1 to 65535")
    return int(text)


def is_free(number: int, address: str = "127.0.0.1") -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the servers do: a connection in TIME_WAIT from the run before is no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, number))
        except OSError:
            return False
    return True


def choose_free(names: Iterable[str]) -> dict[str, int]:
    """A free port for each name, from a range that the kernel does not hand out by itself."""
    wanted = list(names)
    chosen: dict[str, int] = {}
    for number in random.SystemRandom().sample(_TEST_RANGE, len(_TEST_RANGE)):
        if len(chosen) == len(wanted):
            return chosen
        if is_free(number) and is_free(number, "0.0.0.0"):  # noqa: S104 - a probe, closed at once
            chosen[wanted[len(chosen)]] = number
    raise StackError(f"no free TCP ports in {_TEST_RANGE.start}-{_TEST_RANGE.stop}")


#: For apps of TCP: the demo's (below those of instances, which may be on the same machine), and how many a test
#: environment has. HAProxy binds them all, or does not start.
DEMO_BLOCK = (19000, 19019)
TCP_PORTS = "BERTH_GATEWAY_TCP_PORTS"
_TEST_BLOCK = 4


def demo_block() -> tuple[int, int]:
    """The demo's ports for apps of TCP, or those that the user chose by BERTH_GATEWAY_TCP_PORTS."""
    text = os.environ.get(TCP_PORTS, "")
    if not text:
        return DEMO_BLOCK
    first, _, last = text.partition("-")
    if not (first.isdigit() and last.isdigit() and 0 < int(first) <= int(last) < 65536):
        raise StackError(f"{TCP_PORTS}={text!r} are no ports: give FIRST-LAST, such as 19000-19019")
    return int(first), int(last)


def block(avoid: Iterable[int]) -> tuple[int, int]:
    """First and last of some free ports in a row, none of which is in ``avoid``."""
    taken = set(avoid)
    starts = range(_TEST_RANGE.start, _TEST_RANGE.stop - _TEST_BLOCK)
    for start in random.SystemRandom().sample(starts, len(starts)):
        numbers = range(start, start + _TEST_BLOCK)
        if taken.isdisjoint(numbers) and all(map(is_free, numbers)):
            return numbers.start, numbers.stop - 1
    raise StackError(f"no {_TEST_BLOCK} free TCP ports in a row in {_TEST_RANGE.start}-{_TEST_RANGE.stop}")


def holder(number: int) -> str:
    """Who listens on the port, as "pid 12 (command line)"; empty when it cannot be known."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                columns = line.split()
                if columns[3] == _LISTEN and int(columns[1].rpartition(":")[2], 16) == number:
                    inodes.add(f"socket:[{columns[9]}]")
    for pid in all_pids():
        with contextlib.suppress(OSError):
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if os.readlink(descriptor) in inodes:  # noqa: PTH115 - the target is no path
                        return f"pid {pid} ({command_line(pid)[:120]})"
    return ""


def check(ports: Iterable[Port]) -> None:
    """Raises PortTaken for all taken ports at once, naming holder, wanter and the variable to change."""
    problems = []
    for port in ports:
        if is_free(port.number, port.address):
            continue
        who = holder(port.number) or "another user's program (run as root to see which)"
        problems.append(
            f"Port {port.number} is taken: {who} listens on it, and {port.wanted_by} wants it.\n"
            f"  Stop that program, or choose another port: {port.variable}={port.number + 10000 & 0xFFFF} ..."
        )
    if problems:
        raise PortTaken("\n".join(problems))
