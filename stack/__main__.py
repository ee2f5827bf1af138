"""The runner's command line: ``python -m stack up|down|restart|status|env|logs``."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from stack import catalogue
from stack.environment import Environment, root_directory
from stack.interrupts import terminate_as_interrupt
from stack.parts.base import StackError
from stack.processes import marked, stack_id
from stack.runner import Stack
from stack.supervision import log_path

KINDS = ("demo", "test")


def _directory(kind: str) -> Path:
    return root_directory() / kind


def _exports(env: Environment) -> str:
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in env.variables().items())


def _progress(line: str) -> None:
    # Standard output is for what a shell evaluates.
    print(line, file=sys.stderr, flush=True)


def up(arguments: argparse.Namespace) -> int:
    """Starts the parts and leaves them running; prints the variables for a shell to evaluate."""
    env = Environment.open(_directory(arguments.environment), arguments.environment)
    names = arguments.only.split(",") if arguments.only else catalogue.DEFAULTS[arguments.environment]
    Stack(env.directory, catalogue.build(env, names), say=_progress).start()
    print(_exports(env))
    return 0


def down(arguments: argparse.Namespace) -> int:
    """Stops whatever runs for the environment, and clears what a killed run left."""
    directory = _directory(arguments.environment)
    if directory.exists():
        Stack(directory, [], say=_progress).stop()
    return 0


def status(arguments: argparse.Namespace) -> int:
    """One line for each part; exit status 3 when nothing runs, as systemctl has it."""
    directory = _directory(arguments.environment)
    states = Stack(directory, []).states() if directory.exists() else {}
    for name, (state, pid, words) in sorted(states.items()):
        print(f"{name:12} {state.lower():9} pid {pid or '-':<8} {words}")
    if not states:
        left = len(marked(stack_id(directory)))
        print("nothing runs" + (f", but {left} processes are left: python -m stack down" if left else ""))
        return 3
    return 0


def restart(arguments: argparse.Namespace) -> int:
    """Restarts one part that runs, and waits until it is ready."""
    env = Environment.open(_directory(arguments.environment), arguments.environment)
    stack = Stack(env.directory, catalogue.build(env, [arguments.part]), say=_progress)
    if arguments.part not in stack.states():
        raise StackError(f"{arguments.part} does not run")
    stack.restart(arguments.part)
    return 0


def env(arguments: argparse.Namespace) -> int:
    """Prints the variables; secrets are among them."""
    print(_exports(Environment.open(_directory(arguments.environment), arguments.environment)))
    return 0


def logs(arguments: argparse.Namespace) -> int:
    """Follows a part's log, until Ctrl-C."""
    path = log_path(_directory(arguments.environment), arguments.part)
    if not path.exists():
        known = ", ".join(sorted(item.stem for item in path.parent.glob("*.log"))) or "none yet"
        raise StackError(f"no log {path}; there are: {known}")
    os.execvp("tail", ["tail", "-n", "100", "-F", str(path)])  # noqa: S606 - an argument list, no shell


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m stack", description=__doc__)
    commands = top.add_subparsers(required=True)
    for command in (up, down, restart, status, env, logs):
        sub = commands.add_parser(command.__name__, help=(command.__doc__ or "").splitlines()[0])
        sub.set_defaults(run=command)
        if command in (logs, restart):
            sub.add_argument("part")
        sub.add_argument("environment", choices=KINDS)
        if command is up:
            sub.add_argument("--only", default="", help="names with commas, for instance postgres,redis,hosts=2")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    try:
        with terminate_as_interrupt():
            return int(arguments.run(arguments))
    except StackError as error:
        print(f"stack: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stack: interrupted; everything that it had started is stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
