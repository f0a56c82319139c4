"""The command line: LightningCLI in subclass mode, so `class_path` is the only registry."""

from __future__ import annotations

import logging
import os
import pickle
import re
import sys
import warnings
from pathlib import Path
from typing import Any, Literal, cast

import torch
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from hotfix.callbacks import Interrupt, Measure, Predictions, RunFolder, Until
from hotfix.callbacks.checkpoint import Checkpoint
from hotfix.data.datamodule import HotfixDataModule
from hotfix.data.quality import find_problems
from hotfix.data.quality_table import told
from hotfix.errors import ConfigError, DataError, HotfixError, PatchError
from hotfix.modules import Edit
from hotfix.parser import HotfixParser, root_cause
from hotfix.report.gates import parse_gates
from hotfix.trainer import HotfixTrainer

__all__ = ["HotfixCLI", "main", "repeated"]

log = logging.getLogger(__name__)
# Findings that a fit logs one by one.
_TOLD = 10
_REPEATED = re.compile(r"^(--paraphrase|--neighbour)(?==|$)")
_CHECKPOINT_WORDS = ("best", "last", "hpc")
_QUIET = (
    # Lightning can't know that our loader needs no workers.
    ".*does not have many workers.*",
    ".*is_gradient_checkpointing.*",
    # Tasks measure with the validation pairs when `hotfix validate` asks for it.
    ".*but have no `val_dataloader`.*",
    # Online hotfixing and editing train nothing.
    ".*`max_epochs` was not set.*",
    ".*`LightningModule.configure_optimizers` returned `None`.*",
    ".*isinstance\\(treespec, LeafSpec\\).*",
    # On purpose: the frozen base has to be the same function in every pass.
    ".*module\\(s\\) in eval mode at the start of training.*",
)


class HotfixCLI(LightningCLI):
    """Verbs with a folder for each run: `fit`, `edit`, `validate`, `test`, `predict`; without: `preview`, `check`."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's verbs and ours, each with the arguments that the configuration doesn't give."""
        own = {verb: {"model", "datamodule"} for verb in ("edit", "preview", "check")}
        return {**LightningCLI.subcommands(), **own}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what is the run's rather than the trainer's, the model's or the data's."""
        parser.add_argument("--name", default=None, type=str | None, help="of the run; the config file's by default")
        parser.add_argument(
            "--check",
            default="error",
            type=Literal["error", "warn", "off"],
            help="before a fit, refuse rows with errors and warn of the rest; only warn; or don't look",
        )
        parser.add_argument(
            "--gate",
            default=None,
            type=str | list[str] | None,
            help="what the patch has to hold, as 'humaneval.pass@1 >= base - 0.015', or 'surely ...' where the "
            "interval has to; the exit status is 1 where one fails. Kept with the patch; hotfix test looks at it again",
        )
        # Before the tasks: they measure the state that it puts back.
        parser.add_lightning_class_args(Until, "until")
        parser.add_lightning_class_args(Measure, "measure")
        parser.add_lightning_class_args(Checkpoint, "checkpoint")
        # From the model to the data: the other way round, a checkpoint would be overwritten by the data's default.
        parser.link_arguments("model.init_args.model_name", "data.init_args.tokenizer_name")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:  # noqa: ANN401  a list or a mapping
        """Read the configuration, and refuse a checkpoint that isn't there."""
        if args is None:
            self.config = parser.parse_args(repeated(sys.argv[1:]))
        else:
            super().parse_arguments(parser, repeated(args) if isinstance(args, list) else args)
        _check_checkpoint(self.config[self.config.subcommand].get("ckpt_path"))

    def before_instantiate_classes(self) -> None:
        """Give the run its folder."""
        config = self.config[self.subcommand]
        name = config.name or _stem(config.get("config")) or "run"
        if config.get("prompt") is not None:
            # One edit by hand must not take the place of the recipe's run.
            name = f"{name}-one"
        root = Path(config.trainer.default_root_dir or f"runs/{name}")
        config.trainer.default_root_dir = str(root)
        config.checkpoint.folder = config.checkpoint.folder or str(root / "checkpoints")
        self._run_name = name
        if config.trainer.logger in (None, True):
            config.trainer.logger = Namespace(
                class_path="hotfix.callbacks.curves.Curves", init_args=Namespace(folder=str(root))
            )
        elif isinstance(config.trainer.logger, Namespace) and config.trainer.logger.get("init_args.save_dir") == ".":
            config.trainer.logger.init_args.save_dir = os.environ.get("WANDB_DIR", str(root))

    def instantiate_classes(self) -> None:
        """Make the objects of the configuration; what they refuse is the configuration's fault."""
        try:
            super().instantiate_classes()
        except (HotfixError, TypeError, ValueError, MisconfigurationException) as error:
            cause = root_cause(error)
            if isinstance(cause, HotfixError):
                raise cause from error
            raise ConfigError(f"{_refusing(error)}: {' '.join(str(cause).split())}") from error

    def instantiate_trainer(self, **kwargs: Any) -> HotfixTrainer:  # noqa: ANN401  the trainer's own arguments
        """Add the callbacks that every run has."""
        config = self.config[self.subcommand]
        if self.subcommand == "edit" and config.trainer.enable_model_summary is None:
            # Of weights that are trained; there are none.
            config.trainer.enable_model_summary = False
        # The run folder first: the state that an interrupt saves holds the step that it has counted.
        gates = parse_gates(config.gate)
        folder = RunFolder(self._run_name, self._resolved(), config.seed_everything, gates)
        own: list[Callback] = [folder, Interrupt()]
        own.append(Predictions())
        if config.trainer.enable_progress_bar is not False:
            own.append(RichProgressBar())
        self.trainer_defaults["callbacks"] = own
        return cast("HotfixTrainer", super().instantiate_trainer(**kwargs))

    def before_fit(self) -> None:
        """Look at the rows before anything expensive starts."""
        if isinstance(self.model, Edit):
            raise ConfigError(
                "model.class_path is Edit, which has nothing to train; run the same with hotfix edit in place of "
                "hotfix fit"
            )
        how = self.config["fit"].check
        if how == "off":
            return
        found = find_problems(self.datamodule)
        for finding in found[:_TOLD]:
            log.warning("%s", told(finding))
        if len(found) > _TOLD:
            log.warning("and %d more; `hotfix check` lists them", len(found) - _TOLD)
        errors = [finding for finding in found if finding.severity == "error"]
        if errors and how == "error":
            more = f" (and {len(errors) - 1} more errors, which `hotfix check` lists)" if len(errors) > 1 else ""
            raise DataError(f"{told(errors[0])}{more}", hint="or go on all the same with --check warn")

    def check(self, **kwargs: Any) -> None:  # noqa: ANN401  the trainer's own arguments
        """Print what is wrong with the rows; the exit status says whether they may be trained on."""
        found = cast("HotfixTrainer", self.trainer).check(**kwargs)
        if any(finding.severity == "error" for finding in found):
            sys.exit(1)

    def after_fit(self) -> None:
        """End as an interrupted program does: what follows it in a script must not take the run for whole."""
        if RunFolder.of(self.trainer).stopped_early:
            raise KeyboardInterrupt
        self.after_test()

    def after_test(self) -> None:
        """Let the exit status say whether the gates hold."""
        if not all(verdict.holds for verdict in RunFolder.of(self.trainer).verdicts):
            sys.exit(1)

    after_edit = after_validate = after_test

    def _resolved(self) -> str:
        """The whole configuration, as YAML that reproduces the run."""
        parser = self._parser(self.subcommand)
        return str(parser.dump(self.config[self.subcommand], skip_unset=False, skip_link_targets=True))


def repeated(words: list[str]) -> list[str]:
    """Let the options of one edit be given more than once: each adds to a list.

    >>> repeated(["edit", "--paraphrase", "a", "--paraphrase=b"]), repeated(["fit", "--paraphrase", "a"])
    (['edit', '--paraphrase+', 'a', '--paraphrase+=b'], ['fit', '--paraphrase', 'a'])
    """
    if words[:1] != ["edit"]:
        return words
    return [_REPEATED.sub(r"\1+", word) for word in words]


def main(arguments: list[str] | None = None) -> None:
    """Run one command; raises `HotfixError` for what a user can mend."""
    for message in _QUIET:
        warnings.filterwarnings("ignore", message=message)
    for library in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    logging.getLogger("hotfix").setLevel(logging.INFO)
    torch.set_float32_matmul_precision("high")
    HotfixCLI(
        model_class=LightningModule,
        datamodule_class=HotfixDataModule,
        trainer_class=HotfixTrainer,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_callback=None,
        seed_everything_default=0,
        auto_configure_optimizers=False,
        parser_class=HotfixParser,
        parser_kwargs={"description": "Patch a code language model."},
        args=arguments,
    )


def _check_checkpoint(path: str | None) -> None:
    """Refuse a checkpoint that can't be read before anything expensive starts."""
    if path is None or path in _CHECKPOINT_WORDS:
        return
    if not Path(path).is_file():
        raise PatchError(f"ckpt_path: there is no file {path}; name a last.ckpt, or say last for the run's own")
    try:
        torch.load(path, map_location="meta", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise PatchError(f"ckpt_path: {path} is not a checkpoint, or a damaged one; start without it") from error


def _refusing(error: BaseException) -> str:
    """Name the innermost class that an error of jsonargparse's tells of."""
    named = "the configuration was refused"
    while error.__cause__ is not None:
        found = re.search(r"Given value: Namespace\(class_path='([^']+)'", str(error))
        named = f"{found[1]} refuses its arguments" if found else named
        error = error.__cause__
    return named


def _stem(configs: Any) -> str | None:  # noqa: ANN401  jsonargparse's path objects
    """Name of the first config file, overlays come later."""
    first = next(iter(configs or []), None)
    return Path(str(first)).stem if first else None
