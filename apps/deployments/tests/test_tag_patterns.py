"""Patterns of tags."""

from __future__ import annotations

import re
import time
from fnmatch import translate
from itertools import product

import pytest

from apps.deployments.tag_patterns import matches


@pytest.mark.parametrize(
    ("pattern", "tag", "found"),
    [
        ("v*", "v1.0", True),
        ("v*", "dev1", False),
        ("*", "", True),
        ("1.?", "1.2", True),
        ("1.?", "1.", False),
        ("1.?", "1.10", False),
        ("1.2", "1x2", False),
        ("*-rc*", "1.0-rc1", True),
        ("*-rc*", "1.0-r1c", False),
        ("a*b*c", "a-b-b-c", True),
        ("a*b*c", "a-b-b-d", False),
        ("[a-z]", "b", False),
    ],
)
def test_a_pattern_knows_stars_and_question_marks_and_nothing_else(pattern, tag, found):
    assert matches(pattern, tag) is found


def test_patterns_match_as_a_shells_do():
    letters = ["".join(one) for size in range(5) for one in product("ab", repeat=size)]
    patterns = ["".join(one) for size in range(5) for one in product("ab*?", repeat=size)]
    for pattern in patterns:
        shell = re.compile(translate(pattern))
        assert [matches(pattern, one) for one in letters] == [bool(shell.match(one)) for one in letters], pattern


def test_no_pattern_takes_long():
    began = time.process_time()
    assert matches("*a" * 64, "a" * 127 + "b") is False
    assert time.process_time() - began < 0.1
