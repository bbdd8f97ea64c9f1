"""A network is named by all of the user's code that it runs, wherever that stands, and by nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from PIL import Image

from tasks.models import user_code
from tasks.models.errors import ModelError
from tasks.models.functions import imported
from tasks.models.targets import Target, load_target, weights_are_random
from tests.conftest import REPO

#: A network of four values that answers with the factor in another module.
NETWORK = """
from torch import nn

class Net(nn.Module):
    def forward(self, images):
        from {factors} import FACTOR
        return FACTOR * images.mean((2, 3))
"""


class Project:
    """A user's folder, the working directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, **files: str) -> None:
        """Writes modules, named as they are imported; `__` stands for a dot."""
        for name, text in files.items():
            path = self.folder / f"{name.replace('__', '/')}.py".replace("/init.py", "/__init__.py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(text).lstrip())

    def load(self, target: str, preprocess: str | None = None) -> Target:
        """As a run that begins in this process does."""
        load_target.cache_clear()
        return load_target(target, preprocess=preprocess)

    def value(self, target: Target) -> float:
        """What the network answers to an image of ones."""
        with torch.inference_mode():
            return float(target.model(torch.ones(1, 3, 4, 4)).flatten()[0])


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    before = set(sys.modules)
    yield Project(tmp_path)
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]


# ------------------------------------------------------------------------------------------------- which modules


IMPORTS = {
    "a module": ("import other\n", "other"),
    "a name of a module": ("from other import f\n", "other"),
    "a module of a package": ("import package.inner\n", "package__inner"),
    "a package as a whole": ("import package.inner\n", "package__init"),
    "a module named by from": ("from package import inner\n", "package__inner"),
    "a module that a module imports": ("import middle\n", "other"),
    "a relative import": ("import package.outer\n", "package__inner"),
    "an import in a function": ("def later():\n    import other\n", "other"),
    "an import that is called": ("import importlib\nlater = lambda: importlib.import_module('other')\n", "other"),
}


@pytest.mark.parametrize(("statement", "edited"), IMPORTS.values(), ids=IMPORTS)
def test_an_edit_of_any_module_that_is_imported_is_another_network(
    project: Project, statement: str, edited: str
) -> None:
    files = {"other": "f = 1\n", "middle": "import other\n", "package__init": "", "package__inner": "f = 1\n"}
    project.write(**files, package__outer="from . import inner\n", unused="f = 1\n")
    project.write(nets=f"{statement}from torch import nn\ndef net():\n    return nn.Identity()\n")
    before = project.load("nets:net").identity
    project.write(unused="f = 2\n")
    assert project.load("nets:net").identity == before
    project.write(**{edited: "f = 2\n"})
    assert project.load("nets:net").identity["architecture"] != before["architecture"]


def test_modules_that_are_not_the_users_are_not_named_by_their_source(project: Project) -> None:
    project.write(nets="import json, numpy, torch, tasks.spec\nfrom torch import nn\n")
    assert list(user_code.users_modules(["nets"], "nets")) == []  # it is not found before the folder is on the path
    imported("nets:net")
    assert list(user_code.users_modules(["nets"], "nets")) == ["nets"]


def test_a_module_in_an_installed_package_that_is_named_is_followed_within_its_package(project: Project) -> None:
    site = project.folder / "site-packages"
    for name, text in {"__init__": "", "a": "from . import b\nimport other\n", "b": "f = 1\n"}.items():
        (site / "lab").mkdir(parents=True, exist_ok=True)
        (site / "lab" / f"{name}.py").write_text(text)
    (site / "other.py").write_text("f = 1\n")
    sys.path.insert(0, str(site))
    assert sorted(user_code.users_modules(["lab.a"], "lab.a")) == ["lab", "lab.a", "lab.b"]
    assert user_code.users_modules(["lab.a"]) == {}


def test_modules_that_import_each_other_and_code_that_is_no_python_are_no_trouble(project: Project) -> None:
    project.write(one="import two\n", two="import one\nfrom ..beyond import x\n", bad="def (")
    sys.path.insert(0, str(project.folder))
    assert sorted(user_code.users_modules(["one", "bad", "absent"])) == ["bad", "one", "two"]


# ---------------------------------------------------------------------------- code edited while a process is at work


def test_a_process_computes_with_the_code_that_names_its_network(project: Project) -> None:
    project.write(nets="from net import Net\ndef net():\n    return Net()\n", net=NETWORK.format(factors="factors"))
    seen = {}
    for factor in (2, 3, 2):  # of one length, written within a second: compiled code would not notice
        project.write(factors=f"FACTOR = {factor}\n")
        target = project.load("nets:net")
        assert project.value(target) == factor
        assert seen.setdefault(factor, target.identity) == target.identity
    assert seen[2] != seen[3]


def test_a_network_that_a_run_has_loaded_stays_as_it_is_until_the_next_run(project: Project) -> None:
    project.write(nets="from torch import nn\nSIZE = 3\ndef net():\n    return nn.Linear(SIZE, SIZE)\n")
    loaded = project.load("nets:net")
    project.write(nets="from torch import nn\nSIZE = 5\ndef net():\n    return nn.Linear(SIZE, SIZE)\n")
    assert load_target("nets:net", preprocess=None) is loaded
    assert project.load("nets:net").model.get_parameter("weight").shape == (5, 5)


def test_a_module_of_the_same_name_in_another_folder_is_another(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, size in (("first", 3), ("second", 4), ("first", 3)):
        (project.folder / folder).mkdir(exist_ok=True)
        code = f"from torch import nn\ndef net(): return nn.Linear({size}, 2)\n"
        (project.folder / folder / "nets.py").write_text(code)
        monkeypatch.chdir(project.folder / folder)
        assert project.load("nets:net").model.get_parameter("weight").shape == (2, size)


def test_edited_code_that_cannot_be_imported_again_says_what_to_do(project: Project) -> None:
    project.write(nets="from torch import nn\ndef net():\n    return nn.Identity()\n")
    project.load("nets:net")
    project.write(nets="raise RuntimeError('registered twice')\n")
    with pytest.raises(ModelError, match=r"nets was edited since .* \(RuntimeError: registered twice\).*restart"):
        project.load("nets:net")


# --------------------------------------------------------------------------------------------- the preprocessing


CROPS = {
    "a function": "crop",
    "a partial": "functools.partial(crop, size=4)",
    "a lambda": "lambda image: crop(image)",
    "an object": "Crop()",
    "a transform": "transforms.Compose([transforms.Lambda(crop)])",
    "a bound method": "Crop().apply",
}


@pytest.mark.parametrize("crop", CROPS.values(), ids=CROPS)
def test_an_edit_of_the_crop_that_a_preprocessing_imports_gives_other_numbers(project: Project, crop: str) -> None:
    project.write(
        nets=f"""
        import functools
        from torch import nn
        from torchvision import transforms
        from crops import Crop, crop
        def net():
            return nn.Identity(), {crop}
        """
    )
    crops = """
        import torch
        def crop(image, size=4):
            return torch.full((3, size, size), 1.0)
        class Crop:
            def __call__(self, image):
                return crop(image)
            def apply(self, image):
                return crop(image)
        """
    picture, found = Image.new("RGB", (8, 8)), []
    for value in ("1.0", "2.0"):
        project.write(crops=crops.replace("1.0", value))
        target = project.load("nets:net")
        assert target.preprocess(picture).unique().tolist() == [float(value)]
        found.append(target.identity["preprocess"])
    assert found[0] != found[1]


# ------------------------------------------------------------------------------------------- the same everywhere


TWICE = {
    "net": """
        import enum, functools, logging, pathlib, re, threading
        from collections import Counter, OrderedDict, deque
        import numpy as np
        import torch
        from torch import nn
        from more import Scale

        class Kind(enum.Enum):
            A = 1

        class Apply(nn.Module):
            def __init__(self, function):
                super().__init__()
                self.function = function
                self.names = {"red", "green", "blue", "grey"}
                self.lookup = {name: len(name) for name in self.names}
                self.table, self.array = torch.arange(5000.0), np.arange(5000)
                self.kind, self.dtype = Kind.A, torch.float16
                self.lock, self.log = threading.Lock(), logging.getLogger("x")
                self.here = str(pathlib.Path(__file__).resolve())
                self.folder = pathlib.Path(__file__).resolve().parent
                self.pattern, self.queue, self.counter = re.compile("a+"), deque([1]), Counter("aab")
                self.method, self.me = self.extra_repr, [self]

            def extra_repr(self):
                return f"function={self.function}"

            def forward(self, images):
                return self.function(images)

        def net():
            factor = torch.rand(1)
            layers = OrderedDict(conv=nn.Conv2d(3, 2, 3), applied=Apply(lambda x: x * factor), scale=Scale())
            return nn.Sequential(layers), functools.partial(scaled, dtype=np.float32)

        def scaled(image, dtype):
            return torch.from_numpy(np.asarray(image, dtype=dtype)).permute(2, 0, 1)
        """,
    "more": """
        from torch import nn
        class Scale(nn.Module):
            def forward(self, images):
                return images.sqrt()
        """,
}
#: Prints a network's identity.
IDENTITY = """
import json
from tasks.models.targets import load_target
print(json.dumps(load_target("net:net").identity))
"""


def test_two_processes_with_the_code_in_two_folders_agree(tmp_path: Path) -> None:
    processes = []
    for seed in ("1", "2"):
        folder = tmp_path / f"copy{seed}"
        folder.mkdir()
        for name, text in TWICE.items():
            (folder / f"{name}.py").write_text(dedent(text))
        settings = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", IDENTITY]
        processes.append(subprocess.Popen(command, cwd=folder, env=settings, stdout=subprocess.PIPE, text=True))
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert json.loads(said[0]) == json.loads(said[1])


# ------------------------------------------------------------------------------------------- weights by chance


RANDOM = """
    import random
    import numpy as np
    import torch
    from torch import nn

    def drawn():
        net = nn.Linear(2, 2)
        net.offset = [random.random(), float(np.random.rand())]
        return net

    def own_seed():
        torch.manual_seed(7)
        return nn.Linear(2, 2)

    def fixed():
        net = nn.Linear(2, 2)
        nn.init.ones_(net.weight), nn.init.zeros_(net.bias)
        return net

    CALLS = []
    def once():
        CALLS.append(1)
        assert len(CALLS) == 1
        return nn.Linear(2, 2)
    """


def test_a_function_that_draws_its_weights_draws_the_same_each_time_and_disturbs_nobody(
    project: Project,
) -> None:
    project.write(nets=RANDOM)
    first = project.load("nets:drawn")
    torch.manual_seed(11)
    torch.rand(5)
    state = torch.random.get_rng_state()
    assert project.load("nets:drawn").identity == first.identity
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("function", "expected"), [("drawn", True), ("own_seed", False), ("fixed", False), ("once", False)]
)
def test_random_weights_are_told_from_those_that_are_not(project: Project, function: str, expected: bool) -> None:
    project.write(nets=RANDOM)
    assert weights_are_random(project.load(f"nets:{function}")) == expected
