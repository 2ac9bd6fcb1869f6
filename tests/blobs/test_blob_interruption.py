"""A process may die at any line of a put or a shred: a blob is whole or unreadable, and what is left can be found and shredded."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from service.blobs import BlobMissing, Vault

MARKER = b"MARKER-of-a-person-77aa01"
AtRest = Callable[[], bytes]

# Forks once for every line (or every few) that `act` runs in service/blobs: that child dies there without any clean-up, or is
# interrupted there. Another then looks at what is left. Each opens the vault for itself, since a connection survives no fork.
# Prints how many lines there were.
EACH_LINE = """
import os, sys, traceback
from service.blobs import BlobError
PLAIN = {marker!r} * 50_000

def in_a_fork(work):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, str(work({address})).encode())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(9)
    os.close(writing)
    with open(reading) as said:
        words = said.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), words

def act(vault):
    {act}

def blobs_only(frame, event, arg):
    global left
    if "service/blobs/" not in frame.f_code.co_filename:
        return None
    if event == "line":
        left -= 1
        if left == 0:
            {end}
    return blobs_only

def interrupted(vault):
    sys.settrace(blobs_only)
    try:
        act(vault)
    except KeyboardInterrupt:
        os._exit(7)
    sys.settrace(None)
    os._exit(0 if left > 0 else 7)

def before(vault):
    {before}

def state(vault):
    try:
        return "whole" if vault.read("up-1") == PLAIN else "wrong"
    except BlobError as error:
        return type(error).__name__

def look(vault):
    found = state(vault)
    for blob_id in list(vault.ids()):
        vault.shred(blob_id)
    return found + " then " + state(vault)

{address}  # Imports what the adapter needs, once for all forks, and connects to nothing.
line, seen = 1, set()
while True:
    left = line
    assert {before!r} == "pass" or in_a_fork(before)[0] == 0, line
    code, _ = in_a_fork(interrupted)
    assert code in (0, 7), (line, code)
    failed, found = in_a_fork(look)
    first, _, after = found.partition(" then ")
    assert failed == 0 and first in {allowed!r} and after == "BlobMissing", (line, found)
    seen.add(first)
    if code == 0:
        break
    line += {step}
print(line, *sorted(seen))
"""


@pytest.fixture(params=["os._exit(7)", "raise KeyboardInterrupt"], ids=["killed", "interrupted"])
def end(request: pytest.FixtureRequest) -> str:
    """How a process ends at a line: without any clean-up, or with it."""
    return str(request.param)


@pytest.fixture(params=[12, pytest.param(1, marks=pytest.mark.slow)], ids=["some lines", "all lines"])
def step(request: pytest.FixtureRequest) -> int:
    """One in how many lines is tried."""
    return int(request.param)


def run_each_line(
    repository: Path, address: str, *, act: str, before: str, end: str, step: int, allowed: set[str]
) -> tuple[int, set[str]]:
    script = EACH_LINE.format(address=address, marker=MARKER, act=act, before=before, end=end, step=step, allowed=allowed)
    done = subprocess.run([sys.executable, "-c", script], cwd=repository, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    lines, *seen = done.stdout.split()
    return int(lines), set(seen)


@pytest.mark.parametrize(
    "act",
    [
        pytest.param('vault.put("up-1", PLAIN)', id="put"),
        pytest.param('vault.keys.create(["up-1", "up-2"]); vault.put("up-1", PLAIN, keyed=True)', id="keyed", marks=pytest.mark.slow),
    ],
)
def test_a_put_that_ends_at_any_line_leaves_a_whole_blob_or_none(
    address: str, at_rest: AtRest, repository: Path, end: str, step: int, act: str
) -> None:
    allowed = {"whole", "BlobMissing", "KeyMissing"}
    lines, seen = run_each_line(repository, address, act=act, before="pass", end=end, step=step, allowed=allowed)

    assert lines > 50
    assert {"whole", "BlobMissing"} <= seen
    assert at_rest() == b""


def test_a_shred_that_ends_at_any_line_can_be_done_again(address: str, at_rest: AtRest, repository: Path, end: str, step: int) -> None:
    lines, seen = run_each_line(
        repository,
        address,
        act='vault.shred("up-1")',
        before='vault.put("up-1", PLAIN)',
        end=end,
        step=step,
        allowed={"whole", "BlobMissing", "KeyMissing"},
    )

    assert lines > 20
    assert seen == {"whole", "BlobMissing", "KeyMissing"}
    assert at_rest() == b""


@pytest.mark.parametrize("seed", range(4))
def test_a_put_killed_at_a_random_moment_leaves_nothing_readable(
    vault: Vault, address: str, at_rest: AtRest, repository: Path, seed: int
) -> None:
    script = f"""
        vault = {address}
        def endless():
            yield {MARKER!r} * 100_000
            print("begun", flush=True)
            while True:
                yield {MARKER!r} * 10_000
        vault.put("job-1-1-0", endless())
    """
    vault.put("up-2", b"another")

    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], cwd=repository, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    time.sleep(random.Random(seed).uniform(0, 0.1))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()

    with pytest.raises(BlobMissing):
        vault.read("job-1-1-0")
    assert list(vault.ids("job-1-1-")) == ["job-1-1-0"]
    assert MARKER not in at_rest()
    vault.shred("job-1-1-0")
    assert list(vault.ids()) == ["up-2"]
    assert b"job-1-1-0" not in at_rest()
    assert vault.read("up-2") == b"another"
