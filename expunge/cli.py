"""`expunge`: the command line. Exit codes: 0 done; 1 failed or refused; 2 wrong usage, or signer unknown; 3 reproduced, but other bits."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, NoReturn
from urllib.parse import urlsplit

import typer

from expunge import asking, audits, records, show, verify_audit
from expunge.asking import read_ids
from expunge.client import Client, Problem, Unreachable
from expunge.download import DownloadFailed
from expunge.records import AsJson
from expunge.verify import verify as verify_directory

INSTALL = "pip install 'expunge[service,worker]'"
COMPUTING = ("torch", "numpy", "scipy", "sklearn")
"""What jobs are computed with."""

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  context_settings={"help_option_names": ["-h", "--help"]},
                  help="Forget samples to the bit, with a certificate that can be checked without the service.",
                  epilog="Exit codes: 0 done; 1 failed or refused; 2 wrong usage, or signer unknown; 3 reproduced, but other bits. "
                         "EXPUNGE_URL and EXPUNGE_API_KEY say which service to talk to.")
app.add_typer(records.dataset, name="dataset")
app.add_typer(records.model, name="model")
app.command("forget")(asking.forget)
app.add_typer(asking.requests, name="requests")
app.command("receipt")(asking.receipt)
app.add_typer(records.jobs, name="jobs")
app.command("versions")(records.versions)
app.command("audit")(audits.audit)
app.add_typer(records.key, name="key")

Key = Annotated[Path | None, typer.Option("--key", help="The issuer's public key (PEM), from a place you trust.")]
Fingerprint = Annotated[str | None, typer.Option(help="The issuer's fingerprint (sha256 in hex), from a place you trust.")]


@app.command()
def download(model: Annotated[str, typer.Argument(help="Name of the model.")],
             version: Annotated[str, typer.Argument(help="A number, a statement's sha256, or @latest-certified.")] = "@latest-certified",
             out: Annotated[Path, typer.Option(help="Directory for the nine files; replaced if it holds a version.")] = Path("version"),
             json_: AsJson = False) -> None:
    """Download a version with its certificate. A broken download goes on when asked for again."""
    with Client() as client, show.bar(f"download {model}") as tell:
        directory = client.download(model, version, out=out, progress=lambda done, size: tell("receiving", done / size))
    if json_:
        return show.as_json({"directory": str(directory), "files": sorted(entry.name for entry in directory.iterdir())})
    show.say(f"{directory}: {len(list(directory.iterdir()))} files, with the digests announced.")
    show.say(f"Check it: expunge verify {directory} --fingerprint HEX")


@app.command()
def verify(place: Annotated[str, typer.Argument(metavar="DIR|URL", help="A downloaded version or audit, or the address of a version.")],
           key: Key = None, fingerprint: Fingerprint = None, json_: AsJson = False) -> None:
    """Check a version against its certificate, offline, in seven steps; or an audit's unpacked evidence, in six.

    Exits 0 if every step passed and the signer is the one you named; 1 if a step failed; 2 if you named none.
    """
    if urlsplit(place).scheme in ("http", "https"):
        with tempfile.TemporaryDirectory(prefix="expunge-") as folder:
            report = verify_directory(_fetched(place, Path(folder) / "version"), key=key, fingerprint=fingerprint)
    else:
        check = verify_audit.verify if verify_audit.is_audit(Path(place)) else verify_directory
        report = check(Path(place), key=key, fingerprint=fingerprint)
    if json_:
        show.as_json(show.report_json(report))
    else:
        show.report(report, place)
    raise typer.Exit(report.exit_code)


def _fetched(address: str, folder: Path) -> Path:
    base, found, rest = address.partition("/models/")
    parts = rest.strip("/").split("/")
    if not found or len(parts) != 3 or parts[1] != "versions":
        raise typer.BadParameter("the address of a version ends with /models/MODEL/versions/VERSION")
    with Client(base) as client:
        return client.download(parts[0], parts[2], out=folder)


@app.command()
def reproduce(directory: Annotated[Path, typer.Argument(metavar="DIR", help="A downloaded version.")],
              data: Annotated[Path, typer.Option(help="The data set's Parquet file.")],
              forgotten: Annotated[list[Path] | None, typer.Option(
                  help="Ids of the samples forgotten so far: one a line, or a .json list. May be given again.")] = None,
              service: Annotated[bool, typer.Option("--service", help="Ask the service too, for its sums, and count the integers that "
                                                    "differ. For the latest version, with a key of scope model:admin.")] = False,
              key: Key = None, fingerprint: Fingerprint = None, json_: AsJson = False) -> None:
    """Train again from the raw data without the forgotten samples, and compare hashes with the certificate.

    Of a linearised model: refit, and compare the distance to the release with its noise.

    Exits 0 if the bits are equal, or the distance is one that the noise explains; 3 if not, 1 if it could not be tried.
    """
    linearised = _is_linearised(directory)
    if linearised and service:
        raise typer.BadParameter("--service is for sums, which a linearised model does not have")
    found = _needing("expunge.reproduce_linearised" if linearised else "expunge.reproduce")
    gone = {name for path in forgotten or () for name in read_ids(path)}
    with show.bar("reproduce") as tell, Client() if service else nullcontext() as client:
        try:
            result = found.reproduce(directory, data, gone, key=key, fingerprint=fingerprint, service=client, progress=tell)
        except found.CannotReproduce as error:
            _fail(str(error))
    if json_:
        show.as_json(result.document())
    else:
        found.tell(result)
    raise typer.Exit(0 if result.equal else 3)


def _is_linearised(directory: Path) -> bool:
    """What the version says of itself; whether it may be believed is found out with it."""
    try:
        form = json.loads((directory / "model.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(form, dict) and "linearize" in form


@app.command()
def serve(host: Annotated[str | None, typer.Option(help="Loopback only. Default 127.0.0.1, or EXPUNGE_HOST.")] = None,
          port: Annotated[int | None, typer.Option(min=0, max=65535, help="0 takes a free one. Default 8000, or EXPUNGE_PORT.")] = None,
          data_dir: Annotated[Path | None, typer.Option(help="Where all is kept. Default expunge-data, or EXPUNGE_DATA_DIR.")] = None,
          key_file: Annotated[Path | None, typer.Option(help="Write the first API key here (mode 0600) instead of showing it.")] = None,
          until_stdin_closes: Annotated[bool, typer.Option(hidden=True)] = False) -> None:
    """Run the whole service in this process, with nothing else to install. Ctrl-C ends it; started again, it finishes what it accepted.

    With EXPUNGE_DATABASE_URL (PostgreSQL) and EXPUNGE_REDIS_URL it is the API alone: any number of them, beside `expunge worker`.
    """
    found = _needing("expunge.serve")
    given = {"host": host, "port": port, "data_dir": data_dir}
    if until_stdin_closes:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    chosen = _settings(given)
    if not chosen.distributed:
        _must_have(*COMPUTING)
    fresh = key_file is not None and not key_file.exists()
    try:
        with _server_troubles():
            found.serve(chosen, key_file=key_file, announce=lambda line: _announce(line, key_file if fresh else None))
    except found.NotLoopback as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"The service cannot listen or keep its data there: {error.strerror or error}.", "Choose another --port or --data-dir.")


@app.command()
def worker(queue: Annotated[str, typer.Option(help="cpu or gpu: whose jobs to carry out, one at a time.")] = "cpu") -> None:
    """Carry out jobs of a service on PostgreSQL and Redis. SIGTERM gives the job in hand back at once; kill -9 loses nothing."""
    found = _needing("expunge.worker")
    _must_have(*COMPUTING)
    if queue not in ("cpu", "gpu"):
        raise typer.BadParameter("is cpu or gpu", param_hint="--queue")
    chosen = _settings({})
    try:
        with _server_troubles():
            found.work(chosen, queue=queue, announce=show.say)
    except found.NotDistributed as error:
        _fail(str(error))


@app.command()
def migrate() -> None:
    """Bring the database to the tables that this version needs. Run it once before the first start and after each upgrade."""
    found, url = _needing("service.migrate"), _settings({}).records_url
    with _server_troubles():
        found.upgrade(url)
    show.say(f"the database is at revision {found.newest()}")


def _settings(given: dict[str, Any]) -> Any:
    """The service's settings; what is given here goes before the environment."""
    found = _needing("service.settings")
    try:
        return found.Settings(**{name: value for name, value in given.items() if value is not None})
    except _needing("pydantic").ValidationError as error:
        _fail(_settings_wrong(error))


@contextmanager
def _server_troubles() -> Iterator[None]:
    """End with a sentence where a server or a directory is not as it must be."""
    home, schema, database, blobs = (_needing(f"service.{name}") for name in ("home", "migrate", "db", "blobs"))
    try:
        yield
    except (home.DataDirectoryInUse, schema.SchemaBehind, blobs.NoSuchStore) as error:
        _fail(str(error))
    except database.OUTAGE:
        _fail("The database cannot be reached.", "See that the server runs, and that EXPUNGE_DATABASE_URL names it.")


def _announce(line: str, key_file: Path | None) -> None:
    show.say(line)
    if key_file is not None and key_file.exists() and line.startswith("listening"):
        show.say(f"first API key written to {key_file}")


def _end_with_stdin() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


@app.command()
def doctor(url: Annotated[str | None, typer.Option(envvar="EXPUNGE_URL", help="Where the service should answer.")] = None,
           json_: AsJson = False) -> None:
    """Look at settings, directories and servers as the service would, and say what to mend. Exits 1 if anything is wrong."""
    diagnosis = _needing("expunge.doctor").examine(_settings({}), url=url)
    if json_:
        show.as_json(diagnosis.document())
    else:
        show.diagnosis(diagnosis.document())
    raise typer.Exit(0 if diagnosis.ok else 1)


def _settings_wrong(error: Any) -> str:
    return "; ".join(f"EXPUNGE_{str((wrong['loc'] or ('settings',))[0]).upper()}: {wrong['msg']}" for wrong in error.errors())


@app.command()
def demo(data: Annotated[Path | None, typer.Option(help="Your own Parquet file, roles included. Default: scikit-learn's digits.")] = None,
         out: Annotated[Path, typer.Option(help="Where version 2, its certificate and the figures are left.")] = Path("demo-output"),
         seed: Annotated[int, typer.Option(help="Of the split, the training and the choice of whom to forget.")] = 0,
         epochs: Annotated[int | None, typer.Option(hidden=True)] = None) -> None:
    """Show all of it in under two minutes: fit, forget one person, verify, reproduce, forget everything. Non-zero if any step disagrees."""
    found = _needing("expunge.demo")
    for name in ("expunge.serve", "expunge.reproduce"):
        _needing(name)
    # Ended by a signal, the demo must still end its service.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit)
    raise typer.Exit(found.demo(out, data=data, seed=seed, epochs=epochs))


def _exit(number: int, _: object) -> NoReturn:
    sys.exit(128 + number)


def _needing(name: str) -> ModuleType:
    """Import what the base install does not have."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("expunge", "service", "workers", "models", "migrations"):
            raise
        _fail(f"This command needs the package {error.name}, which is not installed.", INSTALL)


def _must_have(*names: str) -> None:
    """Look for what only a child process will import: told to start without it, it would die again and again."""
    for name in names:
        try:
            there = importlib.util.find_spec(name) is not None
        except ModuleNotFoundError:
            there = False
        if not there:
            _fail(f"This command needs the package {name}, which is not installed.", INSTALL)


def _fail(text: str, advice: str = "") -> NoReturn:
    show.failure(text, advice=advice)
    raise typer.Exit(1)


def main() -> None:
    """Run a command; whatever goes wrong ends as sentences and an exit code, never as a traceback."""
    try:
        app()
    except Problem as problem:
        show.problem(problem)
        _for_scripts(problem.code, problem.detail, problem.errors)
    except Unreachable as error:
        show.unreachable(error)
        _for_scripts("unreachable", str(error), [])
    except DownloadFailed as error:
        show.failure(str(error))
        _for_scripts("download_failed", str(error), [])
    except OSError as error:
        text = f"{error.filename or 'A file'}: {error.strerror or error}."
        show.failure(text)
        _for_scripts("file", text, [])
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # the process boundary
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = f" at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else ""
        show.failure(f"{type(error).__name__}{where}: {error}", advice="This is a defect of expunge. Please report it with this line.")
    sys.exit(1)


def _for_scripts(code: str, detail: str, errors: list[dict[str, str]]) -> None:
    """With --json, standard output holds JSON also when there is no answer to show."""
    if "--json" in sys.argv[1:]:
        show.as_json({"problem": {"code": code, "detail": detail, "errors": errors}})


if __name__ == "__main__":
    main()
