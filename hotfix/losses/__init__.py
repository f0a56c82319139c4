"""What is optimised: one file a term."""

from hotfix.losses.base import LossTerm
from hotfix.losses.bounded_penalty import BoundedPenalty
from hotfix.losses.code_eraser import CodeEraser
from hotfix.losses.dpo import DPO
from hotfix.losses.gradient_ascent import GradientAscent
from hotfix.losses.kl_to_reference import KLToReference
from hotfix.losses.l2_anchor import L2Anchor
from hotfix.losses.nll import NLL
from hotfix.losses.npo import NPO
from hotfix.losses.objective import Objective
from hotfix.losses.passes import ModelPasses, Passes
from hotfix.losses.prod import PROD
from hotfix.losses.simnpo import SimNPO
from hotfix.losses.simpo import SimPO
from hotfix.losses.sven_contrast import SVENContrast
from hotfix.losses.undial import UNDIAL
from hotfix.losses.unlikelihood import Unlikelihood

__all__ = [
    "DPO",
    "NLL",
    "NPO",
    "PROD",
    "UNDIAL",
    "BoundedPenalty",
    "CodeEraser",
    "GradientAscent",
    "KLToReference",
    "L2Anchor",
    "LossTerm",
    "ModelPasses",
    "Objective",
    "Passes",
    "SVENContrast",
    "SimNPO",
    "SimPO",
    "Unlikelihood",
]
