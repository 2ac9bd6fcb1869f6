"""What the log looked like at one size, signed: a C2SP tlog-checkpoint in the signed-note form."""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec

from expunge import signature
from expunge.dsse import Sign

# No space and no plus, so that the origin can also be the key's name in the signature line; ASCII, so that no look-alike can.
_ORIGIN = re.compile(r"[!-*,-~]{1,255}")
_SIZE = re.compile(r"0|[1-9][0-9]{0,15}")
_DASH = "\N{EM DASH}"


class BadCheckpoint(ValueError):
    """Not a checkpoint in the one accepted form, or not signed by this key."""


@dataclass(frozen=True)
class Checkpoint:
    """The log's name, its number of leaves and their Merkle root."""

    origin: str
    size: int
    root: bytes


def body(checkpoint: Checkpoint) -> str:
    """Give the text that is signed: origin, size and root, a line each.

    Source: https://c2sp.org/tlog-checkpoint

    Raises:
        ValueError: the origin has a space, a plus or a letter outside ASCII, or is empty.
    """
    if not _ORIGIN.fullmatch(checkpoint.origin):
        raise ValueError("a log's origin is 1 to 255 ASCII characters without space or plus")
    return f"{checkpoint.origin}\n{checkpoint.size}\n{base64.b64encode(checkpoint.root).decode('ascii')}\n"


def key_id(key: ec.EllipticCurvePublicKey) -> bytes:
    """Give the four bytes that name an ECDSA key in a note: the first of the sha256 of its SubjectPublicKeyInfo in DER.

    Source: https://c2sp.org/signed-note, signature type 0x02
    """
    return hashlib.sha256(signature.spki(key)).digest()[:4]


def sign(checkpoint: Checkpoint, *, sign: Sign, key: ec.EllipticCurvePublicKey) -> str:
    """Write the signed note; the key's name in the signature line is the origin."""
    text = body(checkpoint)
    signed = base64.b64encode(key_id(key) + sign(text.encode("utf-8"))).decode("ascii")
    return f"{text}\n{_DASH} {checkpoint.origin} {signed}\n"


def verify(note: str, key: ec.EllipticCurvePublicKey) -> Checkpoint:
    """Read a note that carries exactly one signature, by this key.

    Raises:
        BadCheckpoint: another form, another key, or changed bytes.
    """
    text, blank, line = note.partition("\n\n")
    lines = text.split("\n")
    if not blank or len(lines) != 3 or not _ORIGIN.fullmatch(lines[0]) or not _SIZE.fullmatch(lines[1]):
        raise BadCheckpoint("not origin, size and root, a line each, and a blank line")
    checkpoint = Checkpoint(origin=lines[0], size=int(lines[1]), root=_decode(lines[2]))
    lead = f"{_DASH} {checkpoint.origin} "
    if len(checkpoint.root) != 32 or not line.startswith(lead) or not line.endswith("\n"):
        raise BadCheckpoint("the root is not 32 bytes, or the signature line is not the origin's")
    signed = _decode(line.removeprefix(lead).removesuffix("\n"))
    if signed[:4] != key_id(key):
        raise BadCheckpoint("signed by another key")
    try:
        signature.check(body(checkpoint).encode("utf-8"), signed[4:], key)
    except signature.BadSignature as reason:
        raise BadCheckpoint(str(reason)) from None
    return checkpoint


def _decode(text: str) -> bytes:
    """Read base64 that writing again would give back."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadCheckpoint("not base64") from None
    if base64.b64encode(data).decode("ascii") != text:
        raise BadCheckpoint("base64 with spare bits")
    return data
