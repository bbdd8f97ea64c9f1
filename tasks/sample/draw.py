"""The sample's probe set as a folder of PNG files: `python -m tasks.sample.draw DIR`."""

import shutil
import tempfile
from pathlib import Path

import click
from PIL import Image

from tasks.sample.world import PER_BLOCK, Scene, draw, scene


def _file(of: Scene) -> str:
    return f"{of.shape}/{of.index:04d}.png"


def write_probe(folder: Path, num_images: int = PER_BLOCK) -> Path:
    """Draw the first probe scenes into `folder/<shape>/<index>.png`, RGB, 64 x 64 pixels.

    2,400 pictures (120 of each shape) take about five seconds; a folder that already holds exactly
    these files is left alone. The pictures are drawn into a neighbouring folder that is renamed when it is
    complete, so a `folder` that exists is whole.

    Raises:
        ValueError: `num_images` is less than 1.
        FileExistsError: `folder` holds something else.
    """
    if num_images < 1:
        raise ValueError(f"num_images must be at least 1, got {num_images}")
    scenes = [scene(index, "probe") for index in range(num_images)]
    if folder.exists():
        found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        if found != {_file(of) for of in scenes}:
            raise FileExistsError(
                f"{folder} holds {len(found)} files that are not the {num_images} of this probe set; "
                "remove it or name another folder"
            )
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for of in scenes:
            path = partial / _file(of)
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(draw(of)).save(path)
        partial.chmod(0o755)  # mkdtemp makes a folder that only its owner can read
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return folder


@click.command(help="Draw the 2,400 pictures of the sample's probe set into FOLDER.")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--num-images", default=PER_BLOCK, show_default=True, help="Draw only so many.")
def main(folder: Path, num_images: int) -> None:
    """Draw the probe set and say where it is."""
    click.echo(f"{num_images} pictures in {write_probe(folder, num_images)}")


if __name__ == "__main__":
    main()
