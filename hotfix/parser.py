"""Command-line and YAML errors in a line or two: the key, what was expected, the nearest valid name.

jsonargparse tells about a wrong value with a page of every type that it tried. Each class in a configuration has a
parser of its own, so each adds its key to what the inner one said, and the full key comes out as the user wrote it.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from hotfix.errors import ConfigError, HotfixError

__all__ = ["HotfixParser", "KeyedError", "did_you_mean", "explain_value", "root_cause"]

_LONGEST = 300
_TYPES = {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false", "NoneType": "null"}


class KeyedError(ConfigError, ValueError):
    """A wrong setting: its key, relative to the class that has it, and what is wrong.

    A `ValueError`, so that jsonargparse passes it to the parser of the class around, which knows the rest of the key.
    """

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}" if key else problem)
        self.key, self.problem = key, problem


class HotfixParser(LightningArgumentParser):
    """Raises `ConfigError` in place of printing the usage and a page of nested complaints."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  the parser's own arguments
        # A key that is cut short is a mistake, and may mean another one in the next version.
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)
        self.owner = ""

    def add_class_arguments(self, theclass: type, nested_key: str | None = None, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Remember whose arguments these are."""
        if nested_key is None:
            self.owner = theclass.__name__
        return super().add_class_arguments(theclass, nested_key, *args, **kwargs)

    def parse_args(self, args: Any = None, *rest: Any, **options: Any) -> Any:  # noqa: ANN401
        """Read null again where jsonargparse, which hands a nested value on as text, has made `None` of it."""
        if args is not None:
            args = [re.sub(r"^(--[\w.]+)=None$", r"\1=null", word) for word in args]
        return super().parse_args(args, *rest, **options)

    def validate(self, namespace: Any, *args: Any, **options: Any) -> None:  # noqa: ANN401
        """Refuse null where something else is expected; jsonargparse takes it for a key that wasn't given."""
        super().validate(namespace, *args, **options)
        for action in self._actions:
            if action.default is not None and namespace.get(action.dest, action.default) is None:
                self._check_value_key(action, None, action.dest, namespace)

    def parse_path(self, cfg_path: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Name the file in what is wrong with it."""
        try:
            return super().parse_path(cfg_path, *args, **kwargs)
        except KeyedError as error:
            raise ConfigError(f"{cfg_path}: {error}") from error

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what an inner parser said, under this parser's key; else the shortened message."""
        inner = root_cause(ex)
        found = re.match(r'Parser key "([^"]+)"', message)
        if isinstance(inner, KeyedError) and found:
            raise KeyedError(f"{found[1]}.init_args.{inner.key}", inner.problem) from ex
        if isinstance(inner, HotfixError):
            raise inner
        raise KeyedError(*self._explain(message)) from ex

    def _explain(self, message: str) -> tuple[str, str]:
        """The key and what is wrong with it."""
        for pattern, explain in _RULES:
            found = re.search(pattern, message, re.DOTALL)
            if found:
                return explain(self, found)
        return "", _one_line(message)

    def names(self) -> list[str]:
        """The keys that this parser takes, one level deep."""
        hidden = {"help", "print_config", "==SUPPRESS=="}
        found = dict.fromkeys(a.dest for a in self._actions if a.dest and not a.dest.endswith(".help"))
        return [name for name in found if name not in hidden]


def root_cause(error: BaseException | None) -> BaseException | None:
    """Return the first of hotfix's own errors in a chain of causes; else the last cause.

    >>> try:
    ...     raise ValueError("outer") from ConfigError("inner")
    ... except ValueError as caught:
    ...     root_cause(caught)
    ConfigError('inner')
    """
    while error is not None and not isinstance(error, HotfixError):
        cause = error.__cause__
        if cause is None:
            return error
        error = cause
    return error


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a question with the nearest name, or nothing where none is near.

    >>> did_you_mean("learning_ratte", ["warmup_steps", "learning_rate"])
    '; did you mean learning_rate?'
    >>> did_you_mean("zzz", ["learning_rate"])
    ''
    """
    by_end = {name.rsplit(".", 1)[-1].lower(): name for name in known}
    near = difflib.get_close_matches(word.rsplit(".", 1)[-1].lower(), by_end, n=1, cutoff=0.65)
    return f"; did you mean {by_end[near[0]]}?" if near else ""


def explain_value(told: str) -> str:
    """Say what was expected of a value, and what came.

    >>> explain_value("Expected a <class 'float'>. Got value: fast")
    "expected a number, got 'fast'"
    >>> explain_value("Expected a typing.Literal['auto', 'float32']. Got value: float31")
    "expected auto or float32, got 'float31'; did you mean float32?"
    """
    expected: list[str] = []
    for name, literal, other in re.findall(
        r"Expected an? (?:<class '([\w.]+)'>|typing\.Literal\[([^\]]*)\]|([^\n.]+))", told
    ):
        words = re.findall(r"'([^']*)'", literal) or [literal] if literal else [_TYPES.get(name, name) or other]
        expected += words
    got = re.search(r"Got value: (.*)", told) or re.search(r"Given value: (.*)", told)
    if not expected or not got:
        return _one_line(told)
    *most, last = dict.fromkeys(expected)
    kinds = f"{', '.join(most)} or {last}" if most else last
    value = "null" if got[1] == "None" else f"{got[1]!r:.100}"
    return f"expected {kinds}, got {value}{did_you_mean(got[1], expected)}"


def _explain_class(parser: HotfixParser, found: re.Match[str]) -> tuple[str, str]:
    path = found["path"]
    # What jsonargparse says is worth repeating only where the user's own module doesn't import.
    why = f" ({_one_line(found['why'])})" if "No module" in found["why"] or "Error" in found["why"] else ""
    base = re.search(r"Subtypes: \[<class '([\w.]+)'>", found.string)
    classes = _classes(base[1]) if base else []
    classes = classes or _siblings(path)
    hint = did_you_mean(path, classes)
    if not hint and (near := difflib.get_close_matches(path, classes, n=1, cutoff=0.85)):
        hint = f"; did you mean {near[0]}?"
    choice = f"; expected one of {', '.join(classes)}" if classes else ""
    return found["key"], f"there is no class {path}{why}{hint or choice}"


def _explain_kind(parser: HotfixParser, found: re.Match[str]) -> tuple[str, str]:
    base = re.search(r"Subtypes: \[<class '([\w.]+)'>", found.string)
    classes = ", ".join(_classes(base[1])) if base else ""
    # jsonargparse takes a value out of its complaint where the value stands between spaces.
    path = found["path"] or found.string.rpartition("Given value: ")[2]
    return found["key"], f"{path} is not a {found['base']}" + (f"; expected one of {classes}" if classes else "")


def _explain_abstract(parser: HotfixParser, found: re.Match[str]) -> tuple[str, str]:
    names = ", ".join(_classes(found["path"]))
    kind = found["path"].rpartition(".")[2]
    return found["key"], f"of which {kind}? Put --config before it, or name the class with class_path: {names}"


def _explain_unnamed(parser: HotfixParser, found: re.Match[str]) -> tuple[str, str]:
    key, kind, path = found["key"], found["base"].rpartition(".")[2], found["path"]
    return (
        key,
        f"expected names, each with a {kind}, got one without: write {key}: {{a_name: {{class_path: {path}, ...}}}}",
    )


def _explain_key(parser: HotfixParser, found: re.Match[str]) -> tuple[str, str]:
    key, names = found["key"], parser.names()
    own = [name for name in names if "." not in name]
    hint = did_you_mean(key, names) or (f"; it has {', '.join(own)}" if own else "")
    return key, f"{parser.owner or 'the configuration'} has no such key{hint}"


def _explain_file(parser: HotfixParser, found: re.Match[str]) -> tuple[str, str]:
    path = Path(found["path"])
    named = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    if found["problem"] == "Path is not a file":
        return found["key"], f"{named} is not a file"
    # Of two files with one name, the one in the folder that was named wins: it comes last.
    near = [p for folder in ("configs", str(named.parent)) for p in sorted(Path(folder).rglob("*.yaml"))[:200]]
    by_stem = {p.stem: str(p) for p in near}
    close = difflib.get_close_matches(path.stem, by_stem, n=1)
    return found["key"], f"there is no file {named}" + (f"; did you mean {by_stem[close[0]]}?" if close else "")


def _explain_unrecognized(parser: HotfixParser, found: re.Match[str]) -> tuple[str, str]:
    word = found["words"].split()[0].split("=")[0]
    if word.endswith((".yaml", ".yml")):
        return word, f"not an option; did you mean --config {word}?"
    if not word.startswith("-"):
        return word, "not an option; options start with --, as in --trainer.max_epochs 3"
    near = _nearest_path(word, (name for name in parser._option_string_actions if not name.endswith("+")))
    return word, "there is no such option; " + (f"did you mean {near}?" if near else "`hotfix fit --help` lists them")


def _explain_required(parser: HotfixParser, found: re.Match[str]) -> tuple[str, str]:
    keys = found["keys"].split(", ")
    if any(key.split(".")[-1] in ("model", "data") for key in keys):
        names = " and ".join(key.split(".", 1)[-1] for key in keys)
        return "", f"{names}: not given; name a configuration, as in --config configs/lora.yaml"
    return ", ".join(keys), "has to be given"


def _explain_choice(parser: HotfixParser, found: re.Match[str]) -> tuple[str, str]:
    choices = re.findall(r"[\w-]+", found["choices"])
    what = "command" if found["name"] == "subcommand" else found["name"]
    hint = did_you_mean(found["got"], choices)
    return "", f"there is no {what} {found['got']}{hint or f'; there are {chr(44).join(choices)}'}"


def _explain_command(parser: HotfixParser, found: re.Match[str]) -> tuple[str, str]:
    return "", f"no command; expected one of {found['choices'].replace(',', ', ')}, as in hotfix fit --config FILE"


def _explain_late_key(parser: HotfixParser, found: re.Match[str]) -> tuple[str, str]:
    by_command: Iterator[Any] = (a.choices for a in parser._actions if isinstance(a.choices, dict))
    inner = next((choices[found["command"]] for choices in by_command if found["command"] in choices), parser)
    near = _nearest_path(found["key"], inner.names())
    return found["key"], "there is no such key" + (f"; did you mean {near}?" if near else "")


def _explain_group(parser: HotfixParser, found: re.Match[str]) -> tuple[str, str]:
    commands = [a.choices.values() for a in parser._actions if isinstance(a.choices, dict)]
    known = {name for inner in [parser, *(one for few in commands for one in few)] for name in inner.names()}
    key = f"{found['group']}.{found['key']}"
    near = _nearest_path(key, sorted(known))
    return key, "there is no such key" + (f"; did you mean {near}?" if near else "")


def _nearest_path(path: str, known: Iterable[str]) -> str:
    """The known path most like the beginning of this one, and the rest of it as it is."""
    names, parts = list(known), path.split(".")
    for length in range(len(parts), 0, -1):
        as_deep = [name for name in names if name.count(".") == length - 1]
        near = difflib.get_close_matches(".".join(parts[:length]), as_deep, n=1, cutoff=0.75)
        if near:
            return ".".join([near[0], *parts[length:]])
    return ""


def _explain_yaml(parser: HotfixParser, found: re.Match[str]) -> tuple[str, str]:
    places = re.findall(r"line (\d+), column (\d+)", found["told"])
    told = [line.strip() for line in found["told"].splitlines() if line.strip() and "<unicode string>" not in line]
    line = f"line {places[-1][0]}, column {places[-1][1]}: " if places else ""
    return "", f"{line}not YAML: {', '.join(told)}"


_AT_KEY = r"Parser key \"(?P<key>[^\"]+)\""
_UNNAMED = r"Given value: \{'class_path': (?:Namespace\(class_path=)?'(?P<path>[^']+)'"
_RULES: tuple[tuple[str, Callable[[HotfixParser, re.Match[str]], tuple[str, str]]], ...] = (
    (_AT_KEY + r".*?Subtypes: \[dict\[str, (?P<base>[\w.]+)[^\]]*\].*?" + _UNNAMED, _explain_unnamed),
    (_AT_KEY + r".*?Problem with given class_path '(?P<path>[^']+)':\n(?P<why>[^\n]+)", _explain_class),
    (_AT_KEY + r".*?(?P<why>Expected a dot import path) string: (?P<path>\S+)", _explain_class),
    (_AT_KEY + r".*?Import path (?:(?P<path>\S+) )?does not correspond to a subclass of (?P<base>\w+)", _explain_kind),
    (_AT_KEY + r":\s+(?P<problem>File does not exist|Path is not a file): '?(?P<path>[^'\n]+)", _explain_file),
    (_AT_KEY + r".*?Expected an? instantiatable class, but (?P<path>\S+) is abstract", _explain_abstract),
    (_AT_KEY + r":\s+(?P<told>.*)", lambda _, found: (found["key"], explain_value(found["told"]))),
    (r"(?:Option|Key) '(?P<key>[^']+)' is not (?:accepted|expected)", _explain_key),
    (r"unrecognized arguments: (?P<words>.+)", _explain_unrecognized),
    (r"arguments are required: (?P<keys>.+)", _explain_required),
    (r"expected \"subcommand\" to be one of \{(?P<choices>[^}]*)\}", _explain_command),
    (r"Subcommand '(?P<command>\w+)' does not accept (?:option|nested key) '(?P<key>[^']+)'", _explain_late_key),
    (r"Group '(?P<group>[\w.]+)' does not accept (?:option|nested key) '(?P<key>[^']+)'", _explain_group),
    (r"argument (?P<name>\S+): invalid choice: '(?P<got>[^']*)' \(choose from (?P<choices>.*)\)", _explain_choice),
    (r"argument (?P<key>\S+): expected one argument", lambda _, found: (found["key"], "a value has to follow")),
    (r"Problems parsing config: (?P<told>.*)", _explain_yaml),
    (r"Unexpected config: (?P<told>.*)", lambda _, found: ("", "a configuration is a mapping of keys, this is not")),
)


def _classes(base: str) -> list[str]:
    """Class paths of hotfix's own classes of a kind, by the shortest path that they are public under."""
    module, _, name = base.rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    found = {c for c in _subclasses(kind) if c.__module__.startswith("hotfix.") and not inspect.isabstract(c)}
    return sorted(_public_path(c) for c in found)


def _siblings(path: str) -> list[str]:
    """Class paths of what the module of a class path makes public."""
    module = path.rpartition(".")[0]
    try:
        public = getattr(importlib.import_module(module), "__all__", ())
    except (ImportError, ValueError):
        return []
    return [f"{module}.{name}" for name in public]


def _subclasses(kind: type) -> Iterator[type]:
    direct: list[type] = kind.__subclasses__()
    for sub in direct:
        yield sub
        yield from _subclasses(sub)


def _public_path(kind: type) -> str:
    package = kind.__module__.rpartition(".")[0]
    public = getattr(importlib.import_module(package), "__all__", ())
    return f"{package if kind.__name__ in public else kind.__module__}.{kind.__name__}"


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_LONGEST]
