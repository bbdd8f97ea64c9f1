"""What can go wrong with stored data. Each error is also the builtin one would catch, and says the way out."""

from __future__ import annotations


class StorageError(Exception):
    """Root of the errors of storage."""


class UrlError(StorageError, ValueError):
    """A URL of a file system that is not opened here."""


class SourceError(StorageError, LookupError):
    """A probe source that is not there, or holds no usable image."""


class UnreadableError(StorageError, OSError):
    """One image that cannot be read; the message is the reason given in `rejects.parquet`."""


class WriteError(StorageError, OSError):
    """A disk that is full, read-only, or somebody else's."""

    def __str__(self) -> str:
        return str(self.strerror)


class ShardError(StorageError, ValueError):
    """A shard that does not hold what its index says: torn, changed or foreign."""


class ArrayError(StorageError, ValueError):
    """An array that cannot be read, or has lost rows that were written."""


class DamagedError(StorageError, ValueError):
    """A table or marker that is torn, or was taken away from the rest."""


class TableError(StorageError, ValueError):
    """A table that a user gives and that does not hold what it is given for."""


class IdentityError(StorageError, ValueError):
    """Stored data that was made from other content or parameters than those asked for."""


class RegionError(StorageError, ValueError):
    """Rows that do not align with an array's shards; writing them would lose a neighbour's rows."""


class IncompleteError(StorageError, LookupError):
    """Something to be read that an earlier stage has not finished."""


class BusyError(StorageError, RuntimeError):
    """A store in which a run is at work."""


class ForeignError(StorageError, FileExistsError):
    """Somebody else's file where one is to be written."""


class EmbeddingsError(StorageError, ValueError):
    """Precomputed embeddings that do not fit the images or concepts."""


class RemoteError(StorageError, OSError):
    """A remote file system that did not answer, or not in full, however often it was asked."""


class ShortError(StorageError, OSError):
    """Bytes that were lost on the way to or from a remote file system; another try may bring them."""
