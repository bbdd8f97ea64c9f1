"""Broden's layout: images of the index, not the pixel labels beside them."""

from __future__ import annotations

import pandas as pd
import pytest

from storage.errors import SourceError
from storage.files import Folder
from storage.sources.broden import Broden

INDEX = """image,split,ih,iw,sh,sw,color,object,part,material,scene,texture
ade20k/A_1.jpg,train,384,384,112,112,ade20k/A_1_color.png,ade20k/A_1_object.png,ade20k/A_1_part_1.png;ade20k/A_1_part_2.png,,4;5,
dtd/b_1.jpg,val,300,300,112,112,dtd/b_1_color.png,,,,,6
"""
LABEL = """number,name,category,frequency,coverage,syns
1,black-c,color(9),9,0.2,
4,street-s,scene(2),2,1,
5,"square, plaza-s",scene(1),1,1,"plaza;place"
6,striped,texture(1),1,1,
"""


@pytest.fixture
def broden(folder: Folder) -> Broden:
    return broden_at(folder)


def broden_at(folder: Folder, image: bytes = b"image") -> Broden:
    """A folder of two images and their pixel labels."""
    folder.write("index.csv", INDEX.encode())
    folder.write("label.csv", LABEL.encode())
    for name in ("ade20k/A_1.jpg", "dtd/b_1.jpg"):
        folder.write(f"images/{name}", image)
    for name in ("A_1_color", "A_1_object", "A_1_part_1", "A_1_part_2"):
        folder.write(f"images/ade20k/{name}.png", b"pixels")
    folder.write("images/dtd/b_1_color.png", b"pixels")
    return Broden(folder.url)


def test_probe_images_are_those_of_the_index(broden: Broden) -> None:
    images = list(broden.images())
    assert [image.path for image in images] == ["ade20k/A_1.jpg", "dtd/b_1.jpg"]
    assert {broden.read(image.url) for image in images} == {b"image"}


def test_annotations_say_which_file_or_concept_belongs_to_which_image(broden: Broden) -> None:
    table = broden.tables()["broden.parquet"]
    rows = {(r.path, r.category, str(r.pixel_file).rpartition("/")[2], r.concept) for r in table.itertuples()}
    assert rows == {
        ("ade20k/A_1.jpg", "color", "A_1_color.png", -1),
        ("ade20k/A_1.jpg", "object", "A_1_object.png", -1),
        ("ade20k/A_1.jpg", "part", "A_1_part_1.png", -1),
        ("ade20k/A_1.jpg", "part", "A_1_part_2.png", -1),
        ("ade20k/A_1.jpg", "scene", "", 4),
        ("ade20k/A_1.jpg", "scene", "", 5),
        ("dtd/b_1.jpg", "color", "b_1_color.png", -1),
        ("dtd/b_1.jpg", "texture", "", 6),
    }
    assert len(table) == len(rows)
    assert all(broden.read(url) == b"pixels" for url in table["pixel_file"] if url)


def test_concepts_are_those_of_label_csv(broden: Broden) -> None:
    concepts = broden.tables()["broden-concepts.parquet"]
    assert dict(zip(concepts["number"], concepts["name"], strict=True))[5] == "square, plaza-s"
    assert pd.api.types.is_integer_dtype(concepts["number"])


def test_tables_of_something_else_are_named(broden: Broden) -> None:
    broden.folder.write("index.csv", b"a,b\n1,2\n")
    with pytest.raises(SourceError, match=r"index\.csv has 1 rows and the columns a, b\. .*image, split"):
        list(broden.images())
    broden.folder.write("label.csv", b"a,b\n1,2\n")
    with pytest.raises(SourceError, match=r"label\.csv has no column number, name, category"):
        list(broden.images())
