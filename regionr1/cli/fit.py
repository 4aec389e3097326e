"""The four verbs of Lightning, with our classes, MLflow on sqlite and errors of one sentence."""

import logging
import os
import re
import sys
import tempfile
import traceback
import warnings
from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from regionr1.cli.resume_option import take_option, uri_of, with_resume
from regionr1.cli.spelling import with_values
from regionr1.config_errors import check_config_files, explain, refuse_endless
from regionr1.data.shards.datamodule import RerankDataModule
from regionr1.errors import UserError, sentence
from regionr1.recipes import expand
from regionr1.tracking.callbacks.artifacts import AdapterArtifact, TestTable
from regionr1.tracking.callbacks.before_after import BeforeAfter
from regionr1.tracking.callbacks.cases import CasePictures
from regionr1.tracking.callbacks.checkpoints import BestCheckpoint, LastCheckpoints
from regionr1.tracking.callbacks.config_artifact import ConfigArtifact
from regionr1.tracking.callbacks.crop_gallery import CropGallery
from regionr1.tracking.callbacks.interruption import Interruption
from regionr1.tracking.callbacks.locked import Locked
from regionr1.tracking.callbacks.optimization import Optimization
from regionr1.tracking.callbacks.prediction_file import PredictionFile
from regionr1.tracking.callbacks.progress import Progress
from regionr1.tracking.callbacks.provenance import Provenance, data_fingerprint
from regionr1.tracking.callbacks.reported import ReportedModule
from regionr1.tracking.callbacks.summary import Summary
from regionr1.tracking.callbacks.system_metrics import SystemMetrics
from regionr1.tracking.callbacks.throughput import Throughput
from regionr1.tracking.callbacks.trial import trial_from_environment
from regionr1.tracking.refusals import chain, comes_from_tracking, refusal
from regionr1.tracking.resume import ResumableRun
from regionr1.tracking.run_files import callbacks_of, tracker
from regionr1.training.checkpoint import read_checkpoint, refuse_other_architecture

LOGGER = {"class_path": "regionr1.tracking.logger.TrackingLogger", "init_args": {}}


class RegionCLI(LightningCLI):
    """LightningCLI without the three surprises that matter here.

    Configuration comes from files and flags only: Lightning would let the hyper-parameters stored
    in `--ckpt_path FILE` override them in silence. Parsing errors raise instead of printing pages
    of usage. `predict` keeps no results in memory, because PredictionFile writes them.

    Args:
        args: What LightningCLI takes.
        resumed: The run that is gone on with.
        kwargs: What LightningCLI takes by name.
    """

    def __init__(self, *args: Any, resumed: ResumableRun | None = None, **kwargs: Any) -> None:
        self.resumed = resumed
        super().__init__(*args, **kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds `--resume` and the callbacks that can be configured."""
        parser.add_argument(
            "--resume",
            type=str | None,
            default=None,
            metavar="RUN_ID",
            help="Go on with this MLflow run ('last' = the newest): its config, last checkpoint.",
        )
        parser.add_lightning_class_args(LastCheckpoints, "checkpoint")
        parser.add_lightning_class_args(BestCheckpoint, "best")
        parser.add_lightning_class_args(CropGallery, "gallery")
        parser.add_lightning_class_args(SystemMetrics, "system_metrics")
        parser.add_lightning_class_args(PredictionFile, "predictions")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parses as Lightning does, without its warning that sys.argv holds arguments too."""
        options = cast(list[str], args)
        try:
            self.config = parser.parse_args(options)
        except ArgumentError as error:
            known = self._parser(options[0])._option_string_actions
            raise UserError(explain(str(error), options, list(known))) from error
        refuse_endless(self.config.items())

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        """Adds our progress, unless the user wants none or brings one."""
        own = any(isinstance(callback, ProgressBar) for callback in config.get("callbacks") or [])
        if config.get("enable_progress_bar") is not False and not own:
            callbacks = [*callbacks, Progress()]
        return super()._instantiate_trainer(config, callbacks)

    def _parse_ckpt_path(self) -> None:
        """Leaves the configuration as given."""

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Loads checkpoints as data, never as code, unless told otherwise."""
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        return {**kwargs, "weights_only": kwargs.get("weights_only") is not False}

    def before_instantiate_classes(self) -> None:
        """Refuses what can be known to be wrong before anything is built.

        Raises:
            UserError: Training would never end, or not go on with the run that it resumes.
        """
        if self.subcommand != "fit":
            return
        trainer = self.config.fit.trainer
        endless = isinstance(trainer.limit_train_batches, float | None) and not (
            trainer.fast_dev_run or trainer.overfit_batches
        )
        if endless and trainer.max_epochs not in (None, -1):
            raise UserError(
                f"trainer.max_epochs is {trainer.max_epochs}, but the training stream is endless: "
                "it has no epochs, so set trainer.max_steps, and trainer.max_epochs to -1"
            )
        if endless and trainer.max_steps == -1 and trainer.max_time is None:
            raise UserError("training would never end; set trainer.max_steps or trainer.max_time")
        if self.resumed is not None:
            config = self._parser("fit").dump(self.config.fit, skip_none=False, format="yaml")
            self.resumed.refuse_other_settings(yaml.safe_load(config))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Builds the trainer.

        Raises:
            UserError: What Lightning, or the cluster's environment, refuses.
        """
        try:
            return super().instantiate_trainer(**kwargs)
        except UserError:
            raise
        except Exception as error:
            raise found_in(error) or UserError(f"trainer: {sentence(error)}") from error

    def _run_subcommand(self, subcommand: str) -> None:
        """Refuses bad data and checkpoints before MLflow has a run of them."""
        self.datamodule.trainer = self.trainer
        self.datamodule.setup(subcommand)
        cast(ReportedModule, self.model).check_data(self.datamodule, subcommand)
        if self.resumed is not None and isinstance(self.datamodule, RerankDataModule):
            if subcommand == "fit":
                self.resumed.refuse_other_data(data_fingerprint(self.datamodule.index("train")))
        path = self._get(self.config, "ckpt_path")
        if path is not None:
            trusted = self._get(self.config, "weights_only") is False
            checkpoint = read_checkpoint(Path(path), trusted)
            refuse_other_architecture(self.model, checkpoint)
            logger = tracker(self.trainer)
            if subcommand != "fit" and logger is not None:
                logger.evaluated_step = int(checkpoint["global_step"])
        (interruption,) = callbacks_of(self.trainer, Interruption)
        (locked,) = callbacks_of(self.trainer, Locked)
        try:
            super()._run_subcommand(subcommand)
        except BaseException as error:
            if interruption.signum is None:
                raise
            if isinstance(error, UserError):
                print(sentence(error), file=sys.stderr)
            raise interruption.end(self.trainer) from error
        finally:
            interruption.stop_listening()
            locked.release()
        if interruption.signum is not None:  # too late to end anything, but what follows must know
            raise interruption.end(self.trainer)

    def predict(self, **kwargs: Any) -> None:
        """Runs the trainer's predict."""
        self.trainer.predict(**{**kwargs, "return_predictions": False})


def run(
    args: list[str],
    model_class: type[LightningModule] | None = None,
    datamodule_class: type[LightningDataModule] | None = None,
    callbacks: Sequence[Callback] = (),
    cli_class: type[RegionCLI] = RegionCLI,
) -> RegionCLI:
    """Parses `fit ...`, `validate ...`, `test ...` or `predict ...` and does it.

    Args:
        args: The verb and its options.
        model_class: LightningModule; None means RGRPO.
        datamodule_class: LightningDataModule; None means RerankDataModule.
        callbacks: Callbacks beside those that every run has.
        cli_class: What to do with the options.

    Raises:
        UserError: If the options, a config file, the checkpoint or the data are bad.
    """
    quiet_lightning()
    if args[0] == "predict":
        args = [re.sub(r"^--format(?==|$)", "--predictions.format", arg) for arg in args]
    if model_class is None:
        from regionr1.training.rgrpo import RGRPO

        model_class = RGRPO
    datamodule_class = datamodule_class or RerankDataModule
    args = expand(args)
    check_config_files(args)
    if take_option(args, "--ckpt_path")[0] in ("last", "best"):
        raise UserError("--ckpt_path takes a file; `--resume last` goes on with the newest run")
    with tempfile.TemporaryDirectory() as folder:
        args, resumed = with_resume(args, Path(folder))
        args = with_values(args)
        run_alone_in_slurm()
        try:
            return _of_verb(cli_class, args[0])(
                model_class,
                datamodule_class,
                args=args,
                resumed=resumed,
                auto_configure_optimizers=False,
                seed_everything_default=42,
                save_config_callback=ConfigArtifact,
                save_config_kwargs={"save_to_log_dir": False},
                trainer_defaults={
                    "logger": LOGGER,
                    "default_root_dir": "mlruns",
                    "callbacks": [
                        *(Interruption(), Locked()),
                        *(TestTable(), BeforeAfter(), CasePictures(), AdapterArtifact()),
                        *(Provenance(), Throughput(), Optimization(), Summary()),
                        *trial_from_environment(),
                        *callbacks,
                    ],
                },
                parser_kwargs={"prog": "regionr1", "exit_on_error": False, "allow_abbrev": False},
            )
        except ArgumentError as error:
            raise found_in(error) or UserError(explain(str(error), args)) from error
        except UserError:
            raise
        except Exception as error:
            own = found_in(error)
            if own is not None:
                raise own from error
            if comes_from_tracking(error):
                raise refusal(uri_of(args), error) from error
            if raised_by_lightning(error):
                raise UserError(f"trainer: {sentence(error)}") from error
            raise


def _of_verb(cli_class: type[RegionCLI], verb: str) -> type[RegionCLI]:
    """The command line of one verb: building the options of all four takes four times as long."""

    class OneVerb(cli_class):  # type: ignore[valid-type,misc]
        @staticmethod
        def subcommands() -> dict[str, set[str]]:
            return {name: skip for name, skip in LightningCLI.subcommands().items() if name == verb}

    return OneVerb


def raised_by_lightning(error: Exception) -> bool:
    """Whether Lightning itself raised an error, rather than something that it runs."""
    innermost = [frame for frame, _ in traceback.walk_tb(error.__traceback__)][-1]
    return str(innermost.f_globals.get("__name__")).startswith("lightning.")


def found_in(error: BaseException) -> UserError | None:
    """Our own error in one that a parser made of it, which says it at length."""
    return next((UserError(str(e)) for e in chain(error) if isinstance(e, UserError)), None)


def run_alone_in_slurm() -> None:
    """Has Python that was started without srun be one process, however many tasks the job has.

    Lightning would wait for the others. That a job is interactive is how it is told.
    """
    if "SLURM_NTASKS" in os.environ and "SLURM_STEP_ID" not in os.environ:
        if os.environ["SLURM_NTASKS"] != "1":
            print(
                f"SLURM_NTASKS={os.environ['SLURM_NTASKS']}, but this was not started by srun: it "
                "is one process; `srun regionr1 ...` starts one per task",
                file=sys.stderr,
            )
        os.environ["SLURM_JOB_NAME"] = "interactive"


def quiet_lightning() -> None:
    """Drops advertisements and advice that a user can do nothing about.

    One is about the number of workers, which is set on purpose.
    """
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: not any(text in record.getMessage() for text in ("Tip:", "was configured"))
    )
    for message in (
        "does not have many workers",
        "in eval mode at the start of training",  # the frozen tower and scorer
        "method of metric MeanMetric was called before",  # over nothing: NaN, shown as missing
        "gradient_checkpointing\\w*` is deprecated",  # asked by peft of transformers 5
        "treespec, LeafSpec",  # Lightning with torch 2.13
        "functional.all_gather is deprecated",  # Lightning with torch 2.13
        "Checkpoint directory .* exists and is not empty",  # of a run that is resumed
    ):
        warnings.filterwarnings("ignore", message=f".*{message}")
    warnings.filterwarnings(
        "ignore", module="lightning.pytorch.cli"
    )  # its use of jsonargparse's old names
