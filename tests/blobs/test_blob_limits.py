"""Memory does not grow with a blob, and a place that is full says so and keeps nothing."""

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from service.blobs import BlobExists, Vault
from service.blobs.port import RECORD

MIB = 1 << 20


def run(repository: Path, script: str, *before: str) -> subprocess.CompletedProcess[str]:
    command = [*before, sys.executable, "-c", textwrap.dedent(script)]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=120, check=False)


PUT_AND_READ = """
    import hashlib, pathlib
    vault = {address}
    block, repeats = bytes(range(256)) * 4096, {mib}
    vault.put("up-0", (block for _ in range(9)))
    for _ in vault.stream("up-0"):
        pass
    vault.shred("up-0")
    # Not getrusage: what it calls the peak of a process begins with that of the one which started it.
    peak = lambda: int(pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024
    before = peak()
    sealed = vault.put("up-1", (block for _ in range(repeats)))
    digest = hashlib.sha256()
    for piece in vault.stream("up-1"):
        digest.update(piece)
    with vault.open("up-1") as reader:
        while reader.read(1 << 20):
            pass
    assert digest.hexdigest() == sealed.sha256 and sealed.size == repeats * len(block)
    print(peak() - before)
"""


# Nine chunks are put first, so that what a client library needs once is not counted; that much and no more may come on top.
@pytest.mark.parametrize(("mib", "most"), [(48, 24), pytest.param(512, 64, marks=pytest.mark.slow)])
def test_a_large_blob_is_put_and_read_in_little_memory(vault: Vault, address: str, repository: Path, mib: int, most: int) -> None:
    done = run(repository, PUT_AND_READ.format(address=address, mib=mib))

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < most
    assert vault.stat("up-1").size == mib * MIB


@pytest.mark.parametrize(
    ("place", "limit", "size"),
    [
        pytest.param("directory", 2 * MIB, 5 * MIB, id="in a chunk"),
        pytest.param("directory", RECORD + 10, MIB, id="in the trailer"),
        *(pytest.param(adapter, 20, 0, id=f"in the key, {adapter}") for adapter in ("directory", "postgres", "s3")),
    ],
    indirect=["place"],
)
def test_a_file_limit_is_named_and_nothing_half_written_stays(
    address: str, at_rest: Callable[[], bytes], repository: Path, limit: int, size: int
) -> None:
    script = f"""
        import resource
        from service.blobs import StoreFull
        vault = {address}
        unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, unlimited[1]))
        try:
            vault.put("up-1", bytes({size}))
        except StoreFull as error:
            print(error)
        assert list(vault.ids()) == []
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        vault.put("up-1", bytes({size}))
        vault.shred("up-1")
    """

    done = run(repository, script)

    assert done.returncode == 0, done.stderr
    assert done.stdout == "blob up-1: no room left to store it\n"
    assert at_rest() == b""


ON_A_SMALL_DISK = """
    import os, pathlib, subprocess
    from service.blobs import StoreFull, directory_vault
    root = pathlib.Path({root!r})
    for name in ("blobs", "keys"):
        (root / name).mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "small", root / {small!r}], check=True)
    vault = directory_vault(root / "blobs", root / "keys")
    vault.put("up-1", b"kept")
    filler = os.open(root / {small!r} / "filler", os.O_WRONLY | os.O_CREAT)
    def fill():
        try:
            while os.write(filler, bytes(4096)):
                pass
        except OSError:
            pass
    if {small!r} == "keys":
        fill()
    try:
        vault.put("up-2", bytes(2 << 20))
    except StoreFull as error:
        print(error)
    assert list(vault.ids()) == ["up-1"], list(vault.ids())
    fill()
    assert vault.read("up-1") == b"kept"
    vault.shred("up-1")
    assert list(vault.ids()) == []
    os.ftruncate(filler, 0)
    vault.put("up-2", b"room again")
    assert vault.read("up-2") == b"room again"
"""


@pytest.mark.parametrize("small", ["blobs", "keys"])
def test_a_full_disk_is_named_keeps_nothing_and_does_not_stop_shredding(
    tmp_path: Path, repository: Path, own_mounts: list[str], small: str
) -> None:
    done = run(repository, ON_A_SMALL_DISK.format(root=str(tmp_path), small=small), *own_mounts)

    assert done.returncode == 0, done.stderr
    assert done.stdout == "blob up-2: no room left to store it\n"


def test_a_failed_put_over_a_taken_id_harms_nothing(vault: Vault) -> None:
    vault.put("up-1", b"first")

    with pytest.raises(BlobExists):
        vault.put("up-1", bytes(3 * MIB))

    assert vault.read("up-1") == b"first"
    assert list(vault.ids()) == ["up-1"]
