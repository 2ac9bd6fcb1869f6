"""A signed statement in a file: DSSE envelope inside a Sigstore bundle v0.3, in one byte form only."""

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from expunge import canonical, signature

PAYLOAD_TYPE = "application/vnd.in-toto+json"
MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"

Sign = Callable[[bytes], bytes]
"""Gives the DER signature over a message; the private key may live elsewhere."""


class Malformed(ValueError):
    """The file is not a bundle in the one accepted form."""


@dataclass(frozen=True)
class Bundle:
    """What a bundle file holds, before anything about it is believed."""

    payload: bytes
    """The statement: canonical JSON."""

    signature: bytes
    """DER, over `pae(payload)`."""

    key_id: str
    """Whose signature the envelope says it is: a fingerprint."""

    hint: str
    """How the bundle says to find the public key."""


def pae(payload: bytes, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """Give the bytes that are signed: the DSSE v1 pre-authentication encoding, with lengths in bytes.

    Source: https://github.com/secure-systems-lab/dsse/blob/v1.0.0/protocol.md
    """
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def seal(statement: Any, *, sign: Sign, key_id: str, hint: str) -> bytes:
    """Sign a statement and return the bundle file.

    Args:
        statement: a JSON value; its RFC 8785 form is the payload.
        sign: signs the encoding of the payload.
        key_id: the signer's fingerprint, repeated in the envelope for verifiers that match by id.
        hint: the bundle's own way to name the key; `model_signing` wants the sha256 of the PEM here.
    """
    payload = canonical.dumps(statement)
    return write(Bundle(payload=payload, signature=sign(pae(payload)), key_id=key_id, hint=hint))


def write(bundle: Bundle) -> bytes:
    """Write the bundle file: canonical JSON, no line break at the end."""
    return canonical.dumps(
        {
            "mediaType": MEDIA_TYPE,
            "verificationMaterial": {"publicKey": {"hint": bundle.hint}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": base64.b64encode(bundle.payload).decode("ascii"),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"keyid": bundle.key_id, "sig": base64.b64encode(bundle.signature).decode("ascii")}],
            },
        }
    )


def read(data: bytes) -> Bundle:
    """Read a bundle file without believing it; every byte must be the one that `write` would have put there.

    Raises:
        Malformed: another form, more or fewer fields, more than one signature, or base64 with spare bits.
    """
    try:
        value = canonical.loads(data)
        envelope = value["dsseEnvelope"]
        (signed,) = envelope["signatures"]
        bundle = Bundle(
            payload=base64.b64decode(envelope["payload"], validate=True),
            signature=base64.b64decode(signed["sig"], validate=True),
            key_id=signed["keyid"],
            hint=value["verificationMaterial"]["publicKey"]["hint"],
        )
        again = write(bundle)
    except (KeyError, TypeError, ValueError, binascii.Error):
        raise Malformed("not a Sigstore bundle v0.3 with one DSSE signature, in canonical form") from None
    if again != data:
        raise Malformed("a bundle, but not in its one accepted form")
    return bundle


def verify(bundle: Bundle, key: ec.EllipticCurvePublicKey, *, hint: str) -> Any:
    """Return the statement that `key` signed.

    Args:
        hint: what the bundle must say about the key; it is not signed, so it is compared.

    Raises:
        BadSignature: another key, or changed bytes.
        NotCanonical: the key did sign, but not canonical JSON.
    """
    if bundle.key_id != signature.fingerprint(key) or bundle.hint != hint:
        raise signature.BadSignature("the bundle names another key")
    signature.check(pae(bundle.payload), bundle.signature, key)
    return canonical.loads(bundle.payload)
