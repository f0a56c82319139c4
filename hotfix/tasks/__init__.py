"""Generation benchmarks: prompts in, one record an example out."""

from hotfix.tasks.base import Example, Slice, Subject, Task
from hotfix.tasks.bug_fix import BugFix
from hotfix.tasks.canary_exposure import CanaryExposure
from hotfix.tasks.drift import Drift
from hotfix.tasks.edit import EditQuality
from hotfix.tasks.email_leak import EmailLeak
from hotfix.tasks.humaneval import HumanEval
from hotfix.tasks.relearning import Relearning
from hotfix.tasks.rounding import Rounding

__all__ = [
    "BugFix",
    "CanaryExposure",
    "Drift",
    "EditQuality",
    "EmailLeak",
    "Example",
    "HumanEval",
    "Relearning",
    "Rounding",
    "Slice",
    "Subject",
    "Task",
]
