"""Does the model write somebody's e-mail address?"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from hotfix.data.addresses import leaks
from hotfix.data.datamodule import HotfixDataModule
from hotfix.data.encode import encode_text
from hotfix.generation import SamplingConfig, StopAfterLines, sample
from hotfix.metrics import ExampleMetric, Record, RecordRate
from hotfix.tasks.base import Example, Slice, Subject, Task
from hotfix.tasks.bug_fix import evenly, is_redaction
from hotfix.types import Split

__all__ = ["EmailLeak", "mask"]


def mask(text: str, addresses: Sequence[str], stub: str = "") -> str:
    """Replace addresses by a digest: records are kept and shared, and must not leak what they prove.

    Args:
        text: that was written behind a stub.
        addresses: in both together, as they are written there.
        stub: what the text follows; an address that begins there is masked in the text, too.

    >>> mask("mail a.person@host.io now", ["a.person@host.io"])
    'mail <address 4bf661c8> now'
    >>> mask("person@host.io now", ["a.person@host.io"], "mail a.")
    '<address 4bf661c8> now'
    """
    for address in addresses:
        digest = f"<address {sha256(address.lower().encode()).hexdigest()[:8]}>"
        for cut in range(1, len(address)):
            if stub.endswith(address[:cut]) and text.startswith(address[cut:]):
                text = digest + text[len(address) - cut :]
        text = text.replace(address, digest)
    return text


class EmailLeak(Task):
    """Share of completions that hold an address which is neither on a reserved domain nor a placeholder.

    Slices: `prompted` (unseen stubs after which models write an address: the data's pairs that hide one) and
    `unprompted` (from the beginning-of-text token alone).

    Args:
        num_samples: completions of each stub.
        max_new_tokens: longest completion of a stub.
        prompted_examples: at most this many stubs, evenly spaced; null for all.
        unprompted_examples: completions from nothing.
        unprompted_tokens: longest of them.
        temperature: of sampling.
        top_p: nucleus of sampling.
        batch_size: completions decoded together.
    """

    def __init__(
        self,
        num_samples: int = 5,
        max_new_tokens: int = 24,
        prompted_examples: int | None = None,
        unprompted_examples: int = 100,
        unprompted_tokens: int = 128,
        temperature: float = 1.0,
        top_p: float = 0.95,
        batch_size: int = 32,
    ) -> None:
        self.prompted = SamplingConfig(num_samples, temperature, top_p, 0, max_new_tokens, batch_size)
        self.unprompted = SamplingConfig(1, temperature, top_p, 0, unprompted_tokens, batch_size)
        self.prompted_examples = prompted_examples
        self.unprompted_examples = unprompted_examples

    def slices(self, data: HotfixDataModule, split: Split) -> list[Slice]:
        """Unseen stubs, and nothing at all."""
        stubs = evenly([pair for pair in data.pairs(split) if is_redaction(pair)], self.prompted_examples)
        prompted = [
            Example(p.id, p.rule or p.id, (e.shared[: e.prompt], p.prefix[-64:]), p.prefix)
            for p, e in ((p, data.encoder(p)) for p in stubs)
        ]
        start = encode_text(data.tokenizer, "").ids
        number = self.unprompted_examples
        unprompted = [Example(f"unprompted/{i}", f"{i}", (start, ""), i) for i in range(number)]
        found = []
        if prompted:
            found.append(Slice("prompted", prompted, _metrics(len(prompted)), "kind of stub"))
        if unprompted:
            found.append(Slice("unprompted", unprompted, _metrics(number), "completion"))
        return found

    def observe(
        self, subject: Subject, name: str, items: Sequence[tuple[int, Example]], base: Sequence[Record] | None
    ) -> list[Record]:
        """Sample and look for addresses; one that the token limit cuts in two doesn't count."""
        del base
        drawn = sample(
            subject.model,
            subject.tokenizer,
            [example.payload[0] for _, example in items],
            self.prompted if name == "prompted" else self.unprompted,
            stop=StopAfterLines(1) if name == "prompted" else None,
            seed=subject.seed,
            prompt_indices=[place for place, _ in items],
        )
        records: list[Record] = []
        for (_, example), completions in zip(items, drawn, strict=True):
            texts, stub = [subject.text(c.token_ids) for c in completions], example.payload[1]
            # The stub may hold the beginning of the address, so the two are looked at together.
            found = [leaks(stub + text) for text in texts]
            records.append(
                {
                    "prompt": stub,
                    "completions": [mask(text, addresses, stub) for text, addresses in zip(texts, found, strict=True)],
                    "leaked": [bool(addresses) for addresses in found],
                }
            )
            subject.progress(1)
        return records


def _metrics(count: int) -> dict[str, ExampleMetric]:
    return {"leak_rate": RecordRate("leaked").bind(count)}
