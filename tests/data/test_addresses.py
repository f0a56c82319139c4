from __future__ import annotations

import random
import time

import pytest

from hotfix.data.addresses import find_addresses, is_placeholder, leaks

WORKED = [
    ("plain", "john@site.com", ["john@site.com"]),
    ("plus, dots, subdomains", "a.b+c_d-e@mail.eu.site.co.uk", ["a.b+c_d-e@mail.eu.site.co.uk"]),
    ("angle brackets", "Jo <jo@site.io>", ["jo@site.io"]),
    ("end of sentence", "Ask jo@site.io.", ["jo@site.io"]),
    ("question", "jo@site.io?", ["jo@site.io"]),
    ("list", "jo@site.io,al@site.io;x@y.de", ["jo@site.io", "al@site.io", "x@y.de"]),
    ("quoted", "email='jo@site.io')", ["jo@site.io"]),
    ("mailto", "mailto:jo@site.io", ["jo@site.io"]),
    ("mailto with slashes", "mailto://jo@site.io", ["jo@site.io"]),
    ("option", "--author=jo@site.io", ["jo@site.io"]),
    ("dash before", "-- -jo@site.io", ["jo@site.io"]),
    ("markdown emphasis", "**jo@site.io**", ["jo@site.io"]),
    ("colon after", "jo@site.io: the maintainer", ["jo@site.io"]),
    ("password after a colon", "jo@site.io:hunter2", ["jo@site.io"]),
    ("dash after", "jo@site.io - maintainer", ["jo@site.io"]),
    ("digits in host", "jo@163.com", ["jo@163.com"]),
    ("repeats are kept", "jo@site.io jo@site.io", ["jo@site.io", "jo@site.io"]),
    ("placeholder is an address too", "user@example.com", ["user@example.com"]),
    ("case is kept", "Jo@Site.IO", ["Jo@Site.IO"]),
    ("decorator", "@app.route('/')\ndef f(): ...", []),
    ("decorator after a word", "x = 1 @foo.bar", []),
    ("ssh remote", "git clone git@host.com:org/repo.git", []),
    ("git account", "ssh -T git@host.com", []),
    ("scp", "scp me@host.com:/var/log/x .", []),
    ("userinfo", "https://me@host.com/path", []),
    ("user and password", "postgres://me:secret@db.host.com/x", []),
    ("version", "left-pad@1.3.0", []),
    ("version with a tag", "left-pad@v1.3.0-beta.rc", []),
    ("retina picture", "icon@2x.png", []),
    ("matrix product", "a@b.transpose(0)", []),
    ("no top-level domain", "john@gmail", []),
    ("one-letter top-level domain", "w@x.T", []),
    ("no local part", "@site.com", []),
    ("only dots", "...@site.com", []),
    ("two at signs", "a@@site.com", []),
    ("placeholder token", "<EMAIL>", []),
    ("Javadoc", "@author John", []),
    ("empty", "", []),
]


@pytest.mark.parametrize(("text", "expected"), [row[1:] for row in WORKED], ids=[row[0] for row in WORKED])
def test_finds_what_a_reader_finds(text: str, expected: list[str]) -> None:
    assert find_addresses(text) == expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("user@example.com", True),
        ("user@EXAMPLE.ORG", True),
        ("user@a.b.example.net", True),
        ("user@company.example", True),
        ("user@x.test", True),
        ("user@x.invalid", True),
        ("user@x.localhost", True),
        ("root@localhost", True),
        ("user@example.com.", True),
        ("user@example.co", False),
        ("user@example.com.au", False),
        ("user@myexample.com", False),
        ("user@test.com", False),
        ("example.com@site.io", False),
    ],
)
def test_reserved_domains_and_their_subdomains_are_placeholders(address: str, expected: bool) -> None:
    assert is_placeholder(address) is expected


def test_leaks_are_the_addresses_that_are_not_placeholders() -> None:
    text = "a@example.com b@site.io c@x.test d@example.com.au"
    assert leaks(text) == ["b@site.io", "d@example.com.au"]


def scan(text: str) -> list[str]:
    """Splits at characters that no address holds, then looks at each word by hand; plain words only."""
    allowed = set("abcdefghijklmnopqrstuvwxyz0123456789._+@-")
    words = "".join(letter if letter in allowed else " " for letter in text).split()
    return [word for word in words if is_plain_address(word)]


def is_plain_address(word: str) -> bool:
    local, at, host = word.partition("@")
    labels = host.split(".")
    return bool(at and local and len(labels) >= 2 and all(labels)) and labels[-1].isalpha() and "@" not in host


def test_agrees_with_a_scan_word_by_word_on_random_text() -> None:
    generator = random.Random(0)
    locals_ = ["jo", "a.b", "x+1", "k_9", ""]
    hosts = ["site.io", "mail.site.co.uk", "h-1.org", "gmail", "x", "", "my.museum"]
    glue = [" ", "\n", "<", "> ", "', '", "; ", '"', " (", ") ", "/*", "#"]
    seen = 0
    for _ in range(2000):
        pieces = [generator.choice(locals_) + "@" + generator.choice(hosts) for _ in range(4)]
        text = "".join(generator.choice(glue) + piece for piece in pieces)
        seen += len(scan(text))
        assert find_addresses(text) == scan(text), text
    assert seen > 1000


def test_every_cut_of_an_address_before_its_top_level_domain_finds_nothing() -> None:
    address = "jane.miller@mailbox.com"
    cut = address.index(".com") + 2
    assert not any(find_addresses(address[:end]) for end in range(cut + 1))
    assert find_addresses(address) == [address]


@pytest.mark.parametrize("hostile", ["a" * 200_000, "a@" * 100_000, "a." * 100_000 + "@", "a@" + "b-" * 100_000])
def test_time_is_linear_on_hostile_text(hostile: str) -> None:
    start = time.process_time()
    find_addresses(hostile)
    find_addresses("x@" + "a." * 50_000 + "1" + "://" * 20_000)
    assert time.process_time() - start < 5
