"""How to rewrite a model without a training run; one file a method."""

from hotfix.editors.a_grace import AGRACE
from hotfix.editors.alpha_edit import AlphaEdit
from hotfix.editors.base import Background, Editor, Remembered, WeightEditor
from hotfix.editors.emmet import EMMET
from hotfix.editors.encoder import Contrast
from hotfix.editors.fine_tuning import FT
from hotfix.editors.grace import GRACE
from hotfix.editors.lora_edit import LoRAEdit
from hotfix.editors.malmen import MALMEN
from hotfix.editors.memit import MEMIT
from hotfix.editors.pmet import PMET
from hotfix.editors.repair import ASTRA, MINT, SGD, STAR
from hotfix.editors.rome import ROME
from hotfix.editors.ultra_edit import UltraEdit
from hotfix.editors.values import Search

__all__ = [
    "AGRACE",
    "ASTRA",
    "EMMET",
    "FT",
    "GRACE",
    "MALMEN",
    "MEMIT",
    "MINT",
    "PMET",
    "ROME",
    "SGD",
    "STAR",
    "AlphaEdit",
    "Background",
    "Contrast",
    "Editor",
    "LoRAEdit",
    "Remembered",
    "Search",
    "UltraEdit",
    "WeightEditor",
]
