"""Every private thing at rest: encrypted under its own key, readable until that key is destroyed."""

from pathlib import Path

from service.blobs.directory import directory_vault
from service.blobs.keys import KeyDirectory
from service.blobs.port import (
    BadBlobId,
    BlobDamaged,
    BlobError,
    BlobExists,
    BlobMissing,
    BlobStore,
    KeyMissing,
    KeyStore,
    Sealed,
    StillReadable,
    StoreFull,
    StoreUnavailable,
)
from service.blobs.vault import Vault

__all__ = [
    "BadBlobId",
    "BlobDamaged",
    "BlobError",
    "BlobExists",
    "BlobMissing",
    "BlobStore",
    "KeyMissing",
    "KeyStore",
    "NoSuchStore",
    "Sealed",
    "StillReadable",
    "StoreFull",
    "StoreUnavailable",
    "Vault",
    "directory_vault",
    "open_vault",
]


class NoSuchStore(ValueError):
    """`EXPUNGE_BLOBS` names no place for blobs, or one that cannot be used here."""


def open_vault(blobs: str, keys: Path, *, data_dir: Path, database_url: str | None) -> Vault:
    """Open the vault that a setting names, creating its directories; a server is not asked before the first use.

    Args:
        blobs: `directory:PATH`; `directory:` alone, or nothing, for `data_dir/blobs`; `postgres:` for tables in the database at
            `database_url`; `s3://BUCKET[/PREFIX][?endpoint=URL&region=NAME]`, whose access keys come from the environment.
        keys: the directory of the keys, wherever the ciphertext is.

    Raises:
        NoSuchStore: the setting says something else, or what it needs is missing.
        KeysExposed: others than the owner may enter `keys`.
    """
    kind, _, where = blobs.partition(":")
    if kind == "directory" or not blobs:
        return directory_vault(Path(where) if where else data_dir / "blobs", keys)
    return Vault(_server(blobs, kind, where, database_url), KeyDirectory(keys))


def _server(blobs: str, kind: str, where: str, database_url: str | None) -> BlobStore:
    # Imported when asked for: a client library costs time at start, and S3's is an extra.
    if kind == "postgres":
        if where or not (database_url or "").startswith("postgresql"):
            raise NoSuchStore(
                "EXPUNGE_BLOBS=postgres: takes no address; it uses EXPUNGE_DATABASE_URL, which must be postgresql+psycopg://..."
            )
        from service.blobs.postgres import PostgresStore

        return PostgresStore(str(database_url))
    if kind == "s3":
        try:
            from service.blobs.s3 import BadBucket, S3Store
        except ModuleNotFoundError as error:
            raise NoSuchStore("EXPUNGE_BLOBS=s3: needs a library that is not installed: pip install 'expunge[s3]'") from error
        try:
            return S3Store(blobs)
        except BadBucket as error:
            raise NoSuchStore(f"EXPUNGE_BLOBS: {error}") from None
    raise NoSuchStore("EXPUNGE_BLOBS is one of directory:PATH, postgres:, s3://BUCKET[/PREFIX][?endpoint=URL&region=NAME]")
