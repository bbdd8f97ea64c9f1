"""Files of a folder without an ending of an image: looked into where they may be images, counted where left out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from storage.errors import RemoteError
from storage.files import Folder
from storage.sources.magic import HEAD, image_format, unread_format

_BESIDE = """
txt md rst html htm xml json jsonl geojson yaml yml toml ini cfg csv tsv parquet feather arrow xls xlsx doc docx pdf
log py ipynb sh bat js css php url lnk xmp aae db sqlite info nfo tar gz tgz zip 7z rar bz2 xz zst npy npz pt pth
pkl pickle safetensors onnx h5 hdf5 mat mp4 mov avi mkv webm m4v mp3 wav flac ogg md5 sha256 tfrecord lock
part tmp crdownload bak orig old swp cls
"""
_UNREAD = """
heic heif jxl jxr psd psb svg ico tga dds exr hdr eps ai emf dcm fits nii xcf
dng nef cr2 cr3 crw arw orf rw2 raf pef srw raw nrw 3fr iiq
"""
#: Endings of what lies beside images, and of copies that editors and downloads leave: never looked into.
BESIDE = frozenset(_BESIDE.split())
#: Endings of images that are not read here. Camera raws are TIFFs of which a small preview would be read.
UNREAD = frozenset(_UNREAD.split())
#: Files of an object store that are looked into at most, and at a time: each takes a request, in every command.
MAX_LOOKED_INTO, AT_A_TIME = 1_000, 16
#: Kinds that a text names at most.
NAMED = 6
NO_ENDING, HIDDEN, UNSEEN = "no ending", "hidden", "not looked into"


def ending_of(path: str) -> str:
    """Ending of a file name with its dot, lower case, for counts; one word for all that none would look for."""
    name = path.rsplit("/", 1)[-1]
    if "." not in name:
        return NO_ENDING
    ending = name.rsplit(".", 1)[1].lower()
    return f".{ending}" if re.fullmatch(r"(?=.*[a-z])[a-z0-9_~-]{1,12}", ending) else "other endings"


def may_be_image(path: str) -> bool:
    """True if a file whose ending is that of no image is to be looked into."""
    ending = ending_of(path)
    return ending[1:] not in BESIDE and not ending.endswith("~")


def images_among(folder: Folder, sizes: Mapping[str, int], left_out: Counter[str]) -> list[str]:
    """Those of the files that begin as an image does; `left_out` counts the others. `sizes` are in bytes, by path.

    Of an object store with more than `MAX_LOOKED_INTO` of them none is looked into, so that one more file does not
    change which of the others are images.
    """
    if not folder.is_local and len(sizes) > MAX_LOOKED_INTO:
        left_out.update(f"{ending_of(path)} ({UNSEEN})" for path in sizes)
        return []
    found = []
    for path, head in zip(sizes, _heads(folder, sizes), strict=True):
        kind = image_format(head)
        # What is a TIFF by content alone may be a camera's raw file, or a microscope's, with another picture in it.
        if kind and (kind != "tiff" or ending_of(path) == NO_ENDING):
            found.append(path)
        else:
            other = "TIFF" if kind else unread_format(head)
            left_out[f"{ending_of(path)} ({other})" if other else ending_of(path)] += 1
    return found


def told(left_out: Mapping[str, int]) -> str:
    """A sentence with the number of files left out, and of each kind; nothing where there are none."""
    if not left_out:
        return ""
    kinds = sorted(left_out.items(), key=lambda kind: (not _is_image(kind[0]), -kind[1], kind[0]))
    named = ", ".join(f"{name} {number:,}" for name, number in kinds[:NAMED])
    more = f", and {sum(number for _, number in kinds[NAMED:]):,} of other kinds" if len(kinds) > NAMED else ""
    number = sum(left_out.values())
    files = "1 other file was" if number == 1 else f"{number:,} other files were"
    return f"{files} left out: {named}{more}.{_way_out(left_out)}"


def images_left_out(left_out: Mapping[str, int]) -> dict[str, int]:
    """Those of the counts that are of images, or may be: what a run has a note of."""
    return {name: number for name, number in left_out.items() if _is_image(name)}


def _way_out(left_out: Iterable[str]) -> str:
    said = ""
    if any(_is_image(name) and UNSEEN not in name for name in left_out):
        said += " Images of these kinds are not read: convert them to PNG or JPEG."
    if any(UNSEEN in name for name in left_out):
        said += (
            f" More than {MAX_LOOKED_INTO:,} files of an object store are not looked into: give images an ending "
            "such as .jpg, or give --probe a .csv list with a column `path`."
        )
    return said


def _is_image(name: str) -> bool:
    return "(" in name or name[1:] in UNREAD


def _heads(folder: Folder, sizes: Mapping[str, int]) -> Iterable[bytes]:
    """The first bytes of each file; nothing of one that cannot be read."""
    if folder.is_local:
        return (_head(folder, path, HEAD) for path in sizes)
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        return list(pool.map(lambda path: _head(folder, path, min(HEAD, sizes[path])), sizes))


def _head(folder: Folder, path: str, size: int) -> bytes:
    try:
        return folder.head(path, size) if size else b""
    except RemoteError:
        raise
    except OSError:
        return b""
