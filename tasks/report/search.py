"""What is typed to find neurons, read as the report reads it (`search.js`).

`dog` finds labels with this text in them, `"dog"` labels that are just that, `#17` the neuron of this number; capital
letters do not matter. `tests/test_report/test_search.py` holds both to the same examples.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

#: What a browser takes away at both ends of a text; Python's own idea of blanks is another.
BLANKS = "\t\n\v\f\r \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f"
BLANKS += "\u205f\u3000\ufeff"
_NUMBER = re.compile(r"#([0-9]+)")
_EXACT = re.compile(r'"(.+)"', re.DOTALL)


@dataclass(frozen=True)
class Search:
    """What is looked for. Without a text and a number, everything is found."""

    #: In small letters.
    text: str = ""
    #: True if a label has to be the text; else it has to contain it.
    is_exact: bool = False
    neuron: int | None = None

    @classmethod
    def of(cls, typed: str) -> Search:
        """What somebody typed."""
        text = typed.strip(BLANKS).lower()
        if number := _NUMBER.fullmatch(text):
            return cls(neuron=int(number[1]))
        exact = _EXACT.fullmatch(text)
        return cls(exact[1], is_exact=True) if exact else cls(text)

    def hits(self, concepts: Iterable[str]) -> list[bool]:
        """True for each concept that is found by its text."""
        folded = (concept.lower() for concept in concepts)
        return [concept == self.text if self.is_exact else self.text in concept for concept in folded]
