"""Texts of files, labels and errors as a terminal may show them."""

from __future__ import annotations

#: What moves the cursor, sets colours and titles or types answers (C0, C1), ends lines, turns the order of letters
#: around, or is half of a character.
ACTING = [
    *range(0x20),
    *range(0x7F, 0xA0),
    *(0x061C, 0x200E, 0x200F, 0x2028, 0x2029),
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
    *range(0xD800, 0xE000),
]
ESCAPES = {code: chr(code).encode("unicode_escape").decode() for code in ACTING}
#: The same of texts of several lines.
OF_LINES = {code: escape for code, escape in ESCAPES.items() if code != ord("\n")}


def printable(text: str) -> str:
    """The text on one line, what would act on the terminal written out: an escape character as `\\\\x1b`."""
    return text.translate(ESCAPES)


def printable_lines(text: str) -> str:
    """As `printable`; line breaks stay."""
    return text.translate(OF_LINES)
