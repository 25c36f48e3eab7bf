"""Command lines that `--help` shows, a few for each command; a test parses every one."""

from __future__ import annotations

_DATA = "--collection passages.parquet --checkpoint CHECKPOINT"

EXAMPLES = {
    "quickstart": ("quickstart",),
    "plan": ("plan", "plan 2.7.1 2.8.0 --collection embedded --checkpoint embedded"),
    "index": (f"index 2.8.0 {_DATA}", "index mine=.venv --collection embedded --checkpoint embedded"),
    "search": ("search 2.8.0", "search 2.8.0 --on 2.7.1", "search 2.7.1 2.8.0 --deployments"),
    "train": ("train 2.7.1 2.8.0 --maxsteps 50",),
    "upgrade": (f"upgrade old.txt .venv-new {_DATA} --queries queries.tsv", "upgrade 2.7.1 2.8.0 --index /srv/index"),
    "fingerprint": ("fingerprint take INDEX --env .venv", "fingerprint check INDEX --env .venv-new"),
    "compare": ("compare OLD_INDEX NEW_INDEX", "compare 2.7.1 2.8.0", "compare OLD_INDEX NEW_INDEX --json"),
    "ladder": ("ladder INDEX_1 INDEX_2 INDEX_3", "ladder 2.7.0 2.7.1 2.8.0"),
    "all-pairs": ("all-pairs", "all-pairs --collection embedded"),
    "consecutive": ("consecutive", "consecutive 2.7.1 2.8.0 --markdown"),
    "headlines": ("headlines TABLES_OF_ONE_SWEEP TABLES_OF_ANOTHER",),
    "report": ("report TABLES", "report TABLES_ON_A_CPU TABLES_ON_A_GPU --output report.html"),
    "plot": ("plot TABLES --output plots",),
    "renew": ("renew results",),
    "rankings": ("rankings A.run B.run --qrels JUDGED", "rankings 2.7.1 '2.8.0 on 2.7.1'"),
    "locate": ("locate 2.7.1 2.8.0", "locate 2.7.1 2.8.0 --repro SCRIPTS"),
    "swap": ("swap 2.4.1 2.5.0 local_sample_embs",),
    "blame": ("blame 2.7.1 2.8.0",),
    "bisect": ("bisect 2.7.1 2.8.0 --index nightly=URL",),
    "probe": ("probe 2.8.0",),
    "probes": ("probes 2.7.1 2.8.0",),
    "pack": ("pack environments.tar 2.7.1 2.8.0",),
    "doctor": ("doctor", "doctor --env .venv"),
    "versions": ("versions", "versions --add"),
    "lock": ("lock 2.8.0", "lock --diff 2.7.1 2.8.0"),
    "sweep": ("sweep", "sweep 2.7.0 2.7.1 2.8.0 --evict", "sweep --executor slurm --partition gpu"),
    "nightly": ("nightly NIGHTS",),
    "store": ("store list", "store verify --quick"),
    "export": ("export 2.8.0 INDEX",),
    "schema": ("schema",),
    "init": ("init", "init FOLDER"),
    "completion": ("completion", "completion zsh --show"),
}
"""Command to its command lines, without `harness` before them."""
