# Two ranks against one, on a machine with two GPUs: H: harness, B and D: the options that say where environments and data are, DATA: their folder, run: runs and keeps what is printed in RES. Goes on when a command fails.
export HARNESS_JOBS=1
A="--queries $DATA/queries.parquet --qrels $DATA/qrels.parquet --maxsteps 60"
TRI=/tmp/triples.jsonl; HALF=/tmp/half.jsonl
cat > /tmp/triples.py <<'P'
# Triples of the judgements, each with a passage that another query's is; and every other line of them, which is what
# colbert-ai reads on each of two ranks.
import json, sys, pyarrow.parquet as pq
rows = pq.read_table(sys.argv[3]).to_pylist()
lines = [json.dumps([r["query_id"], r["corpus_id"], rows[(n + len(rows) // 3) % len(rows)]["corpus_id"]]) + "\n"
         for n, r in enumerate(rows)][:960]
open(sys.argv[1], "w").writelines(lines)
open(sys.argv[2], "w").writelines(lines[::2])
print(len(lines), "triples")
P
run triples 60 $PY /tmp/triples.py $TRI $HALF $DATA/qrels.parquet
# the start of the key of a version's cell: key VERSION OPTIONS
key() { $H plan "$@" $D --device cuda --json | $PY -c 'import json,sys; print(json.load(sys.stdin)["cells"][0]["key"][:16])'; }
# ---- train: 16 triples a step on one rank and on two; and 8 a step of every other triple on one, as each of two has it
O="$A --triples $TRI --bsize 16"; O8="$A --triples $HALF --bsize 8"
run train-1 170 $H train 2.7.1 2.8.0 --repeat 2.7.1 --repeat 2.8.0 $B $D $O --capture digests --jobs 2
run train-2-2.7.1 170 $H train 2.7.1 --repeat 2.7.1 --nranks 2 $B $D $O --capture digests
run train-2-2.8.0 170 $H train 2.8.0 --repeat 2.8.0 --nranks 2 $B $D $O --capture digests
run train-half 170 $H train 2.7.1 2.8.0 $B $D $O8 --capture digests --jobs 2
for v in 2.7.1 2.8.0; do
  run compare-train-repeat-$v 100 $H compare $v $v#1 --job train --nranks 2 $D --device cuda $O &
  run compare-train-ranks-$v 100 $H compare $(key $v --job train $O) $(key $v --job train $O --nranks 2) &
  run compare-train-half-$v 100 $H compare $(key $v --job train $O --nranks 2) $(key $v --job train $O8) &
done
run train-ladder-1 60 $H ladder 2.7.1 2.8.0 --job train $D --device cuda $O &
run train-ladder-2 60 $H ladder 2.7.1 2.8.0 --job train --nranks 2 $D --device cuda $O &
run train-tables-1 100 $H consecutive 2.7.1 2.8.0 --job train $D --device cuda $O --output $RES/train-1 &
run train-tables-2 100 $H consecutive 2.7.1 2.8.0 --job train --nranks 2 $D --device cuda $O --output $RES/train-2 &
wait
# ---- what each cell says of its ranks: where rank 1 has the same as rank 0, and seconds
cat > /tmp/ranks.py <<'P'
import json, pathlib, os
for path in sorted(pathlib.Path(os.environ["HARNESS_HOME"], "store", "cells").glob("*/cell.json")):
    cell = json.loads(path.read_text()); spec = cell["spec"]; d = cell["details"]
    print(spec["job"], spec["version"], f"#{spec['repeat']}", "ranks", spec["settings"].get("nranks", 1), cell["outcome"],
          cell["seconds"].get("total"), "gpu", d.get("gpu", {}).get("index"), "foreign", len(d.get("foreign_processes", [])), cell["reason"])
    for one in d.get("ranks", []):
        print("   rank", one["rank"], "same:", *one["same"], "| different:", *one["different"])
P
run cells 60 $PY /tmp/ranks.py
