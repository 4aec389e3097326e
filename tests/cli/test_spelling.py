"""Options as people type them."""

import pytest

from regionr1.cli.main import main
from regionr1.cli.spelling import with_underscores, with_values


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("--crops", "--crops=true"),
        ("--no-crops --limit 3", "--crops=false --limit 3"),
        ("--crops --limit 3", "--crops=true --limit 3"),
        ("--crops false", "--crops false"),
        ("--x -1 --model.policy.init_args.grammar", "--x -1 --model.policy.init_args.grammar=true"),
        ("--help", "--help"),
        ("--print_config --trainer.help", "--print_config --trainer.help"),
        ("--print_config=skip_default", "--print_config=skip_default"),
    ],
)
def test_booleans_are_flags(typed: str, read: str) -> None:
    assert with_values(typed.split()) == read.split()


def test_dashes_are_underscores_in_names_only() -> None:
    assert list(with_underscores(["a-b", "--c-d", "e-f", "--g-h=i-j", "--"])) == [
        *("a-b", "--c_d", "e-f", "--g_h=i-j", "--")
    ]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (
            ["data", "shards", "--rot", "x", "--out", "y"],
            "unknown option --rot x; did you mean --root?",
        ),
        (["data", "inspect", "--root", "x", "--source", "infosek"], "did you mean infoseek?"),
        (["data", "shard"], "did you mean shards?"),
        (["compar"], "did you mean compare?"),
    ],
)
def test_the_nearest_name_is_suggested(args, words, capsys) -> None:
    assert main(args) == 2
    assert words in capsys.readouterr().err
