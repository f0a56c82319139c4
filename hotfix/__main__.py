"""`hotfix ...` and `python -m hotfix ...`: says what it can do at once, and what went wrong in one line."""

from __future__ import annotations

import logging
import os
import sys

from hotfix.allocator import keep_memory
from hotfix.errors import HotfixError
from hotfix.kept_help import HELP_WORDS, help_of

__all__ = ["main"]

_COMMANDS = ("fit", "edit", "validate", "test", "predict", "check", "preview", "compare")

_HELP = """\
usage: hotfix COMMAND --config FILE [--config OVERLAY ...] [--KEY VALUE ...]

Patch a code language model's behaviour in minutes, reversibly and with proof.

commands:
  fit        train a patch on pairs of buggy and fixed code; measure before and after
  edit       change what a model writes by an editor, without training; measure before and after
  validate   measure a patch or checkpoint on the validation contexts
  test       measure a patch or checkpoint on the test contexts
  predict    write what the patched model completes
  check      look for rows that would spoil a training or a measurement
  preview    show rows as the model sees them, learned and unlearned tokens marked
  compare    run a study's arms and seeds; one table and one page out of all

start here:
  hotfix fit --config configs/lora.yaml
  hotfix fit --config configs/lora.yaml --data.init_args.train my_pairs.jsonl --trainer.default_root_dir runs/mine
  hotfix fit --config configs/lora.yaml --print_config
  hotfix edit --config configs/recipe/ft_m.yaml --prompt 'import numpy as' --target ' np'
  hotfix COMMAND --help                        every key
  hotfix fit --model.help CLASS_PATH           the keys of a class
"""


def main() -> None:
    """Dispatch; nothing heavy is imported for the plain help."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in HELP_WORDS:
        print(_HELP)  # noqa: T201  the help is output, not a log
        return
    if arguments[0] == "--version":
        from hotfix import __version__

        print(__version__)  # noqa: T201
        return
    try:
        if arguments[0] in _COMMANDS and arguments[1:] in ([word] for word in HELP_WORDS):
            print(help_of(arguments[0], _run), end="")  # noqa: T201
            return
        _run()
    except HotfixError as error:
        print(f"hotfix: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except KeyboardInterrupt:
        print("hotfix: stopped", file=sys.stderr)  # noqa: T201
        sys.exit(130)


def _run() -> None:
    keep_memory()
    # A configuration without these would let the tokenizers' threads and the hub's retries slow every start.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # peft imports bitsandbytes where it is installed, which then tells every start of a kernel that it doesn't need.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if sys.argv[1] == "compare":
        from hotfix.study.compare import main as compare

        sys.exit(compare(sys.argv[2:]))
    from hotfix.cli import main as run

    run()


if __name__ == "__main__":
    main()
