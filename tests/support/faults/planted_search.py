"""The faults that a test can plant in colbert-ai's searcher, by name; runs inside the environment under test."""

import copy

import torch


def _wrapped(owner, name, make):
    setattr(owner, name, make(getattr(owner, name)))


def _later_ties_first(sort):
    def wrapped(self, *args, **kwargs):
        if self.dim() != 1 or not self.is_floating_point() or not kwargs.get("descending"):
            return sort(self, *args, **kwargs)
        values, indices = sort(self.flip(0), stable=True, descending=True)
        return torch.return_types.sort((values, len(self) - 1 - indices))

    return wrapped


def _one_centroid_fewer(score_pids):
    def wrapped(self, config, queries, pids, centroid_scores):
        best = centroid_scores.max(-1).values
        config = copy.copy(config)
        # The first value above the lowest that is kept: one centroid fewer.
        lowest = best[best >= config.centroid_score_threshold].min()
        config.centroid_score_threshold = float(best[best > lowest].min())
        return score_pids(self, config, queries, pids, centroid_scores)

    return wrapped


def _without_the_last(generate_candidates):
    def wrapped(self, *args, **kwargs):
        pids, centroid_scores = generate_candidates(self, *args, **kwargs)
        return pids[:-1], centroid_scores

    return wrapped


def _by_one_ulp(encode):
    def wrapped(self, *args, **kwargs):
        found = encode(self, *args, **kwargs)
        return torch.nextafter(found, torch.full_like(found, float("inf")))

    return wrapped


def plant(fault, module):
    """Plant one fault; `module` is colbert-ai's `searcher`, or `index_storage` for faults of steps that run alone."""
    from colbert.search import index_storage

    scorer = index_storage.IndexScorer
    if fault == "later ties first":
        _wrapped(torch.Tensor, "sort", _later_ties_first)
    elif fault == "threshold off by one centroid":
        _wrapped(scorer, "score_pids", _one_centroid_fewer)
    elif fault == "dropped candidate":
        _wrapped(scorer, "generate_candidates", _without_the_last)
    elif fault == "scores rounded to half":
        _wrapped(index_storage, "colbert_score_packed", lambda o: lambda *a, **k: o(*a, **k).half().float())
    elif fault == "queries by one ULP":
        _wrapped(module.Searcher, "encode", _by_one_ulp)
    else:
        raise ValueError(f"no fault is named {fault!r}")
