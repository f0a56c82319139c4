"""What is wrong with a data set, found before anything is trained on it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from hotfix.data.addresses import leaks
from hotfix.data.datamodule import HotfixDataModule
from hotfix.data.edit_data import EditData
from hotfix.data.edit_quality import request_findings
from hotfix.data.edits import encode_request
from hotfix.data.encode import EncodedPair, OverlongError
from hotfix.data.finding import Finding, Severity
from hotfix.data.grams import Codes, Grams, near_duplicates
from hotfix.data.humaneval import load_problems
from hotfix.data.schema import CodePair
from hotfix.data.spilled import MANY
from hotfix.data.splits import GROUPS, group_of
from hotfix.errors import DataError
from hotfix.spacing import evenly
from hotfix.types import SPLITS, Split

__all__ = [
    "Finding",
    "Severity",
    "address_findings",
    "contamination_findings",
    "contradiction_findings",
    "duplicate_findings",
    "find_problems",
    "group_findings",
    "mask_findings",
    "near_duplicate_findings",
]

log = logging.getLogger(__name__)

Pairs = Mapping[Split, Sequence[CodePair]]
Encode = Callable[[CodePair], EncodedPair]

# Statements of this many lexemes are no longer met by chance; Brown et al. 2020 take 13 words of prose.
_GRAM = 10
_FEWEST_GRAMS = 5


def find_problems(module: HotfixDataModule) -> list[Finding]:
    """Look at all splits of a data set; errors come first, the rest in the order of the splits.

    Needs the tokenizer but no model. The number of each kind goes to the log. Of more than 50,000 pairs in a split so
    many are looked at, evenly spaced: pairs are compared with each other, which takes them all in memory.

    Args:
        module: the data set; it need not be set up.

    Raises:
        DataError: a file can't be read, or a row isn't a pair.
    """
    pairs: Pairs = {split: evenly(module.pairs(split), MANY) for split in SPLITS}
    for split in SPLITS:
        if len(pairs[split]) < len(module.pairs(split)):
            log.warning("data: %d of %d %s pairs are looked at", len(pairs[split]), len(module.pairs(split)), split)
    found = [
        *_edit_findings(module),
        *duplicate_findings(pairs),
        *contradiction_findings(pairs["train"]),
        *address_findings(pair for split in SPLITS for pair in pairs[split]),
        *(finding for split in SPLITS for finding in mask_findings(pairs[split], _encoder(module, split))),
        *contamination_findings(pairs["train"]),
        *group_findings(pairs),
        *near_duplicate_findings(pairs),
    ]
    for (severity, kind), count in sorted(Counter((f.severity, f.kind) for f in found).items()):
        log.warning("data: %d x %s (%s)", count, kind, severity)
    return sorted(found, key=lambda finding: finding.severity != "error")


def duplicate_findings(pairs: Pairs) -> Iterator[Finding]:
    """Find pairs that come twice in a split, and those that are trained on and measured as well.

    Where half of a split or more is trained on, that is one error (the published privacy data has the same file for
    training and validation).

    >>> pair = CodePair("a", "x = ", "1", "2", source="p.jsonl:1")
    >>> [f.kind for f in duplicate_findings({"train": [pair], "validation": [], "test": [pair]})]
    ['train = test']
    """
    trained = {_content(pair): pair for pair in pairs["train"]}
    for split in SPLITS:
        seen: dict[tuple[str, str, str], CodePair] = {}
        for pair in pairs[split]:
            first = seen.setdefault(_content(pair), pair)
            if first is not pair:
                yield _finding("warning", "duplicate pair", pair, f"the same as {_named(first)}", "remove one")
        if split == "train":
            continue
        shared = [pair for pair in pairs[split] if _content(pair) in trained]
        if shared and 2 * len(shared) >= len(pairs[split]):
            text = f"{len(shared)} of {len(pairs[split])} {split} pairs are trained on, so {split} measures memory"
            yield Finding(
                "error", f"train = {split}", "", "", text, "name another file, or set data.init_args.split_by"
            )
            continue
        for pair in shared:
            text = f"in {split} and, as {_named(trained[_content(pair)])}, in train"
            yield _finding("warning", "pair in two splits", pair, text, f"remove it from {split}")


def contradiction_findings(pairs: Iterable[CodePair]) -> Iterator[Finding]:
    """Find pairs whose buggy statement is what another teaches at the same place.

    Commits that are taken back leave some in every mined set. Where a tenth of the pairs or more is taken back by
    others, what is learnt is a matter of chance, and that is one more finding, an error.

    >>> there, back = CodePair("a", "x = ", "1", "2"), CodePair("b", "x = ", "2", "1")
    >>> [(f.id, f.severity) for f in contradiction_findings([there, back])]
    [('a', 'warning'), ('b', 'warning'), ('', 'error')]
    """
    pairs = list(pairs)
    taught = {(pair.prefix, pair.fixed.strip()): pair for pair in pairs}
    count = 0
    for pair in pairs:
        other = taught.get((pair.prefix, pair.buggy.strip()))
        if other is not None:
            count += 1
            text = f"unlearns {pair.buggy.strip()!r:.60}, which {_named(other)} teaches at the same place"
            yield _finding("warning", "contradicting pairs", pair, text, "keep one of the two")
    if count and 10 * count >= len(pairs):
        text = f"{count} of {len(pairs)} pairs unlearn what another teaches"
        yield Finding("error", "contradicting pairs", "", "", text, "are buggy and fixed the right way round?")


def address_findings(pairs: Iterable[CodePair]) -> Iterator[Finding]:
    """Find e-mail addresses that would be learnt; the messages don't repeat them.

    >>> [f.severity for f in address_findings([CodePair("a", "by ", "me", "ann@corp.io")])]
    ['error']
    """
    for pair in pairs:
        # An address may begin in the prefix.
        tail = pair.prefix[-64:]
        learnt = [a for a in leaks(tail + pair.fixed) if a not in leaks(tail) and a not in leaks(tail + pair.buggy)]
        kept = leaks(pair.fixed)
        hint = "put <EMAIL>, or an address at example.com, in its place"
        if learnt:
            yield _finding("error", "address in the fixed side", pair, f"teaches to write {_hidden(learnt[0])}", hint)
        elif kept:
            text = f"{_hidden(kept[0])} stands in both statements"
            yield _finding("warning", "address in the fixed side", pair, text, hint)


def mask_findings(pairs: Iterable[CodePair], encode: Encode) -> Iterator[Finding]:
    """Find pairs of which nothing, or not all, is left to learn once they are tokens.

    Args:
        pairs: the pairs.
        encode: a pair to its tokens, as training does it.
    """
    for pair in pairs:
        try:
            encoded = encode(pair)
        except OverlongError as error:
            hint = "set data.init_args.overlong to drop, raise max_length, or shorten the statement"
            yield _finding("error", "truncated diff", pair, _without_place(error, pair), hint)
            continue
        except DataError as error:
            yield _finding("error", "empty mask", pair, _without_place(error, pair), "remove the row")
            continue
        for side in (encoded.fixed, encoded.buggy):
            if not any(side.edited):
                yield _finding("error", "empty mask", pair, "no token differs from the other side", "remove the row")
            elif len(side.ids) < side.statement:
                text = f"{side.statement - len(side.ids)} tokens of a statement are cut off"
                yield _finding("warning", "truncated diff", pair, text, "raise data.init_args.max_length")


def contamination_findings(pairs: Sequence[CodePair], share: float = 0.5) -> Iterator[Finding]:
    """Find pairs that hold a HumanEval problem: its score would no longer say what the model can.

    A problem's prompt and solution are looked for apart, as runs of lexemes that no other problem has, so that renamed
    files and changed layout don't hide them; renamed variables do.

    Args:
        pairs: what is trained on.
        share: least part of the prompt's or the solution's runs.
    """
    problems = load_problems()
    grams = Grams(_GRAM)
    parts = [(p.task_id, "prompt", grams(p.prompt)) for p in problems]
    parts += [(p.task_id, "solution", grams(p.canonical_solution)) for p in problems]
    codes, counts = np.unique(np.concatenate([own for *_, own in parts]), return_counts=True)
    known = codes[counts == 1]
    owner = {code: number for number, (*_, own) in enumerate(parts) for code in _in(own, known)}
    sizes = Counter(owner.values())
    for pair in pairs:
        hits = Counter(owner[code] for code in _in(grams(_text(pair)), known))
        for number, count in hits.most_common(1):
            if count >= max(_FEWEST_GRAMS, share * sizes[number]):
                task, what, _ = parts[number]
                text = f"holds {count / sizes[number]:.0%} of the {what} of {task}"
                yield _finding("error", "HumanEval contamination", pair, text, "remove it; HumanEval is for measuring")


def group_findings(pairs: Pairs) -> Iterator[Finding]:
    """Find projects, commits, tasks and documents that are both trained on and measured.

    >>> a, b = (CodePair(i, "x = ", "1", i, meta={"project": "p"}) for i in "23")
    >>> [f.text for f in group_findings({"train": [a], "validation": [], "test": [b]})]
    ['1 of 1 projects in test are in train as well']
    """
    for kind in GROUPS:
        groups = {split: {group_of(pair, kind) for pair in pairs[split]} - {None} for split in SPLITS}
        for split in SPLITS[1:]:
            shared = groups[split] & groups["train"]
            if shared:
                text = f"{len(shared)} of {len(groups[split])} {kind}s in {split} are in train as well"
                yield Finding("warning", "shared group", "", "", text, f"set data.init_args.split_by to {kind}")


def near_duplicate_findings(pairs: Pairs, threshold: float = 0.8) -> Iterator[Finding]:
    """Find measured pairs that are nearly one that is trained on; those that are wholly so are left to others.

    Args:
        pairs: split -> pairs.
        threshold: least Jaccard similarity of their 5-grams of lexemes.
    """
    trained = {_content(pair) for pair in pairs["train"]}
    texts = [_text(pair) for pair in pairs["train"]]
    for split in SPLITS[1:]:
        others = [pair for pair in pairs[split] if _content(pair) not in trained]
        for match in near_duplicates([_text(pair) for pair in others], texts, threshold):
            first = pairs["train"][match.other]
            text = f"{match.similarity:.0%} like {_named(first)} in train"
            hint = "set data.init_args.split_by to what they have in common, or remove it"
            yield _finding("warning", "near-duplicate across splits", others[match.text], text, hint)


def _edit_findings(module: HotfixDataModule) -> list[Finding]:
    """What is wrong with edits; those of pairs are what is wrong with the pairs."""
    if not isinstance(module, EditData):
        return []
    requests = {split: module.requests(split) for split in SPLITS}
    as_pairs = [CodePair(r.id, r.prompt, "", r.target, source=r.source) for r in requests["train"]]
    encode = partial(encode_request, module.tokenizer, max_length=module.max_length)
    return [*request_findings(requests, encode), *contamination_findings(as_pairs)]


def _content(pair: CodePair) -> tuple[str, str, str]:
    return pair.prefix, pair.buggy, pair.fixed


def _text(pair: CodePair) -> str:
    return f"{pair.prefix}{pair.fixed}{pair.suffix}\n{pair.buggy}"


def _in(codes: Codes, known: Codes) -> list[int]:
    """Those of `codes` that are in `known`, which ascends; fast where `known` is much the longer."""
    at = np.minimum(np.searchsorted(known, codes), len(known) - 1)
    found: list[int] = codes[known[at] == codes].tolist()
    return found


def _finding(severity: Severity, kind: str, pair: CodePair, text: str, hint: str) -> Finding:
    return Finding(severity, kind, pair.id, pair.source, text, hint)


def _encoder(module: HotfixDataModule, split: Split) -> Encode:
    """What training uses: its own encodings, which are kept for it, or one by one where a pair can't be encoded."""
    try:
        encoded = module.encoded(split)
    except DataError:
        return module.encoder
    pairs = module.pairs(split)
    places = {pairs[place].id: place for place in evenly(range(len(pairs)), MANY)}
    return lambda pair: encoded[places[pair.id]]


def _named(pair: CodePair) -> str:
    return f"{pair.id!r} ({pair.source.rpartition('/')[2]})"


def _hidden(address: str) -> str:
    return f"{address[0]}...@{address.rpartition('@')[2]}"


def _without_place(error: DataError, pair: CodePair) -> str:
    return str(error).removeprefix(f"{pair.source}: ").partition("; ")[0]
