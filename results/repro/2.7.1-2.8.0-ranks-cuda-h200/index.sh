# Two ranks against one, on a machine with two GPUs: H: harness, B and D: the options that say where environments and data are, DATA: their folder, run: runs and keeps what is printed in RES. Goes on when a command fails.
export HARNESS_JOBS=1
# the start of the key of a version's cell: key VERSION OPTIONS
key() { $H plan "$@" $D --device cuda --json | $PY -c 'import json,sys; print(json.load(sys.stdin)["cells"][0]["key"][:16])'; }
# ---- index: one rank (each on a GPU), two ranks (both GPUs), each twice
run index-1 170 $H index 2.7.1 2.8.0 --repeat 2.7.1 --repeat 2.8.0 $B $D --jobs 2
run index-2-2.7.1 170 $H index 2.7.1 --repeat 2.7.1 --nranks 2 $B $D
run index-2-2.8.0 170 $H index 2.8.0 --repeat 2.8.0 --nranks 2 $B $D
for v in 2.7.1 2.8.0; do
  run compare-repeat-$v 100 $H compare $v $v#1 --nranks 2 $D --device cuda &
  run compare-ranks-$v 100 $H compare $(key $v) $(key $v --nranks 2) &
done
run ladder-1 60 $H ladder 2.7.1 2.8.0 $D --device cuda &
run ladder-2 60 $H ladder 2.7.1 2.8.0 --nranks 2 $D --device cuda &
run index-tables-1 100 $H consecutive 2.7.1 2.8.0 $D --device cuda --output $RES/index-1 &
run index-tables-2 100 $H consecutive 2.7.1 2.8.0 --nranks 2 $D --device cuda --output $RES/index-2 &
wait
# ---- refusals: one sentence, exit code 2
run refuse-ranks 60 $H index 2.8.0 --nranks 3 $B $D &
run refuse-cpu 60 $H index 2.8.0 --nranks 2 --device cpu $D --sites $ROOT/site --site-python $PY &
run refuse-locate 60 $H locate 2.7.1 2.8.0 --nranks 2 $B $D &
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
