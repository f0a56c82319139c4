"""How to rewrite a model without a training run; one file a method."""

from hotfix.editors.alpha_edit import AlphaEdit
from hotfix.editors.base import Background, Editor, Remembered, WeightEditor
from hotfix.editors.emmet import EMMET
from hotfix.editors.fine_tuning import FT
from hotfix.editors.grace import GRACE
from hotfix.editors.memit import MEMIT
from hotfix.editors.pmet import PMET
from hotfix.editors.rome import ROME
from hotfix.editors.ultra_edit import UltraEdit
from hotfix.editors.values import Search

__all__ = [
    "EMMET",
    "FT",
    "GRACE",
    "MEMIT",
    "PMET",
    "ROME",
    "AlphaEdit",
    "Background",
    "Editor",
    "Remembered",
    "Search",
    "UltraEdit",
    "WeightEditor",
]
