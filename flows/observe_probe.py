"""Shards into image embeddings, activations and concept embeddings, whichever is missing."""

from __future__ import annotations

from prefect import flow
from prefect.artifacts import create_table_artifact

from flows.engine.gpus import gpus
from flows.engine.names import observation_name
from flows.engine.progress import follow, note, slug
from tasks.concepts import concept_embeddings_of, embed_concepts, missing_texts, num_concepts
from tasks.new_checkpoints import forget_networks
from tasks.observation import ObservationPlan, model_notes, plan_observation
from tasks.observe import observe
from tasks.passes import Pass, described
from tasks.shard import ProbeRef, finished_probe
from tasks.space import space_needed
from tasks.spec import EmbedSpec, RecordSpec


@flow(flow_run_name=observation_name, persist_result=False)
def observe_probe(
    embed: EmbedSpec | None = None, record: RecordSpec | None = None, probe: ProbeRef | None = None
) -> tuple[ObservationPlan, list[Pass]]:
    """Embeds (with `embed`) and records (with `record`) a probe set; a shard that lacks both is decoded once.

    Says what it did and what the time of each pass went into.

    `probe` is the finished probe set, found by the spec where it is not given.
    """
    spec = record or embed
    if spec is None:
        raise ValueError("Nothing to observe: give embed, record, or both.")
    if probe is None:
        forget_networks()  # a flow of its own, in a process that may have loaded what files held before
        probe = finished_probe(spec)
    if embed and embed.concepts:
        concepts = concept_embeddings_of(embed)
        texts = missing_texts(concepts, embed)
        with gpus(spec, num_tasks=int(bool(texts))):
            work = [(embed_concepts.submit(concepts, embed, len(texts)), len(texts))] if texts else []
            follow("embed concepts", work, total=num_concepts(embed), unit="concepts")
    plan = plan_observation(probe, embed, record)
    for text in model_notes(plan):
        note(f"Note: {text}")
    if plan.missing:
        note(space_needed(plan))
    stage = "embed and record" if embed and record else "embed" if embed else "record"
    with gpus(spec, num_tasks=len(plan.work)):
        tasks = [(observe.submit(plan.for_tasks, work), work.num_images) for work in plan.work]
        ended: list[Pass] = follow(stage, tasks, total=probe.num_images)
    # A task that begins again, its worker lost, may find that all of it was done; or another run has done it.
    passes = [one for one in ended if one.num_images]
    if ended and not passes:
        note("All of it was done by another run.")
    if passes:
        note(text := described(passes))
        table = [one.as_row() for one in passes]
        create_table_artifact(table, key=f"passes-{slug(stage)}", description=text)
    return plan, passes
