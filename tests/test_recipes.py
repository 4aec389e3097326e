"""Recipes by name: what they bring along, copies, and where they are found."""

from pathlib import Path

import pytest
from checkout import CONF

from regionr1.cli.main import main
from regionr1.recipes import expand, find, recipes


def named(args: list[str]) -> list[str]:
    """The configs of a command line by their names."""
    given = [Path(b) for a, b in zip(args, args[1:], strict=False) if a == "-c"]
    return [
        p.relative_to(CONF).with_suffix("").as_posix() if p.is_absolute() else str(p) for p in given
    ]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("args", "found"),
    [
        (["-c", "quickstart"], ["base", "builtin", "quickstart"]),
        (["--config=evqa", "-c", "paper"], ["base", "evqa", "paper"]),
        # What is named wins over what a name brings along: the data are one's own.
        (["-c", "own", "-c", "quickstart"], ["base", "builtin", "own", "quickstart"]),
        (
            ["-c", "quickstart", "-c", "debug/limit"],
            ["base", "builtin", "quickstart", "debug/limit"],
        ),
        (["-c", "conf/base.yaml", "-c", "conf/paper.yaml"], ["base", "paper"]),
        (["-c", "mine.yaml"], ["mine.yaml"]),
    ],
)  # fmt: skip
def test_a_name_brings_along_what_it_is_stacked_on(elsewhere, args, found) -> None:
    expanded = expand(["fit", "--a", "1", *args, "--b", "2"])
    assert named(expanded) == found
    assert expanded[:3] == ["fit", "--a", "1"] and expanded[-2:] == ["--b", "2"]
    assert expand(expanded) == expanded


def test_a_file_that_is_there_wins_over_a_name(elsewhere) -> None:
    (elsewhere / "quickstart").write_text("model: {}\n")
    assert expand(["fit", "-c", "quickstart"]) == ["fit", "-c", "quickstart"]
    assert find("lora_lr", "sweeps").is_file() and find("sweeps/lora_lr.yaml", "sweeps").is_file()


def test_every_recipe_says_what_it_is_and_what_it_stands_on(capsys) -> None:
    assert main(["recipes"]) == 0
    printed = capsys.readouterr().out
    for kind in ("conf", "sweeps"):
        for name, recipe in recipes(kind).items():
            assert 10 < len(recipe.about) <= 95 and f"  {name} " in printed
            assert set(recipe.stack) <= set(recipes("conf"))


def test_a_copy_is_made_once(elsewhere, capsys) -> None:
    assert main(["recipes", "copy", "quickstart"]) == 0
    assert "regionr1 fit -c base -c builtin -c quickstart.yaml" in capsys.readouterr().out
    assert (elsewhere / "quickstart.yaml").read_bytes() == (CONF / "quickstart.yaml").read_bytes()
    assert main(["recipes", "copy", "quickstart"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["recipes", "copy", "lora"]) == 2
    assert "no recipe 'lora'; did you mean lora_lr?" in capsys.readouterr().err


def test_what_needs_no_model_is_told_without_one(elsewhere, capsys, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "regionr1.cli.fit", None)  # no import succeeds
    for args, words in {
        ("fit",): "fit needs a recipe",
        ("fit", "-c", "quikstart"): "did you mean quickstart?",
        ("sweep", "lora_lrr"): "did you mean lora_lr?",
    }.items():
        assert main(list(args)) == 2
        assert words in capsys.readouterr().err
    assert main(["fit", "--help"]) == 0
    assert "--model.group_size" in capsys.readouterr().out
