"""When things run."""

from hotfix.callbacks.interrupt import Interrupt
from hotfix.callbacks.measure import Measure
from hotfix.callbacks.predictions import Predictions
from hotfix.callbacks.run_folder import RunFolder
from hotfix.callbacks.save_model import SaveModel
from hotfix.callbacks.until import Until
from hotfix.callbacks.wandb_report import WandbReport

__all__ = ["Interrupt", "Measure", "Predictions", "RunFolder", "SaveModel", "Until", "WandbReport"]
