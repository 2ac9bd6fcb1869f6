"""Verifiers that others wrote accept every bundle, and refuse it after a changed byte."""

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from model_signing import verifying
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey
from sigstore_models.bundle.v1 import Bundle

from expunge import dsse
from service.certificates import Signer

BUNDLES = ("certificate.sigstore.json", "svr.sigstore.json", "model.sig")


def changed(data: bytes, place: int, mask: int = 1) -> bytes:
    return data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :]


def envelope(bundle: bytes, **instead: bytes) -> dict[str, Any]:
    """The envelope of a bundle, with the payload or the signature replaced."""
    value: dict[str, Any] = json.loads(bundle)["dsseEnvelope"]
    if "payload" in instead:
        value["payload"] = base64.b64encode(instead["payload"]).decode()
    if "sig" in instead:
        value["signatures"][0]["sig"] = base64.b64encode(instead["sig"]).decode()
    return value


def parts(bundle: bytes) -> tuple[bytes, bytes]:
    value = json.loads(bundle)["dsseEnvelope"]
    return base64.b64decode(value["payload"]), base64.b64decode(value["signatures"][0]["sig"])


@pytest.mark.parametrize("name", BUNDLES)
def test_securesystemslib_accepts_every_bundle_and_refuses_every_changed_byte(
    name: str, version_files: dict[str, bytes], signer: Signer
) -> None:
    key = SSlibKey.from_crypto(signer.public, keyid=signer.fingerprint)
    payload, sig = parts(version_files[name])

    assert list(Envelope.from_dict(envelope(version_files[name])).verify([key], 1)) == [signer.fingerprint]
    broken = [envelope(version_files[name], payload=changed(payload, i)) for i in range(len(payload))]
    broken += [envelope(version_files[name], sig=changed(sig, i)) for i in range(len(sig))]
    for value in broken:
        with pytest.raises(VerificationError):
            Envelope.from_dict(value).verify([key], 1)


@pytest.mark.parametrize("name", BUNDLES)
def test_openssl_accepts_every_bundle_and_refuses_changed_bytes(
    name: str, version_files: dict[str, bytes], issuer_key: Path, tmp_path: Path
) -> None:
    payload, sig = parts(version_files[name])
    places = sorted({0, 1, len(payload) - 1, *range(0, len(payload), len(payload) // 12)})

    assert openssl(payload, sig, issuer_key, tmp_path)
    assert not any(openssl(changed(payload, i), sig, issuer_key, tmp_path) for i in places)
    assert not any(openssl(payload, changed(sig, i), issuer_key, tmp_path) for i in range(0, len(sig), 6))


def openssl(payload: bytes, sig: bytes, key: Path, directory: Path) -> bool:
    kind = b"application/vnd.in-toto+json"
    (directory / "signed.bin").write_bytes(b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload))
    (directory / "signature.der").write_bytes(sig)
    command = ["openssl", "dgst", "-sha256", "-verify", str(key), "-signature", "signature.der", "signed.bin"]
    return subprocess.run(command, cwd=directory, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("name", BUNDLES)
def test_sigstores_own_models_read_every_bundle(name: str, version_files: dict[str, bytes]) -> None:
    bundle = Bundle.from_json(version_files[name])

    assert bundle.media_type == "application/vnd.dev.sigstore.bundle.v0.3+json"
    assert bundle.dsse_envelope is not None and bundle.dsse_envelope.payload == dsse.read(version_files[name]).payload
    with pytest.raises(ValueError, match="media"):
        Bundle.from_json(version_files[name].replace(b"bundle.v0.3", b"bundle.v0.4"))


def test_model_signing_accepts_a_downloaded_version(version: Path, issuer_key: Path) -> None:
    refusal = verifying.Config().use_elliptic_key_verifier(public_key=issuer_key).verify(version, version / "model.sig")

    assert refusal is None  # it raises what it refuses


@pytest.mark.parametrize("name", ["core.safetensors", "user.safetensors", "model.json", "policy.json"])
def test_model_signing_refuses_a_changed_file(name: str, version: Path, issuer_key: Path) -> None:
    path = version / name
    path.write_bytes(changed(path.read_bytes(), 3))

    with pytest.raises(ValueError, match=f"Hash mismatch for .*{name}"):
        verifying.Config().use_elliptic_key_verifier(public_key=issuer_key).verify(version, version / "model.sig")


def test_model_signing_refuses_a_file_that_was_added(version: Path, issuer_key: Path) -> None:
    (version / "extra.bin").write_bytes(b"")

    with pytest.raises(ValueError, match="Extra files"):
        verifying.Config().use_elliptic_key_verifier(public_key=issuer_key).verify(version, version / "model.sig")


def test_model_signing_refuses_changed_bytes_of_its_payload_and_signature(version: Path, issuer_key: Path) -> None:
    good = (version / "model.sig").read_bytes()
    payload, sig = parts(good)
    broken = [envelope(good, payload=changed(payload, i)) for i in range(0, len(payload), 7)]
    broken += [envelope(good, sig=changed(sig, i)) for i in range(len(sig))]

    for value in broken:
        (version / "model.sig").write_text(json.dumps({**json.loads(good), "dsseEnvelope": value}))
        with pytest.raises((InvalidSignature, ValueError)):
            verifying.Config().use_elliptic_key_verifier(public_key=issuer_key).verify(version, version / "model.sig")
