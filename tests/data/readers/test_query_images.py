"""Image ids to files: every layout, and what is said when there is none."""

import json

import pytest

from regionr1.data.readers.kb_images import KbImages
from regionr1.data.readers.query_images import (
    OVEN_EXTENSIONS,
    InatImages,
    LandmarkImages,
    OvenImages,
)
from regionr1.errors import UserError

NAME = "val/06214_Plantae_Smilax/09dd9c22.jpg"


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def write_coco(root, images) -> None:
    record = {"info": {}, "annotations": [{"id": 1, "image_id": 5}], "images": images}
    (root / "val.json").write_text(json.dumps(record))


def test_inaturalist_names_from_coco_are_written_once(tmp_path) -> None:
    path = touch(tmp_path / NAME)
    write_coco(tmp_path, [{"id": 2715027, "file_name": NAME}, {"id": 5, "file_name": "val/x.jpg"}])
    assert InatImages(tmp_path, "val").find("2715027", "6214", "row") == path
    names = json.loads((tmp_path / "val_id2name.json").read_text())
    assert names == {"2715027": NAME, "5": "val/x.jpg"}
    (tmp_path / "val.json").write_text("broken")
    images = InatImages(tmp_path, "val")
    assert images.find("2715027", "6214", "row") == path  # EchoSight's table is enough
    assert images.files() == [tmp_path / "val_id2name.json"]
    assert images.find("7", "", "row") == f"image id 7 is not in {tmp_path / 'val_id2name.json'}"
    assert images.find("5", "", "row") == f"file {tmp_path / 'val/x.jpg'}"
    assert images.find("5", "", "row") != touch(tmp_path / "5.jpg") == images.find("5", "", "row")


def test_inaturalist_flat(tmp_path) -> None:
    path = touch(tmp_path / "2715027.jpg")
    images = InatImages(tmp_path, "val")
    assert images.find("2715027", "6214", "row") == path
    assert images.find("8", "", "row") == f"file {tmp_path / '8.jpg'}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [{"id": 5, "file_na', "not a COCO file .*truncated"),
        ('{"images": [{"id": 5}]}', "not a COCO file"),
        ('{"pictures": []}', "no list 'images'"),
    ],
)
def test_broken_coco_leaves_no_table(tmp_path, text, message) -> None:
    (tmp_path / "val.json").write_text(text)
    with pytest.raises(UserError, match=message):
        InatImages(tmp_path, "val").find("5", "", "row")
    assert [path.name for path in tmp_path.iterdir()] == ["val.json"]


def test_inaturalist_of_the_wrong_part(tmp_path) -> None:
    (tmp_path / "val_id2name.json").write_text(json.dumps({"2715027": NAME}))
    touch(tmp_path / NAME)
    with pytest.raises(UserError, match=r"test\.csv:9: .*of category 17 .*another version or part"):
        InatImages(tmp_path, "val").find("2715027", "17", "test.csv:9")
    with pytest.raises(UserError, match="no such folder; it should hold iNaturalist"):
        InatImages(tmp_path / "elsewhere", "val").find("5", "", "row")
    with pytest.raises(UserError, match=r"train_id2name.*so are train\.json and files named <id>"):
        InatImages(tmp_path, "train").find("5", "", "row")


@pytest.mark.parametrize("nested", [True, False])
def test_landmarks_in_both_layouts(tmp_path, nested) -> None:
    name = "a/e/6/ae67170774ef5750.jpg" if nested else "ae67170774ef5750.jpg"
    path = touch(tmp_path / name)
    images = LandmarkImages(tmp_path)
    assert images.find("ae67170774ef5750", "188088", "row") == path
    assert (
        images.find("be67170774ef5750", "", "row") == f"file {tmp_path}/b/e/6/be67170774ef5750.jpg"
    )
    with pytest.raises(UserError, match="it should hold Google Landmarks"):
        LandmarkImages(tmp_path / "index").find("ae67170774ef5750", "", "row")


@pytest.mark.parametrize("folder", ["", "04/"])
@pytest.mark.parametrize("extension", OVEN_EXTENSIONS)
def test_oven_in_every_layout(tmp_path, folder, extension) -> None:
    path = touch(tmp_path / f"{folder}oven_04958423{extension}")
    assert OvenImages(tmp_path).find("oven_04958423", "", "row") == path
    assert "oven_05958423.jpg (or flat" in str(OvenImages(tmp_path).find("oven_05958423", "", "r"))


@pytest.mark.parametrize("header", ["", "oven_id,source_path\n"])
def test_oven_table(tmp_path, header) -> None:
    path = touch(tmp_path / "aircraft/data/1025794.jpg")
    table = tmp_path / "ovenid2impath.csv"
    table.write_text(header + "oven_04925662,aircraft/data/1025794.jpg\noven_1,gone.jpg\n")
    images = OvenImages(tmp_path)
    assert images.find("oven_04925662", "", "row") == path
    assert str(images.find("oven_1", "", "row")).startswith("file ")
    table.write_text(header + "oven_04925662,../../secret.jpg\n")
    with pytest.raises(UserError, match="leaves the data folder"):
        OvenImages(tmp_path).find("oven_04925662", "", "row")
    table.write_text("oven_04925662\n")
    with pytest.raises(UserError, match=r"impath\.csv:1: expected an OVEN id and a path"):
        OvenImages(tmp_path).find("oven_04925662", "", "row")


def test_kb_images_from_omgm_tables(tmp_path) -> None:
    for part in (1, 2):
        (tmp_path / f"wiki_image_url_part_{part}_processed.csv").write_text(
            "title,image_URL,img_path,caption\n"
            f'"A, B",https://u/{part}.jpg,full/{part}/000.jpg,"a ""view"""\n'
            f"Other,https://u/{part}.jpg,full/{part}/000.jpg,again\n"
        )
    path = touch(tmp_path / "full/2/000.jpg")
    images = KbImages(tmp_path)
    assert images.find("https://u/2.jpg") == path
    assert images.find("https://u/1.jpg") is None and images.find("https://u/3.jpg") is None
    (tmp_path / "wiki_image_url_part_1_processed.csv").write_text("h\none,two\n")
    with pytest.raises(UserError, match=r"part_1_processed\.csv:2: 2 fields; expected title"):
        KbImages(tmp_path).find("https://u/2.jpg")


def test_mapped_paths_may_be_absolute_inside_the_folder(tmp_path) -> None:
    path = touch(tmp_path / "pictures/1.jpg")
    mapping = tmp_path / "url_to_path_mapping.json"
    mapping.write_text(json.dumps({"https://u/1.jpg": str(path.resolve())}))
    assert KbImages(tmp_path).find("https://u/1.jpg") == path
    mapping.write_text(json.dumps({"https://u/1.jpg": "/etc/passwd"}))
    with pytest.raises(UserError, match="leaves the data folder"):
        KbImages(tmp_path).find("https://u/1.jpg")
