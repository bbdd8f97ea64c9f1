"""Which file systems a URL may name. A list, not all that fsspec knows: URLs stand in lists and stores too."""

from __future__ import annotations

from pathlib import Path

from storage.errors import UrlError

#: Those that hold files and do nothing else. Others run templates in a file (`reference://`) or work on a cluster
#: (`dask://`), and chains (`zip::https://…`) open one in another.
PROTOCOLS = frozenset(
    {
        *("file", "local", "memory", "http", "https", "ftp", "sftp", "ssh", "smb", "webdav", "hdfs", "webhdfs"),
        *("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci", "tos", "hf"),
    }
)


def is_local(url: str) -> bool:
    """True if a URL means this machine's file system.

    `::` chains file systems (`simplecache::s3://…`), and may stand in the name of a file or folder: what begins as a
    path, or is there, is one.
    """
    if "://" in url:
        return False
    return "::" not in url or url.startswith(("/", "./", "../", "~")) or _is_there(url)


def _is_there(path: str) -> bool:
    """True if there is a file or folder by each name of a path that has `::`."""
    parts = path.split("/")
    last = max(place for place, part in enumerate(parts) if "::" in part)
    try:
        return Path(*parts[: last + 1]).exists()
    except (OSError, ValueError):  # a name that is too long; a NUL in it
        return False


def check_url(url: str) -> None:
    """Raises `UrlError` for a URL that names none of `PROTOCOLS`, and for what is no path."""
    protocol, is_url, _ = url.partition("://")
    if "\0" in url:
        raise UrlError(f"{url!r} is no path: there is a NUL in it.")
    if ("::" in url and not is_local(url)) or (is_url and protocol not in PROTOCOLS):
        raise UrlError(
            f"{url!r} is not opened: URLs may begin with {', '.join(f'{name}://' for name in sorted(PROTOCOLS))}, "
            "and have no `::`. Copy the files to one of these, or to a folder; a path on this machine whose name has "
            "`::` is written with ./ before it."
        )
