"""Checkpoints are checked before anything is built for them, and their digest is of what they compute."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.inputs.checkpoint import PICKLE, digest_files, load_checkpoint_local
from tests.support.checkpoints import checkpoint_bytes, safetensors, write_checkpoint
from tests.support.tiny_checkpoints import FAMILIES


def test_a_whole_folder_loads_with_its_dim_and_an_absolute_path(tmp_path, monkeypatch):
    write_checkpoint(tmp_path / "ck")
    monkeypatch.chdir(tmp_path)

    checkpoint = load_checkpoint_local(Path("ck"))

    assert checkpoint.dim == 16
    assert checkpoint.path == tmp_path / "ck"
    assert checkpoint.path.is_absolute()
    assert checkpoint.name == "ck"
    assert str(tmp_path) not in json.dumps(checkpoint.source)


def test_the_digest_ignores_where_the_folder_is_and_what_does_not_matter(tmp_path):
    here = load_checkpoint_local(write_checkpoint(tmp_path / "a"))
    there = write_checkpoint(tmp_path / "deep" / "b")
    (there / "README.md").write_text("words")
    (there / PICKLE).write_bytes(b"a pickle that transformers leaves alone beside safetensors")

    assert load_checkpoint_local(there).digest == here.digest


@pytest.mark.parametrize("name", ["config.json", "artifact.metadata", "vocab.txt", "model.safetensors"])
def test_the_digest_changes_with_every_file_that_matters(tmp_path, name):
    before = digest_files(write_checkpoint(tmp_path / "a"), "model.safetensors")
    content = bytearray((tmp_path / "a" / name).read_bytes())
    content[-1] ^= 1
    (tmp_path / "a" / name).write_bytes(content)

    assert digest_files(tmp_path / "a", "model.safetensors") != before


def test_a_file_inside_another_is_not_taken_for_two_files(tmp_path):
    two = write_checkpoint(tmp_path / "a", checkpoint_bytes() | {"tokenizer.json": b"1", "vocab.txt": b"2"})
    one = write_checkpoint(tmp_path / "b", without("vocab.txt") | {"tokenizer.json": b"1vocab.txt2"})

    assert digest_files(one, "model.safetensors") != digest_files(two, "model.safetensors")


def test_dim_is_also_found_under_config_as_colbert_reads_it(tmp_path):
    files = checkpoint_bytes(metadata={"config": {"dim": 16, "model_name": "bert-base-uncased"}, "meta": {}})

    checkpoint = load_checkpoint_local(write_checkpoint(tmp_path / "a", files))

    assert checkpoint.dim == 16
    assert checkpoint.source["model_name"] == "bert-base-uncased"


def test_a_pickle_alone_is_accepted_and_recorded(tmp_path):
    files = checkpoint_bytes()
    files[PICKLE] = files.pop("model.safetensors")

    assert load_checkpoint_local(write_checkpoint(tmp_path / "a", files)).source["weights"] == PICKLE


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_checkpoint_of_any_encoder_family_is_accepted(tmp_path, family):
    config = json.dumps({"model_type": family}).encode()

    checkpoint = load_checkpoint_local(write_checkpoint(tmp_path / "a", checkpoint_bytes() | {"config.json": config}))

    assert checkpoint.source["model_type"] == family


def without(name: str) -> dict[str, bytes]:
    files = checkpoint_bytes()
    del files[name]
    return files


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (without("config.json"), ["config.json", "save_pretrained"]),
        (without("artifact.metadata"), ["artifact.metadata", "colbert-ai"]),
        (without("model.safetensors"), ["no weights", "model.safetensors"]),
        (without("vocab.txt"), ["no tokenizer", "tokenizer.json"]),
        (without("model.safetensors") | {"model.safetensors.index.json": b"{}"}, ["shards", "max_shard_size"]),
        (checkpoint_bytes(metadata={"doc_maxlen": 300}), ["artifact.metadata", "field dim is missing"]),
        (checkpoint_bytes(metadata={"dim": "96"}), ["field dim is '96'"]),
        (checkpoint_bytes(metadata={"dim": True}), ["field dim is True"]),
        (checkpoint_bytes(metadata={"dim": 0}), ["field dim is 0"]),
        (checkpoint_bytes(dim=5), ["dim is 5", "[16, 8]"]),
        (checkpoint_bytes() | {"artifact.metadata": b"{"}, ["artifact.metadata", "not readable JSON"]),
        (checkpoint_bytes() | {"config.json": b"[]"}, ["config.json", "list"]),
        (checkpoint_bytes() | {"config.json": b"{}"}, ["config.json", "model_type"]),
        (
            checkpoint_bytes() | {"config.json": b'{"model_type": "x", "auto_map": {"AutoModel": "m.Model"}}'},
            ["auto_map", "trust_remote_code"],
        ),
        (
            checkpoint_bytes() | {"config.json": b'{"model_type": "modernbert"}'},
            ["config.json", "'modernbert'", "no class", "distilbert"],
        ),
        (without("vocab.txt") | {"spiece.model": b"x"}, ["no tokenizer", "tokenizer.json", "sentencepiece"]),
        (checkpoint_bytes() | {"model.safetensors": safetensors({"bert.x": [2]})}, ["no linear.weight"]),
        (checkpoint_bytes() | {"model.safetensors": b"short"}, ["not a whole safetensors"]),
        (
            checkpoint_bytes() | {"model.safetensors": checkpoint_bytes()["model.safetensors"][:-1]},
            ["not a whole safetensors", "lie outside"],
        ),
    ],
)
def test_what_colbert_would_trip_over_is_one_sentence(tmp_path, files, words):
    folder = write_checkpoint(tmp_path / "ck", files)

    with pytest.raises(UsageError) as caught:
        load_checkpoint_local(folder)

    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    assert all(word in message for word in words), message


def test_a_folder_that_is_none(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(UsageError, match="does not exist"):
        load_checkpoint_local(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="is a file"):
        load_checkpoint_local(tmp_path / "file")
