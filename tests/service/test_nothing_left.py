"""After forgetting, the marker bytes of a forgotten sample are nowhere: not on the disk, and not under any key that is left."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load as load_tensors

from service.home import open_home
from service.settings import Settings
from tests.copies import copy_of
from tests.digits import Digits
from tests.live import Live


def plaintexts(directory: Path) -> dict[str, bytes]:
    """Every blob that can still be decrypted with the keys that are left."""
    home = open_home(Settings(data_dir=copy_of(directory / "data")))
    found = {blob: home.vault.read(blob) for blob in home.vault.ids()}
    home.close()
    return found


def raw_files(directory: Path) -> bytes:
    return b"".join(p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file())


def test_a_forgotten_sample_is_nowhere_afterwards(own_live: Live, data: Digits) -> None:
    live = own_live
    live.fit("m", "digits", expected_rows=1000)
    person = "person-11"
    gone = data.of(subject=person)
    sample, image = gone[0].encode(), data.images[data.ids.index(gone[0])].tobytes()
    before = plaintexts(live.directory)
    row = integer_row(before, gone[0])

    request = live.request(live.forget("m", subjects=[person], reference="DSR-9").json()["id"])
    parent = next(b for b, p in before.items() if p == live_file(before, "user"))
    after = plaintexts(live.directory)

    for marker in (sample, image, row, person.encode()):
        assert any(marker in plain for plain in before.values())  # it was there: the search can find it
        assert not any(marker in plain for plain in after.values())
        assert marker not in raw_files(live.directory)
    assert request["state"] == "fulfilled"
    assert parent in after  # the withdrawn parent's weights stay sealed for the rollback window, and only they
    assert len(set(before) & set(after)) < len(before)
    for text in (live.log, json.dumps(live.client.get("/forget").json()), json.dumps(live.client.get("/jobs").json())):
        assert sample.decode() not in text and person not in text


def test_of_a_linearised_model_neither_the_sample_nor_the_weights_before_the_noise_are_anywhere(own_live: Live, data: Digits) -> None:
    live = own_live
    live.fit("m", "digits", linearize=["stage4", "fc"], release={"sigma": 0.1, "rank": 64}, ridge=3.0)
    person = "person-11"
    gone = data.of(subject=person)
    markers = (gone[0].encode(), data.images[data.ids.index(gone[0])].tobytes(), person.encode())
    before = plaintexts(live.directory)

    request = live.request(live.forget("m", subjects=[person]).json()["id"])
    release = live.client.get("/models/m/versions/2/files/user.safetensors").content
    after = plaintexts(live.directory)

    assert request["state"] == "fulfilled"
    for marker in markers:
        assert any(marker in plain for plain in before.values())
        assert not any(marker in plain for plain in after.values())
        assert marker not in raw_files(live.directory)
    named = {blob for blob, plain in after.items() if b'"user.fc.weight"' in plain[:600]}
    assert {after[blob] for blob in named - set(before)} == {release}
    assert len(named) == 2  # and the withdrawn parent's, sealed for the rollback window
    size = 8 * (32 * 32 * 9 + 32 + 32 * 10 + 10)  # bytes of a vector in float64: of new blobs none has room for one
    assert all(len(after[blob]) < size for blob in set(after) - set(before) - named if b"sample_id" not in after[blob])


def test_after_the_rollback_window_the_parents_weights_cannot_be_read(tmp_path: Path, upload: bytes, data: Digits) -> None:
    live = Live(tmp_path, rollback_days="0")
    try:
        live.upload("digits", upload)
        live.fit("m", "digits")
        weights = live.client.get("/models/m/versions/1/files/user.safetensors").content
        there = weights in plaintexts(live.directory).values()

        live.request(live.forget("m", ids=data.of(role="user")[:1]).json()["id"])
        after = plaintexts(live.directory)

        assert there
        assert weights not in after.values()
    finally:
        live.stop()


def test_the_log_of_what_was_destroyed_grows_with_every_key(own_live: Live, data: Digits) -> None:
    live = own_live
    live.fit("m", "digits")
    size = int(live.client.get("/log/checkpoint").text.splitlines()[1])

    live.request(live.forget("m", ids=data.of(role="user")[:1]).json()["id"])

    grown = int(live.client.get("/log/checkpoint").text.splitlines()[1])
    # the certificate, and: a data block, its index, a block of integer rows, the statistics, the model's index, the request's body
    assert grown - size == 7


def live_file(blobs: dict[str, bytes], name: str) -> bytes:
    return next(p for p in blobs.values() if f'"{name}.weight"'.encode() in p[:200])


def integer_row(blobs: dict[str, bytes], sample: str) -> bytes:
    """The 16-bit feature row of a sample, as the blob of its block holds it."""
    for plain in blobs.values():
        if b'"id_ends"' in plain[:600]:
            tensors = load_tensors(plain)
            ends = tensors["id_ends"].tolist()
            ids = [tensors["ids"].tobytes()[a:b].decode() for a, b in zip([0, *ends], ends, strict=False)]
            if sample in ids:
                return np.ascontiguousarray(tensors["features"][ids.index(sample)]).tobytes()
    raise AssertionError("no block holds the sample")
