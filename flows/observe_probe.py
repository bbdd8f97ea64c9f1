"""Shards into image embeddings, activations and concept embeddings, whichever is missing."""

from __future__ import annotations

from prefect import flow

from flows.engine.names import observation_name
from flows.engine.progress import follow
from tasks.concepts import concept_embeddings_of, embed_concepts, missing_texts, num_concepts
from tasks.observation import ObservationPlan, plan_observation
from tasks.observe import observe
from tasks.shard import ProbeRef, finished_probe
from tasks.spec import EmbedSpec, RecordSpec


@flow(flow_run_name=observation_name, persist_result=False)
def observe_probe(
    embed: EmbedSpec | None = None, record: RecordSpec | None = None, probe: ProbeRef | None = None
) -> ObservationPlan:
    """Embeds (with `embed`) and records (with `record`) a probe set; a shard that lacks both is decoded once.

    `probe` is the finished probe set, found by the spec where it is not given.
    """
    spec = record or embed
    if spec is None:
        raise ValueError("Nothing to observe: give embed, record, or both.")
    probe = probe or finished_probe(spec)
    if embed and embed.concepts:
        concepts = concept_embeddings_of(embed)
        texts = missing_texts(concepts, embed)
        work = [(embed_concepts.submit(concepts, embed, len(texts)), len(texts))] if texts else []
        follow("embed concepts", work, total=num_concepts(embed), unit="concepts")
    plan = plan_observation(probe, embed, record)
    tasks = [(observe.submit(plan, missing), len(missing.rows)) for missing in plan.missing]
    stage = "embed and record" if embed and record else "embed" if embed else "record"
    follow(stage, tasks, total=probe.num_images)
    return plan
