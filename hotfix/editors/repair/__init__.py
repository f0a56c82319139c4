"""LM repair: next-token failures one by one or together, by MINT, STAR, SGD and ASTRA."""

from hotfix.editors.repair.astra import ASTRA
from hotfix.editors.repair.mint import MINT
from hotfix.editors.repair.sgd import SGD
from hotfix.editors.repair.star import STAR

__all__ = ["ASTRA", "MINT", "SGD", "STAR"]
