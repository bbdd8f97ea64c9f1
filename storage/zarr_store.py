"""The Zarr store on a remote file system: as patient as `storage.remote`, and as sure of every byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from zarr.abc.store import ByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore

from storage.errors import ShortError
from storage.remote import PART_BYTES, check_stored, file_system, patiently_async


class RemoteStore(FsspecStore):
    """An `FsspecStore` that tries again what may pass, and checks lengths. Raises `RemoteError`."""

    @classmethod
    def at(cls, url: str) -> RemoteStore:
        """The store at a URL."""
        fs, path = file_system(url, asynchronous=True)
        if not fs.async_impl:
            wrapped = FsspecStore.from_url(url)
            fs, path = wrapped.fs, wrapped.path
        return cls(fs, path=path)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """The bytes of an object or a part of it; None where it is not there."""

        async def found() -> Buffer | None:
            if byte_range is None:
                return await self._whole(key, prototype)
            part = await super(RemoteStore, self).get(key, prototype, byte_range)
            if part is not None and len(part) < _length(byte_range):
                await self._check_part(key, byte_range, len(part))
            return part

        return await patiently_async("reading", self._url(key), found)

    async def set(self, key: str, value: Buffer, byte_range: tuple[int, int] | None = None) -> None:
        """Writes an object whole."""

        async def stored() -> None:
            await super(RemoteStore, self).set(key, value, byte_range)
            check_stored(len(value), int(await self.fs._size(self._path(key))))

        await patiently_async("writing", self._url(key), stored)

    async def exists(self, key: str) -> bool:
        """Whether an object is there."""
        return await patiently_async("looking for", self._url(key), lambda: super(RemoteStore, self).exists(key))

    async def delete(self, key: str) -> None:
        """Removes an object, if it is there."""
        await patiently_async("removing", self._url(key), lambda: super(RemoteStore, self).delete(key))

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Names right below."""

        async def listed() -> list[str]:
            return [name async for name in super(RemoteStore, self).list_dir(prefix)]

        for name in await patiently_async("listing", self._url(prefix), listed):
            yield name

    async def _whole(self, key: str, prototype: BufferPrototype) -> Buffer | None:
        path = self._path(key)
        try:
            size = int(await self.fs._size(path))
            starts = range(0, size, PART_BYTES)
            parts = await asyncio.gather(
                *(self.fs._cat_file(path, start=start, end=min(start + PART_BYTES, size)) for start in starts)
            )
        except self.allowed_exceptions:
            return None
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        if len(data) != size:
            raise ShortError(f"{size:,} bytes were asked for, and {len(data):,} came")
        return prototype.buffer.from_bytes(data)

    async def _check_part(self, key: str, wanted: ByteRequest, length: int) -> None:
        """Raises `ShortError` where the object has the bytes that did not come. Where it has not, it is damaged."""
        size = int(await self.fs._size(self._path(key)))
        there = min(wanted.end, size) - wanted.start if isinstance(wanted, RangeByteRequest) else size
        if length < min(_length(wanted), there):
            raise ShortError(f"{_length(wanted):,} bytes were asked for, and {length:,} came")

    def _path(self, key: str) -> str:
        return f"{self.path.rstrip('/')}/{key}"

    def _url(self, key: str) -> str:
        url: str = self.fs.unstrip_protocol(self._path(key))
        return url


def _length(wanted: ByteRequest) -> int:
    """Bytes that a request is for, as far as it says."""
    if isinstance(wanted, RangeByteRequest):
        return wanted.end - wanted.start
    return wanted.suffix if isinstance(wanted, SuffixByteRequest) else 0
