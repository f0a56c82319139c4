"""What is optimised: one file a term."""

from hotfix.losses.base import LossTerm
from hotfix.losses.kl_to_reference import KLToReference
from hotfix.losses.nll import NLL
from hotfix.losses.objective import Objective
from hotfix.losses.passes import ModelPasses, Passes
from hotfix.losses.unlikelihood import Unlikelihood

__all__ = ["NLL", "KLToReference", "LossTerm", "ModelPasses", "Objective", "Passes", "Unlikelihood"]
