"""Tokens that nobody issued, or that were issued for something else, at a real registry: all are refused.

The registry is distribution 2.8 with the configuration that ``stack/`` gives it. Each case is one token; each must fail
to read, to begin an upload and to delete.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from apps.registry.services.keys import key_id
from stack.environment import Environment
from stack.parts.registry import registry
from stack.runner import Stack
from tests.integration.registry_parts import http, image_put

pytestmark = pytest.mark.real
Json = dict[str, Any]


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _plain(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _access(name: str = "shop", *actions: str, kind: str = "repository") -> Json:
    return {"type": kind, "name": name, "actions": list(actions or ("pull", "push", "delete"))}


@dataclass
class Forge:
    """The platform's own key (which nobody outside has) and an attacker's, with what both would write."""

    key: rsa.RSAPrivateKey
    cert: x509.Certificate
    theirs: rsa.RSAPrivateKey
    tls_ca: x509.Certificate
    tls_ca_key: ec.EllipticCurvePrivateKey

    @property
    def kid(self) -> str:
        return key_id(self.key.public_key())

    def claims(self, **changes: Any) -> Json:
        at = int(time.time())
        claims = {
            "iss": "berth",
            "sub": "mallory",
            "aud": "berth-registry",
            "exp": at + 300,
            "nbf": at - 10,
            "iat": at,
            "jti": "x",
            "access": [_access()],
        }
        return {key: value for key, value in {**claims, **changes}.items() if value is not ...}

    def header(self, **changes: Any) -> Json:
        header = {"typ": "JWT", "alg": "RS256", "kid": self.kid, **changes}
        return {key: value for key, value in header.items() if value is not ...}

    def sign(self, key: Any, header: Json | bytes, claims: Json | bytes) -> str:
        """RS256, whatever the header says."""
        parts = [_b64(one if isinstance(one, bytes) else json.dumps(one).encode()) for one in (header, claims)]
        text = ".".join(parts).encode()
        signature = jwt.algorithms.RSAAlgorithm(jwt.algorithms.RSAAlgorithm.SHA256).sign(text, key)
        return ".".join([*parts, _b64(signature)])

    def good(self, **changes: Any) -> str:
        return self.sign(self.key, self.header(), self.claims(**changes))

    def foreign(self, **header: Any) -> str:
        return self.sign(self.theirs, self.header(**header), self.claims())

    def unsigned(self, alg: str, signature: str = "", **header: Any) -> str:
        parts = (self.header(alg=alg, **header), self.claims())
        return ".".join(_b64(json.dumps(one).encode()) for one in parts) + f".{signature}"

    def hmac(self, secret: bytes, alg: str = "HS256") -> str:
        text = self.unsigned(alg).rpartition(".")[0]
        kind = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}[alg]
        return f"{text}.{_b64(hmac.digest(secret, text.encode(), kind))}"

    def jwk(self, key: rsa.RSAPrivateKey, **more: Any) -> Json:
        numbers = key.public_key().public_numbers()
        size = (numbers.n.bit_length() + 7) // 8
        return {"kty": "RSA", "n": _b64(numbers.n.to_bytes(size, "big")), "e": "AQAB", **more}

    def pem(self) -> bytes:
        public = self.key.public_key()
        return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    def der(self) -> bytes:
        public = self.key.public_key()
        return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)

    def chain(self, *certificates: x509.Certificate) -> list[str]:
        return [base64.b64encode(one.public_bytes(serialization.Encoding.DER)).decode() for one in certificates]

    def leaf(self, issuer: x509.Name | None = None, by: Any = None) -> x509.Certificate:
        """A certificate for the attacker's key, by default of its own."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Berth registry tokens")])
        made = x509.CertificateBuilder().subject_name(name).issuer_name(issuer or name)
        made = made.public_key(self.theirs.public_key()).serial_number(x509.random_serial_number())
        made = made.not_valid_before(self.cert.not_valid_before_utc).not_valid_after(self.cert.not_valid_after_utc)
        return made.sign(by or self.theirs, hashes.SHA256())

    def altered(self, change: Callable[[Json], None], part: int = 1) -> str:
        """A good token, changed after it was signed."""
        parts = self.good().split(".")
        body = json.loads(_plain(parts[part]))
        change(body)
        parts[part] = _b64(json.dumps(body).encode())
        return ".".join(parts)


def _flip(forge: Forge) -> str:
    head, _, signature = forge.good().rpartition(".")
    data = bytearray(_plain(signature))
    data[10] ^= 1
    return f"{head}.{_b64(bytes(data))}"


def _twice(forge: Forge, first: Json, second: Json) -> bytes:
    """Claims with two lists of access. Readers differ on which of them counts."""
    rest = json.dumps(forge.claims(access=...))[:-1]
    return f'{rest}, "access": {json.dumps([first])}, "access": {json.dumps([second])}}}'.encode()


def _es256(forge: Forge) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    return jwt.encode(forge.claims(), key, algorithm="ES256", headers={"kid": forge.kid})


FORGED: dict[str, Callable[[Forge], str]] = {
    # no signature, or one by what everybody knows
    "alg none": lambda f: f.unsigned("none"),
    "alg None": lambda f: f.unsigned("None"),
    "alg nOnE": lambda f: f.unsigned("nOnE"),
    "alg none, a signature": lambda f: f.unsigned("none", f.good().rpartition(".")[2]),
    "alg none, no kid": lambda f: f.unsigned("none", kid=...),
    "alg empty": lambda f: f.unsigned("", f.good().rpartition(".")[2]),
    "alg missing": lambda f: f.sign(f.theirs, f.header(alg=...), f.claims()),
    "HS256 by the public key in PEM": lambda f: f.hmac(f.pem()),
    "HS256 by the public key in PEM without its last line end": lambda f: f.hmac(f.pem().strip()),
    "HS256 by the public key in DER": lambda f: f.hmac(f.der()),
    "HS256 by the certificate": lambda f: f.hmac(f.cert.public_bytes(serialization.Encoding.PEM)),
    "HS256 by nothing": lambda f: f.hmac(b""),
    "HS256 by the key's id": lambda f: f.hmac(f.kid.encode()),
    "HS384 by the public key": lambda f: f.hmac(f.pem(), "HS384"),
    "HS512 by the public key": lambda f: f.hmac(f.pem(), "HS512"),
    "ES256 by an attacker under our kid": _es256,
    "PS256 by our own key": lambda f: jwt.encode(f.claims(), f.key, algorithm="PS256", headers={"kid": f.kid}),
    # another key
    "a foreign key under our kid": lambda f: f.foreign(),
    "a foreign key under its own kid": lambda f: f.foreign(kid=key_id(f.theirs.public_key())),
    "a foreign key without kid": lambda f: f.foreign(kid=...),
    "our key without kid": lambda f: f.sign(f.key, f.header(kid=...), f.claims()),
    "an empty kid": lambda f: f.sign(f.key, f.header(kid=""), f.claims()),
    "a kid that is a path": lambda f: f.foreign(kid="../../../../dev/null"),
    "a kid that is a list": lambda f: f.foreign(kid=[f.kid]),
    "a kid that is SQL": lambda f: f.foreign(kid="x' UNION SELECT 'k"),
    # keys in the header
    "jwk of the attacker": lambda f: f.foreign(kid=..., jwk=f.jwk(f.theirs)),
    "jwk of the attacker beside our kid": lambda f: f.foreign(jwk=f.jwk(f.theirs)),
    "jwk of the attacker that says our kid": lambda f: f.foreign(jwk=f.jwk(f.theirs, kid=f.kid)),
    "jwk of ours, signed by the attacker": lambda f: f.foreign(jwk=f.jwk(f.key, kid=f.kid)),
    "jwk of the attacker with our certificate": lambda f: f.foreign(
        kid=..., jwk=f.jwk(f.theirs, kid=key_id(f.theirs.public_key()), x5c=f.chain(f.cert))
    ),
    "jwk of the attacker with its own certificate": lambda f: f.foreign(
        kid=..., jwk=f.jwk(f.theirs, x5c=f.chain(f.leaf()))
    ),
    "jwk of the attacker with an empty chain": lambda f: f.foreign(kid=..., jwk=f.jwk(f.theirs, x5c=[])),
    "jwk that is a shared secret": lambda f: f.foreign(kid=..., jwk={"kty": "oct", "k": _b64(b"secret")}),
    "x5c of the attacker": lambda f: f.foreign(kid=..., x5c=f.chain(f.leaf())),
    "x5c of the attacker, then ours": lambda f: f.foreign(x5c=f.chain(f.leaf(), f.cert)),
    "x5c of ours, signed by the attacker": lambda f: f.foreign(x5c=f.chain(f.cert)),
    "x5c that names us as issuer": lambda f: f.foreign(x5c=f.chain(f.leaf(issuer=f.cert.subject), f.cert)),
    "x5c issued by our token key, which is no authority": lambda f: f.foreign(
        x5c=f.chain(f.leaf(issuer=f.cert.subject, by=f.key), f.cert)
    ),
    "x5c issued by the registry's own TLS authority": lambda f: f.foreign(
        x5c=f.chain(f.leaf(issuer=f.tls_ca.subject, by=f.tls_ca_key), f.tls_ca)
    ),
    "jku": lambda f: f.foreign(kid=..., jku="https://attacker.example/jwks"),
    "x5u": lambda f: f.foreign(kid=..., x5u="https://attacker.example/cert.pem"),
    # altered after it was signed
    "more access than was signed": lambda f: f.altered(lambda body: body["access"].append(_access("blog"))),
    "another subject than was signed": lambda f: f.altered(lambda body: body.update(sub="alice")),
    "a longer life than was signed": lambda f: f.altered(lambda body: body.update(exp=body["exp"] + 10**6)),
    "another header than was signed": lambda f: f.altered(lambda body: body.update(cty="x"), part=0),
    "a bit of the signature": _flip,
    "half of the signature": lambda f: f.good()[:-100],
    "no signature": lambda f: f.good().rpartition(".")[0] + ".",
    "another token's signature": lambda f: f.good().rpartition(".")[0] + "." + f.good(sub="x").rpartition(".")[2],
    "two parts": lambda f: f.good().rpartition(".")[0],
    "four parts": lambda f: f.good() + ".x",
    "two tokens": lambda f: f.good() + "," + f.good(),
    "no base64": lambda f: "!!!." + f.good().partition(".")[2],
    "no JSON": lambda f: f.sign(f.key, f.header(), b"{"),
    "the JSON form of a token": lambda f: json.dumps(
        dict(zip(("protected", "payload"), f.good().split("."), strict=False))
    ),
    # ours, for somebody or something else
    "another audience": lambda f: f.good(aud="registry.example.com"),
    "no audience": lambda f: f.good(aud=...),
    "an audience in capitals": lambda f: f.good(aud="BERTH-REGISTRY"),
    "audiences without ours": lambda f: f.good(aud=["a", "b"]),
    "another issuer": lambda f: f.good(iss="evil"),
    "no issuer": lambda f: f.good(iss=...),
    "an issuer with a space": lambda f: f.good(iss="berth "),
    "expired": lambda f: f.good(exp=int(time.time()) - 120),
    "expired a year ago": lambda f: f.good(exp=int(time.time()) - 31536000),
    "no end": lambda f: f.good(exp=...),
    "an end that is no number": lambda f: f.good(exp="never"),
    "an end beyond all time": lambda f: f.good(exp=10**30),
    "not yet valid": lambda f: f.good(nbf=int(time.time()) + 300),
    "valid next year": lambda f: f.good(nbf=int(time.time()) + 31536000, exp=int(time.time()) + 2 * 31536000),
    "no access": lambda f: f.good(access=...),
    "access of nothing": lambda f: f.good(access=[]),
    "access that is null": lambda f: f.good(access=None),
    "access that is no list": lambda f: f.good(access=_access()),
    "access to another repository": lambda f: f.good(access=[_access("blog")]),
    "access to all names": lambda f: f.good(access=[_access("*")]),
    "access to a pattern": lambda f: f.good(access=[_access("sh*")]),
    "access to the name in capitals": lambda f: f.good(access=[_access("SHOP")]),
    "access to the name and a slash": lambda f: f.good(access=[_access("shop/")]),
    "access to the name with a path": lambda f: f.good(access=[_access("blog/../shop")]),
    "access to the name with the registry": lambda f: f.good(access=[_access("localhost:5443/shop")]),
    "access to the name below another": lambda f: f.good(access=[_access("shop/shop")]),
    "access without a type": lambda f: f.good(access=[{"name": "shop", "actions": ["pull", "push", "delete"]}]),
    "access of another type": lambda f: f.good(access=[_access(kind="registry")]),
    "access of the type in capitals": lambda f: f.good(access=[_access(kind="Repository")]),
    "access without actions": lambda f: f.good(access=[{"type": "repository", "name": "shop"}]),
    "access with actions in capitals": lambda f: f.good(access=[_access("shop", "PULL", "PUSH", "DELETE")]),
    "access with actions in one word": lambda f: f.good(access=[_access("shop", "pull,push,delete")]),
    "access to the catalogue only": lambda f: f.good(access=[_access("catalog", "*", kind="registry")]),
    "claims that stand twice": lambda f: f.sign(f.key, f.header(), _twice(f, _access(), _access("blog"))),
    "claims that stand twice, by the attacker": lambda f: f.sign(
        f.theirs, f.header(), _twice(f, _access("blog"), _access())
    ),
    # what is no token of the registry at all
    "an API token": lambda f: "brt_" + "x" * 43,
    "a robot's secret": lambda f: "brr_" + "x" * 43,
    "a refresh token": lambda f: "brf_" + "x" * 43,
    "nothing": lambda f: "",
}


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    env = Environment.open(tmp_path_factory.mktemp("registry"))
    with Stack(env.directory, [registry(env)]):
        yield env


@pytest.fixture(scope="module")
def forge(env) -> Forge:
    def key(path):
        return serialization.load_pem_private_key(path.read_bytes(), None)

    authority = env.registry_authority.pair
    return Forge(
        key=key(env.token_pair.key),
        cert=x509.load_pem_x509_certificate(env.token_pair.cert.read_bytes()),
        theirs=rsa.generate_private_key(public_exponent=65537, key_size=2048),
        tls_ca=x509.load_pem_x509_certificate(authority.cert.read_bytes()),
        tls_ca_key=key(authority.key),
    )


@pytest.fixture(scope="module")
def image(env, forge):
    with http(env, forge.good()) as client:
        return image_put(client, "shop", "1.0")


def _asks(client, image):
    return {
        "manifest": client.get("/v2/shop/manifests/1.0"),
        "blob": client.get(f"/v2/shop/blobs/{image['layer']}"),
        "tags": client.get("/v2/shop/tags/list"),
        "upload": client.post("/v2/shop/blobs/uploads/"),
        "delete": client.delete(f"/v2/shop/manifests/{image['manifest']}"),
    }


def _still_there(env, forge, image):
    with http(env, forge.good()) as client:
        return client.head("/v2/shop/manifests/1.0").headers["Docker-Content-Digest"] == image["manifest"]


def test_there_are_forty_and_more():
    assert len(FORGED) >= 40


@pytest.mark.parametrize("case", FORGED)
def test_a_forged_token_opens_nothing(env, forge, image, case):
    with http(env, FORGED[case](forge)) as client:
        for what, reply in _asks(client, image).items():
            # 400 where the registry can't even read it; what opens is 200, 202 or 404.
            assert reply.status_code in {400, 401}, (what, reply.status_code)
            assert b"layer" not in reply.content
    assert _still_there(env, forge, image)


@pytest.mark.parametrize(
    ("actions", "opened"),
    [
        (("pull",), {"manifest", "blob", "tags"}),
        # The registry asks for both where something is written.
        (("push",), set()),
        (("delete",), {"delete"}),
        (("pull", "push"), {"manifest", "blob", "tags", "upload"}),
    ],
)
def test_a_good_token_opens_what_it_says_and_no_more(env, forge, image, actions, opened):
    with http(env, forge.good(access=[_access("shop", *actions)])) as client:
        found = {what for what, reply in _asks(client, image).items() if reply.status_code in {200, 202}}
    assert found == opened
    if "delete" in actions:
        with http(env, forge.good()) as client:
            assert image_put(client, "shop", "1.0") == image
    assert _still_there(env, forge, image)


@pytest.mark.parametrize("scheme", ["Basic", "Token", "JWT", "Digest"])
def test_a_good_token_under_another_scheme_opens_nothing(env, forge, image, scheme):
    with http(env) as client:
        reply = client.get("/v2/shop/manifests/1.0", headers={"Authorization": f"{scheme} {forge.good()}"})
    assert reply.status_code == 401


@pytest.mark.parametrize("place", ["token", "access_token", "authorization"])
def test_a_good_token_in_the_address_opens_nothing(env, forge, image, place):
    with http(env) as client:
        assert client.get("/v2/shop/manifests/1.0", params={place: forge.good()}).status_code == 401
        assert client.get("/v2/shop/manifests/1.0", headers={"Cookie": f"{place}={forge.good()}"}).status_code == 401


def test_a_mount_needs_a_token_for_both_repositories(env, forge, image):
    mount = {"mount": image["layer"], "from": "shop"}
    for access in ([_access("blog")], [_access("blog"), _access("shop", "push")], [_access("shop")]):
        with http(env, forge.good(access=access)) as client:
            assert client.post("/v2/blog/blobs/uploads/", params=mount).status_code == 401
            assert client.head(f"/v2/blog/blobs/{image['layer']}").status_code in {401, 404}
    with http(env, forge.good(access=[_access("blog"), _access("shop", "pull")])) as client:
        assert client.post("/v2/blog/blobs/uploads/", params=mount).status_code == 201
        assert client.head(f"/v2/blog/blobs/{image['layer']}").status_code == 200


@pytest.mark.parametrize("access", [[_access()], [_access("catalog")], [_access("catalog", "pull", kind="registry")]])
def test_the_catalogue_is_for_nobody_who_has_a_tenants_token(env, forge, image, access):
    with http(env, forge.good(access=access)) as client:
        reply = client.get("/v2/_catalog")
    assert reply.status_code == 401
    assert b"shop" not in reply.content
