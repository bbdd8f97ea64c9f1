"""The command line `clip-dissect`: parse, call, print. Flows are imported by the command that runs them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from flows.engine.compare_commands import compare
from flows.engine.console import console, say
from flows.engine.evaluate_commands import evaluate, reproduce
from flows.engine.failure import told_in_words
from flows.engine.local import engine
from flows.engine.options import SpecCommand, build_spec, spec_options
from flows.engine.rating_commands import rate
from flows.engine.remote_commands import cancel, deploy, status, submit
from flows.engine.run_options import run_store
from flows.engine.store_commands import gc, runs, verify
from flows.engine.study_commands import study
from tasks.parameters import EngineSpec
from tasks.preprocess_choice import FORMS
from tasks.spec import DissectSpec, EmbedSpec, LabelSpec, RecordSpec, ShardSpec

#: First labels printed per layer at the end of a run.
SHOWN = 8


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="clip-dissect")
@click.option("--debug", is_flag=True, help="Show the traceback of an error, and Prefect's own log.")
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:
    """Says in words what every neuron of a vision network does (CLIP-Dissect, ICLR 2023).

    `clip-dissect run` does all of it; shard, embed, record and label are its stages. What is done is kept in
    --store and never done twice.
    """
    context.obj = {"debug": debug}


@cli.command(cls=SpecCommand)
@spec_options(DissectSpec)
def run(spec_file: Path | None, **options: Any) -> None:
    """Dissects a network: images to labels and report."""
    spec = build_spec(DissectSpec, spec_file, options)
    with engine():
        from flows.dissect import dissect

        published = dissect(spec)
        _print_run(published)
        if spec.publish:
            say(f"Data set {spec.publish}")


@cli.command(cls=SpecCommand)
@spec_options(ShardSpec)
def shard(spec_file: Path | None, **options: Any) -> None:
    """Stage 1: packs probe images into WebDataset shards with an index."""
    spec = build_spec(ShardSpec, spec_file, options)
    with engine(), _runners(spec) as runners:
        from flows.shard_probe import shard_probe
        from storage.sources.left_out import told

        probe = shard_probe.with_options(task_runner=runners.of_cores)(spec)
        say(f"{probe.num_images:,} images, {probe.num_shards:,} shards, {probe.num_rejects:,} files refused.")
        if probe.left_out:
            say(told(probe.left_out))
        say(f"Shards and index: {probe.folder.url}")


@cli.command(cls=SpecCommand)
@spec_options(EmbedSpec)
def embed(spec_file: Path | None, **options: Any) -> None:
    """Stage 2a: embeds the probe images, and the concepts where they are given."""
    spec = build_spec(EmbedSpec, spec_file, options)
    with engine(), _runners(spec) as runners:
        from flows.observe_probe import observe_probe

        plan, _ = observe_probe.with_options(task_runner=runners.of_devices)(embed=spec)
        assert plan.embeddings is not None
        say(f"Image embeddings: {plan.embeddings.store.embeddings(plan.embeddings.digest)}")


@cli.command(cls=SpecCommand)
@spec_options(RecordSpec)
def record(spec_file: Path | None, **options: Any) -> None:
    """Stage 2b: records the activations of the network's layers."""
    spec = build_spec(RecordSpec, spec_file, options)
    with engine(), _runners(spec) as runners:
        from flows.observe_probe import observe_probe

        plan, _ = observe_probe.with_options(task_runner=runners.of_devices)(record=spec)
        for of in plan.activations.values():
            say(f"Activations ({of.summary}): {of.store.activations(of.digest)}")
        for note in dict.fromkeys(note for of in plan.activations.values() for note in of.notes):
            say(f"Note: {note}")


@cli.command(cls=SpecCommand)
@spec_options(LabelSpec)
def label(spec_file: Path | None, **options: Any) -> None:
    """Stage 3: labels the neurons from embeddings and activations."""
    spec = build_spec(LabelSpec, spec_file, options)
    with engine(), _runners(spec) as runners:
        from flows.label_neurons import label_neurons
        from tasks.labelling import notes
        from tasks.models.trial import network_notes

        plan = label_neurons.with_options(task_runner=runners.of_devices)(spec)
        for note in (*network_notes(spec), *notes(plan)):
            say(f"Note: {note}")
        for layer in plan.activations.layouts:
            say(f"{layer}: {plan.store.labels(plan.digest, layer).url}")


@cli.command()
@click.argument("target")
@click.option("--checkpoint", help="Weights file of the network.")
@click.option("--checkpoint-key", metavar="KEY", help="Key under which the file holds the weights.")
@click.option("--checkpoint-prefix", metavar="PREFIX", help="Take only weights whose names begin so, without it.")
@click.option("--preprocess", help=f"How images become its inputs: {FORMS}.")
@click.option("--match", default="**", metavar="GLOB", help="Only layers that match, such as layer* or **.fc1.")
@click.pass_context
def layers(
    context: click.Context,
    target: str,
    checkpoint: str | None,
    checkpoint_key: str | None,
    checkpoint_prefix: str | None,
    preprocess: str | None,
    match: str,
) -> None:
    """Lists the layers of TARGET: names, types, output shapes and numbers of neurons."""
    with told_in_words(context):
        from tasks.dissection.layers import resolve, trace
        from tasks.models.preprocess import image_shape
        from tasks.models.targets import load_target
        from tasks.show import layers_table

        loaded = load_target(target, checkpoint, checkpoint_key, checkpoint_prefix, preprocess)
        traced = trace(loaded.model, image_shape(loaded.preprocess))
        asked = traced if match == "**" else resolve(loaded.model, match.split(","), traced)
        names = dict.fromkeys(one for name in asked for one in (name, *traced[name].items))
        console().print(layers_table([traced[name] for name in names]))
        for note in loaded.notes:
            say(f"Note: {note}")


@cli.command()
@click.argument("out", metavar="OUT")
@click.option("--layer", help="Only this layer.")
@click.option(
    "--concept",
    help="Only neurons with a label that contains this text; in quotes ('\"dog\"'), with a label that is just this.",
)
@click.option("--neuron", type=int, help="Only this neuron, with all its labels.")
@click.option("--sort", type=click.Choice(["neuron", "similarity"]), default="neuron", show_default=True)
@click.option("--limit", type=click.IntRange(min=1), default=40, show_default=True, help="Rows per layer.")
@run_store
@click.pass_context
def show(
    context: click.Context,
    out: str,
    layer: str | None,
    concept: str | None,
    neuron: int | None,
    sort: str,
    limit: int,
    store: str | None,
) -> None:
    """Shows the labels in OUT, the --out folder of a run."""
    with told_in_words(context):
        from tasks.published import check_store
        from tasks.show import Filter, labels_tables

        check_store([out], store)
        for table in labels_tables(out, Filter(layer, concept, neuron, sort, limit)):
            console().print(table)


@cli.command()
@click.argument("out", metavar="OUT")
@run_store
@click.pass_context
def report(context: click.Context, out: str, store: str | None) -> None:
    """Makes the report of OUT, the --out folder of a run, anew from its tables.

    With --store, the run remembers where its store is now: other commands then find it by themselves.
    """
    with told_in_words(context):
        from tasks.publish import republish_report

        say(f"Report: {republish_report(out, store)}")


@cli.command()
@click.argument("out", metavar="RUN")
@click.argument("url", metavar="URL")
@click.option("--overwrite", is_flag=True, help="Write over files that are not of a run, or were changed.")
@run_store
@click.pass_context
def publish(context: click.Context, out: str, url: str, overwrite: bool, store: str | None) -> None:
    """Puts the tables of RUN, the --out folder of a run, at URL for others, as `clip-dissect run --publish URL` does.

    URL is a folder, s3://, gs:// and so on. It gets Parquet and CSV, a dataset card (README.md) and explanations as
    CoSy reads them. Where just these lie it does nothing.
    """
    with told_in_words(context):
        from storage.files import Folder
        from tasks.dataset import plan_dataset, publish_dataset
        from tasks.published import check_store

        check_store([out], store)
        plan = plan_dataset(Folder.at(out), url, overwrite=overwrite)
        if not plan.is_done:
            publish_dataset.fn(plan)
        say(f"Data set: {plan.to.url}{' (it was there)' if plan.is_done else ''}")


@cli.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--images", default=2400, show_default=True, type=click.IntRange(min=1), help="How many to draw.")
@click.pass_context
def sample(context: click.Context, folder: Path, images: int) -> None:
    """Draws the probe images of the embedded sample into FOLDER, a sub-folder per shape."""
    with told_in_words(context):
        from tasks.sample.draw import write_probe

        write_probe(folder, images)
        say(f"{images:,} drawn images: {folder}")


_OTHERS = (
    *(compare, evaluate, reproduce, rate, study),
    *(deploy, submit, status, cancel),
    *(verify, gc, runs),
)
for _command in _OTHERS:
    cli.add_command(_command)


@contextmanager
def _runners(spec: EngineSpec) -> Iterator[Any]:
    from flows.engine.runners import task_runners

    with task_runners(spec) as runners:
        yield runners


def _print_run(published: Any) -> None:
    from tasks.published import read_run
    from tasks.show import run_lines

    for line in run_lines(read_run(published), published, SHOWN):
        console().print(line)


def main() -> None:
    """Entry point of the command `clip-dissect`."""
    cli(prog_name="clip-dissect")


if __name__ == "__main__":
    main()
