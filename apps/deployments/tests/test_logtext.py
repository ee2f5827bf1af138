"""What a container wrote, made fit to be kept: no secrets, no controls, no more than fits."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.deployments.reconcile.logtext import LINES, MASK, SIZE, readable

PASSWORD = "s3cret-pass"
KEY = "-----BEGIN KEY-----\nMIIEvQIBADANBg\nkqhkiG9w0BAQEF\n-----END KEY-----\n"


def text(raw: bytes | str, *secrets: str) -> str:
    return readable(raw.encode() if isinstance(raw, str) else raw, secrets)[0]


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"\x1b[31mred\x1b[0m \x1b[1;38;5;9mbold\x1b[K", "red bold"),
        (b"\x1b]0;a title\x07after \x1b]8;;http://x\x1b\\link", "after link"),
        (b"\x1b(Bplain\x1b=", "plain"),
        (b"nul\x00 bell\x07 back\x08 del\x7f c1\xc2\x9b31m", "nul bell back del c131m"),
        (b"one\r\n\ttwo\r", "one\n\ttwo"),
        (b"caf\xc3\xa9 \xff\xfe", "café ��"),
        (b"", ""),
    ],
)
def test_what_is_no_text_is_left_out(raw, shown):
    assert text(raw) == shown


@given(st.binary(max_size=2000))
def test_nothing_that_a_terminal_or_a_database_would_take_amiss_is_left(raw):
    kept = text(raw)
    assert not [one for one in kept if one not in "\n\t" and unicodedata.category(one) in ("Cc", "Cs")]


@pytest.mark.parametrize(
    "raw",
    [
        f"DB_PASSWORD={PASSWORD}",
        f"postgres://user:{PASSWORD}@db:5432/x?{PASSWORD}",
        f"s3cret\x1b[0m-pass {PASSWORD[:3]}\x00{PASSWORD[3:]}",
        json.dumps({"password": PASSWORD}),
    ],
)
def test_values_of_env_are_hidden_wherever_they_stand(raw):
    kept = text(raw, PASSWORD)
    assert PASSWORD not in kept
    assert MASK in kept


@pytest.mark.parametrize(
    "written", [KEY, KEY[20:], json.dumps({"key": KEY}), repr({"key": KEY}), KEY.replace("\n", "\r\n")]
)
def test_a_value_of_many_lines_is_hidden_in_one_and_in_part(written):
    kept = text(written, KEY)
    assert "MIIEvQIBADANBg" not in kept
    assert "kqhkiG9w0BAQEF" not in kept


def test_values_with_quotes_and_letters_of_all_kinds_are_hidden_as_programs_print_them():
    value = "pä\"ss'w\\örd"
    for written in (value, json.dumps([value]), json.dumps([value], ensure_ascii=False), repr([value])):
        assert "ss" not in text(written, value), written


def test_a_value_that_holds_another_is_hidden_whole():
    assert text("user:hunter22@db and hunter22", "hunter22", "user:hunter22@db") == f"{MASK} and {MASK}"


def test_short_values_are_no_secrets():
    assert text("port 8080, debug true, level", "8080", "true", "", "evel", "level") == "port 8080, debug true, level"


def test_the_last_lines_are_kept_and_that_there_were_more_is_known():
    lines = [f"line {number}" for number in range(LINES + 1)]
    for end in ("", "\n"):
        assert readable(("\n".join(lines[1:]) + end).encode(), ()) == ("\n".join(lines[1:]) + end, False)
        assert readable(("\n".join(lines) + end).encode(), ()) == ("\n".join(lines[1:]) + end, True)


def test_long_lines_are_cut_to_the_size_from_the_beginning_of_one_on():
    kept, cut = readable(("x" * 1000 + "\n").encode() * LINES, ())
    assert cut
    assert SIZE - 1001 <= len(kept) <= SIZE
    assert set(kept.splitlines()) == {"x" * 1000}


def test_one_endless_line_keeps_its_end_and_no_half_of_a_letter():
    kept, cut = readable(("€" * SIZE + "end").encode(), ())
    assert cut
    assert kept.endswith("€end")
    assert len(kept.encode()) <= SIZE
    assert "\ufffd" not in kept


def test_a_secret_is_hidden_before_the_text_is_cut():
    secret = "q" * 3000
    raw = (secret + "y" * (SIZE - 1000) + "\n").encode()
    assert "q" not in readable(raw, (secret,))[0]
