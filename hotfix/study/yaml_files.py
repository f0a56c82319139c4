"""YAML as the command line reads it, but a key that is written twice is a mistake and not a choice."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any, Final

import yaml

from hotfix.errors import ConfigError

__all__ = ["dump_yaml", "load_yaml"]

# YAML 1.1 takes 1e-3 for text; jsonargparse, which reads what is made of it, takes it for a number.
_FLOAT: Final = re.compile(r"[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+|[-+]?\.[0-9]+[eE][-+]?[0-9]+")


class _Loader(yaml.SafeLoader):
    """Refuses a mapping with a key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[Hashable, int] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if key in seen:
                raise ConfigError(f"line {line}: {key} is there twice, first in line {seen[key]}; rename or remove one")
            seen[key] = line
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        ConfigError: the file is missing, isn't YAML, isn't a mapping, or has a key twice.
    """
    try:
        told = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise ConfigError(f"{path}: can't be read ({error.strerror}){_near(path)}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())[:200]}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(told, dict):
        raise ConfigError(f"{path}: a study is a mapping of keys, this is not")
    return {str(key): value for key, value in told.items()}


def dump_yaml(settings: object) -> str:
    r"""Settings as YAML, in their order.

    >>> dump_yaml({"trainer": {"max_epochs": 2}})
    'trainer:\n  max_epochs: 2\n'
    """
    return str(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))


def _near(path: Path) -> str:
    import difflib

    known = {p.stem: p for p in sorted(path.parent.glob("*.yaml"))} if path.parent.is_dir() else {}
    close = difflib.get_close_matches(path.stem, known, n=1)
    return f"; did you mean {known[close[0]]}?" if close else "; name a file of configs/study"
