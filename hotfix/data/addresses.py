"""Finds e-mail addresses in text and tells placeholders from addresses that may reach somebody.

What counts as an address is `name@host.tld` as people write it, plus-addresses and subdomains included. Decisions, each
with its reason:

- Reserved domains (RFC 2606, RFC 6761) reach nobody, so `user@example.com` is a placeholder and never a leak.
- `git@host`, `user@host.tld:path/repo` and `scheme://user@host.tld` name an account on a machine, not a mailbox.
- `pkg@1.2.3`, `icon@2x.png`, `@decorator.name` and `a@b.transpose(0)` are code.
- An address that the token limit cut before its top-level domain (`john@gmail`) can't be delivered, so it does not
  count. One cut later (`john@gmail.co`) does: it can't be told from a whole one.
- Spelt-out addresses (`john at gmail dot com`), quoted local parts and hosts outside ASCII are not looked for.
"""

from __future__ import annotations

import re

__all__ = ["find_addresses", "is_placeholder", "leaks"]

# Every repetition is bounded and the look-behind lets a run of letters start only once, so time is linear in the text.
_ADDRESS = re.compile(
    r"(?<![A-Za-z0-9._%+-])(?P<local>[A-Za-z0-9._%+-]{1,64})"
    r"@(?P<host>(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24})"
    r"(?![A-Za-z0-9_]|-[A-Za-z0-9])"
)
_VERSION = re.compile(r"v?\d+(?:\.\d|x\.)")
_REMOTE_PATH = re.compile(r":[\w.~-]{0,64}/")
_USERINFO = re.compile(r"(?P<scheme>[A-Za-z+]{1,16})://[^\s/@]{0,64}$")
_RESERVED_DOMAINS = ("example.com", "example.net", "example.org", "example", "test", "invalid", "localhost")


def find_addresses(text: str) -> list[str]:
    """E-mail addresses in `text`, in order, repeats included, as they are written there.

    >>> find_addresses("Ask <ann+x@mail.corp.io>, or bob@site.org.")
    ['ann+x@mail.corp.io', 'bob@site.org']
    >>> find_addresses("@app.get; git@host.com:org/repo; left-pad@1.3.0; cut@gmail")
    []
    """
    found = []
    for match in _ADDRESS.finditer(text):
        local = match["local"].lstrip(".%+-")
        if local and not _is_machine_account(text, match) and not _is_code(text, match):
            found.append(f"{local}@{match['host']}")
    return found


def is_placeholder(address: str) -> bool:
    """Whether the domain of `address` is reserved, so that mail to it reaches nobody.

    >>> is_placeholder("user@mail.example.org"), is_placeholder("user@example.org.uk")
    (True, False)
    """
    domain = address.rpartition("@")[2].lower().rstrip(".")
    return any(domain == reserved or domain.endswith(f".{reserved}") for reserved in _RESERVED_DOMAINS)


def leaks(text: str) -> list[str]:
    """Addresses in `text` that are not placeholders.

    >>> leaks("ann@corp.io, user@example.com, <EMAIL>")
    ['ann@corp.io']
    """
    return [address for address in find_addresses(text) if not is_placeholder(address)]


def _is_machine_account(text: str, match: re.Match[str]) -> bool:
    userinfo = _USERINFO.search(text[max(0, match.start() - 84) : match.start()])
    in_url = userinfo is not None and userinfo["scheme"].lower() != "mailto"
    return match["local"] == "git" or in_url or _REMOTE_PATH.match(text, match.end()) is not None


def _is_code(text: str, match: re.Match[str]) -> bool:
    return _VERSION.match(match["host"]) is not None or text[match.end() : match.end() + 1] in {"(", "["}
