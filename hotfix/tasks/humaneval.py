"""HumanEval (Chen et al. 2021, https://arxiv.org/abs/2107.03374): can the model still write programs that work?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from hotfix.data.datamodule import HotfixDataModule
from hotfix.data.encode import encode_text
from hotfix.generation import SamplingConfig, sample
from hotfix.metrics import ExampleMetric, PassAtK, Record
from hotfix.sandbox import Limits, Sandbox
from hotfix.tasks.base import Example, Slice, Subject, Task
from hotfix.tasks.humaneval_problems import load_problems, program, truncate
from hotfix.types import Split

__all__ = ["HumanEval"]


class _BodyEnds:
    """Stops once something at column 0 follows the function's body."""

    triggers = ""

    def __call__(self, text: str) -> bool:
        return len(truncate(text.removeprefix("\n"))) < len(text.removeprefix("\n"))


class HumanEval(Task):
    """Programs written for the benchmark's prompts and run against its tests in a sandbox.

    Args:
        subset: `all` 164 problems, or this many, evenly spaced.
        num_samples: programs a problem.
        temperature: of sampling; 0 is greedy.
        top_p: nucleus of sampling.
        max_new_tokens: longest program.
        k: pass@k for each of these; one above `num_samples` is undefined.
        batch_size: programs decoded together.
        allow_unsandboxed: run programs even where no isolation is to be had but resource limits.
    """

    def __init__(
        self,
        subset: Literal["all"] | int = "all",
        num_samples: int = 1,
        temperature: float = 0.0,
        top_p: float = 1.0,
        max_new_tokens: int = 256,
        k: list[int] | None = None,
        batch_size: int = 32,
        allow_unsandboxed: bool = False,
    ) -> None:
        self.subset = subset
        self.sampling = SamplingConfig(num_samples, temperature, top_p, 0, max_new_tokens, batch_size)
        self.k = k or [1]
        self._allow_unsandboxed = allow_unsandboxed
        self._sandbox: Sandbox | None = None

    def slices(self, data: HotfixDataModule, split: Split) -> list[Slice]:
        """One slice, named after the subset."""
        del split
        examples = [
            Example(p.task_id, p.task_id, (p, encode_text(data.tokenizer, p.prompt.rstrip("\n")).ids), p.task_id)
            for p in load_problems(self.subset)
        ]
        metrics: dict[str, ExampleMetric] = {f"pass@{k}": PassAtK(k).bind(len(examples)) for k in self.k}
        name = "all" if self.subset == "all" else f"{len(examples)}_of_164"
        return [Slice(name, examples, metrics, "problem")]

    def observe(
        self, subject: Subject, name: str, items: Sequence[tuple[int, Example]], base: Sequence[Record] | None
    ) -> list[Record]:
        """Write the programs, then run them."""
        del name, base
        # Before anything is generated: without isolation, nothing is to be run.
        sandbox = self._open()
        drawn = sample(
            subject.model,
            subject.tokenizer,
            [example.payload[1] for _, example in items],
            self.sampling,
            stop=_BodyEnds(),
            seed=subject.seed,
            prompt_indices=[place for place, _ in items],
        )
        records: list[Record] = []
        for (_, example), completions in zip(items, drawn, strict=True):
            problem = example.payload[0]
            # The prompt's last line break is the model's to write: most tokenizers join it with the indentation.
            bodies = [truncate(subject.text(c.token_ids).removeprefix("\n")) for c in completions]
            verdicts = sandbox.run([program(problem, body) for body in bodies])
            records.append(
                {
                    "completions": bodies,
                    "passed": [v.passed for v in verdicts],
                    "statuses": [v.status for v in verdicts],
                    "details": [v.detail for v in verdicts],
                    "sandbox": sandbox.level,
                }
            )
            subject.progress(1)
        return records

    def close(self) -> None:
        """Stop the sandbox."""
        if self._sandbox:
            self._sandbox.close()
            self._sandbox = None

    def _open(self) -> Sandbox:
        if self._sandbox is None:
            self._sandbox = Sandbox(Limits(), allow_unsandboxed=self._allow_unsandboxed)
        return self._sandbox
