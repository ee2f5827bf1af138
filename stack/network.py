"""The network of an environment's Docker hosts: one bridge, and a network namespace for each host.

Everything carries the environment's id in its name or, for firewall rules, in a comment: what an earlier run
left is found without any record of it. Needs root. Nothing global is switched, except that forwarding is turned
on when ``egress`` asks for a way out and it was off; that is turned back at the end.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import shlex
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from stack.parts.base import StackError, program
from stack.processes import alive, send, wait_until

_NAMESPACES = Path("/run/netns")
_CGROUPS = Path("/sys/fs/cgroup")
_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
_CHAINS = (("filter", "FORWARD"), ("nat", "PREROUTING"), ("nat", "POSTROUTING"))


def run(*argv: str, text: str | None = None) -> str:
    """Runs a system tool; StackError with what it said when it fails."""
    done = subprocess.run([program(argv[0]), *argv[1:]], capture_output=True, text=True, input=text, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise StackError(f"{shlex.join(argv)} failed ({done.returncode}): {said}")
    return done.stdout


class HostNetwork:
    """``local_ports`` of this machine's loopback are what a host finds at its own localhost, and at the bridge."""

    def __init__(
        self,
        identity: str,
        subnet: ipaddress.IPv4Network,
        *,
        local_ports: Sequence[int] = (),
        egress: bool = False,
    ) -> None:
        self.identity = identity
        self.subnet = subnet
        self.local_ports = tuple(local_ports)
        self.egress = egress
        self.bridge = f"bt{identity}"
        self.bridge_address = str(subnet.network_address + 1)

    def namespace(self, index: int) -> str:
        return f"berth-{self.identity}-{index}"

    def address(self, index: int) -> str:
        return str(self.subnet.network_address + 10 + index)

    def device(self, index: int) -> str:
        """This machine's end of the host's cable."""
        return f"{self.bridge}h{index}"

    def ensure_bridge(self) -> None:
        if not _device_exists(self.bridge):
            run("ip", "link", "add", self.bridge, "type", "bridge")
        run("ip", "addr", "replace", f"{self.bridge_address}/{self.subnet.prefixlen}", "dev", self.bridge)
        run("ip", "link", "set", self.bridge, "up")
        # Lets packets from our own bridge reach this machine's loopback, by the rules below only.
        Path(f"/proc/sys/net/ipv4/conf/{self.bridge}/route_localnet").write_text("1")
        # Docker sets the policy of FORWARD to DROP, and bridged packets pass it too (br_netfilter).
        self._rule("filter", "FORWARD", "-i", self.bridge, "-o", self.bridge, "-j", "ACCEPT")
        for port in self.local_ports:
            self._rule(
                *("nat", "PREROUTING", "-i", self.bridge, "-d", self.bridge_address, "-p", "tcp"),
                *("--dport", str(port), "-j", "DNAT", "--to-destination", f"127.0.0.1:{port}"),
            )
        if self.egress:
            self._ensure_egress()

    def _ensure_egress(self) -> None:
        self._rule("filter", "FORWARD", "-i", self.bridge, "-j", "ACCEPT")
        answers = ("-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED")
        self._rule("filter", "FORWARD", "-o", self.bridge, *answers, "-j", "ACCEPT")
        subnet = str(self.subnet)
        self._rule("nat", "POSTROUTING", "-s", subnet, "!", "-o", self.bridge, "-j", "MASQUERADE")
        if _FORWARDING.read_text().strip() == "0":
            _FORWARDING.write_text("1")
            # An alias of the bridge is the one note that goes away together with it.
            run("ip", "link", "set", self.bridge, "alias", "berth turned ip_forward on")

    def ensure_host(self, index: int) -> None:
        """The namespace, its cable to the bridge, its routes, and its way to this machine's services."""
        self.ensure_bridge()
        name, outer = self.namespace(index), self.device(index)
        if not (_NAMESPACES / name).exists():
            run("ip", "netns", "add", name)
        if not _device_exists(outer):
            run("ip", "link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "link", "set", outer, "master", self.bridge)
        run("ip", "link", "set", outer, "up")
        inside = ("ip", "-n", name)
        run(*inside, "link", "set", "lo", "up")
        run(*inside, "link", "set", "eth0", "up")
        run(*inside, "addr", "replace", f"{self.address(index)}/{self.subnet.prefixlen}", "dev", "eth0")
        run(*inside, "route", "replace", "default", "via", self.bridge_address)
        enter = self.enter(index)
        run(*enter, "tee", "/proc/sys/net/ipv4/conf/eth0/route_localnet", text="1")
        for port in self.local_ports:
            self._rule(
                *("nat", "OUTPUT", "-d", "127.0.0.0/8", "-p", "tcp", "--dport", str(port)),
                *("-j", "DNAT", "--to-destination", f"{self.bridge_address}:{port}"),
                enter=enter,
            )
        # Without it the packet would leave with the sender 127.0.0.1, which no answer finds.
        self._rule(
            *("nat", "POSTROUTING", "-s", "127.0.0.0/8", "-d", self.bridge_address, "-j", "MASQUERADE"),
            enter=enter,
        )

    def enter(self, index: int) -> tuple[str, ...]:
        """The start of a command that runs in the host's network.

        Not ``ip netns exec``: that mounts a new /sys, without the cgroups that dockerd needs.
        """
        return ("nsenter", f"--net={_NAMESPACES / self.namespace(index)}")

    def cut(self, index: int) -> None:
        """Pulls the host's cable: it runs on, and nobody reaches it."""
        run("ip", "link", "set", self.device(index), "down")

    def restore(self, index: int) -> None:
        run("ip", "link", "set", self.device(index), "up")

    def _rule(self, table: str, chain: str, *rule: str, enter: Sequence[str] = ()) -> None:
        tagged = (*rule, "-m", "comment", "--comment", f"berth-{self.identity}")
        with contextlib.suppress(StackError):
            run(*enter, "iptables", "-w", "-t", table, "-C", chain, *tagged)
            return
        # First, or Docker's own rules decide before ours.
        run(*enter, "iptables", "-w", "-t", table, "-I", chain, *tagged)


def _device_exists(name: str) -> bool:
    return Path(f"/sys/class/net/{name}").exists() or _in_own_namespace(name)


def _in_own_namespace(name: str) -> bool:
    # /sys shows the network namespace that it was mounted in, which need not be ours (a chroot, a container).
    lines = Path("/proc/net/dev").read_text().splitlines()[2:]
    return any(line.partition(":")[0].strip() == name for line in lines)


def devices(identity: str) -> list[str]:
    """The environment's network devices in this namespace; cables before the bridge."""
    lines = Path("/proc/net/dev").read_text().splitlines()[2:]
    names = (line.partition(":")[0].strip() for line in lines)
    return sorted((name for name in names if name.startswith(f"bt{identity}")), key=len, reverse=True)


def namespaces(identity: str) -> list[str]:
    if not _NAMESPACES.is_dir():
        return []
    return sorted(path.name for path in _NAMESPACES.glob(f"berth-{identity}-*"))


def cgroups(identity: str) -> list[Path]:
    """The hosts' control groups: one in every hierarchy (cgroup v1), or one in the only one (v2)."""
    return sorted({*_CGROUPS.glob(f"berth-{identity}-*"), *_CGROUPS.glob(f"*/berth-{identity}-*")})


def rules(identity: str) -> list[tuple[str, list[str]]]:
    """(table, rule) of every firewall rule of ours in this namespace, as iptables prints it."""
    found = []
    for table, chain in _CHAINS:
        for line in run("iptables", "-w", "-t", table, "-S", chain).splitlines():
            words = shlex.split(line)
            if words[:1] == ["-A"] and f"berth-{identity}" in words:
                found.append((table, words))
    return found


def leftovers(identity: str) -> list[str]:
    """What of the network and the control groups is still there, for people to read."""
    left = [*devices(identity), *namespaces(identity), *map(str, cgroups(identity))]
    return left + [f"{table}: {' '.join(words)}" for table, words in rules(identity)]


def purge(identity: str) -> None:
    """Removes everything of the environment: also what a killed run left. Safe when there is nothing."""
    for path in cgroups(identity):
        _remove_cgroup(path)
    for name in namespaces(identity):
        run("ip", "netns", "del", name)
    for name in devices(identity):
        if name == f"bt{identity}" and "berth turned ip_forward on" in run("ip", "link", "show", name):
            _FORWARDING.write_text("0")
        # A namespace takes its end of the cable away with it, a moment later than its name.
        with contextlib.suppress(StackError):
            run("ip", "link", "del", name)
    if program("iptables") != "iptables":
        for table, words in rules(identity):
            run("iptables", "-w", "-t", table, "-D", *words[1:])
    if not wait_until(lambda: not devices(identity), 5.0):
        raise StackError(f"network devices cannot be removed: {', '.join(devices(identity))}")


def _remove_cgroup(path: Path) -> None:
    for procs in path.rglob("cgroup.procs"):
        with contextlib.suppress(OSError):
            pids = [int(line) for line in procs.read_text().split()]
            for pid in pids:
                send(pid, signal.SIGKILL)
            wait_until(lambda pids=pids: not any(map(alive, pids)), 5.0)  # type: ignore[misc]
    for directory, _, _ in os.walk(path, topdown=False):
        # Other hierarchies may be mounted together: the directory is then gone already.
        with contextlib.suppress(FileNotFoundError):
            _rmdir(Path(directory))


def _rmdir(path: Path) -> None:
    def removed() -> bool:
        try:
            path.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    # The kernel frees the last process of a group a moment after it has ended.
    if not wait_until(removed, 5.0):
        raise StackError(f"the control group {path} cannot be removed: a process in it does not end")
