"""Which of the tensors in a weights file are those of a network: under which key, without which prefix."""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from tasks.models.errors import CheckpointError
from tasks.models.weight_names import beginnings, name_of_today, prefixes_of, unwrapped, with_prefix, without_wrappers

#: Weights by name; `_metadata` tells the versions of the modules that they were saved from.
Weights = OrderedDict[str, Any]
#: Keys under which training frameworks keep the weights of a network, the first before the others.
WEIGHT_KEYS = ("state_dict", "model_state_dict", "model", "net")
#: Words of keys under which averages of the weights are kept.
AVERAGED = {"ema", "swa", "avg", "average", "averaged", "shadow"}
#: Facts that OpenAI's CLIP files hold beside the weights, and that tell these files from others.
OPENAI_FACTS = {"input_resolution", "context_length", "vocab_size"}
#: State of a module that may be no tensor.
EXTRA_STATE = "_extra_state"
#: Levels of keys that are looked through.
DEPTH = 5
#: Names shown of many.
SHOWN = 5


@dataclass(frozen=True)
class Chosen:
    """Tensors of a file, named as those of the network are."""

    weights: Weights
    #: What they are called in a message: the file, and where in it.
    name: str
    #: What was chosen without being asked.
    notes: tuple[str, ...]
    #: True where the user named a prefix: a part of a larger network, which may lack the classifier.
    is_part: bool = False


@dataclass(frozen=True)
class _Candidate:
    """Tensors that lie together in a file."""

    key: tuple[str, ...]
    weights: Weights = field(repr=False)
    #: True for the CLIP weights that OpenAI publishes.
    is_openai: bool = False

    @property
    def dotted(self) -> str:
        return ".".join(self.key)

    @property
    def is_averaged(self) -> bool:
        return any(AVERAGED & set(re.split(r"[^a-z]+", part.lower())) for part in self.key)

    @property
    def rank(self) -> int:
        """Plain weights come before averages, and usual keys before others."""
        known = WEIGHT_KEYS.index(self.key[-1]) if self.key and self.key[-1] in WEIGHT_KEYS else len(WEIGHT_KEYS)
        return known + 100 * self.is_averaged


@dataclass(frozen=True)
class _Match:
    """A candidate under the names of the network."""

    candidate: _Candidate
    weights: Weights
    removed: str
    #: How many of the network's names it has, and how many names that the network lacks.
    found: int
    others: int
    #: Names left out of it.
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checkpoint:
    """A weights file, and what the user said of where in it the weights are."""

    path: str
    content: Any = field(repr=False)
    key: str | None = None
    prefix: str | None = None

    def candidates(self) -> list[_Candidate]:
        """All tensors that lie together. Raises `CheckpointError` where there are none."""
        key, content = self._start()
        found = list(_candidates(content, key))
        if not found:
            raise CheckpointError(f"{self.path} holds no weights{_under(key)}: {_described(content)}.")
        return found

    def _start(self) -> tuple[tuple[str, ...], Any]:
        if self.key is None:
            return (), self.content
        found = _descend(self.content, self.key)
        if found is None:
            raise CheckpointError(f"{self.path} has nothing under the key {self.key}: {_described(self.content)}.")
        return found

    def weights_for(self, wanted: Set[str]) -> Chosen:
        """The tensors for a network whose state has the names `wanted`. Raises `CheckpointError`."""
        matches = [_match(candidate, wanted, self.prefix) for candidate in self.candidates()]
        matching = [match for match in matches if match is not None]
        if not matching:
            raise CheckpointError(self._no_prefix())
        best = max((match.found, -match.others) for match in matching)
        equal = [match for match in matching if (match.found, -match.others) == best]
        equal.sort(key=lambda match: match.candidate.rank)
        self._refuse_a_guess(equal)
        return self._chosen(equal)

    def closest(self, wanted: Set[str]) -> str:
        """The key and prefix under which most names of a network are, as options; nothing where there are none."""
        counts = {
            (candidate.dotted, prefix): count
            for candidate in _candidates(self.content, ())
            for prefix, count in prefixes_of(candidate.weights, wanted).items()
        }
        if not counts:
            return ""
        (key, prefix), count = max(counts.items(), key=lambda item: item[1])
        options = [f"--checkpoint-key {key}"] * bool(key) + [f"--checkpoint-prefix {prefix}"] * bool(prefix)
        where = f" ({' '.join(options)})" if options else ""
        return f"Closest: the file has {count} of the network's {len(wanted)} names{where}."

    def _refuse_a_guess(self, equal: Sequence[_Match]) -> None:
        first = [match for match in equal if match.candidate.rank == equal[0].candidate.rank]
        if len(first) > 1 and first[0].found and len({match.candidate.key for match in first}) > 1:
            keys = ", ".join(match.candidate.dotted or "(its top)" for match in first)
            raise CheckpointError(
                f"{self.path} holds {len(first)} sets of weights that fit the network alike, under {keys}. Choose "
                f"one: --checkpoint-key {first[-1].candidate.dotted}."
            )

    def _chosen(self, equal: Sequence[_Match]) -> Chosen:
        match, *others = equal
        key = match.candidate.dotted
        place = key or "its top"
        notes = []
        if others and match.found:
            keys = ", ".join(other.candidate.dotted or "its top" for other in others)
            example = others[0].candidate.dotted
            also = f"; --checkpoint-key {example} takes the others" if example and len(others) == 1 else ""
            notes.append(f"{self.path} holds weights under {place} and {keys}: {place} is taken{also}.")
        elif key and self.key is None and (match.candidate.is_averaged or match.candidate.key[-1] not in WEIGHT_KEYS):
            notes.append(f"The weights are those of {self.path} under {key}.")
        if match.left_out:
            few = len(match.left_out) <= SHOWN
            left_out = _some(match.left_out) if few else _counted(beginnings(match.left_out))
            counts = f"{len(match.left_out)} of {len(match.candidate.weights)} entries"
            notes.append(f"Left out of {self.path} ({counts}): {left_out}.")
        where = [f"under {key}"] * bool(key) + [f"without the prefix {match.removed}"] * bool(match.removed)
        name = f"{self.path} ({', '.join(where)})" if where else self.path
        return Chosen(match.weights, name, tuple(notes), self.prefix is not None)

    def _no_prefix(self) -> str:
        firsts: Counter[str] = sum((beginnings(found.weights) for found in self.candidates()), Counter())
        return f"No name in {self.path} begins with {self.prefix!r}. Beginnings of names: {_counted(firsts)}."


def _descend(content: Any, key: str) -> tuple[tuple[str, ...], Any] | None:
    if not isinstance(content, Mapping):
        return None
    for name, value in content.items():
        if str(name) == key:
            return (str(name),), value
        if key.startswith(f"{name}."):  # a name may have dots itself
            inside = _descend(value, key.removeprefix(f"{name}."))
            if inside:
                return (str(name), *inside[0]), inside[1]
    return None


def _candidates(content: Any, key: tuple[str, ...]) -> Iterator[_Candidate]:
    if not isinstance(content, Mapping) or len(key) > DEPTH:
        return
    tensors: Weights = OrderedDict(
        (str(name), value)
        for name, value in content.items()
        if isinstance(value, Tensor) or str(name).rpartition(".")[2] == EXTRA_STATE
    )
    if any(isinstance(value, Tensor) for value in tensors.values()):
        is_openai = tensors.keys() >= OPENAI_FACTS
        for fact in OPENAI_FACTS if is_openai else ():
            del tensors[fact]
        _set_metadata(tensors, getattr(content, "_metadata", None))
        yield _Candidate(key, tensors, is_openai)
    for name, value in content.items():
        if isinstance(value, Mapping) and str(name) not in tensors:
            yield from _candidates(value, (*key, str(name)))


def _match(candidate: _Candidate, wanted: Set[str], prefix: str | None) -> _Match | None:
    """The candidate under the names of the network; None where none of its names has the prefix asked for."""
    names, removed = {name: name for name in candidate.weights}, ""
    if prefix is not None:
        found = with_prefix(names, prefix)
        if found is None:
            return None
        names, removed = found
    names, common = unwrapped(names, wanted)
    removed += common
    weights: Weights = OrderedDict(
        (name_of_today(name, wanted), candidate.weights[was]) for name, was in names.items()
    )
    _set_metadata(weights, _metadata_within(candidate.weights, removed))
    count = sum(name in wanted for name in weights)
    left_out = tuple(candidate.weights.keys() - set(names.values()))
    return _Match(candidate, weights, removed, count, len(weights) - count, tuple(sorted(left_out)))


def _metadata_within(weights: Weights, prefix: str) -> Any:
    """Versions of the modules behind a prefix, by names of modules without it; None where the file has none."""
    metadata = getattr(weights, "_metadata", None)
    if not isinstance(metadata, Mapping):
        return None
    dotted = {(without_wrappers(f"{module}.") if module else ""): of for module, of in metadata.items()}
    inside = {name: of for name, of in dotted.items() if f"{prefix}." == "." or name.startswith(prefix)}
    return OrderedDict((name[len(prefix) :].removesuffix("."), of) for name, of in inside.items())


def _set_metadata(weights: Weights, metadata: Any) -> None:
    if isinstance(metadata, Mapping):
        weights._metadata = metadata  # type: ignore[attr-defined]  # as torch itself keeps it


def _described(content: Any, depth: int = 2) -> str:
    """What a file holds at its top levels."""
    if not isinstance(content, Mapping):
        return f"it holds {type(content).__name__}, not a state dict of tensors by name"
    if not content:
        return "it holds an empty dict"
    return f"at its top it holds {_level(content, depth)}"


def _level(content: Mapping[Any, Any], depth: int) -> str:
    def one(name: Any, value: Any) -> str:
        if not isinstance(value, Mapping):
            return f"{name} ({type(value).__name__})"
        if value and all(isinstance(inside, Tensor) for inside in value.values()):
            return f"{name} ({len(value)} tensors)"
        return f"{name} (of {_level(value, depth - 1)})" if depth > 1 and value else f"{name} ({len(value)} entries)"

    shown = [one(name, value) for name, value in list(content.items())[:SHOWN]]
    return ", ".join(shown) + (" …" if len(content) > SHOWN else "")


def _counted(firsts: Counter[str]) -> str:
    shown = ", ".join(f"{first} ({count})" for first, count in firsts.most_common(SHOWN))
    return shown + (" …" if len(firsts) > SHOWN else "")


def _under(key: tuple[str, ...]) -> str:
    return f" under {'.'.join(key)}" if key else ""


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (" …" if len(names) > SHOWN else "")
