from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from stack import ports, processes
from stack.parts.base import MissingPrograms, Need, Part, PartFailed
from stack.processes import alive, marked, stack_id, wait_until
from stack.runner import AlreadyRunning, Stack

Server = Callable[..., Part]
ROOT = Path(__file__).resolve().parents[2]


def test_start_and_stop_leave_no_process(directory: Path, server: Server) -> None:
    lines: list[str] = []
    with Stack(directory, [server("b", after=["a"]), server("a")], say=lines.append) as stack:
        pids = [stack.pid("a"), stack.pid("b")]
        assert all(map(alive, pids))
        assert [line.split()[1] for line in lines] == ["a", "b"]
        assert stack.dead_parts() == []
    assert not any(map(alive, pids))
    assert marked(stack_id(directory)) == []
    assert not list(directory.rglob("*.sock"))


def test_a_missing_program_is_reported_with_its_package_before_anything_starts(directory: Path, server: Server) -> None:
    part = server("a", needs=[Need("no-such-program", "no-such-package")])
    with pytest.raises(MissingPrograms, match=r"(?s)a needs no-such-program.*apt-get install no-such-package"):
        Stack(directory, [server("b"), part]).start()
    assert marked(stack_id(directory)) == []


def test_a_taken_port_stops_the_start_before_anything_runs(directory: Path, server: Server) -> None:
    part = server("a")
    held = subprocess.Popen(part.argv, cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert wait_until(lambda: not ports.is_free(part.ports[0].number), 20)
        with pytest.raises(ports.PortTaken, match=f"pid {held.pid}"):
            Stack(directory, [part]).start()
        assert alive(held.pid)
    finally:
        held.kill()
        held.wait()


def test_a_part_that_ends_shows_its_last_words_and_takes_the_others_with_it(directory: Path, server: Server) -> None:
    broken = server("b", argv=[sys.executable, "-c", "raise SystemExit('the reason 42')"], hint="Do this.")
    with pytest.raises(PartFailed, match=r"(?s)b ended while starting.*the reason 42.*Do this"):
        Stack(directory, [server("a"), broken]).start()
    assert marked(stack_id(directory)) == []


def test_a_program_that_cannot_be_executed_is_a_failure_and_no_wait(directory: Path, server: Server) -> None:
    with pytest.raises(PartFailed, match="b cannot be started"):
        Stack(directory, [server("b", argv=["/nonexistent/program"])]).start()


def test_a_part_that_is_late_is_reported_with_the_last_reason(directory: Path, server: Server) -> None:
    def never() -> bool:
        raise ConnectionRefusedError("nobody listens")

    with pytest.raises(PartFailed, match="was not ready within 1 s: nobody listens"):
        Stack(directory, [server("a", ready=never, start_wait_s=1)]).start()
    assert marked(stack_id(directory)) == []


def test_a_killed_part_comes_back_only_where_it_is_told_to(directory: Path, server: Server) -> None:
    with Stack(directory, [server("a", autorestart=True), server("b")]) as stack:
        before = stack.pid("a")
        stack.kill("a")
        stack.kill("b")
        assert wait_until(lambda: stack.pid("a") not in {0, before}, 20)
        assert wait_until(lambda: stack.pid("b") == 0, 20)
        assert len(stack.dead_parts()) == 1
        stack.start_part("b")
        assert stack.dead_parts() == []
        first = stack.pid("b")
        stack.restart("b")
        assert stack.pid("b") not in {0, first}


def test_a_percent_sign_and_spaces_reach_the_program_as_they_are(directory: Path, server: Server) -> None:
    code = "import os, sys, signal; print(os.environ['BERTH_X'], sys.argv[1], flush=True); signal.pause()"
    part = server(
        "a",
        argv=[sys.executable, "-c", code, "100% 'of' it"],
        env={"BERTH_X": "50%(x)s, a=b"},
        ports=[],
        ready=lambda: "50%(x)s, a=b 100% 'of' it" in Stack(directory, []).log_path("a").read_text(),
    )
    with Stack(directory, [part]):
        pass


def test_a_second_runner_of_a_directory_is_refused_and_harms_nothing(directory: Path, server: Server) -> None:
    with Stack(directory, [server("a")]) as stack:
        with pytest.raises(AlreadyRunning, match=f"pid {os.getpid()}"):
            Stack(directory, [server("b")]).start()
        assert alive(stack.pid("a"))


def _runner(directory: Path, number: int, *, ready: bool) -> subprocess.Popen[str]:
    """A runner in a process of its own; without ``ready`` its start never ends."""
    code = f"""
        import sys, signal
        from pathlib import Path
        from stack import probes
        from stack.interrupts import terminate_as_interrupt
        from stack.parts.base import Part
        from stack.runner import Stack
        serve = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "{number}"]
        # Ignores SIGTERM, as a leftover that is hard to end.
        stubborn = [
            sys.executable,
            "-c",
            "import signal; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); signal.pause()",
        ]
        log = Path({str(directory)!r}) / "log" / "b.log"
        parts = [
            Part("a", serve, lambda: probes.tcp({number}), stop_wait_s=1),
            Part("b", stubborn, lambda: {ready} and "deaf" in log.read_text(), stop_wait_s=1, after=["a"]),
        ]
        with terminate_as_interrupt():
            Stack(Path({str(directory)!r}), parts, say=lambda line: print(line, flush=True)).start()
            print("up", flush=True)
            signal.pause()
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def _wait_line(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    assert any(text in line for line in process.stdout), f"the runner never said {text!r}"


def test_the_next_start_takes_over_after_the_runner_was_killed(directory: Path, server: Server) -> None:
    part = server("a")
    process = _runner(directory, part.ports[0].number, ready=True)
    with process:
        _wait_line(process, "up")
        process.kill()
    assert len(marked(stack_id(directory))) >= 3
    with Stack(directory, [part]):
        assert len(marked(stack_id(directory))) == 2
    assert marked(stack_id(directory)) == []


def test_the_next_start_takes_over_after_runner_and_supervisord_were_killed(directory: Path, server: Server) -> None:
    part = server("a")
    process = _runner(directory, part.ports[0].number, ready=True)
    with process:
        _wait_line(process, "up")
        process.kill()
    for pid in marked(stack_id(directory)):
        if "supervisord" in processes.command_line(pid):
            os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: len(marked(stack_id(directory))) == 2, 10)
    with Stack(directory, [part]):
        assert len(marked(stack_id(directory))) == 2
    assert marked(stack_id(directory)) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_during_the_start_stops_what_had_started(
    directory: Path, server: Server, number: signal.Signals
) -> None:
    process = _runner(directory, server("a").ports[0].number, ready=False)
    with process:
        _wait_line(process, "a is ready")
        process.send_signal(number)
        assert process.wait(30) != 0
    assert marked(stack_id(directory)) == []


def test_another_program_in_the_directory_is_left_alone(directory: Path, server: Server) -> None:
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], cwd=directory) as bystander:
        with Stack(directory, [server("a")]):
            pass
        assert alive(bystander.pid)
        bystander.kill()
