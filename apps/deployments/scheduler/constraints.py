"""Constraints on a host's labels, as people write them: ``zone == eu-1``, ``disk in (ssd, nvme)``, ``gpu exists``.

The meaning is that of Kubernetes' selectors (https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/):
``!=`` and ``not in`` also hold for a host that does not have the label.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_KEY = r"(?P<key>[a-z][a-z0-9._-]{0,62})"
_VALUE = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
_ONE = re.compile(rf"{_KEY}\s*(?P<op>==|!=)\s*(?P<value>{_VALUE})")
_SET = re.compile(rf"{_KEY}\s+(?P<op>in|not in)\s+\(\s*(?P<values>{_VALUE}(?:\s*,\s*{_VALUE}){{0,31}})\s*\)")
_THERE = re.compile(rf"{_KEY}\s+(?P<op>exists|not exists)")

HELP = "key == value, key != value, key in (a, b), key not in (a, b), key exists, key not exists"


@dataclass(frozen=True, slots=True)
class Constraint:
    key: str
    op: str
    values: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.op in ("==", "!="):
            return f"{self.key} {self.op} {self.values[0]}"
        if self.op in ("in", "not in"):
            return f"{self.key} {self.op} ({', '.join(self.values)})"
        return f"{self.key} {self.op}"

    def holds(self, labels: Mapping[str, str]) -> bool:
        if self.op in ("exists", "not exists"):
            return (self.key in labels) == (self.op == "exists")
        within = labels.get(self.key) in self.values
        return within if self.op in ("==", "in") else not within


def parse(text: str) -> Constraint:
    """Raises ValueError with the ways in which one can be written."""
    text = " ".join(text.split())[:4000]
    if found := _ONE.fullmatch(text):
        return Constraint(found["key"], found["op"], (found["value"],))
    if found := _SET.fullmatch(text):
        return Constraint(found["key"], found["op"], tuple(part.strip() for part in found["values"].split(",")))
    if found := _THERE.fullmatch(text):
        return Constraint(found["key"], found["op"])
    raise ValueError(f"{text[:80]!r} is no constraint. Write one of: {HELP}.")
