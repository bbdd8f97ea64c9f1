"""PNG files without what is written beside their pixels: texts, colour profiles and Exif, of any length.

Image generators keep whole workflows there. Pillow unpacks them on opening a file, and takes more than a megabyte of
them for an attack; nothing of them is needed for the pixels, so that they need not be unpacked at all.
"""

from __future__ import annotations

import struct
import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: Chunks that say nothing of the pixels as they are decoded here.
METADATA = frozenset({b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf"})
#: Bytes of a chunk beside its content: length, kind, and checksum after it.
AROUND = 12


def without_metadata(data: bytes) -> bytes:
    """The bytes of a PNG without its chunks of metadata; any other bytes as they are.

    A chunk that is cut off, or whose checksum is wrong, stays: it is damage, and for the decoder to say so.
    """
    if not data.startswith(SIGNATURE):
        return data
    view, kept, place, start = memoryview(data), [], len(SIGNATURE), 0
    while place + AROUND <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        end = place + AROUND + length
        if kind in METADATA:
            if end > len(data) or zlib.crc32(view[place + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
                break
            kept.append(view[start:place])
            start = end
        place = end
    return b"".join([*kept, view[start:]]) if kept else data
