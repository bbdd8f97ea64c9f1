"""Names of tensors in weights files, and what they are in the network: without prefixes and wrappers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Set

#: Names of the network, and what they are in the file.
Names = dict[str, str]
#: Counters that averages keep beside the weights.
COUNTERS = {"n_averaged", "num_updates", "updates", "decay", "initted", "step"}
#: What wrappers put into names: compile, FSDP, activation checkpointing.
WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
#: What usual wrappers put before every name: DataParallel and averages, Lightning.
USUAL_PREFIXES = ("module.", "model.")
#: Names of torchvision's DenseNets in the files that it publishes; its own loader joins the parts.
_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.(?:weight|bias|running_mean|running_var))$")


def with_prefix(names: Names, prefix: str) -> tuple[Names, str] | None:
    """Names that begin with a prefix, or do behind a part that all names begin with; and what was removed."""
    removed = ""
    while True:
        for asked in dict.fromkeys((f"{prefix.removesuffix('.')}.", prefix)):
            chosen = _without(names, asked)
            if chosen:
                return chosen, removed + asked
        common = _common_part(names)
        if not common:
            return None
        names, removed = _without(names, common), removed + common


def unwrapped(names: Names, wanted: Set[str]) -> tuple[Names, str]:
    """Names without the parts that wrappers put before every one of them; and what was removed.

    A part that all names begin with is a wrapper's, whatever it is called (`module.`, `model.`, `backbone.`), where
    the network has none of the names as they stand.
    """
    if not any(wrapper in name for name in wanted for wrapper in WRAPPERS):
        names = {without_wrappers(name): was for name, was in names.items()}
    stripped, removed = names, ""
    while not any(name in wanted for name in stripped):
        common = _common_part(stripped)
        if not common:
            return _without_usual(names, wanted)
        stripped, removed = _without(stripped, common), removed + common
    return stripped, removed


def _without_usual(names: Names, wanted: Set[str]) -> tuple[Names, str]:
    """The same by the usual prefixes alone, of names that a network of today may only know from older files."""
    removed = ""
    while (common := _common_part(names)) in USUAL_PREFIXES and not any(name.startswith(common) for name in wanted):
        names, removed = _without(names, common), removed + common
    return names, removed


def without_wrappers(name: str) -> str:
    """A name without what wrappers of modules put into it, at any depth."""
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _common_part(names: Names) -> str:
    """The part before the first dot, of all names but counters of averages; nothing where names begin otherwise."""
    firsts = {name.partition(".")[0] if "." in name else "" for name in names if name not in COUNTERS}
    first = firsts.pop() if len(firsts) == 1 else ""
    return f"{first}." if first else ""


def beginnings(weights: Iterable[str]) -> Counter[str]:
    """How many names begin alike, as far as the first part that not all of them have."""
    names, removed = {name: name for name in weights}, ""
    while common := _common_part(names):
        names, removed = _without(names, common), removed + common
    return Counter(f"{removed}{first}{dot}" for first, dot, _ in (name.partition(".") for name in names))


def _without(names: Names, prefix: str) -> Names:
    """Names that begin with a prefix, without it."""
    return {name.removeprefix(prefix): was for name, was in names.items() if name.startswith(prefix)}


def name_of_today(name: str, wanted: Set[str]) -> str:
    """The name of today for one of an older torchvision."""
    old = _DENSENET.match(name)
    joined = old[1] + old[2] if old else name
    return joined if joined in wanted else name


def prefixes_of(names: Iterable[str], wanted: Set[str]) -> Counter[str]:
    """How many names of a network there are behind each prefix."""
    counts: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in wanted:
                counts["".join(f"{part}." for part in parts[:start])] += 1
    return counts
