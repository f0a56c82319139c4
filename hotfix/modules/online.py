"""Online hotfixing: the fix described in a comment before the place, the weights untouched."""

from __future__ import annotations

import string
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

from torch import nn

from hotfix.data.addresses import find_addresses
from hotfix.data.comments import comment_style, insert_comment
from hotfix.data.schema import CodePair
from hotfix.errors import ConfigError, DataError
from hotfix.models.fingerprint import fingerprint
from hotfix.models.loading import Dtype, load_causal_lm
from hotfix.models.states import check_halves
from hotfix.modules.untrained import Untrained
from hotfix.patches import PromptPatch, Provenance

__all__ = ["Online", "describe"]


def describe(pair: CodePair, template: str) -> str:
    """Fill a template in for a pair.

    `{why}` is the row's own sentence, else its rule in words; `{rule}`, `{fixed}`, `{buggy}` and every other column of
    the row can be named, too. Addresses in it become `<EMAIL>`: a prompt that hides them must not show them.

    Raises:
        DataError: the row has no such column.

    >>> describe(CodePair("a", "", "x", "y", rule="zip-without-strict"), "Beware: {why}.")
    'Beware: zip without strict.'
    """
    words = pair.rule.replace("_", " ").replace("-", " ").lower()
    fields = {**pair.meta, "rule": pair.rule, "fixed": pair.fixed.strip(), "buggy": pair.buggy.strip()}
    fields["why"] = str(pair.meta.get("why") or words)
    named = [name for name in _fields(template) if not fields.get(name)]
    if named:
        raise DataError(
            f"pair {pair.id!r} has no {named[0]!r} to describe its fix with",
            pair.source or None,
            hint=f"add the column, or name one of {', '.join(k for k, v in fields.items() if v)} in "
            "model.init_args.template",
        )
    text = template.format_map(fields)
    for address in find_addresses(text):
        text = text.replace(address, "<EMAIL>")
    return text


class Online(Untrained):
    """Hotfixes the prompt: `hotfix fit` measures the model as it is, then with a comment above every known place.

    The tasks are the same as for a trained patch, and so are the files. A comment only goes where a fix is known, that
    is, to the data's pairs. Specificity (and HumanEval, unless `everywhere`) is prompted as before, so it can't change:
    it says that the weights didn't, and no more. The price of an online fix: its comment has to reach the prompt.

    Args:
        model_name: `smollm2-135m`, a local folder or a Hugging Face id.
        template: of the comment: `{why}` (a sentence in the row, else its rule in words), `{rule}`, or any other
            column; `{fixed}` and `{buggy}` show the statements themselves, and then it is copying that is measured.
        language: whose comments; by default told from each row.
        dtype: of the model; `auto` is bfloat16 where the hardware multiplies it.
        everywhere: put the comments above HumanEval's problems, too, in turn: what they cost where they don't apply.
    """

    def __init__(
        self,
        model_name: str = "smollm2-135m",
        template: str = "{why}",
        language: str | None = None,
        dtype: Dtype = "auto",
        everywhere: bool = False,
    ) -> None:
        super().__init__()
        self.model_name = model_name
        self.template = template
        self.language = language
        self.dtype_name: Dtype = dtype
        self.everywhere = everywhere
        self.shows_fixed = "fixed" in _fields(template)
        if language is not None:
            comment_style(CodePair("", "", "", ""), language)
        self._comments: dict[str, str] = {}

    def configure_model(self) -> None:
        """Load the model; Lightning calls it once a process, before anything runs."""
        if self.model is not None:
            return
        base = load_causal_lm(self.model_name, self.dtype_name)
        cast("nn.Module", base).to(self.device).requires_grad_(requires_grad=False)
        self.base_fingerprint = fingerprint(base)
        check_halves(base)
        self.model = base

    def rewrite(self, pair: CodePair) -> CodePair:
        """Return the pair with its fix described above the place."""
        text = describe(pair, self.template)
        self._comments.setdefault(pair.rule or pair.id, text)
        return insert_comment(pair, text, comment_style(pair, self.language))

    def preambles(self, pairs: Iterable[CodePair]) -> list[str]:
        """Return each distinct comment as Python has it; none unless the comments are to go everywhere."""
        texts = dict.fromkeys(describe(pair, self.template) for pair in pairs) if self.everywhere else {}
        return ["".join(f"# {line}\n" for line in text.splitlines()) for text in texts]

    def reference(self) -> AbstractContextManager[None]:
        """The model is never anything but the base."""
        return nullcontext()

    def make_patch(self, **provenance: Any) -> PromptPatch:  # noqa: ANN401  fields of Provenance
        """Return template and comments as a patch."""
        described = Provenance(
            method=f"{type(self).__module__}.{type(self).__qualname__}",
            base_model=self.model_name,
            base_fingerprint=self.base_fingerprint,
            **provenance,
        )
        content = {"template": self.template, "language": self.language, "shows_fixed": self.shows_fixed}
        return PromptPatch(described, content={**content, "comments": self._comments})


def _fields(template: str) -> list[str]:
    """The columns that a template names."""
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ConfigError(f"model.init_args.template: {error} in {template!r}") from error
    wrong = [name for name in names if not name.isidentifier()]
    if wrong or not template.strip():
        raise ConfigError(f"model.init_args.template is {template!r}, expected text with column names, as {{why}}")
    return names
