"""The parameters of a run, in groups: frozen and validated, each described once.

The same fields are the options of the command line, the keys of a `--spec` file, and the form of the Prefect UI.
Imports neither Prefect nor torch: `clip-dissect --help` must be quick.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from tasks.preprocess_choice import check_preprocess

#: Which hyperparameters each similarity function has; their defaults stand in its signature.
HYPERPARAMETERS: dict[str, tuple[str, ...]] = {
    "soft_wpmi": ("top_k", "a", "lam", "p_start", "p_end"),
    "wpmi": ("top_k", "a", "lam"),
    "rank_reorder": ("top_fraction", "p", "scale", "num_permutations", "seed"),
    "cos": (),
    "cos_cubed": ("min_norm",),
}


class TauError(ValueError):
    """A cut-off that is none."""


@dataclass(frozen=True)
class Tau:
    """The cut-off τ of interpretable labels (A.8): by similarity, or by null quantile."""

    similarity: float | None
    null_quantile: float | None

    def __str__(self) -> str:
        return f"null:{self.null_quantile:g}" if self.similarity is None else f"{self.similarity:g}"

    @classmethod
    def of(cls, text: str) -> Tau:
        """As typed: `0.16` or `null:0.95`. Raises `TauError`."""
        kind, _, number = text.rpartition(":")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if kind == "null" and 0 <= value < 1:
            return cls(None, value)
        if kind == "" and math.isfinite(value):
            return cls(value, None)
        raise TauError(f"--tau {text!r} is neither a number nor null:QUANTILE with a quantile from 0 to below 1.")


Precision = Literal["fp32", "bf16", "fp16"]
#: Libraries whose networks a target names, as `torchvision:resnet50`.
LIBRARIES = ("torchvision", "timm", "open_clip")
#: Top images of a neuron that are kept of every shard group, so that any 100 of all images are among them.
TOP_IMAGES_RECORDED = 100


def _needed_first(schema: dict[str, Any]) -> None:
    """What has to be given stands first in the form of the Prefect UI, which has fifty fields."""
    properties, needed = schema["properties"], schema.get("required", ())
    schema["properties"] = {name: properties[name] for name in [*needed, *properties]}


def names_function(target: str) -> bool:
    """True for `module:function` and `file.py:function`, code of somebody's own; False for a network of a library."""
    return ":" in target and target.partition(":")[0] not in LIBRARIES


def target_file(target: str) -> tuple[str, str] | None:
    """The file and the function of a target such as `./mynet.py:net`; None of another target."""
    file, _, function = target.rpartition(":")
    return (file, function) if names_function(target) and file.endswith(".py") else None


def same_target(typed: str | None, target: str) -> bool:
    """True where what a user typed is a target, or the same function of the same file by another path."""
    mine, other = target_file(typed or ""), target_file(target)
    if mine is None or other is None:
        return typed == target
    paths = [Path(file).expanduser().absolute() for file, _ in (mine, other)]
    return mine[1] == other[1] and os.path.normpath(paths[0]) == os.path.normpath(paths[1])


class Group(BaseModel):
    """A group of parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=_needed_first)

    @field_validator("*", mode="before")
    @classmethod
    def _nothing_is_empty(cls, given: Any, info: ValidationInfo) -> Any:
        # An empty path is the working directory, and an empty name the default: as `--store "$STORE"` of a script
        # that has not set it.
        if given == "" or (isinstance(given, list | tuple) and "" in given):
            flag = f"--{str(info.field_name).replace('_', '-')}"
            raise ValueError(f"{flag} is given, and is empty. Name something, or leave it out.")
        return given


class EngineSpec(Group):
    """Where the run works"""

    store: str = Field(
        "clip-dissect-store", description="Folder or fsspec URL where shards, embeddings and activations are kept."
    )
    workers: int = Field(
        0, ge=0, description="Processes of a Dask cluster on this machine; 0 works with threads in this process."
    )
    dask_address: str | None = Field(None, description="Address of a running Dask scheduler, as tcp://host:8786.")
    dask_wait: float = Field(
        300.0,
        gt=0,
        description="Seconds that a run waits for a Dask worker before it ends: at its start, and when none is left.",
    )
    device: str = Field(
        "auto",
        description="auto (all GPUs, or the CPU), cpu, cuda, cuda:1, cuda:0,1 or mps; a task at a time on each.",
    )
    share_devices: bool = Field(
        False, description="Use GPUs also while another run holds them. By default runs on one machine take turns."
    )
    precision: Precision = Field(
        "fp32",
        description="Data type that networks compute in. What comes out of them is kept in float32.",
    )
    channels_last: bool = Field(
        False,
        description="Keep maps pixel by pixel in memory, with which GPUs convolve faster, most of all in half "
        "precision. Some networks' own code does not take it.",
    )
    compile: bool = Field(
        False,
        description="Compile networks before they run (torch.compile): minutes at first, less time for each image on "
        "GPUs. Needs a C++ compiler.",
    )
    draft: int | None = Field(
        None,
        ge=1,
        description="Decode large JPEGs at a reduced scale that leaves their shorter side at least so many pixels: "
        "two to three times faster for photographs. With twice the side of a network's input, that differs by about "
        "one level of 255. By default images are decoded in full.",
    )
    batch_size: int | None = Field(
        None,
        ge=1,
        description="Images in a forward pass. By default 256 on a GPU, and on a CPU 8 of 224 x 224 pixels, or as "
        "many pixels in up to 64 smaller ones. Halved whenever memory ends.",
    )
    memory: float = Field(
        0.25,
        gt=0,
        description="GiB for the panels of concepts that labelling works in; more does not make it faster.",
    )

    @model_validator(mode="after")
    def _workers_see_the_store(self) -> Self:
        if self.store.startswith("memory://") and (self.workers or self.dask_address):
            raise ValueError(
                f"--store {self.store} is the memory of one process, and Dask works in others. Use a folder or an "
                "object store, or leave out --workers and --dask-address."
            )
        return self


class ProbeSpec(Group):
    """Probe images"""

    probe: tuple[str, ...] = Field(
        min_length=1,
        description="Source of images; repeat it to join several, in the order given. Folder of images, flat or by "
        "class; .csv or .parquet list with a column path or url; WebDataset shards, x.tar, 'x/*.tar' or "
        "'x-{000..009}.tar', used in place; torchvision:CIFAR10/test; folder of Broden. Paths or fsspec URLs.",
        json_schema_extra={"repeated": True},
    )
    data_root: str = Field(
        "~/.cache/clip-dissect/data", description="Folder of torchvision's data sets, which go there when missing."
    )
    images_per_shard: int = Field(1000, ge=1, description="Files that go into one WebDataset shard.")
    resize: int | None = Field(
        None,
        ge=1,
        description="Shorter side of larger images, in pixels; those are stored as JPEG of quality 95. By default "
        "all images keep their original bytes.",
    )
    limit: int | None = Field(None, ge=1, description="Take only the first so many files, in order of the sources.")
    sample: int | None = Field(None, ge=1, description="Take so many files at random, of those within --limit.")
    sample_seed: int = Field(0, ge=0, description="Seed of --sample.")

    @field_validator("probe", mode="before")
    @classmethod
    def _one_probe_as_typed(cls, given: Any) -> Any:
        # Not split at commas, which a brace pattern has: shard-{train,val}.tar.
        return (given,) if isinstance(given, str) else given

    @property
    def sources(self) -> str:
        """The sources as one text, for messages and names."""
        return " + ".join(self.probe)


class ClipSpec(Group):
    """CLIP model, or embeddings that it made"""

    clip: str | None = Field(
        None,
        description="open_clip model: NAME/PRETRAINED (ViT-B-16/openai), NAME or a model config .json with "
        "--clip-checkpoint, local-dir:FOLDER, or sample. OpenAI weights from a file need the -quickgelu NAME.",
    )
    clip_checkpoint: str | None = Field(None, description="Weights file of the CLIP model (.safetensors, .pt).")
    image_embeddings: str | None = Field(
        None, description="Precomputed image embeddings, .npy [I, D], with .keys.txt beside it: a path per row."
    )
    concept_embeddings: str | None = Field(
        None, description="Precomputed concept embeddings, .npy [C, D], rows in the order of the concepts."
    )

    @model_validator(mode="after")
    def _clip_is_whole(self) -> Self:
        if self.clip_checkpoint and not self.clip:
            raise ValueError("--clip-checkpoint holds the weights of a model: name it with --clip MODEL.")
        return self


class ConceptSpec(Group):
    """Concepts"""

    concepts: str | None = Field(
        None,
        description="Text file with a concept a line, .csv with a column concept, .json list, or common-3k, "
        "common-10k, common-20k (frequent English words), imagenet (class names) or sample.",
    )
    prompt: str = Field("{}", description="Text that is embedded for a concept; {} stands for it.")
    unique_concepts: bool = Field(False, description="Drop duplicates; they otherwise share the softmax.")

    @model_validator(mode="after")
    def _prompt_has_a_place(self) -> Self:
        if "{}" not in self.prompt:
            raise ValueError(f"--prompt {self.prompt!r} has no {{}} where the concept goes.")
        return self


class TargetSpec(Group):
    """Network to dissect"""

    target: str = Field(
        description="torchvision:NAME or torchvision:NAME/WEIGHTS, timm:NAME, open_clip:NAME/PRETRAINED, "
        "module:function, file.py:function, or sample. WEIGHTS may be `random`. A function returns the network, or "
        "it and its preprocessing, or it and the preprocessings of training and of evaluation, which is taken."
    )
    checkpoint: str | None = Field(
        None,
        description="Weights file of the network (.safetensors, .pt, .pth, or the .index.json of several), a path or "
        "fsspec URL.",
    )
    checkpoint_key: str | None = Field(
        None,
        description="Key under which --checkpoint holds the weights, where it holds several sets of them: model_ema, "
        "or ema.state_dict of a dict in a dict. By default the set that fits, plain weights before averages.",
    )
    checkpoint_prefix: str | None = Field(
        None,
        description="Take only the weights of --checkpoint whose names begin with this, which is removed: backbone. "
        "of a detector, encoder_q. of MoCo. By default all of them, without what wrappers put before every name.",
    )
    preprocess: str | None = Field(
        None,
        description="How images become the network's inputs, by default as it says itself: imagenet; SIZE (shorter "
        "side resized, centre cropped, values from 0 to 1); SIZE,mean=M,std=S (then normalised; a number each, or "
        "R/G/B: 32,mean=0.491/0.482/0.447,std=0.247/0.243/0.262); module:function, which takes a PIL image.",
    )
    layers: tuple[str, ...] = Field(
        min_length=1,
        description="Layers by name or glob, comma separated: conv1,layer*,classifier[4]. A * ends at a dot; ** goes "
        "to any depth, as in **.fc1. A number in brackets is an index as in Python, [-1] the last. Of a layer that "
        "gives several tensors, brackets choose one by its number or key: sae[1]. `clip-dissect layers` lists all.",
    )
    summary: tuple[Literal["mean", "max", "class_token", "token_mean", "token_max"], ...] = Field(
        ("mean",),
        min_length=1,
        description="Summary function: how a map or a row of tokens becomes one activation. mean, max: of all pixels "
        "or tokens; class_token: as the paper does with ViTs (A.5); token_mean, token_max: of the patches alone. "
        "`record` takes several, comma separated, in one pass.",
    )
    activations: Literal["float32", "float16", "top"] = Field(
        "float32",
        description="What is kept of activations: all of them, in float32 or half the space, or only each neuron's "
        "top images, which soft_wpmi and wpmi need.",
    )

    @property
    def network(self) -> tuple[str, str | None, str | None, str | None, str | None]:
        """What names the network, as `load_target` takes it."""
        return self.target, self.checkpoint, self.checkpoint_key, self.checkpoint_prefix, self.preprocess

    @field_validator("preprocess", mode="before")
    @classmethod
    def _preprocess_as_typed(cls, given: Any) -> Any:
        return str(given) if isinstance(given, int) and not isinstance(given, bool) else given

    @field_validator("preprocess")
    @classmethod
    def _preprocess_is_one(cls, given: str | None) -> str | None:
        if given is not None:
            check_preprocess(given)
        return given

    @field_validator("layers", "summary", mode="before")
    @classmethod
    def _names_as_typed(cls, given: Any) -> Any:
        # `layers: conv1,layer*` in a spec file, or one field of the form, means what it means on the command line.
        texts = (given,) if isinstance(given, str) else given
        if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
            return given
        return tuple(part.strip() for text in texts for part in text.split(",") if part.strip())


class SimilaritySpec(Group):
    """Similarity function"""

    similarity: Literal["soft_wpmi", "wpmi", "rank_reorder", "cos", "cos_cubed"] = Field(
        "soft_wpmi", description="Similarity function (paper section 3.2)."
    )
    variant: Literal["paper", "reference"] = Field(
        "paper", description="paper: the equations. reference: the published code, epsilons and all."
    )
    top_k: int | None = Field(None, ge=1, description="soft_wpmi (100), wpmi (28): top images of a neuron.")
    a: float | None = Field(None, gt=0, description="soft_wpmi (10), wpmi (2): inverse temperature of the softmax.")
    lam: float | None = Field(None, description="soft_wpmi (1), wpmi (0.6): weight λ of the prior.")
    p_start: float | None = Field(None, ge=0, lt=1, description="soft_wpmi (0.998): p(x∈B) of the first top image.")
    p_end: float | None = Field(None, ge=0, lt=1, description="soft_wpmi (0.97): p(x∈B) of the last top image.")
    top_fraction: float | None = Field(None, gt=0, le=1, description="rank_reorder (0.05): share of top images.")
    p: float | None = Field(None, gt=0, description="rank_reorder (3): order of the norm.")
    scale: float | None = Field(None, description="rank_reorder reference (0.5): power of the mean similarity.")
    num_permutations: int | None = Field(None, ge=1, description="rank_reorder reference (5): random orders.")
    seed: int | None = Field(None, description="rank_reorder reference (0): seed of the random orders.")
    min_norm: float | None = Field(None, ge=0, description="cos_cubed (0.001): smallest norm divided by.")
    ranks: int = Field(5, ge=1, description="Labels per neuron in the tables, best first.")
    null_samples: int = Field(
        1_000, ge=0, description="Neurons with shuffled images that labels are compared to (null_quantile); 0: none."
    )
    null_seed: int = Field(0, ge=0, description="Seed of the shuffled images.")
    keep_similarities: bool = Field(
        False, description="Keep all similarities, neurons by concepts, as Zarr arrays in the store."
    )

    @model_validator(mode="after")
    def _hyperparameters_belong(self) -> Self:
        allowed = HYPERPARAMETERS[self.similarity]
        for name in self.hyperparameters():
            if name not in allowed:
                has = f"has {', '.join('--' + n.replace('_', '-') for n in allowed)}" if allowed else "has none"
                raise ValueError(
                    f"--{name.replace('_', '-')} is no hyperparameter of {self.similarity}, which {has}."
                )
        return self

    def hyperparameters(self) -> dict[str, Any]:
        """Those given, by name."""
        names = {name for group in HYPERPARAMETERS.values() for name in group}
        return {name: value for name in sorted(names) if (value := getattr(self, name)) is not None}


class OutputSpec(Group):
    """Output"""

    out: str | None = Field(None, description="Folder or URL for tables and report; the store's runs/ by default.")
    overwrite: bool = Field(
        False,
        exclude=True,  # said on the command line each time: what a run writes down must not do it again unasked
        description="Replace files in --out that have the names of a run's tables and that no run wrote.",
    )
    publish: str | None = Field(
        None,
        description="Folder or URL where the tables go for others: Parquet, CSV, a dataset card, explanations for "
        "CoSy. `clip-dissect publish` does it for a finished run.",
    )
    truth: str | None = Field(
        None,
        description="True concepts of the last layer's neurons, a line each, blank where it is not known, | between "
        "names of one; a table unit,concept; imagenet or sample. For accuracy.",
    )
    top_images: int = Field(10, ge=1, description="Top images per neuron in the table and the report.")
    details: Literal["auto", "all", "none"] = Field(
        "auto",
        description="Facts of each neuron beside its labels: histogram, images of its upper range, similar neurons, "
        "inputs of linear layers. auto: of a sample of the images where a layer has more than four thousand million "
        "activations, and without similar neurons where it has more than 32,768 neurons. all: of all. none: without.",
    )
    tau: str | None = Field(
        None,
        description="A label is interpretable above this similarity (0.16 for soft_wpmi, paper A.8), or as null:0.95 "
        "above so many of the neurons with shuffled images (the default of the other similarity functions).",
    )

    @field_validator("tau", mode="before")
    @classmethod
    def _tau_as_typed(cls, given: Any) -> Any:
        return str(given) if isinstance(given, int | float) else given

    @field_validator("tau")
    @classmethod
    def _tau_is_a_cut(cls, given: str | None) -> str | None:
        if given is not None:
            Tau.of(given)
        return given
