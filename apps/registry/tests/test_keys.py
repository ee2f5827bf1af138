"""The keys that sign tokens, without a registry: what is told of them."""

from __future__ import annotations

import base64

from cryptography.hazmat.primitives.asymmetric import rsa
from django.test import Client

from apps.registry.services import keys


def test_the_key_set_names_what_the_registry_is_to_trust(db, token_key):
    def told():
        reply = Client().get("/api/registry/jwks")
        assert reply.status_code == 200
        return {one["kid"]: one for one in reply.json()["keys"]}

    first = keys.signing_key()
    assert set(told()) == {first.kid}
    prepared = keys.key_prepare()
    assert set(told()) == {first.kid, prepared.kid}
    keys.key_switch(prepared.kid)
    assert set(told()) == {first.kid, prepared.kid}
    one = told()[first.kid]
    assert (one["kty"], one["alg"], one["use"]) == ("RSA", "RS256", "sig")
    number = int.from_bytes(base64.urlsafe_b64decode(one["n"] + "=="), "big")
    assert rsa.RSAPublicNumbers(65537, number).public_key() == first.public
    assert "d" not in one


def test_preparing_and_switching_twice_makes_one_key(db, token_key):
    assert keys.key_prepare().pk == keys.key_prepare().pk
    kid = keys.key_prepare().kid
    assert keys.key_switch(kid) is True
    assert keys.key_switch(kid) is False


def test_a_key_that_was_prepared_after_the_registry_was_asked_does_not_sign(db, token_key):
    asked = keys.key_prepare()
    assert keys.key_switch(asked.kid) is True, "by another run of the command"
    keys.key_prepare()
    assert keys.key_switch(asked.kid) is False
    assert keys.signing_key().kid == asked.kid


def test_an_old_key_goes_only_after_its_last_token(db, token_key, monkeypatch):
    keys.key_switch(keys.key_prepare().kid)
    assert keys.keys_remove() == 0
    assert len(keys.trusted_certificates()) == 2
    monkeypatch.setattr(keys, "TOKEN_S", -keys.LEEWAY_S)
    assert keys.keys_remove() == 1
    assert len(keys.trusted_certificates()) == 1


def test_private_keys_stand_encrypted_in_the_database(db, token_key):
    from django.db import connection

    keys.key_prepare()
    with connection.cursor() as cursor:
        cursor.execute("SELECT private_key FROM registry_tokenkey")
        held = [row[0] for row in cursor.fetchall()]
    assert len(held) == 2
    assert not any("PRIVATE" in one for one in held)
