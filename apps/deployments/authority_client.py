"""Talking to a certificate authority by ACME (RFC 8555); the only home of the ``acme`` library.

Each method is one bounded conversation; what has to be kept between them is plain JSON, so that any worker can go on
where another died. The authority's address is the operators' own, so it is not guarded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

import requests
from acme import challenges, client, errors, messages
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from josepy.errors import Error as JoseError
from josepy.jwk import JWKRSA
from josepy.util import ComparableRSAKey

TIMEOUT_S = 20
#: How long one conversation waits for the authority to look, or to issue, before the next pass asks again. Seconds.
PATIENCE_S = 20
AGENT = "berth"
#: Problems (RFC 8555, 6.7) that no repetition mends.
_FINAL = {"rejectedIdentifier", "caa", "unsupportedIdentifier", "badCSR", "externalAccountRequired"}


class AuthorityError(Exception):
    """``code``: the problem's, in snake case. ``kind``: ``away`` (it did not answer), ``limited`` (later), ``refused``
    (our proof was not found, which may change), ``final``.
    """

    def __init__(self, kind: str, code: str, detail: str) -> None:
        super().__init__(detail)
        self.kind, self.code, self.detail = kind, code, detail


class NotYet(Exception):
    """The authority has not come to an end."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One name's proof: under it ``token`` must be answered with ``answer``."""

    name: str
    token: str
    answer: str


class Authority(Protocol):
    """``order`` is what `begin` returned first, with "answered" in it once the authority was told."""

    def register(self, email: str) -> str: ...

    def begin(self, names: list[str]) -> tuple[dict[str, Any], list[Asked]]: ...

    def answer(self, order: dict[str, Any]) -> None: ...

    def finish(self, order: dict[str, Any]) -> tuple[str, str]: ...


def account_key() -> str:
    """A new one, as PEM."""
    return _pem(rsa.generate_private_key(65537, 2048))


class AcmeAuthority:
    """Raises AuthorityError. ``account``: its address there, once `register` returned it. ``ca``: a file, or empty."""

    def __init__(self, *, directory: str, key: str, account: str = "", ca: str = "") -> None:
        private = load_pem_private_key(key.encode(), None)
        if not isinstance(private, rsa.RSAPrivateKey):
            raise TypeError("an account's key is RSA")
        self._directory = directory
        self._key = JWKRSA(key=ComparableRSAKey(private))
        self._account = account
        # requests takes a path there as well.
        self._verify: Any = ca or True
        self._client: client.ClientV2 | None = None

    def register(self, email: str) -> str:
        """Agrees to the authority's terms. Returns the account's address, of an account that is there already too."""
        with _problems():
            connected = self._connected()
            try:
                wanted = messages.NewRegistration.from_data(email=email or None, terms_of_service_agreed=True)
                self._account = str(connected.new_account(wanted).uri)
            except errors.ConflictError as there:
                self._account = str(there.location)
        self._client = None
        return self._account

    def begin(self, names: list[str]) -> tuple[dict[str, Any], list[Asked]]:
        """Order a certificate: the order, and what is to be answered. Names that are proven already need nothing."""
        with _problems():
            private = ec.generate_private_key(ec.SECP256R1())
            subject = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
            csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
            signed = csr.add_extension(subject, critical=False).sign(private, hashes.SHA256())
            request = signed.public_bytes(Encoding.PEM)
            order = self._connected().new_order(request)
            asked, urls = [], []
            for authorization in order.authorizations:
                if authorization.body.status == messages.STATUS_VALID:
                    continue
                body = self._http(authorization)
                answer, _ = body.response_and_validation(self._key)
                name = str(authorization.body.identifier.value)
                asked.append(Asked(name, body.chall.encode("token"), answer.key_authorization))
                urls.append(body.to_json())
        kept = {
            "uri": str(order.uri),
            "body": order.body.to_json(),
            "csr": request.decode(),
            "key": _pem(private),
            "challenges": urls,
        }
        return kept, asked

    def answer(self, order: dict[str, Any]) -> None:
        """Tell the authority that it may look."""
        with _problems():
            for kept in order["challenges"]:
                body = messages.ChallengeBody.from_json(kept)
                answer, _ = body.response_and_validation(self._key)
                self._connected().answer_challenge(body, answer)

    def finish(self, order: dict[str, Any]) -> tuple[str, str]:
        """The chain and its key, both PEM. Raises NotYet too."""
        found = messages.OrderResource(
            body=messages.Order.from_json(order["body"]), uri=order["uri"], csr_pem=order["csr"].encode()
        )
        # The library's clock has no time zone.
        deadline = datetime.now() + timedelta(seconds=PATIENCE_S)  # noqa: DTZ005
        with _problems():
            done = self._connected().poll_and_finalize(found, deadline)
        return str(done.fullchain_pem), str(order["key"])

    def _http(self, authorization: messages.AuthorizationResource) -> messages.ChallengeBody:
        for one in authorization.body.challenges:
            if isinstance(one.chall, challenges.HTTP01):
                return one
        raise AuthorityError("final", "no_http_challenge", "The authority offers no proof by HTTP for this name.")

    def _connected(self) -> client.ClientV2:
        if self._client is None:
            account = messages.RegistrationResource(body=messages.Registration(), uri=self._account)
            net = client.ClientNetwork(
                self._key,
                account=account if self._account else None,
                verify_ssl=self._verify,
                user_agent=AGENT,
                timeout=TIMEOUT_S,
            )
            self._client = client.ClientV2(client.ClientV2.get_directory(self._directory, net), net)
        return self._client


@contextmanager
def _problems() -> Iterator[None]:
    try:
        yield
    except AuthorityError:
        raise
    except errors.TimeoutError:
        raise NotYet from None
    except errors.ValidationError as error:
        for authorization in error.failed_authzrs:
            for one in authorization.body.challenges:
                if one.error is not None:
                    raise _problem(one.error) from error
        raise AuthorityError("refused", "unauthorized", "The authority did not find our answer.") from error
    except errors.IssuanceError as error:
        raise _problem(error.error) from error
    except messages.Error as error:
        raise _problem(error) from error
    except (requests.RequestException, errors.Error, JoseError, ValueError, KeyError, OSError) as error:
        words = f"The authority did not answer as it should ({type(error).__name__})."
        raise AuthorityError("away", "no_answer", words) from error


def _problem(error: messages.Error) -> AuthorityError:
    """Its words are shown to the tenant, whose name it is about: printable, and not many."""
    code = str(error.code or "unknown")
    words = "".join(letter for letter in str(error.detail or "") if letter.isprintable())[:300]
    if code == "rateLimited":
        kind = "limited"
    elif code in _FINAL:
        kind = "final"
    elif code in ("serverInternal", "badNonce", "accountDoesNotExist"):
        kind = "away"
    else:
        kind = "refused"
    snake = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in code if letter.isalnum())
    return AuthorityError(kind, snake[:40], f"The authority says: {words}" if words else "The authority refused it.")


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
