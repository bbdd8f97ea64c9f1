"""Names of flow runs that no template of one parameter can give."""

from __future__ import annotations

from prefect.runtime import flow_run


def observation_name() -> str:
    """What is embedded and recorded: `embed images, record resnet50 layer1,layer2`."""
    embed, record = flow_run.parameters.get("embed"), flow_run.parameters.get("record")
    parts = [f"embed with {embed.clip or 'precomputed embeddings'}"] if embed else []
    parts += [f"record {record.target} {','.join(record.layers)}"] if record else []
    return ", ".join(parts)
