"""Every private thing at rest: encrypted under its own key, readable until that key is destroyed."""

from service.blobs.directory import directory_vault
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
    "Sealed",
    "StillReadable",
    "StoreFull",
    "Vault",
    "directory_vault",
]
