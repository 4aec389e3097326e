"""The table of commands and the one wrapper that runs them."""

import inspect
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest

from regionr1.cli.call import call
from regionr1.cli.commands import COMMANDS, VERBS, names
from regionr1.cli.main import HELP, main
from regionr1.errors import UserError


@dataclass(kw_only=True)
class Common:
    """What several stages have.

    Attributes:
        samples_per_shard: Samples of a tar.
    """

    samples_per_shard: int = 256


@dataclass(kw_only=True)
class Stage(Common):
    """Makes shards.

    Attributes:
        out: Where to.
    """

    out: Path

    def run(self) -> None:
        if self.samples_per_shard < 1:
            raise UserError("samples_per_shard must be at least 1")
        print(f"{self.out} {self.samples_per_shard}")


def function(out: Path, samples_per_shard: int = 256) -> None:
    """Makes shards.

    Args:
        out: Where to.
        samples_per_shard: Samples of a tar.
    """
    Stage(out=out, samples_per_shard=samples_per_shard).run()


@pytest.fixture(params=[Stage, function])
def command(request):
    return request.param


@pytest.mark.parametrize("option", ["--samples-per-shard", "--samples_per_shard"])
@pytest.mark.parametrize("form", ["{} 5", "{}=5"])
def test_dashes_and_underscores(command, option, form, capsys) -> None:
    args = ["--out", "a-b_c", *form.format(option).split()]
    call(command, args, "regionr1 shards", as_positional=False)
    assert capsys.readouterr().out == "a-b_c 5\n"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], None),
        (["--samples_per_shard", "3"], "missing out"),
        (["--out", "x", "--samples", "3"], "unknown option --samples"),
        (["--out", "x", "--samples_per_shard", "a"], "expected a whole number, got a"),
        (["--out", "x", "--samples_per_shard", "0"], "must be at least 1"),
    ],
)
def test_refusals_are_one_sentence(command, args, words, capsys) -> None:
    if words is None:
        with pytest.raises(SystemExit):
            call(command, args, "regionr1 shards", as_positional=False)
        printed = capsys.readouterr().out
        assert "Makes shards" in printed and "Samples of a tar" in printed
        return
    with pytest.raises(UserError, match=words) as caught:
        call(command, args, "regionr1 shards", as_positional=False)
    assert "\n" not in str(caught.value)


def test_every_command_of_the_table_is_there_and_described() -> None:
    for name, command in COMMANDS.items():
        loaded = command.load()
        assert callable(loaded) and inspect.getdoc(loaded), name
        assert callable(loaded.run) if inspect.isclass(loaded) else True
    assert all(f"\n  {name} " in HELP for name in names())


def test_a_signature_is_read_without_an_import() -> None:
    for name, command in COMMANDS.items():
        module, function = command.target.split(":")
        real, read = getattr(import_module(module), function), command.load()
        signatures = [inspect.signature(each, eval_str=True) for each in (read, real)]
        assert signatures[0] == signatures[1], name
        assert inspect.getdoc(read) == inspect.getdoc(real), name


@pytest.mark.slow
def test_help_imports_nothing_heavy() -> None:
    """Which takes seconds, where reading a signature takes a tenth of one."""
    for name in [*COMMANDS, *VERBS]:
        program = f"""if True:
            import sys
            from regionr1.cli.main import main
            try:
                main({[*name.split(), "--help"]!r})
            except SystemExit:
                pass
            assert not {{"torch", "lightning", "mlflow", "scipy"}} & set(sys.modules)
        """
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert done.returncode == 0 and "usage" in done.stdout, (name, done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "not_needed"),
    [
        ("regionr1.tracking.tested_runs", "torch lightning"),
        ("regionr1.tracking.report", "lightning"),
        ("regionr1.sweep.overlay", "torch lightning mlflow"),
        ("regionr1.cli.fit", "mlflow peft sklearn"),  # none of which reads options
    ],
)
def test_a_command_imports_what_it_needs(module: str, not_needed: str) -> None:
    program = f"import sys, {module}; print(*{set(not_needed.split())} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "", done.stdout + done.stderr


def test_a_group_lists_its_commands_and_refuses_others(capsys) -> None:
    for args in (["data"], ["data", "--help"]):
        assert main(args) == 0
        printed = capsys.readouterr().out
        assert all(f"\n  {name} " in printed for name in names("data"))
    assert main(["data", "shardz"]) == 2
    assert "no command `data shardz`; did you mean shards?" in capsys.readouterr().err
