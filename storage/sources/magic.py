"""Image formats by the first bytes of a file."""

from __future__ import annotations

import re
import struct

#: Bytes of a file that tell its format.
HEAD = 32
#: Sizes of the headers that a bitmap may have after its 14 bytes of file header.
BITMAP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
_READ = {
    "jpeg": re.compile(rb"\xff\xd8\xff"),
    "png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "gif": re.compile(rb"GIF8[79]a"),
    "webp": re.compile(rb"RIFF....WEBP", re.DOTALL),
    "avif": re.compile(rb"....ftyp(avif|avis)", re.DOTALL),
    "jp2": re.compile(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
    # Plain text may begin with P1 as well.
    "ppm": re.compile(rb"P[1-6]\s+[\d#]|Pf\s+\d"),
    "tiff": re.compile(rb"II[*+]\0|MM\0[*+]"),
}
_UNREAD = {
    "HEIC": re.compile(rb"....ftyp(heic|heix|hevc|heim|heis|hevm|mif1|msf1)", re.DOTALL),
    "JPEG XL": re.compile(rb"\xff\x0a|\0\0\0\x0cJXL "),
    "Photoshop's PSD": re.compile(rb"8BPS"),
}


def image_format(head: bytes) -> str:
    """The format of a file that begins so, of those that are decoded here; nothing where it has none of them."""
    if _is_bitmap(head):
        return "bmp"
    return next((name for name, pattern in _READ.items() if pattern.match(head)), "")


def unread_format(head: bytes) -> str:
    """The name of an image format that is known and not decoded here; nothing where the file is of none."""
    return next((name for name, pattern in _UNREAD.items() if pattern.match(head)), "")


def _is_bitmap(head: bytes) -> bool:
    # Not by BM alone, with which many a text begins.
    return head.startswith(b"BM") and len(head) >= 18 and struct.unpack_from("<I", head, 14)[0] in BITMAP_HEADERS
