from __future__ import annotations

from typing import Any

import pytest

from hotfix.errors import ConfigError
from hotfix.generation import SamplingConfig


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "num_samples must be at least 1, not 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, not 0"),
        ({"batch_size": -2}, "batch_size must be at least 1, not -2"),
        ({"temperature": -0.1}, "temperature must be 0 .* not -0.1"),
        ({"temperature": float("nan")}, "temperature must be 0 .* not nan"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1 .* not 0.0"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1 .* not 1.5"),
        ({"top_k": -1}, "top_k must be 0 .* not -1"),
    ],
)
def test_wrong_values_name_the_field(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SamplingConfig(**options)
