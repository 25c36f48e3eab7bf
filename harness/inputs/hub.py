"""Files from the Hugging Face Hub: pinned at first use, checked against the Hub's checksums, and then offline.

The first use of a repository resolves its revision to a commit and records that commit with the repository's listing in
`hub-revisions.json` in the cache. From then on the record decides, so that a branch that moves does not change an
experiment, and a warm cache needs no network: nothing is asked of the Hub once the files are there.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from harness.errors import FULL_DISK, HarnessError, InfrastructureError, UsageError, causes
from harness.flock import hold
from harness.words import said

REVISIONS = "hub-revisions.json"
INSTEAD = (
    "do without the Hub: --collection embedded --checkpoint embedded, or files of your own, --collection FILE "
    "--checkpoint FOLDER"
)
ATTEMPTS = 4
"""How often a request is made before the Hub counts as not answering."""
BACKOFF_S = 1.0
"""Pause before the second attempt; it doubles each time."""
TIMEOUT_S = 10.0
"""For an answer to a question about a repository; downloads have huggingface_hub's own limit per read."""

_COMMIT = re.compile(r"[0-9a-f]{40,64}")  # it names a folder of the cache

T = TypeVar("T")


@dataclass(frozen=True)
class Repo:
    """A repository at a commit: `files` maps each file's name to its checksum, `sha256:…` or `git:…`."""

    kind: str
    name: str
    commit: str
    files: Mapping[str, str]


@dataclass(frozen=True)
class DatasetFiles:
    """The files of one split, in the order of its rows; `revision` is a commit."""

    paths: tuple[Path, ...]
    revision: str


def model_files(
    name: str,
    wanted: Callable[[list[str]], list[str]],
    *,
    revision: str | None = None,
    cache: Path,
    endpoint: str | None = None,
) -> tuple[Path, str]:
    """Fetch those files of a model repository, all of its top folder, that `wanted` picks from the names of all.

    See `dataset_files` for the other arguments and the errors.

    Returns:
        Their folder, and the commit.
    """
    repo = _resolve("model", name, revision, cache, endpoint)
    names = wanted(sorted(repo.files))
    if not names:
        raise UsageError(f"{name}: the model repository holds no checkpoint at revision {repo.commit}; check its name.")
    paths = [_fetch(repo, file, cache, endpoint) for file in names]
    return paths[0].parent, repo.commit


def dataset_files(
    name: str, config: str, split: str, *, revision: str | None = None, cache: Path, endpoint: str | None = None
) -> DatasetFiles:
    """Fetch the files of one split of a dataset repository, as its dataset card defines the split.

    Args:
        name: `owner/name`.
        config: `config_name` in the card's YAML.
        split: `split` in that config's `data_files`.
        revision: Branch, tag or commit; None for `main`.
        cache: The harness's folder for downloads.
        endpoint: Another Hub.

    Raises:
        UsageError: If there is no such repository, revision, config, split or file, or no network and a cold cache.
        InfrastructureError: If the Hub does not answer properly, or a checksum is wrong.
    """
    repo = _resolve("dataset", name, revision, cache, endpoint)
    if "README.md" not in repo.files:
        raise UsageError(
            f"{name}: the dataset repository has no README.md, whose configs name the files; use --collection FILE."
        )
    card = _fetch(repo, "README.md", cache, endpoint).read_text(encoding="utf-8")
    patterns = split_patterns(card, name, config, split)
    matching = (file for one in patterns for file in sorted(repo.files) if glob_expression(one).fullmatch(file))
    files = list(dict.fromkeys(matching))
    if not files:
        listed = ", ".join(patterns)
        raise UsageError(
            f"{name}: no file matches {listed}, which its README.md names for {config}, {split}; try another revision."
        )
    return DatasetFiles(tuple(_fetch(repo, file, cache, endpoint) for file in files), repo.commit)


def split_patterns(card: str, name: str, config: str, split: str) -> list[str]:
    """The file patterns of a split in a dataset card's YAML (`configs`), which is how the Hub itself defines it.

    Raises:
        UsageError: If the card has no such config or split; it names those that are there.
    """
    import yaml

    parts = re.split(r"^---\s*$", card.lstrip("\ufeff"), maxsplit=2, flags=re.MULTILINE)
    try:
        front = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0].strip() else None
    except (yaml.YAMLError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"{name}: the YAML of its README.md cannot be read, so its splits are unknown; use --collection FILE."
        ) from error
    configs = front.get("configs") if isinstance(front, dict) else None
    known = {
        entry["config_name"]: entry
        for entry in (configs if isinstance(configs, list) else ())
        if isinstance(entry, dict) and isinstance(entry.get("config_name"), str)
    }
    if config not in known:
        have = f"it has {', '.join(sorted(known))}" if known else "its README.md defines none"
        raise UsageError(f"{name}: the dataset has no config {config}; {have}.")
    splits = dict(_splits(known[config].get("data_files")))
    if split not in splits:
        have = f"it has {', '.join(sorted(splits))}" if splits else "its README.md names no files for it"
        raise UsageError(f"{name}: the config {config} has no split {split}; {have}.")
    return splits[split]


def _splits(data_files: object) -> Iterator[tuple[str, list[str]]]:
    """Each split and its patterns, from any of the shapes that the Hub accepts for `data_files`."""
    if isinstance(data_files, list) and all(isinstance(entry, dict) for entry in data_files):
        for entry in data_files:
            split = entry.get("split", "train")
            if isinstance(split, str):
                yield split, _strings(entry.get("path"))
    elif isinstance(data_files, dict):
        for split, path in data_files.items():
            if isinstance(split, str):
                yield split, _strings(path)
    elif data_files is not None:
        yield "train", _strings(data_files)


def _strings(value: object) -> list[str]:
    # Not `str` of whatever is there: a YAML list that holds another many times would unfold.
    return [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str)]


def glob_expression(pattern: str) -> re.Pattern[str]:
    """A Hub file pattern as a regular expression: `*` stops at a slash, `**` does not."""
    translated = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    tokens = re.findall(r"\*\*/|\*\*|\*|\?|[^*?]+", pattern.removeprefix("./"))
    return re.compile("".join(translated.get(token) or re.escape(token) for token in tokens))


def _resolve(kind: str, name: str, revision: str | None, cache: Path, endpoint: str | None) -> Repo:
    """The repository at its recorded commit; at first use, ask the Hub and record."""
    asked = revision or "main"
    key = f"{kind}s/{name}@{asked}"
    path = cache / REVISIONS
    recorded = _read_revisions(path).get(key)
    if recorded is not None:
        return Repo(kind, name, recorded["commit"], recorded["files"])
    what = f"the {kind} repository {name} (revision {asked})"
    info = _retry(what, lambda: _repo_info(kind, name, revision, endpoint))
    if not isinstance(info.sha, str) or not _COMMIT.fullmatch(info.sha):
        raise InfrastructureError(
            f"The Hub does not say at which commit {what} is, so it cannot be pinned; check the endpoint."
        )
    files = {s.rfilename: _checksum(s) for s in info.siblings or [] if _stays_inside(s.rfilename)}
    repo = Repo(kind, name, info.sha, files)
    try:
        with hold(cache / f".{REVISIONS}.lock"):
            revisions = _read_revisions(path)
            revisions[key] = {"commit": repo.commit, "files": dict(sorted(files.items()))}
            temporary = path.with_name(f".{path.name}.new")
            temporary.write_text(json.dumps(revisions, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            temporary.replace(path)
    except OSError as error:
        raise InfrastructureError(
            f"{path}: the revision of {name} cannot be recorded: {said(error)}; free some space."
        ) from error
    return repo


def _stays_inside(name: str) -> bool:
    """Whether a file's name means a file below its repository's folder; both become part of a path."""
    return not name.startswith("/") and "\\" not in name and not {"", ".", ".."} & set(name.split("/"))


def _read_revisions(path: Path) -> dict[str, Any]:
    try:
        revisions = json.loads(path.read_text(encoding="utf-8"))
        if not all(
            isinstance(entry["commit"], str) and isinstance(entry["files"], dict) for entry in revisions.values()
        ):
            raise TypeError
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(
            f"{path}: the record of Hub revisions cannot be read; delete the file to pin the revisions anew."
        ) from error
    return dict(revisions)


def _repo_info(kind: str, name: str, revision: str | None, endpoint: str | None) -> Any:  # noqa: ANN401 - not typed here
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import OfflineModeIsEnabled

    if constants.HF_HUB_OFFLINE:
        raise OfflineModeIsEnabled("HF_HUB_OFFLINE is set")
    return HfApi(endpoint=endpoint).repo_info(
        name, repo_type=kind, revision=revision, timeout=TIMEOUT_S, files_metadata=True
    )


def _checksum(sibling: Any) -> str:  # noqa: ANN401 - not typed here
    """What the Hub says a file hashes to: SHA-256 for a file in LFS, git's own hash for the small ones."""
    return f"sha256:{sibling.lfs.sha256}" if sibling.lfs else f"git:{sibling.blob_id}"


def _fetch(repo: Repo, file: str, cache: Path, endpoint: str | None) -> Path:
    """A file of the repository, from the cache if it is there and sound, else from the Hub."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.utils import disable_progress_bars

    folder = cache / "hub"
    cached = try_to_load_from_cache(
        repo.name, file, cache_dir=folder, revision=repo.commit, repo_type=repo.kind
    )  # makes no request
    if isinstance(cached, str) and _is_sound(Path(cached), repo.files[file]):
        return Path(cached).absolute()
    if isinstance(cached, str):
        _delete(Path(cached))
    if not sys.stderr.isatty():
        disable_progress_bars()

    where = {"repo_type": repo.kind, "revision": repo.commit, "cache_dir": folder, "endpoint": endpoint}
    path = Path(_retry(f"{file} of {repo.name}", lambda: hf_hub_download(repo.name, file, **where)))
    if not _is_sound(path, repo.files[file]):
        _delete(path)
        raise InfrastructureError(
            f"{file} of {repo.name} arrived with a wrong checksum and was deleted; try again, or another network."
        )
    return path.absolute()


def _is_sound(path: Path, checksum: str) -> bool:
    """Whether a file has the checksum that the Hub gave for it."""
    algorithm, _, expected = checksum.partition(":")
    with path.open("rb") as file:
        if algorithm == "sha256":
            return hashlib.file_digest(file, "sha256").hexdigest() == expected
        content = file.read()  # a small file, or it were in LFS
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == expected


def _delete(path: Path) -> None:
    """Delete a cached file: both the name in the snapshot and the blob it points to."""
    blob = path.resolve()
    path.unlink(missing_ok=True)
    blob.unlink(missing_ok=True)


def _retry(what: str, request: Callable[[], T]) -> T:
    """Make a request, again after a pause where that may help, and say in a sentence why it failed for good."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # HfHubHTTPError inherits from its HTTP library's base error: httpx's in recent releases, requests' in older ones.
    network_errors = (*(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError"), OSError)
    for attempt in range(ATTEMPTS):
        try:
            return request()
        except HFValidationError as error:
            raise UsageError(f"Cannot fetch {what}: {said(error)}") from error
        except network_errors as error:
            final = _explain(what, error, last=attempt == ATTEMPTS - 1)
            if final is not None:
                raise final from error
        time.sleep(BACKOFF_S * 2**attempt)
    raise AssertionError("the last attempt either returns or raises")


def _explain(what: str, error: BaseException, *, last: bool) -> HarnessError | None:
    """The sentence for an error that ends the attempts; None where another attempt may help."""
    import errno

    from huggingface_hub import errors

    chain = list(causes(error))
    status = next((e.response.status_code for e in chain if isinstance(e, errors.HfHubHTTPError)), None)
    if any(isinstance(e, errors.OfflineModeIsEnabled) for e in chain):
        return UsageError(
            f"Cannot fetch {what}: it is not in the cache, and HF_HUB_OFFLINE is set; unset it for one run, or "
            f"{INSTEAD}."
        )
    for kind, reason in (
        (
            errors.GatedRepoError,
            "its owner asks for a login and consent; accept the terms and log in with hf auth login",
        ),
        (errors.RepositoryNotFoundError, "the Hub has no such repository, or it is private; check the name"),
        (errors.RevisionNotFoundError, "the repository has no such revision; check the branch, tag or commit"),
        (errors.RemoteEntryNotFoundError, "the repository has no such file at this revision; try another revision"),
    ):
        if any(isinstance(e, kind) for e in chain):
            return UsageError(f"Cannot fetch {what}: {reason}.")
    full = next((e for e in chain if getattr(e, "errno", None) in {*FULL_DISK, errno.EACCES}), None)
    if full is not None:
        return InfrastructureError(f"Cannot store {what}: {full}; free some space or choose another cache folder.")
    if not last:
        return None
    # A connection that never came about is no network; one that broke or stalled is a network that does not work.
    if any(type(e).__name__ in {"ConnectError", "ConnectTimeout", "NewConnectionError", "ProxyError"} for e in chain):
        return UsageError(
            f"Cannot fetch {what}: it is not in the cache, and the Hub cannot be reached; go online for one run, or "
            f"{INSTEAD}."
        )
    reason = f"the Hub answered with status {status}" if status else f"the connection failed ({said(error)})"
    return InfrastructureError(
        f"Cannot fetch {what}: {reason}, {ATTEMPTS} times in a row; try again later, or {INSTEAD}."
    )
