"""What the README says is there, and its examples run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from hotfix.data.schema import parse_row
from hotfix.losses import LossTerm

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_every_package_is_in_the_tree() -> None:
    tree = README[README.index("## The tree") :]
    packages = [path.parent.name for path in (ROOT / "hotfix").glob("*/__init__.py")]
    assert len(packages) > 10
    assert [name for name in packages if f"  {name}/" not in tree] == []


@pytest.mark.parametrize("name", sorted(set(re.findall(r"(?:configs|scripts|data)/[\w/]+(?:\.\w+)?", README))))
def test_every_path_that_is_named_exists(name: str) -> None:
    assert (ROOT / name).exists() or (ROOT / f"hotfix/{name}").exists()


def test_the_example_row_is_a_pair() -> None:
    rows = [json.loads(line) for block in blocks("json") for line in block.splitlines()]
    assert [parse_row(row, Path("readme.jsonl"), 1).rule for row in rows] == ["no-md5"]


def test_the_example_loss_is_a_loss_term() -> None:
    source = next(block for block in blocks("python") if "class Margin" in block)
    namespace: dict[str, type[LossTerm]] = {}
    exec(
        compile(source.replace("from torch", "from __future__ import annotations\nfrom torch", 1), "README", "exec"),
        namespace,
    )
    assert namespace["Margin"](weight=0.5).weight == 0.5
