"""The columns of every table: one place for their names, types, meanings and units, which a reference is made from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """What a Parquet file holds.

    Attributes:
        rows: what one row is.
        columns: in order, name to type (`text`, `int`, `float`, `bool`, `ints`, `texts`) and meaning. Any may be
            null, which means not known.
    """

    rows: str
    columns: dict[str, tuple[str, str]]


_DEVICE = "kind of the device, and the model where it is a GPU"
_KEY_A, _KEY_B = ("text", "key of A's cell"), ("text", "key of B's cell")
_N = ("int", "elements compared")
_N_MISMATCH = ("int", "of these, how many are not equal in value")
_MAX_ABS = ("float", "greatest absolute difference")
_MAX_ULP = ("int", "greatest number of steps between neighbouring floats from one value to the other")
_A, _B = ("text", "label of the older cell, or of the first run"), ("text", "label of the newer cell, or of the repeat")
_STATUS = ("text", "bit_equal, value_equal, close, different, or why values could not be compared")
_JSON = "as a JSON object"

TABLES = {
    "cells": Table("a cell, ended well or badly", {
        "key": ("text", "digest of the whole specification"),
        "group": ("text", "digest of what cells must share to be comparable"),
        "version": ("text", "release of PyTorch"),
        "repeat": ("int", "0, or the number of the repeat"),
        "outcome": ("text", "ok, or how it ended"),
        "reason": ("text", "why it did not end well; one sentence"),
        "phase": ("text", "phase of the job in which it ended"),
        "device": ("text", _DEVICE),
        "collection": ("text", "name of the collection"),
        "collection_digest": ("text", "digest of its passages"),
        "passages": ("int", "how many passages were indexed"),
        "checkpoint": ("text", "name of the checkpoint"),
        "checkpoint_digest": ("text", "digest of its files"),
        "lock": ("text", "digest of the lock that the environment was built from"),
        "capture": ("text", "how much was kept: final, digests or full"),
        "torch": ("text", "version that torch gives of itself"),
        "torch_git": ("text", "commit that torch was built from"),
        "cuda": ("text", "CUDA version that torch was built for"),
        "cudnn": ("text", "version of cuDNN"),
        "cublas": ("text", "version of the cuBLAS that torch used"),
        "cublas_faiss": ("text", "version of the cuBLAS that faiss used, which k-means runs on"),
        "cuda_runtime": ("text", "version of the CUDA runtime that torch used"),
        "libraries": ("text", "every copy of a CUDA library that was loaded: library, file, version, package, used_by"),
        "autocast": ("text", "dtype of autocast, where it was on"),
        "cpu": ("text", "model of the CPU"),
        "gpu": ("text", "model of the GPU"),
        "driver": ("text", "version of the GPU's driver"),
        "attention_class": ("text", "class of the encoder's attention"),
        "mkl": ("text", "version of MKL in the wheel"),
        "onednn": ("text", "version of oneDNN in the wheel"),
        "compiler": ("text", "compiler of the wheel"),
        "cpu_capability": ("text", "instruction set that torch's own kernels use"),
        "seconds": ("text", f"wall seconds of each phase, {_JSON}"),
        "wall_seconds": ("float", "wall seconds of the whole job"),
        "peak_host_bytes": ("int", "greatest resident memory, bytes"),
        "peak_gpu_bytes": ("int", "greatest memory reserved on the GPU, bytes"),
        "settings": ("text", f"of the job, {_JSON}"),
        "environment": ("text", f"variables that were set for the job, {_JSON}"),
        "switches": ("text", f"switches of torch that change numbers, {_JSON}"),
        "finished": ("text", "UTC time at which it ended, ISO 8601"),
        "sources": ("text", f"where the collection and the checkpoint came from, {_JSON}"),
    }),
    "artifacts": Table("an artifact of a cell", {
        "key": ("text", "of its cell"),
        "version": ("text", "release of PyTorch"),
        "repeat": ("int", "0, or the number of the repeat"),
        "artifact": ("text", "its name"),
        "kind": ("text", "final (in the index), intermediate, or value (no tensor in colbert-ai)"),
        "dtype": ("text", "torch's name of it"),
        "shape": ("ints", "sizes of its dimensions"),
        "digest": ("text", "of dtype, shape and bytes"),
        "stored": ("bool", "whether the tensor itself was kept, or only its digest"),
    }),
    "comparisons": Table("an artifact of a pair of cells under one profile", {
        "kind": ("text", "consecutive, or repeat: a cell against a run of the same again"),
        "a": _A,
        "b": _B,
        "key_a": _KEY_A,
        "key_b": _KEY_B,
        "artifact": ("text", "its name"),
        "final": ("bool", "whether it is one of the index's own tensors"),
        "status": _STATUS,
        "dtype_a": ("text", "in A"),
        "dtype_b": ("text", "in B"),
        "shape_a": ("ints", "in A"),
        "shape_b": ("ints", "in B"),
        "profile": ("text", "tolerance that the next four columns are of; empty where values were not compared"),
        "atol": ("float", "its absolute tolerance"),
        "rtol": ("float", "its relative tolerance"),
        "close": ("bool", "whether every element is within it"),
        "min_rtol": ("float", "least relative tolerance that would pass, beside its atol"),
        "bit_equal": ("bool", "whether dtype, shape and bytes are the same"),
        "value_equal": ("bool", "whether every element is equal in value; -0 equals 0, NaN equals nothing"),
        "noise": ("bool", "whether a repeat of either cell changes it too; null where neither was run again"),
        "n": _N,
        "n_mismatch": _N_MISMATCH,
        "max_abs": _MAX_ABS,
        "mean_abs": ("float", "mean absolute difference, of elements that are finite in both"),
        "p50_abs": ("float", "median of the same, low by less than 1.6 %"),
        "p99_abs": ("float", "99th percentile of the same, low by less than 1.6 %"),
        "p999_abs": ("float", "99.9th percentile of the same, low by less than 1.6 %"),
        "max_rel": ("float", "greatest difference relative to B; infinite where only B is zero"),
        "max_ulp": _MAX_ULP,
        "p99_ulp": ("float", "99th percentile of these steps, low by less than 0.8 %"),
        "rel_l2": ("float", "length of A-B divided by that of B"),
        "cosine": ("float", "cosine of the angle between A and B"),
        "details": ("text", f"everything else that was found, {_JSON}"),
    }),
    "consecutive": Table("two consecutive versions; counts are of the index's own tensors", {
        "a": ("text", "label of the older cell"),
        "b": ("text", "label of the newer cell"),
        "outcome_a": ("text", "ok, or how A ended; missing where there is no cell"),
        "outcome_b": ("text", "ok, or how B ended; missing where there is no cell"),
        "total": ("int", "tensors on either side"),
        "shapes_match": ("int", "of these, how many have the same shape"),
        "default_match": ("int", "how many are within the profile default"),
        "bnb_match": ("int", "how many are within the profile bnb"),
        "bit_equal": ("int", "how many are bit for bit the same"),
        "changed": ("bool", "whether any is not"),
        "noisy": ("texts", "those that differ and that a repeat changes too; null where neither was run again"),
        "first_changed": ("text", "first tensor of the pipeline that differs"),
        "gap": ("text", "why nothing was compared; else empty"),
    }),
    "env_delta": Table("a package that differs between the locks of two consecutive versions", {
        "a": ("text", "older version of PyTorch"),
        "b": ("text", "newer version of PyTorch"),
        "package": ("text", "its name in B's lock, or in A's where it is not there"),
        "version_a": ("text", "in A's lock; null where it is not there"),
        "version_b": ("text", "in B's lock; null where it is not there"),
        "renamed_from": ("text", "its name in A's lock, where it has another one there"),
        "required_by": ("texts", "what requires it in B (or in A): torch, directly or not, or else others"),
    }),
    "locations": Table("a call of a step that was replayed", {
        "a": ("text", "label of A"),
        "b": ("text", "label of B"),
        "step": ("text", "step of the pipeline"),
        "artifacts": ("text", "artifacts of it that differ, with commas"),
        "kind": ("text", "step, module, function or operator"),
        "module": ("text", "module that the call ran in; empty outside of all"),
        "name": ("text", "path of a module, or name of a function or operator"),
        "number": ("int", "how many calls of that name ran in the same module before it"),
        "device": ("text", "kind of device that its tensors are on"),
        "status": ("text", "what the call showed: origin, contains_origin, propagates, equal, unstable and so on"),
        "reason": ("text", "why it is absent or refused"),
        "n": _N,
        "n_mismatch": _N_MISMATCH,
        "max_abs": _MAX_ABS,
        "max_ulp": _MAX_ULP,
        "trusted": ("bool", "whether every gate of the replay held"),
    }),
    "swaps": Table("an artifact of a run with swapped artifacts", {
        "job": ("text", "label of the cell whose job ran"),
        "artifacts": ("text", "those that were swapped, with commas"),
        "values_of": ("text", "label of the cell that they are of"),
        "reference": ("text", "label of the cell that the result is compared with"),
        "artifact": ("text", "its name"),
        "final": ("bool", "whether it is one of the index's own tensors"),
        "bit_equal": ("bool", "whether it is bit for bit the reference's"),
        "difference": ("text", "how it differs; null where it does not"),
        "key": ("text", "of the swapped run's cell"),
    }),
    "probes": Table("a tensor of a probe in two versions, or a fact of one version, whose a and b are the same", {
        "probe": ("text", "its name"),
        "case": ("text", "which of its cases; empty where the probe as a whole is missing"),
        "tensor": ("text", "which of the case's tensors; of a fact, its name"),
        "a": ("text", "older version"),
        "b": ("text", "newer version"),
        "key_a": _KEY_A,
        "key_b": _KEY_B,
        "status": _STATUS,
        "dtype": ("text", "of the tensor; both, where they differ"),
        "shape": ("text", "of the whole tensor; both, where they differ"),
        "measured": ("text", "whole, sample (only elements at even distances were kept), or empty (digests only)"),
        "n": _N,
        "n_mismatch": _N_MISMATCH,
        "max_abs": _MAX_ABS,
        "max_ulp": _MAX_ULP,
        "bit_equal": ("bool", "whether dtype, shape and bytes are the same"),
        "default": ("bool", "whether it is within the profile default"),
        "bnb": ("bool", "whether it is within the profile bnb"),
        "noise": ("bool", "whether a repeat changes it too; null where nothing was run again"),
        "fact": ("text", "what ought to hold within a version, such as batch_invariant; null for a tensor"),
        "holds": ("bool", "whether the fact does"),
        "note": ("text", "where it does not hold, or why something is missing"),
        "digest_a": ("text", "of the tensor in A"),
        "digest_b": ("text", "of the tensor in B"),
    }),
    "blame": Table("a counterfactual environment, or what could not have one; one row where none was needed", {
        "a": ("text", "label of A"),
        "b": ("text", "label of B"),
        "base": ("text", "A or B: whose environment it is, but for what was exchanged; null where none was made"),
        "packages": ("text", "what was exchanged, or could not be, with commas"),
        "versions": ("text", f"their versions in A and in B, {_JSON}"),
        "what": ("text", "the units that were exchanged, with commas"),
        "result": ("text", "as A, as B, as neither, unresolved, or not exchangeable (without the rest of its unit)"),
        "outcome": ("text", "of the job or of the build"),
        "reason": ("text", "why it is unresolved or not exchangeable; one sentence"),
        "digest": ("text", "of the result"),
        "verdict": ("text", "the answer for the pair; one sentence"),
    }),
}  # fmt: skip
"""Every table that is written, by the name of its file."""
