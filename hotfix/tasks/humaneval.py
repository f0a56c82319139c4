"""HumanEval (Chen et al. 2021, https://arxiv.org/abs/2107.03374): can the model still write programs that work?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from hotfix.data.datamodule import HotfixDataModule
from hotfix.data.encode import encode_text
from hotfix.data.humaneval import Problem, load_problems
from hotfix.errors import DataError
from hotfix.generation import Completion, SamplingConfig, sample
from hotfix.metrics import ExampleMetric, PassAtK, Record
from hotfix.sandbox import Limits, Sandbox, Verdict
from hotfix.tasks.base import Example, Slice, Subject, Task
from hotfix.tasks.humaneval_plus import PlusProblem, load_plus, plus_program
from hotfix.tasks.humaneval_problems import program, truncate
from hotfix.tasks.protocol import Protocol, settle
from hotfix.types import Split

__all__ = ["HumanEval"]

_SAMPLING: Final[Mapping[Protocol, Mapping[str, float]]] = MappingProxyType(
    {
        "hotfix": {"num_samples": 1, "temperature": 0.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": 256},
        "paper": {"num_samples": 100, "temperature": 0.4, "top_p": 1.0, "top_k": 50, "max_new_tokens": 200},
    }
)
_DRAWS: Final[Mapping[Protocol, Sequence[int]]] = MappingProxyType({"hotfix": (1,), "paper": (1, 5, 10, 25, 50, 100)})
# Some references alone take 4 seconds for their inputs, and the candidate gets as long again and more. Only programs
# that pass HumanEval's own tests are run on them, so hardly one that never ends.
_PLUS_LIMITS: Final = Limits(cpu_s=30.0, wall_s=60.0)


class _BodyEnds:
    """Stops once something at column 0 follows the function's body."""

    triggers = ""

    def __call__(self, text: str) -> bool:
        return len(truncate(text.removeprefix("\n"))) < len(text.removeprefix("\n"))


class _Trials:
    """Programs that run while others are still being written.

    Args:
        sandbox: runs them.
        problems: what each prompt asks for.
        subject: whose tokens completions are.
    """

    def __init__(self, sandbox: Sandbox, problems: Sequence[Problem], subject: Subject) -> None:
        self.sandbox = sandbox
        self._problems = problems
        self._subject = subject
        self._verdicts: dict[tuple[int, str], Future[Verdict]] = {}

    def body(self, completion: Completion) -> str:
        """Return the function's body that a completion begins with."""
        # The prompt's last line break is the model's to write: most tokenizers join it with the indentation.
        return truncate(self._subject.text(completion.token_ids).removeprefix("\n"))

    def start(self, place: int, completion: Completion) -> None:
        """Queue the program of a completion; at a low temperature many are the same, and run once."""
        self._queued(place, self.body(completion))

    def verdict(self, place: int, body: str) -> Verdict:
        """Wait for a program's verdict."""
        return self._queued(place, body).result()

    def _queued(self, place: int, body: str) -> Future[Verdict]:
        if (place, body) not in self._verdicts:
            self._verdicts[place, body] = self.sandbox.submit(program(self._problems[place], body))
        return self._verdicts[place, body]


class HumanEval(Task):
    """Programs written for the benchmark's prompts and run against its tests in a sandbox.

    Metrics: `pass@k` for each k, and with `plus` also `pass@k_plus`: the same programs, which must pass the inputs of
    HumanEval+ as well.

    `protocol: paper` samples as the published code of Zhou et al. 2024 (https://arxiv.org/abs/2408.05727) does: 100
    programs a problem at temperature 0.4, up to 200 tokens, k of 1, 5, 10, 25, 50 and 100. It has 161 of the problems,
    in the MultiPL-E wording, and a program ends at one of four strings; here it is the 164 original ones, and a program
    ends at whatever follows its body.

    Args:
        subset: `all` 164 problems, or this many, evenly spaced.
        num_samples: programs a problem; null for the protocol's (1, paper 100).
        temperature: of sampling, 0 is greedy; null for the protocol's (0, paper 0.4).
        top_p: nucleus of sampling; null for the protocol's (1).
        max_new_tokens: longest program; null for the protocol's (256, paper 200).
        k: pass@k for each of these; one above `num_samples` is undefined (null in results.json); null for the
            protocol's (1, paper 1, 5, 10, 25, 50 and 100).
        batch_size: programs decoded together.
        allow_unsandboxed: run programs even where no isolation is to be had but resource limits.
        top_k: number of tokens sampled from, 0 for all; null for the protocol's (0, paper 50).
        protocol: `hotfix`, or `paper`, which leaves `subset`, `num_samples` and `k` free.
        plus: a HumanEval+ file (`HumanEvalPlus.jsonl.gz` or its Mini); null for HumanEval alone.
    """

    def __init__(
        self,
        subset: Literal["all"] | int = "all",
        num_samples: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        max_new_tokens: int | None = None,
        k: list[int] | None = None,
        batch_size: int = 32,
        allow_unsandboxed: bool = False,
        top_k: int | None = None,
        protocol: Protocol = "hotfix",
        plus: str | None = None,
    ) -> None:
        given = {"num_samples": num_samples, "temperature": temperature, "top_p": top_p, "top_k": top_k}
        drawn = settle(protocol, {**given, "max_new_tokens": max_new_tokens}, _SAMPLING, free=["num_samples"])
        self.subset = subset
        self.sampling = SamplingConfig(**drawn, batch_size=batch_size)  # type: ignore[arg-type]
        self.k = k or list(_DRAWS[protocol])
        self._allow_unsandboxed = allow_unsandboxed
        self._plus = None if plus is None else Path(plus)
        self._sandboxes: dict[Limits, Sandbox] = {}

    def slices(self, data: HotfixDataModule, split: Split) -> list[Slice]:
        """One slice, named after the subset."""
        del split
        problems = load_problems(self.subset)
        plus = self._load_plus(problems)
        examples = []
        for i, p in enumerate(problems):
            preamble = data.preambles[i % len(data.preambles)] if data.preambles else ""
            ids = encode_text(data.tokenizer, preamble + p.prompt.rstrip("\n")).ids
            depends = ([_digest(plus[p.task_id])] if plus else []) + ([preamble] if preamble else [])
            content = [p.task_id, *depends] if depends else p.task_id
            examples.append(Example(p.task_id, p.task_id, (p, ids, plus.get(p.task_id)), content))
        fields = {"": "passed", "_plus": "passed_plus"} if plus else {"": "passed"}
        metrics: dict[str, ExampleMetric] = {
            f"pass@{k}{name}": PassAtK(k, field=field).bind(len(examples))
            for name, field in fields.items()
            for k in self.k
        }
        name = "all" if self.subset == "all" else f"{len(examples)}_of_164"
        return [Slice(name, examples, metrics, "problem")]

    def observe(
        self, subject: Subject, name: str, items: Sequence[tuple[int, Example]], base: Sequence[Record] | None
    ) -> list[Record]:
        """Write the programs, and run each as soon as it is written."""
        del name, base
        # Before anything is generated: without isolation, nothing is to be run.
        trials = _Trials(self._open(Limits()), [example.payload[0] for _, example in items], subject)
        drawn = sample(
            subject.model,
            subject.tokenizer,
            [example.payload[1] for _, example in items],
            self.sampling,
            stop=_BodyEnds(),
            seed=subject.seed,
            prompt_indices=[place for place, _ in items],
            ended=trials.start,
        )
        records: list[Record] = []
        for place, completions in enumerate(drawn):
            bodies = [trials.body(completion) for completion in completions]
            verdicts = [trials.verdict(place, body) for body in bodies]
            records.append(
                {
                    "completions": bodies,
                    "passed": [verdict.passed for verdict in verdicts],
                    "statuses": [verdict.status for verdict in verdicts],
                    "details": [verdict.detail for verdict in verdicts],
                    "sandbox": trials.sandbox.level,
                }
            )
            subject.progress(1)
        return self._tried_further([example.payload for _, example in items], records)

    def _tried_further(
        self, payloads: Sequence[tuple[Problem, Sequence[int], PlusProblem | None]], records: list[Record]
    ) -> list[Record]:
        """Run what has passed on the inputs of HumanEval+, where there are any."""
        programs = {
            (place, body): plus_program(problem, plus, body)
            for place, ((problem, _, plus), record) in enumerate(zip(payloads, records, strict=True))
            for body, passed in zip(record["completions"], record["passed"], strict=True)
            if plus and passed
        }
        verdicts = self._open(_PLUS_LIMITS).run(list(programs.values())) if programs else []
        still = {key for key, verdict in zip(programs, verdicts, strict=True) if verdict.passed}
        return [
            {**record, "passed_plus": [(place, body) in still for body in record["completions"]]} if plus else record
            for place, ((_, _, plus), record) in enumerate(zip(payloads, records, strict=True))
        ]

    def _load_plus(self, problems: Sequence[Problem]) -> dict[str, PlusProblem]:
        if self._plus is None:
            return {}
        found = load_plus(self._plus)
        missing = [p.task_id for p in problems if p.task_id not in found]
        if missing:
            raise DataError(f"{missing[0]} is missing", self._plus, hint="take the whole HumanEval+ file")
        return found

    def close(self) -> None:
        """Stop the sandboxes."""
        while self._sandboxes:
            self._sandboxes.popitem()[1].close()

    def _open(self, limits: Limits) -> Sandbox:
        if limits not in self._sandboxes:
            self._sandboxes[limits] = Sandbox(limits, allow_unsandboxed=self._allow_unsandboxed)
        return self._sandboxes[limits]


def _digest(plus: PlusProblem) -> str:
    return sha256(repr(plus).encode("utf-8", "surrogatepass")).hexdigest()
