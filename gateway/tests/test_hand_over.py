"""A replaced worker hands its requests over once it knows that it was replaced, and not before."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest

from gateway import commands, dataplane
from gateway.dataplane import DataPlane

OLD = 41


class Master:
    """What a master's socket says of one worker; ``hears`` is how many questions later it has its signal."""

    def __init__(self, hears: int, *, lives: bool = True) -> None:
        self.asked: list[str] = []
        self._hears, self._lives = hears, lives

    def talk_to_master(self) -> Master:
        return self

    def run(self, lines: Sequence[str]) -> list[str]:
        self.asked += lines
        if lines != [commands.information(OLD)]:
            return [""]
        stopping = len(self.asked) > self._hears
        return [f"Name: HAProxy\nStopping: {int(stopping)}\nReleaseDate: 2022\n"]

    def close(self) -> None:
        pass

    def lives(self, pid: int) -> bool:
        return self._lives


@pytest.fixture
def plane(monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(master: Master) -> DataPlane:
        monkeypatch.setattr(dataplane.time, "sleep", lambda seconds: None)
        return DataPlane(master, None, 30.0)  # type: ignore[arg-type]

    return make


def test_its_hosts_are_not_taken_before_it_knows(plane: Any) -> None:
    master = Master(hears=3)
    plane(master)._hand_over([OLD])
    assert master.asked == [commands.information(OLD)] * 4 + list(commands.hand_over(OLD))


def test_one_that_never_hears_of_it_keeps_its_hosts_and_is_doubtful(
    plane: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    master = Master(hears=10**9)
    one = plane(master)
    clock = itertools.count(0.0, 1.0)
    monkeypatch.setattr(dataplane.time, "monotonic", lambda: next(clock))
    one._hand_over([OLD])
    assert not set(commands.hand_over(OLD)) & set(master.asked)
    assert list(one._doubtful) == [OLD]


def test_one_that_ended_meanwhile_is_no_matter(plane: Any) -> None:
    one = plane(Master(hears=10**9, lives=False))
    one._hand_over([OLD])
    assert not one._doubtful
