"""Single steps of colbert-ai's searcher, run by themselves from stored artifacts, as `steps` does for its indexer."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from harness.worker.kernels import segmented_lookup
from harness.worker.search_capture import answer_of, digest, ragged
from harness.worker.setting import Setting

Tensors = dict[str, torch.Tensor]
QUERY_BATCH = 128
"""How many queries `Searcher.encode` hands to the model together; fewer are one batch."""


def _encode_queries(setting: Setting, inputs: Tensors) -> Tensors:
    return {"Q": _encoded(setting, inputs, QUERY_BATCH)}


def _encode_each(setting: Setting, inputs: Tensors) -> Tensors:
    return {"Q_alone": _encoded(setting, inputs, 1)}


def _encoded(setting: Setting, inputs: Tensors, together: int) -> torch.Tensor:
    batches = zip(inputs["query_tokens"].split(together), inputs["query_mask"].split(together))  # noqa: B905 - Python 3.9 knows no strict
    return torch.cat([setting.model().query(ids, mask).cpu() for ids, mask in batches])


def _score_centroids(setting: Setting, inputs: Tensors) -> Tensors:
    from colbert.search.candidate_generation import CandidateGeneration

    settings = setting.cell["settings"]
    searched = SimpleNamespace(codec=_codec(setting, inputs))
    scores, cells = [], []
    for query in inputs["Q"]:
        tokens = query[: settings["query_maxlen"]]
        tokens = tokens.cuda().half() if setting.gpu else tokens
        found, of_query = CandidateGeneration.get_cells(searched, tokens, settings["ncells"])
        cells.append(found.sort().values.cpu())
        scores.append(digest(of_query))
    return {"centroid_scores": torch.stack(scores), **ragged("cells", cells)}


def _codec(setting: Setting, inputs: Tensors) -> Any:
    from colbert.indexing.codecs.residual import ResidualCodec

    return ResidualCodec(
        setting.config(), inputs["centroids"], None, inputs.get("bucket_weights"), inputs.get("bucket_weights")
    )


def _score(setting: Setting, inputs: Tensors) -> Tensors:
    """Embeddings of the passages that are left, and their scores, with the index's codes and residuals as a whole."""
    from colbert.indexing.codecs.residual_embeddings import ResidualEmbeddings
    from colbert.search.index_storage import IndexScorer, colbert_score_packed

    codec, config, doclens = _codec(setting, inputs), setting.config(), inputs["doclens"]
    offsets = torch.cat((torch.zeros(1, dtype=torch.int64), doclens.cumsum(0)))
    codes, residuals = inputs["codes"], inputs["residuals"]
    made: dict[str, list[torch.Tensor]] = {"decompressed": [], "normalized": [], "maxsim": []}
    for query, pids in zip(inputs["Q"], inputs["stage2"].split(inputs["stage2_lengths"].tolist())):  # noqa: B905 - Python 3.9 knows no strict
        lengths = doclens[pids.long()]
        if setting.gpu:
            bounds = pids, lengths, offsets[pids.long()]
            of_query = ResidualEmbeddings(segmented_lookup(codes, *bounds), segmented_lookup(residuals, *bounds))
            embeddings = codec.decompress(of_query)
        else:
            embeddings = IndexScorer.decompress_residuals(
                pids, doclens, offsets, codec.bucket_weights, codec.reversed_bit_map, codec.decompression_lookup_table,
                residuals, codes, codec.centroids, codec.dim, codec.nbits,
            )  # fmt: skip
            made["decompressed"].append(digest(embeddings))
            embeddings = torch.nn.functional.normalize(embeddings.to(torch.float32), p=2, dim=-1)
        made["normalized"].append(digest(embeddings))
        made["maxsim"].append(colbert_score_packed(query[None], embeddings, lengths, config).cpu())
    found = {name: torch.stack(rows) for name, rows in made.items() if rows and name != "maxsim"}
    return {**found, **ragged("maxsim", made["maxsim"])}


def _rank(setting: Setting, inputs: Tensors) -> Tensors:
    lengths = inputs["maxsim_lengths"].tolist()
    found = []
    for scores, pids in zip(inputs["maxsim"].split(lengths), inputs["stage2"].split(lengths)):  # noqa: B905 - Python 3.9 knows no strict
        # Where the searcher sorts: which of two equal scores comes first is the device's choice.
        ordered = (scores.cuda() if setting.gpu else scores).sort(descending=True)
        found.append((pids[ordered.indices.cpu()], ordered.values.cpu()))
    return answer_of(found, setting.cell["settings"]["k"])


STEPS: dict[str, Callable[[Any, Tensors], Tensors]] = {
    "encode queries": _encode_queries,
    "encode each query": _encode_each,
    "score centroids": _score_centroids,
    "score": _score,
    "rank": _rank,
}
