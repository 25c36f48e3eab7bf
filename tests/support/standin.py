"""A whole sweep with a stand-in for the job: the command line, site folders and an interpreter that runs a few lines.

The job makes a small index that depends on its version only, so that tables are the same however they came about.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.checkpoints import write_checkpoint
from tests.support.fake_worker import fake_interpreter, script_of
from tests.support.small_index import index_arrays, write_index

VERSIONS = ("2.6.0", "2.7.0", "2.7.1", "2.8.0")
PASSAGES = "".join(
    f'{{"text": "Passage {n} of a collection that is just large enough to be clustered"}}\n' for n in "12"
)
"""A JSON lines file with two passages, which a job is not refused for."""
_HEAD = """
import struct
version = os.environ["PYTHONPATH"].rsplit("/", 1)[1]
def index():
    if cell["job"] == "search":
        search()
    elif cell["job"] == "train":
        return train()
    else:
        shutil.copytree(made / version, out / "index")
    return {}
def save(name, dtype, shape, data):
    header = json.dumps({"tensor": {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}}).encode()
    (out / "intermediates").mkdir(exist_ok=True)
    file = out / "intermediates" / f"{name}.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + data)
def search():
    # The last passages first; what a passage scores is in the index.
    lines, k = pathlib.Path(cell["queries"]).read_text().splitlines(), cell["settings"]["k"]
    queries = [json.loads(line) for line in lines]
    passages = sum(len(json.loads(p.read_text())) for p in pathlib.Path(cell["index"]).glob("doclens.*.json"))
    raw = (pathlib.Path(cell["index"]) / "centroids.safetensors").read_bytes()
    for query in queries:
        assert set(query) == {"qid", "text"}
    pids = [passages - 1 - rank for rank in range(k)] * len(queries)
    save("pids", "I32", [len(queries), k], struct.pack(f"<{len(pids)}i", *pids))
    save("scores", "F32", [len(queries), k], struct.pack(f"<{len(pids)}f", *[9.5 - n % k for n in range(len(pids))]))
    save("found", "I64", [len(queries)], struct.pack(f"<{len(queries)}q", *[k] * len(queries)))
    save("centroid_scores", "U8", [len(queries), 4], raw[-4:] * len(queries))
def train():
    # Of two parameters the first has another gradient in step 1, by the version; so the weights differ from there on.
    asked, kind = cell["settings"], {"2.6.0": 0, "2.7.0": 1}.get(version, 2)
    lines, *rows = (pathlib.Path(cell[name]).read_text().splitlines() for name in ("triples", "queries", "passages"))
    lines, rows = [json.loads(line) for line in lines], [len(one) for one in rows]
    steps, triples = asked["maxsteps"], asked["maxsteps"] * asked["bsize"]
    assert len(lines) == triples
    for query, *passages in lines:
        assert query in range(rows[0]) and all(pid in range(rows[1]) for pid in passages)
        assert len(passages) == asked["nway"]
    batch = struct.pack(f"<{triples * (1 + asked['nway'])}q", *[one for line in lines for one in line])
    save("batch", "I64", [steps, asked["bsize"], 1 + asked["nway"]], batch)
    loss = [[1.0 + (kind if step > 1 else 0)] * asked["accumsteps"] for step in range(steps)]
    save("loss", "F32", [steps, asked["accumsteps"]], b"".join(struct.pack(f"<{len(one)}f", *one) for one in loss))
    for name, late in (("gradients", 1), ("weights", 1), ("scores", 2)):
        other = [100 * kind if step >= late else 0 for step in range(steps)]
        table = [one for step in range(steps) for one in (step + other[step], step, step, step)]
        save(name, "I64", [steps, 2, 2], struct.pack(f"<{len(table)}q", *table))
    save("trained", "F32", [16 * 8 + 2 * 3], struct.pack("<134f", *[1.0] * 128, *[2.0 + kind] * 6))
    listed = (("linear.weight", [16, 8], 0), ("bert.x", [2, 3], 128))
    return {"parameters": [dict(zip(("name", "shape", "offset"), one)) for one in listed], "steps": steps}
def ran(text=""):
    with open(made / "ran", "a") as file:
        file.write(f"{cell['key']} {version} {os.getpid()} {text}\\n")
"""
WELL = (
    "ran(); phase('import'); time.sleep(SECONDS); phase('encode'); told = index(); phase('finalize'); result(**told)\n"
)


def make_inputs(folder: Path) -> list[str]:
    """Options of a small collection and a checkpoint."""
    (folder / "good.jsonl").write_text(PASSAGES)
    checkpoint = write_checkpoint(folder / "ck")
    return ["--collection", str(folder / "good.jsonl"), "--checkpoint", str(checkpoint), "--threads", "1"]


def make_sites(folder: Path, body: str = WELL, seconds: float = 0.3) -> list[str]:
    """Options that name site folders of `VERSIONS` and an interpreter that runs `body` there; `folder` gets `ran`."""
    fake = fake_interpreter(folder, _HEAD + body.replace("SECONDS", str(seconds)))
    for number, version in enumerate(VERSIONS):
        (folder / "sites" / version / "torch").mkdir(parents=True)
        # The last two versions make the same.
        # As many dimensions as the checkpoint says.
        arrays = index_arrays(dim=16)
        arrays["centroids"] = index_arrays(seed=min(number, 2), dim=16)["centroids"]
        write_index(folder / version, arrays)
    return ["--sites", str(folder / "sites"), "--site-python", str(fake.python)]


def stand_in(made: Path, *, turned: bool = False, version: str = "index") -> str:
    """The lines of a job that does what a version's does: its index is `made/VERSION`.

    `turned` finds the passages the other way round.
    """
    head = _HEAD.replace('os.environ["PYTHONPATH"].rsplit("/", 1)[1]', repr(version))
    head = head.replace("passages - 1 - rank", "rank") if turned else head
    return script_of(made, head + WELL.replace("SECONDS", "0"))


def ran(folder: Path) -> list[str]:
    """Versions whose job was started, in order."""
    path = folder / "ran"
    return [line.split()[1] for line in path.read_text().splitlines()] if path.exists() else []


def harness_program(*patches: str) -> list[str]:
    """An interpreter's command line that runs `harness` with some lines of Python before it."""
    return [
        sys.executable,
        "-c",
        "\n".join(["import sys", *patches, "from harness import cli", "cli.main(sys.argv[1:])"]),
    ]
