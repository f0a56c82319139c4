"""The weighted sum that training minimises."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from hotfix.errors import ConfigError
from hotfix.losses.base import LossTerm
from hotfix.losses.passes import Passes
from hotfix.slots import filled

__all__ = ["Objective"]


class Objective(nn.Module):
    """learn + unlearn + retain + extra, each with its own weight.

    The three are named slots, not entries of one dictionary: a second `--config` merges into a slot, but would replace
    a dictionary whole.

    Args:
        learn: makes the fixed side likelier; null for none.
        unlearn: makes the buggy side less likely; null for none.
        retain: keeps everything else as it is; null for none.
        extra: further terms by name; null leaves one out that another configuration has.
    """

    def __init__(
        self,
        learn: LossTerm | None = None,
        unlearn: LossTerm | None = None,
        retain: LossTerm | None = None,
        extra: dict[str, LossTerm | None] | None = None,
    ) -> None:
        super().__init__()
        slots = {"learn": learn, "unlearn": unlearn, "retain": retain}
        self.terms = nn.ModuleDict(filled(slots, extra, "objective.init_args.extra", reserved=["loss"]))
        if not self.terms:
            raise ConfigError("objective.init_args: no term is given, expected at least one of learn, unlearn, retain")

    def named_terms(self) -> Iterator[tuple[str, LossTerm]]:
        """Yield (name, term) in the order of the sum."""
        for name, term in self.terms.items():
            assert isinstance(term, LossTerm)
            yield name, term

    def forward(self, passes: Passes) -> Mapping[str, Tensor]:
        """Return each unweighted term and, under `loss`, their weighted sum, float32 [] each."""
        values: dict[str, Tensor] = {}
        total: Tensor | None = None
        for name, term in self.named_terms():
            values[name] = term(passes)
            total = term.weight * values[name] + (0.0 if total is None else total)
        assert total is not None
        return {"loss": total, **values}
