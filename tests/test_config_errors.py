"""Config files from anywhere: one sentence with file and line, never a traceback or a hang."""

from pathlib import Path

import pytest

from regionr1.cli.main import main
from regionr1.config_errors import check_config_files, refuse_endless
from regionr1.errors import UserError
from regionr1.tracking.store import artifact_location

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
ODD = {
    "bomb": (BOMB, "more than 20,000 settings once its aliases"),
    "endless": ("a: &a\n  b: *a\n", "once its aliases are written out"),
    "deep": ("a: " + "[" * 9_999 + "]" * 9_999, "recursion"),
    "half a character": ('trainer: "\\ud800"', "surrogates not allowed"),
    "a control character": ("a: \x07", "special characters are not allowed"),
    "an impossible date": ("a: 2026-13-45", "month must be in 1..12"),
    "a Python object": ("a: !!python/object/apply:os.system [ls]", "could not determine a constr"),
    "a list as key": ("? [a, b]\n: 1", "unhashable"),
    "a tab": ("a:\n\t- b", "cannot start any token"),
    "a binary that is none": ("a: !!binary 'é'", "failed to"),
    "an unknown alias": ("a: *nothing", "undefined alias"),
    "an integer of 5000 digits": ("a: " + "9" * 5_000, "integer string conversion"),
    "no mapping": ("- a", "holds no settings"),
    "nothing": ("", "holds no settings"),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_file_is_one_sentence(tmp_path: Path, capsys, name: str) -> None:
    text, message = ODD[name]
    path = tmp_path / "odd.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        check_config_files(["-c", str(path)])
    assert main(["fit", "-c", str(path)]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "odd.yaml" in said and len(said) < 400


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_bytes(b"a: \xff\xfe")
    with pytest.raises(UserError, match=r"cannot read config file .*odd\.yaml"):
        check_config_files(["-c", str(tmp_path / "odd.yaml")])


def test_aliases_that_are_few_pass(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text("a: &a {b: 1}\nc: *a\nd: *a\n")
    check_config_files(["-c", str(tmp_path / "good.yaml")])


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan"])
def test_no_setting_is_infinite(tmp_path: Path, capsys, value: str) -> None:
    (tmp_path / "odd.yaml").write_text(
        "model:\n  optimizer:\n    class_path: torch.optim.AdamW\n    init_args: {lr: 0.1, "
        f"weight_decay: {value}}}\n"
    )
    command = ["fit", "-c", "conf/base.yaml", "-c", "conf/quickstart.yaml", "--data.shards", "none"]
    assert main([*command, "-c", str(tmp_path / "odd.yaml")]) == 2
    assert "weight_decay" in (said := capsys.readouterr().err) and "finite number" in said


def test_it_is_found_in_lists_and_mappings() -> None:
    refuse_endless([("a", 1.0), ("b", [1e300, {"c": None}])])
    with pytest.raises(UserError, match=r"b\.1\.c=nan: must be a finite number"):
        refuse_endless([("b", [0.0, {"c": float("nan")}])])


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", ".", "a/../.."])
def test_an_experiment_stays_below_its_store(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="experiment_name=.*choose a plain name"):
        artifact_location(f"sqlite:///{tmp_path}/mlflow.db", name)
    assert artifact_location(f"sqlite:///{tmp_path}/mlflow.db", "my runs") is not None
