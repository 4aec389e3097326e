"""A data set is one file beside the readers, and one word in the registry."""

from pathlib import Path
from typing import get_args

import pytest
from evqa_files import save_image

from regionr1.data import readers
from regionr1.data.build.stages import Prepare
from regionr1.data.readers.base import Source
from regionr1.data.readers.registry import SourceName, open_source

TOY = '''
"""Pictures named by what they show."""

from pathlib import Path

from regionr1.data.readers.base import Source
from regionr1.data.records import Entity, Query


class ToySource(Source):
    name = "toy"

    def __init__(self, root, kb=None):
        self.root, self.kb_path = Path(root), Path(root) / (kb or "kb")

    def read(self, split, report):
        for path in sorted((self.root / split).glob("*.jpg")):
            name = path.stem
            yield Query(f"{split}-{name}", path, "What?", (name,), name, "named", "toy", split)

    def entities(self, report):
        for path in sorted(self.kb_path.glob("*.jpg")):
            yield Entity(path.stem, path.stem, path.stem, (path,))

    def questions_path(self, split):
        return self.root / split

    def files(self, split):
        return []

    def kb_files(self):
        return []

    def missing(self):
        return []
'''


@pytest.mark.parametrize("name", get_args(SourceName))
def test_every_name_has_its_reader(name, tmp_path: Path) -> None:
    source = open_source(name, tmp_path)
    assert isinstance(source, Source) and source.name == name


def test_a_new_data_set_is_one_file(tmp_path: Path, monkeypatch) -> None:
    import random

    rng = random.Random(0)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "toy.py").write_text(TOY)
    monkeypatch.setattr(readers, "__path__", [*readers.__path__, str(tmp_path / "code")])
    root = tmp_path / "toy"
    for folder in ("test", "kb"):
        for name, colour in (("red", (220, 30, 30)), ("blue", (30, 30, 220))):
            save_image(root / folder / f"{name}.jpg", colour, rng)
    made = Prepare(
        root=root, source="toy", out=tmp_path / "out", scorer="pixels", k=2, splits=("test",)
    )  # type: ignore[arg-type]
    (index,) = made.build()
    assert (index.source, index.n_samples, index.pool_recall) == ("toy", 2, 1.0)
