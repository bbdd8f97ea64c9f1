"""What can be wrong with a model, its layers or the concepts. Each is also the builtin error one would catch."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DissectionError(Exception):
    """Root of the errors of the method."""


class UnknownNameError(DissectionError, LookupError):
    """A name that nothing bears; the message gives the nearest ones."""

    @classmethod
    def of(cls, what: str, name: str, known: Iterable[str], way_out: str) -> UnknownNameError:
        """`what` is the kind of thing, as in 'layer'; `way_out` says how to see all names."""
        nearest = difflib.get_close_matches(name, list(known), n=5, cutoff=0.4)
        hint = f" Nearest: {', '.join(nearest)}." if nearest else ""
        return cls(f"There is no {what} {name!r}.{hint} {way_out}")


class LayerError(DissectionError, ValueError):
    """A layer whose output cannot be summarised per neuron."""


class ConceptError(DissectionError, ValueError):
    """A concept list that cannot be used."""
