"""Signatures come in one form: deterministic, and refused after any changed byte; checkpoints are C2SP notes."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from expunge import canonical, checkpoint, dsse, signature
from service.certificates import Signer

OTHER = ec.derive_private_key(5, ec.SECP256R1())


def changed(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def test_the_signature_is_that_of_rfc_6979() -> None:
    # RFC 6979, appendix A.2.5: curve NIST P-256, SHA-256, message "sample". Its s is the larger one, so ours is n - s.
    key = ec.derive_private_key(0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721, ec.SECP256R1())
    r = 0xEFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716
    s = 0xF7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8

    signed = signature.sign(b"sample", key)

    assert decode_dss_signature(signed) == (r, signature.ORDER - s)
    assert s > signature.ORDER // 2


def test_the_mirror_image_of_a_signature_is_refused(signer: Signer) -> None:
    signed = signer.sign(b"text")
    r, s = decode_dss_signature(signed)
    mirrored = encode_dss_signature(r, signature.ORDER - s)

    # The library itself accepts both: the refusal is ours.
    signer.public.verify(mirrored, b"text", ec.ECDSA(SHA256()))
    signature.check(b"text", signed, signer.public)
    with pytest.raises(signature.BadSignature):
        signature.check(b"text", mirrored, signer.public)


def test_a_public_key_of_another_curve_or_spelling_is_refused(signer: Signer) -> None:
    pem = signer.public_pem

    assert signature.fingerprint(signature.read_public(pem)) == signer.fingerprint
    for other in (pem + b"\n", pem.replace(b"\n", b"\r\n"), b"", signature.pem(ec.generate_private_key(ec.SECP384R1()).public_key())):
        with pytest.raises(signature.BadKey):
            signature.read_public(other)


STATEMENT = {"_type": "x", "subject": [], "n": 3}


def seal(signer: Signer, statement: object = STATEMENT) -> bytes:
    return dsse.seal(statement, sign=signer.sign, key_id=signer.fingerprint, hint=signer.fingerprint)


def test_a_sealed_statement_comes_back_and_sealing_again_gives_the_same_bytes(signer: Signer) -> None:
    sealed = seal(signer)

    assert dsse.verify(dsse.read(sealed), signer.public, hint=signer.fingerprint) == STATEMENT
    assert seal(signer) == sealed


def test_every_changed_byte_of_payload_and_signature_is_refused(signer: Signer) -> None:
    good = dsse.read(seal(signer))
    payloads = [dsse.Bundle(changed(good.payload, i), good.signature, good.key_id, good.hint) for i in range(len(good.payload))]
    signatures = [dsse.Bundle(good.payload, changed(good.signature, i), good.key_id, good.hint) for i in range(len(good.signature))]

    for bundle in payloads + signatures:
        with pytest.raises((signature.BadSignature, canonical.NotCanonical)):
            dsse.verify(bundle, signer.public, hint=signer.fingerprint)


def test_every_changed_byte_of_a_bundle_file_is_refused(signer: Signer) -> None:
    sealed = seal(signer)

    for place in range(len(sealed)):
        with pytest.raises((dsse.Malformed, signature.BadSignature, canonical.NotCanonical)):
            dsse.verify(dsse.read(changed(sealed, place)), signer.public, hint=signer.fingerprint)


def test_other_spellings_of_the_same_bundle_are_refused(signer: Signer) -> None:
    sealed = seal(signer)
    twice = sealed.replace(b'"signatures":[', b'"signatures":[{"keyid":"x","sig":"AA=="},')

    for other in (sealed + b"\n", b" " + sealed, b"\xef\xbb\xbf" + sealed, twice, sealed[:-1], b"[]", b"", b"[" * 100_000):
        with pytest.raises(dsse.Malformed):
            dsse.read(other)


@pytest.mark.parametrize("field", [b'"payload":"', b'"sig":"'])
def test_base64_with_spare_bits_is_refused(field: bytes, signer: Signer) -> None:
    digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    tried = 0
    for statement in ({"n": "x" * n} for n in range(6)):
        sealed = seal(signer, statement)
        end = sealed.index(b"=", sealed.index(field)) if b"=" in sealed[sealed.index(field) :].split(b'"')[3] else 0
        if end:
            last = digits.index(sealed[end - 1 : end])
            same = sealed[: end - 1] + digits[last + 1 : last + 2] + sealed[end:]
            tried += 1
            # The standard decoder reads both as the same bytes: only writing again tells them apart.
            with pytest.raises(dsse.Malformed, match="one accepted form"):
                dsse.read(same)
    assert tried


def test_another_key_is_refused_even_when_the_file_names_it(signer: Signer) -> None:
    name = signature.fingerprint(OTHER.public_key())
    renamed = dsse.seal(STATEMENT, sign=signer.sign, key_id=name, hint=name)

    with pytest.raises(signature.BadSignature):
        dsse.verify(dsse.read(renamed), OTHER.public_key(), hint=name)


@pytest.mark.parametrize(
    "text", ['{"b":1,"a":2}', '{"a":1,"a":1}', '{"a": 1}', "1.0", "NaN", '"\\ud800"', '"\\u0041"', "9007199254740993", "{"]
)
def test_json_in_any_other_form_is_refused(text: str) -> None:
    with pytest.raises(canonical.NotCanonical):
        canonical.loads(text.encode())


def test_canonical_json_sorts_by_utf_16_and_writes_numbers_as_rfc_8785_says() -> None:
    # RFC 8785, section 3.2.3: the surrogate pair of the emoji sorts before U+FB33.
    assert canonical.dumps({"\ufb33": 1, "\U0001f600": 2, "a": 1e21}) == '{"a":1e+21,"\U0001f600":2,"\ufb33":1}'.encode()


SEEN = checkpoint.Checkpoint(origin="expunge.example/log", size=20852163, root=bytes(range(32)))


def test_a_checkpoint_is_the_note_of_the_c2sp_texts(signer: Signer) -> None:
    note = checkpoint.sign(SEEN, sign=signer.sign, key=signer.public)

    lines = note.split("\n")
    assert lines[:4] == ["expunge.example/log", "20852163", base64.b64encode(SEEN.root).decode(), ""]
    dash, name, signed = lines[4].split(" ")
    assert (dash, name, lines[5:]) == ("\u2014", "expunge.example/log", [""])
    raw = base64.b64decode(signed)
    assert raw[:4].hex() == signer.fingerprint[:8]
    signer.public.verify(raw[4:], "\n".join([*lines[:3], ""]).encode(), ec.ECDSA(SHA256()))


def test_a_checkpoint_comes_back_and_is_refused_after_any_changed_byte(signer: Signer) -> None:
    note = checkpoint.sign(SEEN, sign=signer.sign, key=signer.public)
    data = note.encode()

    assert checkpoint.verify(note, signer.public) == SEEN
    for place in range(len(data)):
        with pytest.raises((checkpoint.BadCheckpoint, UnicodeDecodeError)):
            checkpoint.verify(changed(data, place).decode(), signer.public)


def test_a_checkpoint_of_another_key_or_with_anything_added_is_refused(signer: Signer) -> None:
    note = checkpoint.sign(SEEN, sign=signer.sign, key=signer.public)

    for other in (note + "\n", note + note.split("\n")[4] + "\n", "\n" + note, note.replace("\n\n", "\nextension\n\n"), note[:-1], ""):
        with pytest.raises(checkpoint.BadCheckpoint):
            checkpoint.verify(other, signer.public)
    with pytest.raises(checkpoint.BadCheckpoint, match="another key"):
        checkpoint.verify(note, OTHER.public_key())


@pytest.mark.parametrize("origin", ["", "a b", "a+b", "a\nb", "l\u043eg"])
def test_an_origin_that_a_note_cannot_carry_is_refused(origin: str, signer: Signer) -> None:
    with pytest.raises(ValueError, match="origin"):
        checkpoint.sign(checkpoint.Checkpoint(origin, 1, bytes(32)), sign=signer.sign, key=signer.public)
