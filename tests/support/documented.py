"""The commands that a document names: found in its markup, and told apart from each other as a shell would."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

_OTHERS = ("python", "sql", "json", "yaml", "toml")
"""Languages of blocks that hold no command line."""
_PROGRAM = re.compile(r"(?:\S*/)?(?:harness|nox|python[\d.]*|uvx)")
_AND_THE_REST = re.compile(r"…|\.\.\.")


@dataclass(frozen=True)
class Command:
    """A command of a document.

    Attributes:
        line: what stands there, continued lines joined.
        words: program and arguments, with what the document's own `export` lines set.
        text: what the command reads from a heredoc.
        then: what the document has next, which may be what the command printed.
        shown: what it printed, where a block shows that: the lines below it, or the next block, which holds no command.
        inline: whether it stands within a sentence, where a command's name alone is no call of it.
    """

    line: str
    words: tuple[str, ...]
    text: str = ""
    then: str = ""
    shown: str = ""
    inline: bool = False


def commands(document: str) -> Iterator[Command]:
    """Every `harness`, `nox`, `uvx` and `python` command in the blocks and in the sentences of a Markdown text."""
    variables: dict[str, str] = {}
    tokens, lines = _parsed(document), document.splitlines()
    last: list[Command] = []  # the newest one, until it is known what the document shows of it
    for token, following in itertools.zip_longest(tokens, tokens[1:]):
        found: list[Command] = []
        if token.type in ("fence", "code_block") and token.info.partition(" ")[0] not in _OTHERS:
            then = "\n".join(lines[slice(*following.map)]) if following and following.map else ""
            found = [replace(one, then=then) for one in _of_block(token.content, variables)]
            if last and all(one.inline for one in found):
                last = [replace(last[0], shown=last[0].shown or token.content)]
        for part in token.children or ():
            if part.type == "code_inline":
                found += _of_line(part.content, variables, inline=True)
        if found or token.type == "heading_open":
            yield from (*last, *found[:-1])
            last = found[-1:]
    yield from last


def options(document: str) -> set[str]:
    """Options that the sentences of a Markdown text name by themselves."""
    codes = (part.content for token in _parsed(document) for part in token.children or () if part.type == "code_inline")
    return {option for code in codes if code.startswith("--") for option in re.findall(r"(?<!\S)--[a-z][\w-]*", code)}


def _parsed(document: str) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(document)


def _of_block(block: str, variables: dict[str, str]) -> list[Command]:
    lines = iter(re.sub(r"\\\n\s*", "", block).splitlines())
    prompts = bool(re.search(r"^\$ ", block, re.MULTILINE))
    found: list[Command] = []
    for line in lines:
        if prompts and found and not line.startswith("$ "):
            found[-1] = replace(found[-1], shown=f"{found[-1].shown}{line}\n")
            continue
        if line.startswith("export "):
            variables.update((name, text.strip('"')) for name, text in re.findall(r'(\w+)=("[^"]*"|\S+)', line))
        until = re.search(r"<<'(\w+)'", line)
        text = "".join(f"{one}\n" for one in iter(lambda: next(lines), until[1])) if until else ""
        found += _of_line(line, variables, text=text)
        for quoted in re.findall(r"`([^`]+)`", line):
            found += _of_line(quoted, variables, inline=True)
    return found


def _of_line(line: str, variables: dict[str, str], *, text: str = "", inline: bool = False) -> Iterator[Command]:
    whole = re.sub(r"^(?:\$ |(?:[\d*]+ ){5})", "", line.strip())  # a prompt, or when cron runs the rest
    whole = re.sub(r"\$\(.*?\)", "OUTPUT", whole)
    for _ in range(2):  # a variable may hold another
        whole = re.sub(r"\$(\w+)", lambda found: variables.get(found[1], found[0]), whole)
    if not re.search(_PROGRAM, whole):
        return
    lexer = shlex.shlex(whole, posix=True, punctuation_chars=";&|<>(){}")
    lexer.wordchars += "$@:[]…,%#\\+"
    lexer.commenters = ""
    try:
        words = list(lexer)
    except ValueError:  # the apostrophe of a sentence in what a command printed
        return
    for one in _simple(words):
        if _PROGRAM.fullmatch(one[0]):
            yield Command(line.strip(), one, text, inline=inline)


def _simple(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The commands between a shell's separators, without redirections, assignments and a comment."""
    one: list[str] = []
    rest = iter([*words, ";"])
    for word in rest:
        if word == "#" or set(word) <= set(";&|(){}"):
            if one:
                yield tuple(one)
            if word == "#":
                return
            one = []
        elif set(word) <= set("<>&"):
            next(rest)
        elif one or not re.fullmatch(r"\w+=\S*", word):
            # The dots stand for what was given before: for the value of the option before them, or for any other words.
            whose = one[-1] if one and re.match(r"--\w", one[-1]) else ""
            if meant := word if whose else _AND_THE_REST.sub("", word).strip("[]"):
                one.append(meant)


ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = {path.name: list(commands(path.read_text(encoding="utf-8"))) for path in DOCUMENTS}
"""Of each document."""
