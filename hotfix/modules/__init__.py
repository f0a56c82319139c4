"""LightningModules: the only place where data, model, adapter and objective meet."""

from hotfix.modules.base import HotfixModule
from hotfix.modules.edit import Edit
from hotfix.modules.finetune import FineTune
from hotfix.modules.online import Online

__all__ = ["Edit", "FineTune", "HotfixModule", "Online"]
