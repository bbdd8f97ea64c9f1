"""Networks by name: what is loaded, what its identity depends on, and how a wrong name is answered."""

from __future__ import annotations

import importlib
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError

import httpx
import pytest
import torch
import torchvision
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from tasks.dissection.errors import UnknownNameError
from tasks.models.errors import CheckpointError, DownloadError, ModelError, UnknownModelError
from tasks.models.targets import Target, load_target
from tests.test_tasks.conftest import TinyClip

#: The smallest networks of the libraries.
TORCHVISION, TIMM = "torchvision:squeezenet1_1", "timm:test_resnet"
#: Of which the tensor that comes last by name is no classifier's.
SHUFFLENET = "torchvision:shufflenet_v2_x0_5"


def load(name: str, checkpoint: Path | None = None) -> Target:
    """As a fresh process would."""
    load_target.cache_clear()
    return load_target(name, str(checkpoint) if checkpoint else None)


def run(target: Target) -> tuple[int, ...]:
    image = Image.new("RGB", (300, 200), (200, 100, 50))
    with torch.inference_mode():
        return tuple(target.model(target.preprocess(image)[None]).shape)


@pytest.mark.parametrize("name", [f"{TORCHVISION}/random", f"{TIMM}/random"])
def test_a_network_with_random_weights_runs_and_is_always_the_same(name: str) -> None:
    one = load(name)
    torch.manual_seed(5)
    torch.rand(3)
    assert run(one) == (1, 1000)
    assert load(name).identity == one.identity
    assert not one.model.training


def test_a_network_is_loaded_once_per_process() -> None:
    assert load_target("tests.tiny_models:colours", None) is load_target("tests.tiny_models:colours", None)


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
@pytest.mark.parametrize("name", [TORCHVISION, SHUFFLENET, TIMM])
def test_a_checkpoint_of_the_networks_own_classes_fits_in_any_format(tmp_path: Path, name: str, ending: str) -> None:
    random = load(f"{name}/random")
    file = save(random.model, tmp_path / f"weights.{ending}")
    assert load(name, file).identity == random.identity


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
@pytest.mark.parametrize("name", [TORCHVISION, SHUFFLENET])
def test_a_checkpoint_of_other_classes_makes_a_network_of_so_many(tmp_path: Path, name: str, ending: str) -> None:
    # As of Places365: the library's architecture, another number of classes.
    places = torchvision.models.get_model(name.partition(":")[2], weights=None, num_classes=365)
    target = load(name, save(places, tmp_path / f"weights.{ending}"))
    assert run(target) == (1, 365)


def save(model: nn.Module, path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(model.state_dict(), path)
    else:
        torch.save(model.state_dict(), path)
    return path


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    file = save(nn.Linear(3, 2), tmp_path / "weights.safetensors")
    with pytest.raises(CheckpointError, match=r"2 unexpected: bias, weight|2 unexpected: weight, bias"):
        load(TORCHVISION, file)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("torchvision:resnett50", "resnet50"), ("timm:test_resnett", "test_resnet"), ("open_clip:ViT-B32", "ViT-B-32")],
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(UnknownNameError, match=f"Nearest: .*{nearest}"):
        load(name)


def test_unknown_weights_are_answered_with_those_there_are() -> None:
    with pytest.raises(UnknownModelError, match=r"no weights 'V9', but IMAGENET1K_V1, IMAGENET1K_V2, .*random"):
        load("torchvision:resnet50/V9")


def test_unknown_timm_weights_are_not_called_a_failed_download() -> None:
    with pytest.raises(ModelError, match="nope") as caught:
        load("timm:resnet18.nope")
    assert "network" not in str(caught.value)


@pytest.mark.parametrize("name", ["resnet50", "torchvision", "torchvision:", ":f", ""])
def test_a_target_of_no_known_form_says_which_forms_there_are(name: str) -> None:
    with pytest.raises(UnknownModelError, match="torchvision:NAME, timm:NAME, open_clip:NAME/PRETRAINED"):
        load(name)


# ------------------------------------------------------------------------------------------- module:function


SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, slope=1.0):
        super().__init__()
        self.slope = slope
        self.head = nn.Linear(3, 2)
        with torch.no_grad():
            self.head.weight.fill_(1)
            self.head.bias.zero_()

    def forward(self, x):
        return self.head(x.mean((2, 3)) * self.slope)

class Crop:  # no printed form
    def __init__(self, size):
        self.size = size

    def __call__(self, image):
        return torch.zeros(3, self.size, self.size)

def plain(): return Net()
def steep(): return Net(2.0)
def small(): return Net(), Crop(8)
def large(): return Net(), Crop(16)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's folder, the working directory, with `usernets.py` in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "usernets.py").write_text(SOURCE)
    yield tmp_path
    forget("usernets")


def forget(*modules: str) -> None:
    """As if they had not been imported in this process."""
    for module in modules:
        sys.modules.pop(module, None)
    importlib.invalidate_caches()


def test_a_function_in_the_working_directory_is_found_and_gets_the_usual_preprocessing(project: Path) -> None:
    target = load("usernets:plain")
    assert run(target) == (1, 2)
    assert target.preprocess(Image.new("RGB", (300, 200))).shape == (3, 224, 224)


def test_a_function_may_bring_its_preprocessing() -> None:
    transforms, function = load("tests.tiny_models:colours"), load("tests.tiny_models:colours_with_function")
    for target in (transforms, function):
        assert target.preprocess(Image.new("RGB", (30, 20))).shape == (3, 8, 8)
    assert transforms.identity["weights"] == function.identity["weights"]
    assert transforms.identity["preprocess"] != function.identity["preprocess"]


def test_edited_source_is_another_network(project: Path) -> None:
    before = load("usernets:plain").identity
    forget("usernets")
    assert load("usernets:plain").identity == before
    (project / "usernets.py").write_text(SOURCE.replace("self.head(x.mean", "self.head(2 * x.mean"))
    forget("usernets")
    assert load("usernets:plain").identity != before


def test_two_functions_of_one_module_that_compute_other_things_are_two_networks(project: Path) -> None:
    # Same weights, same printed structure: only the functions differ.
    assert load("usernets:plain").identity != load("usernets:steep").identity


def test_two_functions_that_preprocess_otherwise_are_two_networks(project: Path) -> None:
    assert load("usernets:small").identity != load("usernets:large").identity


def test_a_checkpoint_is_loaded_into_what_a_function_makes(project: Path) -> None:
    save_file({"head.weight": torch.full((2, 3), 5.0), "head.bias": torch.ones(2)}, project / "w.safetensors")
    target = load("usernets:plain", project / "w.safetensors")
    assert target.model.get_parameter("head.weight").unique().tolist() == [5.0]
    assert target.identity != load("usernets:plain").identity


def test_a_checkpoint_of_a_clip_model_gives_its_image_encoder(tiny_clip: TinyClip) -> None:
    target = load(f"open_clip:{tiny_clip.config}", tiny_clip.checkpoint)
    weights = load_file(tiny_clip.checkpoint)
    assert run(target) == (1, 8)
    assert all(torch.equal(tensor, weights[f"visual.{name}"]) for name, tensor in target.model.state_dict().items())


def test_settings_that_no_weight_shows_are_another_network(project: Path) -> None:
    (project / "attention.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "from pathlib import Path\n"
        "def make():\n"
        "    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.MultiheadAttention(8, int(Path('heads').read_text())))\n"
    )
    identities = []
    for heads in ("2", "4"):
        (project / "heads").write_text(heads)
        identities.append(load("attention:make").identity)
    forget("attention")
    assert identities[0]["weights"] == identities[1]["weights"]
    assert identities[0]["architecture"] != identities[1]["architecture"]


def test_a_function_that_makes_no_network_says_what_it_made() -> None:
    with pytest.raises(ModelError, match=r"tests.tiny_models:not_a_network gave int, not a torch.nn.Module"):
        load("tests.tiny_models:not_a_network")


def test_a_missing_function_is_answered_with_the_nearest(project: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"'plane'.*Nearest: plain.*usernets has .*steep"):
        load("usernets:plane")


def test_a_missing_module_says_where_was_looked(project: Path) -> None:
    with pytest.raises(UnknownModelError, match="no Python module 'usernetz'") as caught:
        load("usernetz:plain")
    assert str(project) in str(caught.value)


def test_a_module_that_lacks_a_module_names_that_one(project: Path) -> None:
    (project / "usernets.py").write_text("import no_such_package_at_all\n")
    with pytest.raises(UnknownModelError, match="no_such_package_at_all"):
        load("usernets:plain")


# ------------------------------------------------------------------------------------------------ no network


DOWN = URLError(socket.gaierror(-3, "Temporary failure in name resolution"))
OFFLINE = [
    (TORCHVISION, DOWN),
    (TORCHVISION, TimeoutError("timed out")),
    (TORCHVISION, RuntimeError('invalid hash value (expected "abc", got "def")')),
    *(
        (name, failure)
        for name in (TIMM, "open_clip:ViT-B-32/openai")
        for failure in (
            LocalEntryNotFoundError("Cannot find the file in the cache and outgoing traffic is disabled"),
            httpx.ConnectError("[Errno -3] Temporary failure in name resolution"),
            httpx.ReadTimeout("timed out"),
        )
    ),
]


@pytest.mark.parametrize(("name", "failure"), OFFLINE, ids=lambda value: getattr(value, "args", (value,))[0])
def test_without_a_network_the_way_out_is_a_file(
    name: str, failure: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **more: object) -> None:
        raise failure

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", fail)
    monkeypatch.setattr("urllib.request.urlopen", fail)
    monkeypatch.setattr("timm.models._hub.hf_hub_download", fail)
    monkeypatch.setattr("open_clip.pretrained.hf_hub_download", fail)
    with pytest.raises(DownloadError, match="could not be fetched") as caught:
        load(name)
    message = str(caught.value)
    assert "FILE" in message
    assert name.partition(":")[2].partition("/")[0] in message
    assert "\n" not in message
