"""The one form in which benchmarks answer: JSON on standard output, and a copy under var/bench/."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def tell(message: str) -> None:
    """Progress, on standard error: standard output is for the JSON."""
    print(message, file=sys.stderr, flush=True)


def report(name: str, figures: Mapping[str, float], detail: Any) -> None:
    """Print ``{"name", "figures": {key: number}, "detail"}`` and keep it as var/bench/NAME.json."""
    text = json.dumps({"name": name, "figures": dict(figures), "detail": detail}, indent=2)
    directory = ROOT / "var" / "bench"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.json").write_text(text + "\n")
    print(text)
