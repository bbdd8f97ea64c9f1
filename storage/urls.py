"""Which file systems a URL may name. A list, not all that fsspec knows: URLs stand in lists and stores too."""

from __future__ import annotations

from storage.errors import UrlError

#: Those that hold files and do nothing else. Others run templates in a file (`reference://`) or work on a cluster
#: (`dask://`), and chains (`zip::https://…`) open one in another.
PROTOCOLS = frozenset(
    {
        *("file", "local", "memory", "http", "https", "ftp", "sftp", "ssh", "smb", "webdav", "hdfs", "webhdfs"),
        *("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci", "tos", "hf"),
    }
)


def check_url(url: str) -> None:
    """Raises `UrlError` for a URL that names none of `PROTOCOLS`, and for what is no path."""
    protocol, is_url, _ = url.partition("://")
    if "\0" in url:
        raise UrlError(f"{url!r} is no path: there is a NUL in it.")
    if "::" in url or (is_url and protocol not in PROTOCOLS):
        raise UrlError(
            f"{url!r} is not opened: URLs may begin with {', '.join(f'{name}://' for name in sorted(PROTOCOLS))}, "
            "and have no `::`. Copy the files to one of these, or to a folder."
        )
