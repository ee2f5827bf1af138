"""Host names that tenants type: parsed, put into DNS's own spelling, and refused where they can be nobody's. Pure."""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Iterable

import idna

from apps.core.errors import Invalid
from gateway import contract

#: In front of a name, where its proof stands in DNS.
CHALLENGE = "_berth-challenge"
#: What DNS allows of a name (RFC 1035, 2.3.4), less the challenge in front of it.
MOST_CHARACTERS = 253 - len(CHALLENGE) - 1
#: Never anybody's in the public DNS: RFC 6761, 6762, 7686, 8375, 9476, and what ICANN has set aside.
SPECIAL = frozenset(
    {
        *("alt", "arpa", "corp", "domain", "example", "home", "host", "intern", "internal", "intranet", "invalid"),
        *("lan", "local", "localdomain", "localhost", "mail", "onion", "private", "test", "workgroup"),
    }
)
#: Under a country, the registry's own second level. Whoever proves a name has its DNS in hand, and a registry's is in
#: nobody's; so this need not be complete: see docs/decisions/0032-domains.md.
_SECOND = frozenset(
    {
        *("ac", "ad", "co", "com", "ed", "edu", "go", "gob", "gov", "govt", "gv", "id", "ltd", "me", "mil", "ne"),
        *("net", "nhs", "nom", "or", "org", "plc", "sch", "web"),
    }
)
#: Letters of other scripts, and digits, as they look in Latin ones (after Unicode's confusables.txt, UTS 39).
_LOOKS = str.maketrans(
    "абвгԁеһіјкӏмнопԛрѕтуѵԝхусьиαβγεηικνορστυχωμζօոսհցքᴀʙᴄᴅᴇɡʜıʟᴍɴᴏᴘʀѡꜱᴛᴜᴠᴡʏᴢɑɩøłđħŧƅɓɗƙʋɪ01i",
    "a6brdehljklmhonqpstyvwxycbuabyenlkvopotuxwuzonuhgpabcdeghllmnoprwstuvwyzaloldhtbbdkvloll",
)
_MIXED = ("LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "COPTIC")


class DomainInvalid(Invalid):
    code = "domains.invalid"


class DomainReserved(Invalid):
    code = "domains.reserved"


class DomainLookalike(Invalid):
    code = "domains.lookalike"


def host_of(text: str) -> str:
    """The name as DNS spells it (small letters, punycode by IDNA 2008), ``*.`` in front of a wildcard.

    Raises DomainInvalid, DomainReserved (special use), DomainLookalike (letters of several scripts in one label).
    """
    given = text.strip()
    star, bare = ("*.", given[2:]) if given.startswith("*.") else ("", given)
    if len(bare) > 260 or not bare:
        raise DomainInvalid("Give a host name, such as www.example.com.", field="name")
    try:
        name = idna.encode(bare.removesuffix("."), uts46=True, std3_rules=True).decode("ascii").lower()
        contract.host_name(name)
    except (idna.IDNAError, UnicodeError, contract.ContractError):
        raise DomainInvalid(
            f"{given[:80]!r} is no host name. A name is letters, digits and hyphens between dots; a wildcard is *. and "
            "a name.",
            field="name",
        ) from None
    _whole(name, star)
    for label in shown(name).split("."):
        if len(scripts := _scripts(label)) > 1:
            raise DomainLookalike(f"{label!r} mixes letters of {' and '.join(sorted(scripts))}.", field="name")
    return star + name


def _whole(name: str, star: str) -> None:
    labels = name.split(".")
    if len(name) > MOST_CHARACTERS:
        raise DomainInvalid(f"The name is longer than {MOST_CHARACTERS} characters.", field="name")
    if _is_address(name):
        raise DomainInvalid("An address is no host name.", field="name")
    if len(labels) < 2:
        raise DomainInvalid("Give the whole name, with its dots.", field="name")
    if labels[-1] in SPECIAL:
        raise DomainReserved(f".{labels[-1]} is for special use: nobody can prove a name under it.", field="name")
    if is_suffix(name):
        raise DomainReserved(f"{name} is a registry's: names are registered under it.", field="name")


def _is_address(name: str) -> bool:
    """Also in the spellings that clients take for an address: what ends with a number is one (WHATWG URL, 3.5)."""
    last = name.rpartition(".")[2]
    if re.fullmatch(r"[0-9]+|0x[0-9a-f]*", last):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_suffix(name: str) -> bool:
    """Whether names are registered directly under it, as far as a small rule says it."""
    labels = name.split(".")
    return len(labels) < 2 or (len(labels) == 2 and len(labels[1]) == 2 and labels[0] in _SECOND)


def bare(name: str) -> str:
    return name.removeprefix("*.")


def is_wildcard(name: str) -> bool:
    return name.startswith("*.")


def parents(name: str) -> list[str]:
    """The names above it, the nearest first, down to two labels."""
    labels = bare(name).split(".")
    return [".".join(labels[at:]) for at in range(1, len(labels) - 1)]


def challenge_of(name: str) -> str:
    return f"{CHALLENGE}.{bare(name)}"


def shown(name: str) -> str:
    """As people write it; the same where it has no letters of its own."""
    star = "*." if is_wildcard(name) else ""
    try:
        return star + idna.decode(bare(name))
    except (idna.IDNAError, UnicodeError):
        return name


def prefix_of(text: str) -> str:
    """A path prefix, a slash at its end dropped. Raises DomainInvalid."""
    given = text.strip() or "/"
    try:
        return contract.path_prefix(given if len(given) == 1 or given.endswith("//") else given.removesuffix("/"))
    except contract.ContractError:
        raise DomainInvalid(
            f"{given[:80]!r} is no prefix: /, or up to 8 parts such as /api/v1 of letters, digits and . _ ~ -.",
            field="prefix",
        ) from None


def _scripts(label: str) -> set[str]:
    """Of those whose letters look alike, which the label has. Latin beside Han or Kana is how people write."""
    found = {unicodedata.name(letter, "").split(" ")[0] for letter in label if letter.isalpha()}
    return found & set(_MIXED)


def skeleton(name: str) -> str:
    """What the name looks like: two names with one skeleton are taken for each other."""
    text = unicodedata.normalize("NFKC", shown(name)).casefold()
    text = "".join(one for one in unicodedata.normalize("NFD", text) if not unicodedata.combining(one))
    text = text.translate(_LOOKS)
    return text.replace("rn", "m").replace("vv", "w")


def own_refused(name: str, *, domains: Iterable[str], hosts: Iterable[str]) -> None:
    """Raises DomainReserved for the platform's own names, and DomainLookalike for what looks like one.

    ``domains``: with all above and below them. ``hosts``: single names, all below them, and wildcards above them.
    """
    domains, hosts = list(domains), list(hosts)
    if _meets(name, domains, hosts):
        raise DomainReserved(f"{name} is the platform's own.", field="name")
    like = ("*." if is_wildcard(name) else "") + skeleton(bare(name))
    if _meets(like, [skeleton(one) for one in domains], [skeleton(one) for one in hosts]):
        raise DomainLookalike(f"{shown(name)} looks like a name of the platform.", field="name")


def _meets(name: str, domains: list[str], hosts: list[str]) -> bool:
    its = bare(name)
    for own in (*domains, *hosts):
        if its == own or its.endswith(f".{own}"):
            return True
    above = [*domains, *(hosts if is_wildcard(name) else ())]
    return any(own.endswith(f".{its}") for own in above)
