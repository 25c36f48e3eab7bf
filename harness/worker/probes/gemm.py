"""Matrix products of the job's own shapes, in float32, float16 and under autocast."""

from __future__ import annotations

from harness.worker.probes.bench import FULL, MIXED, Bench


def _products(bench: Bench) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Name to the shapes of the two factors."""
    found: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    for linear in bench.linears().values():
        inner, outer = linear.in_features, linear.out_features
        for batch in (1, 8, 32):
            found[f"Linear {inner} to {outer}, batch {batch}"] = ((batch * bench.length, inner), (inner, outer))
    config = bench.model().config
    heads = int(getattr(config, "num_attention_heads", 12))
    width = int(getattr(config, "hidden_size", 768)) // heads
    length = bench.length
    for batch in (1, 8):
        found[f"attention scores, batch {batch}"] = ((batch * heads, length, width), (batch * heads, width, length))
        found[f"attention context, batch {batch}"] = ((batch * heads, length, length), (batch * heads, length, width))
    dim = int(bench.setting.cell["settings"]["dim"])
    found["codes: centroids by embeddings"] = ((1024, dim), (dim, 1500))
    found["k-means: embeddings by centroids"] = ((4000, dim), (dim, 256))
    return found


def run(bench: Bench) -> None:
    """Multiply seeded matrices; for codes, also the best centroid of each embedding."""
    device = bench.device
    kinds = ["float32", "float16", "autocast"] if bench.setting.gpu else ["float32", "float16"]
    for kind in kinds:
        for name, (left, right) in _products(bench).items():
            # On a CPU float16 products run slowly or not at all, and the job never asks for them.
            if kind == "float16" and device == "cpu" and (len(left) > 2 or left[0] > 64):
                continue
            with bench.case(f"{kind} {name}") as case:
                a, b = bench.normal(f"{name} left", *left).to(device), bench.normal(f"{name} right", *right).to(device)
                if kind == "float16":
                    a, b = a.half(), b.half()
                with bench.precisions()[MIXED if kind == "autocast" else FULL]():
                    found = a @ b
                case.put("product", found)
                if name.startswith("codes"):
                    case.put("best centroid", found.max(dim=0).indices)
