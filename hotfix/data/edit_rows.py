r"""Rows of edit files, before they are put before a model: the user's own columns, and the published benchmark's.

Own:        {"prompt": "...", "target": "...", "paraphrases": ["..."], "neighbours": ["..."], "group": "..."}
Published:  {"case_id": 1, "edit_request": {"intent": ..., "snippet": ..., "rewritten_intent": ...},
             "neighborhoods": {"items": [{"intent": ...}, ...], "answers": {...}}}
            and the same with code, code_doc and code_rewrite. The answers are another model's, and are not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from hotfix.data.edits import EditRequest
from hotfix.data.schema import row_split
from hotfix.errors import DataError
from hotfix.types import Split

__all__ = ["CODE_TO_NL", "NL_TO_CODE", "EditRow", "Frame", "parse_edit", "parse_published"]


class Frame(NamedTuple):
    """How a row is put before a model: `template` with the prompt in the place of {}, then `joint`, then the target."""

    template: str = "{}"
    joint: str = ""

    def prompt(self, text: str) -> str:
        r"""Return a prompt as the model is given it.

        >>> NL_TO_CODE.prompt("list files")
        'Intent: list files\nCode:'
        """
        return self.template.replace("{}", text)


_AS_IT_IS = Frame()
NL_TO_CODE = Frame("Intent: {}\nCode:", " ")
"""The published prompt of the intents."""
CODE_TO_NL = Frame("Code: {}\nDescription:", " ")
"""The published prompt of the functions."""


@dataclass(frozen=True, slots=True)
class EditRow:
    """A row as the file has it; the arguments are those of `EditRequest`, without the frame.

    Args:
        split: `train`, `validation`, `test`, or None where the file doesn't say.
        frame: how it is put before a model.
    """

    id: str
    prompt: str
    target: str
    paraphrases: tuple[str, ...] = ()
    neighbours: tuple[str, ...] = ()
    group: str = ""
    split: Split | None = None
    source: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    frame: Frame = _AS_IT_IS

    def request(self) -> EditRequest:
        r"""Return the edit as the model is to see it.

        >>> row = EditRow("1", "list files", "ls", ("show files",), frame=NL_TO_CODE)
        >>> row.request().prompt, row.request().target, row.request().paraphrases
        ('Intent: list files\nCode:', ' ls', ('Intent: show files\nCode:',))
        """
        put = self.frame.prompt
        return EditRequest(
            id=self.id,
            prompt=put(self.prompt),
            target=self.frame.joint + self.target,
            paraphrases=tuple(map(put, self.paraphrases)),
            neighbours=tuple(map(put, self.neighbours)),
            group=self.group,
            source=self.source,
            meta=dict(self.meta),
            ending="\n",
        )


def parse_edit(row: Mapping[str, Any], path: Path, line: int, frame: Frame | None = None) -> EditRow:
    """Check one decoded row in the user's own columns.

    Args:
        row: column -> value; `prompt` and `target` are needed.
        path: the file, for messages and for the id of a row that has none.
        line: 1-based line of it.
        frame: how it is put before a model; as it stands if not given.

    Raises:
        DataError: a column is missing, isn't what it should be, or is blank.

    >>> parse_edit({"prompt": "a =", "target": " 1", "neighbours": ["b ="]}, Path("e.jsonl"), 3).neighbours
    ('b =',)
    """
    used = ("id", "prompt", "target", "paraphrases", "neighbours", "group", "split")
    return EditRow(
        id=str(row.get("id", f"{path.name}:{line}")),
        prompt=_text(row, "prompt", path, line),
        target=_text(row, "target", path, line),
        paraphrases=_texts(row, "paraphrases", path, line),
        neighbours=_texts(row, "neighbours", path, line),
        group=str(row.get("group") or ""),
        split=row_split(row, path, line),
        source=f"{path}:{line}",
        meta={key: value for key, value in row.items() if key not in used},
        frame=frame or _AS_IT_IS,
    )


def parse_published(row: Mapping[str, Any], path: Path, line: int) -> EditRow:
    r"""Check one record of the published files: CNLE's (`intent`, `snippet`) or CSNE's (`code`, `code_doc`).

    Args:
        row: the record.
        path: the file.
        line: 1-based number of the record.

    Raises:
        DataError: a field is missing or isn't what it should be.

    >>> asked = {"intent": "list files", "snippet": "os.listdir()", "rewritten_intent": "show files"}
    >>> near = {"items": [{"intent": "list users"}]}
    >>> record = {"case_id": 7, "edit_request": asked, "neighborhoods": near}
    >>> parse_published(record, Path("all.json"), 1).request().neighbours
    ('Intent: list users\nCode:',)
    """
    asked = _object(row, "edit_request", path, line)
    frame, names = (
        (NL_TO_CODE, ("intent", "snippet", "rewritten_intent"))
        if "intent" in asked
        else (CODE_TO_NL, ("code", "code_doc", "code_rewrite"))
    )
    prompt, target, rewritten = (_text(asked, name, path, line, "edit_request.") for name in names)
    items = _object(row, "neighborhoods", path, line).get("items")
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise DataError(f"field 'neighborhoods.items' is {items!r:.40}, expected a list of objects", path, line)
    if "case_id" not in row:
        raise DataError("field 'case_id' is missing", path, line, "give each record its own number")
    return EditRow(
        id=str(row["case_id"]),
        prompt=prompt,
        target=target,
        paraphrases=(rewritten,),
        neighbours=tuple(_text(item, names[0], path, line, "neighborhoods.items.") for item in items),
        source=f"{path}:{line}",
        frame=frame,
    )


def _text(row: Mapping[str, Any], name: str, path: Path, line: int, within: str = "") -> str:
    value = row.get(name)
    if name not in row:
        have = ", ".join(map(repr, row)) or "none"
        hint = "name it in data.init_args.columns if it is called otherwise" if not within else "correct the record"
        raise DataError(f"column '{within}{name}' is missing; this row has {have}", path, line, hint)
    if not isinstance(value, str):
        raise DataError(f"column '{within}{name}' is {type(value).__name__} {value!r:.40}, expected text", path, line)
    if not value.strip():
        raise DataError(f"column '{within}{name}' is blank", path, line, "fill it in, or remove the row")
    return value


def _texts(row: Mapping[str, Any], name: str, path: Path, line: int) -> tuple[str, ...]:
    value = row.get(name) or []
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(text, str) and text.strip() for text in found):
        raise DataError(f"column '{name}' is {value!r:.60}, expected a list of texts, none of them blank", path, line)
    return tuple(found)


def _object(row: Mapping[str, Any], name: str, path: Path, line: int) -> Mapping[str, Any]:
    value = row.get(name)
    if not isinstance(value, dict):
        hint = "for rows with prompt and target, set data.class_path to hotfix.data.EditFiles"
        raise DataError(f"field '{name}' is {value!r:.40}, expected an object", path, line, hint)
    return value
