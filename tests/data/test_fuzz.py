"""Damaged input of every kind ends in a value or in one sentence; counted and printed.

`pytest -m slow -s tests/data/test_fuzz.py` prints the counts.
"""

import io
import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evqa_files import make_evqa, make_shards
from infoseek_files import make_infoseek
from own_files import make_own
from PIL import Image

from regionr1.algorithm.answers import parse_answer
from regionr1.config_errors import check_config_files
from regionr1.data.images import open_image
from regionr1.data.npy import from_npy, to_npy
from regionr1.data.readers.inspect import inspect_source
from regionr1.data.readers.registry import open_source
from regionr1.data.shards.index import load_index
from regionr1.data.shards.stream import read_images, read_samples
from regionr1.data.shards.writer import write_shards
from regionr1.errors import UserError

TOKENS = [
    b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b'"', b",", b"\n", b"\r", b"{", b"}", b"[" * 3000, b"]",
    b"null", b"-1", b"1e999", b"NaN", b"9" * 400, b"9" * 5000, b"\\ud800", b'"\\ud800"', b"../..",
    b"|", b"/", b"<box>", b"x" * 5000, b"true", b"\t", b"\xc3", b"&a", b"*a", b"!!binary x",
    b"? [a]", b"!!timestamp 2026-13-45", b": 2026-13-45", b"<<: 3", b".inf", b"\x1f\x8b", b"0",
]  # fmt: skip


def damaged(data: bytes, chance: random.Random) -> bytes:
    """The data with one to three places changed."""
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(data) + 1)
        to = min(len(data), at + chance.choice([0, 1, 4, 40, 400]))
        kind = chance.randrange(5)
        if kind == 0:
            data = data[:at]
        elif kind == 1:
            data = data[:at] + data[to:]
        elif kind == 2:
            data = data[:at] + chance.choice(TOKENS) + data[to:]
        elif kind == 3:
            data = data[:at] + chance.randbytes(to - at) + data[to:]
        else:
            data = data[:at] + data[to:] + data[at:to]
    return data


def outcomes(cases: int, one: Callable[[random.Random], object], what: str, capsys) -> Counter[str]:
    """Runs the cases; what is neither used nor refused in a sentence is told with its exception."""
    count = Counter[str]()
    for number in range(cases):
        try:
            one(random.Random(f"{what} {number}"))
            count["used"] += 1
        except UserError as error:
            one_line = len(str(error).splitlines()) == 1 and len(str(error)) < 2000
            count["one sentence" if one_line else "pages"] += 1
        except (Exception, RecursionError) as error:
            count[f"{type(error).__name__}"] += 1
    with capsys.disabled():
        told = ", ".join(f"{n:,} {name}" for name, n in count.most_common())
        print(f"\n{what}: {cases:,} cases: {told}")
    return count


def only_sentences(count: Counter[str]) -> None:
    assert not {*count} - {"used", "one sentence"}, count


@pytest.mark.slow
def test_images(capsys) -> None:
    seeds = []
    picture = Image.effect_noise((40, 30), 60).convert("RGB")
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a picture"
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"):
        buffer = io.BytesIO()
        picture.save(buffer, kind, exif=exif) if kind != "PPM" else picture.save(buffer, kind)
        seeds.append(buffer.getvalue())
    for image in (
        Image.fromarray(np.random.default_rng(0).random((30, 40), np.float32)),
        Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40)),
    ):
        buffer = io.BytesIO()
        image.save(buffer, "TIFF")
        seeds.append(buffer.getvalue())
    only_sentences(outcomes(
        3000, lambda c: open_image(damaged(c.choice(seeds), c), "sample"), "images", capsys,
    ))  # fmt: skip


@pytest.mark.slow
def test_answers(capsys) -> None:
    seeds = [b"FULL", b"REGION [10, 20, 300, 400]", b'{"bbox_2d": [1, 2, 30, 40]}', b"<box>1,2"]
    only_sentences(outcomes(
        5000,
        lambda c: parse_answer(damaged(c.choice(seeds), c).decode("utf-8", "surrogateescape")),
        "answers", capsys,
    ))  # fmt: skip


@pytest.mark.slow
def test_configs(tmp_path, capsys) -> None:
    seeds = [path.read_bytes() for path in sorted(Path("conf").glob("*.yaml"))]
    path = tmp_path / "damaged.yaml"

    def one(chance: random.Random) -> None:
        path.write_bytes(damaged(chance.choice(seeds), chance))
        check_config_files(["-c", str(path)])

    only_sentences(outcomes(1000, one, "configs", capsys))


@pytest.mark.slow
def test_readers(tmp_path, capsys) -> None:
    roots = {}
    for name in ("evqa", "infoseek", "echosight"):
        (tmp_path / name).mkdir()
    roots[make_evqa(tmp_path / "evqa").write()] = "evqa"
    roots[make_infoseek(tmp_path / "infoseek", False)] = "infoseek"
    roots[make_infoseek(tmp_path / "echosight", True)] = "infoseek"
    roots[make_own(tmp_path / "own")] = "own"
    ends = (".csv", ".json", ".jsonl", ".gz")
    files = [
        (path, name)
        for root, name in roots.items()
        for path in sorted(root.rglob("*"))
        if path.name.endswith(ends)
    ]

    def one(chance: random.Random) -> None:
        path, name = chance.choice(files)
        whole = path.read_bytes()
        path.write_bytes(damaged(whole, chance))
        root = next(root for root in roots if path.is_relative_to(root))
        try:
            inspect_source(open_source(name, root))
        finally:
            path.write_bytes(whole)

    only_sentences(outcomes(600, one, "readers", capsys))


def wrong(raw: dict[str, bytes], chance: random.Random) -> str:
    """Makes one thing of a sample wrong in a way that decodes; says which."""
    record = json.loads(raw["json"])
    asked = record["questions"][0]
    name = chance.choice(["candidates.npy", "full.npy"])
    array = from_npy(raw[name]).copy()
    kind = chance.choice([
        "nan", "infinite", "zero", "unnormalised", "labels", "gold", "box outside", "unit box",
        "box of other numbers", "size", "fewer", "row", "text",
    ])  # fmt: skip
    if kind in ("nan", "infinite"):
        array.flat[chance.randrange(array.size)] = np.nan if kind == "nan" else np.inf
    elif kind == "zero":
        array *= 0
    elif kind == "unnormalised":
        array *= chance.choice([0.01, 0.5, 1.5, 100.0])
    elif kind == "labels":
        n = chance.randrange(len(asked["labels"]))
        asked["labels"][n] = 1 - asked["labels"][n]
    elif kind == "gold":
        asked["gold_ids"] = ["another page"] if any(asked["labels"]) else record["candidate_ids"]
    elif kind == "box outside":
        asked["reference_box_px"] = [10, 10, 48 + chance.randint(2, 500), 30]
    elif kind == "unit box":
        asked["reference_box_px"] = [0.1, 0.2, 0.1 + chance.random() / 2, 0.9]
    elif kind == "box of other numbers":
        asked["reference_box_px"] = chance.choice([[30, 20, 10, 10], [5, 5, 5, 9], [1, 2, 3]])
    elif kind == "size":
        record[chance.choice(["width", "height"])] += chance.choice([-1, 1, 100])
    elif kind == "fewer":
        key = chance.choice(["candidate_ids", "candidate_images", "labels", "candidates"])
        of = asked if key in asked else record
        of[key] = of[key][:-1]
    elif kind == "row":
        asked["candidates"][0] = chance.choice([-1, len(record["candidate_ids"]), None, "0", 0.0])
    else:
        asked[chance.choice(["key", "question", "cluster"])] = chance.choice([3, None, ["a"]])
    raw[name], raw["json"] = to_npy(array), json.dumps(record).encode()
    return kind


@pytest.mark.slow
def test_shards_whose_index_fits(tmp_path, capsys) -> None:
    made = make_shards(tmp_path, {"train": 7, "val": 4, "test": 6}, samples_per_shard=3)
    index = load_index(made, "test")
    samples = [
        image.files for n in range(len(index.shards)) for image in read_images(made, index, n)
    ]

    def one(chance: random.Random) -> None:
        out = tmp_path / "damaged"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        changed = [dict(raw) for raw in samples]
        for raw in changed:
            for name in [name for name in raw if name.startswith("__") and name != "__key__"]:
                del raw[name]
        wrong(chance.choice(changed), chance)
        asked = [(raw, len(json.loads(raw["json"])["questions"])) for raw in changed]
        replace(index, shards=write_shards(out, "test", asked, 3)[0]).save(out)
        list(read_samples(out, load_index(out, "test")))

    count = outcomes(240, one, "shards whose index fits", capsys)
    only_sentences(count)
    assert count["used"] == 0
