"""Studies: one recipe in several arms and with several seeds, run as processes and compared."""

from __future__ import annotations

from hotfix.study.compare import main, write_report
from hotfix.study.spec import Arm, Study, load_study

__all__ = ["Arm", "Study", "load_study", "main", "write_report"]
