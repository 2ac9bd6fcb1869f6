"""One signature form: ECDSA P-256 with SHA-256, deterministic, low s, strict DER.

For every (r, s) that verifies, (r, n - s) verifies too, and anybody can compute it. Only the smaller s is made and accepted, so nobody
without the key can turn a signed file into another signed file.
"""

import hashlib

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

# The order of the group of P-256 (SEC 2, section 2.4.2).
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


class BadSignature(ValueError):
    """The signature is not the key's over these bytes, or not in the one accepted form."""


class BadKey(ValueError):
    """Not a P-256 public key in the one accepted PEM form."""


def sign(message: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Sign with the nonce of RFC 6979, so that the same key and message give the same bytes, and return DER with the smaller s."""
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256(), deterministic_signing=True)))
    return encode_dss_signature(r, min(s, ORDER - s))


def check(message: bytes, signature: bytes, key: ec.EllipticCurvePublicKey) -> None:
    """Accept a signature or raise.

    Raises:
        BadSignature: wrong bytes, wrong key, the larger s, or DER that writing again would change.
    """
    try:
        r, s = decode_dss_signature(signature)
    except ValueError:
        raise BadSignature("the signature is not DER") from None
    if s > ORDER // 2 or encode_dss_signature(r, s) != signature:
        raise BadSignature("the signature is not in its one accepted form")
    try:
        key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise BadSignature("the signature does not belong to these bytes and this key") from None


def pem(key: ec.EllipticCurvePublicKey) -> bytes:
    """Write a public key as PEM (SubjectPublicKeyInfo)."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def spki(key: ec.EllipticCurvePublicKey) -> bytes:
    """Write a public key as DER (SubjectPublicKeyInfo)."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """Name a key: sha256 (hex) of its SubjectPublicKeyInfo in DER."""
    return hashlib.sha256(spki(key)).hexdigest()


def read_public(data: bytes) -> ec.EllipticCurvePublicKey:
    """Read a P-256 public key; only the PEM that `pem` writes is accepted.

    Raises:
        BadKey: another key type or curve, or another spelling of the same key.
    """
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise BadKey("not a public key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise BadKey("not a P-256 key")
    if pem(key) != data:
        raise BadKey("the PEM is not in its one accepted form")
    return key
