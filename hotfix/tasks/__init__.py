"""Generation benchmarks: prompts in, one record an example out."""

from hotfix.tasks.base import Example, Slice, Subject, Task
from hotfix.tasks.bug_fix import BugFix
from hotfix.tasks.email_leak import EmailLeak
from hotfix.tasks.humaneval import HumanEval

__all__ = ["BugFix", "EmailLeak", "Example", "HumanEval", "Slice", "Subject", "Task"]
