"""Constant GETs by wrk, from the load's core, and what came of them."""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.gateway_parts import LOAD_CORE, program

_SCRIPT = """\
local hosts = {{ {hosts} }}
local requests = {{}}
local at = 0
function init(args)
  for i, host in ipairs(hosts) do
    requests[i] = wrk.format("GET", "/", {{ ["Host"] = host }})
  end
  math.randomseed(os.time())
  at = math.random(#requests)
end
function request()
  at = at % #requests + 1
  return requests[at]
end
{delay}
function done(summary, latency, requests)
  io.write(string.format('\\nJSON {{"requests": %d, "us": %d, "bytes": %d, "connect": %d, "read": %d, "write": %d, ' ..
    '"timeout": %d, "status": %d, "p50_us": %d, "p99_us": %d, "max_us": %d}}\\n',
    summary.requests, summary.duration, summary.bytes, summary.errors.connect, summary.errors.read,
    summary.errors.write, summary.errors.timeout, summary.errors.status, latency:percentile(50),
    latency:percentile(99), latency.max))
end
"""


@dataclass(frozen=True, slots=True)
class Result:
    requests: int
    rps: float
    failed: int
    p50_ms: float
    p99_ms: float
    errors: Mapping[str, int]


class Wrk:
    """Constant GETs to many hosts. ``delay_ms``: so long each connection waits between two requests."""

    def __init__(
        self, port: int, hosts: Sequence[str], seconds: float, connections: int = 64, delay_ms: int = 0
    ) -> None:
        names = ", ".join(f'"{host}"' for host in hosts)
        delay = f"function delay() return {delay_ms} end" if delay_ms else ""
        self._script = tempfile.NamedTemporaryFile("w", suffix=".lua", prefix="berth-wrk-")  # noqa: SIM115
        self._script.write(_SCRIPT.format(hosts=names, delay=delay))
        self._script.flush()
        self._process = subprocess.Popen(
            [
                *("taskset", "-c", str(LOAD_CORE), program("wrk"), "-t1", f"-c{connections}"),
                *(f"-d{max(1, round(seconds))}s", "--timeout", "10s", "--latency", "-s", self._script.name),
                f"http://127.0.0.1:{port}/",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def running(self) -> bool:
        return self._process.poll() is None

    def result(self) -> Result:
        """Waits for the end."""
        output = self._process.communicate()[0].decode()
        self._script.close()
        lines = [line[5:] for line in output.splitlines() if line.startswith("JSON ")]
        if not lines:
            raise RuntimeError(f"wrk: {output[-500:]}")
        return parse(json.loads(lines[0]))

    def stop(self) -> Result:
        """Ends it before its time."""
        self._process.send_signal(signal.SIGINT)
        return self.result()


def parse(found: Mapping[str, int]) -> Result:
    errors = {name: found[name] for name in ("connect", "read", "write", "timeout", "status")}
    return Result(
        requests=found["requests"],
        rps=found["requests"] / found["us"] * 1e6,
        failed=sum(errors.values()),
        p50_ms=found["p50_us"] / 1000,
        p99_ms=found["p99_us"] / 1000,
        errors=errors,
    )
