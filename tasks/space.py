"""How much space a run will take, before it takes it."""

from __future__ import annotations

import shutil

from storage.files import is_local
from tasks.observation import ObservationPlan
from tasks.summaries import bytes_per_neuron

#: Bytes of an activation that is kept.
BYTES = {"float32": 4, "float16": 2, "top": 0}


def space_needed(plan: ObservationPlan) -> str:
    """What the missing embeddings and activations take at most, which is before compression, and what is free."""
    parts = {"embeddings": 0.0, "activations": 0.0, "top images": 0.0}
    for missing in plan.missing:
        if missing.embeddings and plan.embeddings:
            parts["embeddings"] += 4 * plan.embeddings.num_dimensions * len(missing.rows)
        for summary, layer in missing.activations:
            of = plan.activations[summary]
            parts["activations"] += BYTES[of.kept] * of.num_neurons[layer] * len(missing.rows)
            parts["top images"] += of.num_neurons[layer] * bytes_per_neuron(plan.probe.num_images)
    total = sum(parts.values())
    listed = ", ".join(f"{what} {_shown(size)}" for what, size in parts.items() if size)
    text = f"Needs at most {_shown(total)} of space ({listed})"
    free = _free(plan)
    if free is None:
        return f"{text}."
    if total <= free:
        return f"{text}; {_shown(free)} are free."
    way_out = {"float32": "--activations float16 halves them, and top", "float16": "--activations top"}
    kept = next((of.kept for of in plan.activations.values()), "top")
    advice = f" If they do not fit compressed: {way_out[kept]} keeps the top images alone." if kept in way_out else ""
    return f"{text}, and only {_shown(free)} are free.{advice}"


def _free(plan: ObservationPlan) -> float | None:
    url = plan.spec.store
    return shutil.disk_usage(url).free if is_local(url) else None


def _shown(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB"
