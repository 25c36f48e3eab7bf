"""A real Slurm of one node with pretended GPUs, on loopback and in one folder: slurmctld, slurmd and munged of our own.

Nothing of a Slurm that is installed on the machine is read or changed: `SLURM_CONF` names our configuration, and munged
has a key and a socket of its own. Debian: `apt-get install slurm-wlm munge`. Runs as root or not, without systemd.
Accounting is off, as it is on small clusters.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "scontrol", "scancel")
GPU_FILES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random")


def program(name: str) -> str | None:
    """Path of a program; daemons are in sbin, which is not on everybody's PATH."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))


def missing() -> str:
    """Why no cluster can be started here; empty where one can."""
    absent = [name for name in PROGRAMS if program(name) is None]
    return f"Slurm is not installed (no {', '.join(absent)}): apt-get install slurm-wlm munge" if absent else ""


def wait_for(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Wait until `condition` holds.

    Raises:
        TimeoutError: it did not within `seconds`.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    """Ports that nobody has, below those that the kernel gives to others by itself before we take them."""
    ports: list[int] = []
    for port in random.sample(range(10_000, 32_000), 2000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            ports.append(port)
        if len(ports) == count:
            break
    return ports


class SlurmCluster:
    """One node with as many CPUs as are asked for (pretended, like the GPUs).

    Args:
        folder: for configuration, state and logs; its path must be short enough for a Unix socket (108 bytes).
        gpus: pretended GPUs, at most 4.
        cpus: pretended CPUs, so that jobs run beside each other on a machine with few.
    """

    def __init__(self, folder: Path, gpus: int = 2, cpus: int = 8) -> None:
        self.folder = folder
        self.gpus, self.cpus = gpus, cpus
        self.conf = folder / "etc" / "slurm.conf"
        # A variable of a job that these tests run in, or of another cluster, would name the wrong controller.
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH"))}
        self.environment = {**clean, "SLURM_CONF": str(self.conf)}
        # A socket's path is limited to 108 bytes, which a test's temporary folder may exceed.
        self._run = Path(f"/tmp/harness-munge-{os.getpid()}-{id(self)}")
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    # ---- up and down

    def start(self) -> SlurmCluster:
        """Start everything; about three seconds."""
        for name in ("etc", "ctld", "d"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._run.mkdir(mode=0o755)
        self._write_configuration()
        self._start_munge()
        self.start_controller()
        self.start_node()
        wait_for(lambda: "idle" in self.command("sinfo", "-h", "-o", "%T"), 180, "the node to be idle")
        return self

    def _write_configuration(self) -> None:
        host, user = socket.gethostname().split(".")[0], getpass.getuser()
        controller_port, node_port = _free_ports(2)
        lines = f"""
            ClusterName=harness
            SlurmctldHost={host}(127.0.0.1)
            SlurmctldPort={controller_port}
            SlurmdPort={node_port}
            AuthType=auth/munge
            AuthInfo=socket={self._run}/socket,cred_expire=5
            CredType=cred/munge
            SlurmUser={user}
            SlurmdUser={user}
            StateSaveLocation={self.folder}/ctld
            SlurmdSpoolDir={self.folder}/d
            SlurmctldPidFile={self.folder}/ctld.pid
            SlurmdPidFile={self.folder}/d.pid
            SlurmctldLogFile={self.folder}/ctld.log
            SlurmdLogFile={self.folder}/d.log
            ProctrackType=proctrack/linuxproc
            TaskPlugin=task/none
            SwitchType=switch/none
            MpiDefault=none
            SelectType=select/cons_tres
            SelectTypeParameters=CR_Core
            SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=1,bf_interval=1
            BatchStartTimeout=1
            SlurmdParameters=config_overrides
            GresTypes=gpu
            ReturnToService=2
            KillWait=3
            SlurmdTimeout=60
            JobAcctGatherType=jobacct_gather/none
            NodeName={host} NodeAddr=127.0.0.1 CPUs={self.cpus} RealMemory=8000 Gres=gpu:{self.gpus} State=UNKNOWN
            PreemptType=preempt/partition_prio
            PreemptMode=REQUEUE
            PartitionName=gpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP
            PartitionName=urgent Nodes=ALL PriorityTier=10 MaxTime=INFINITE State=UP
            PartitionName=short Nodes=ALL MaxTime=1 State=UP
        """
        self.conf.write_text("\n".join(line.strip() for line in lines.strip().splitlines()) + "\n")
        gres = (f"NodeName={host} Name=gpu File={file}\n" for file in GPU_FILES[: self.gpus])
        (self.conf.parent / "gres.conf").write_text("".join(gres))

    def _start_munge(self) -> None:
        key = self._run / "key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [f"--{option}={self._run / name}" for option, name in files.items()]
        self._daemons["munged"] = self._spawn("munged", "--foreground", "--force", *options)
        wait_for((self._run / "socket").exists, 180, "munged's socket")

    def _spawn(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        path = program(name)
        assert path is not None
        with (self.folder / f"{name}.out").open("ab") as out:
            return subprocess.Popen(
                [path, *arguments], env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                start_new_session=True,
            )  # fmt: skip

    def start_controller(self) -> None:
        """Start slurmctld, which reads the state that an earlier one saved."""
        self._daemons["slurmctld"] = self._spawn("slurmctld", "-D", "-f", str(self.conf))

    def start_node(self) -> None:
        """Start slurmd."""
        self._daemons["slurmd"] = self._spawn("slurmd", "-D", "-f", str(self.conf))

    def stop_controller(self) -> None:
        """SIGTERM, after which slurmctld saves its state."""
        self._end("slurmctld", signal.SIGTERM)

    def kill_node(self) -> None:
        """Kill -9 slurmd; a job goes on without it."""
        self._end("slurmd", signal.SIGKILL)

    def _end(self, name: str, number: int) -> None:
        process = self._daemons.pop(name, None)
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def stop(self) -> None:
        """Cancel all jobs, and end everything that was started."""
        if {"slurmctld", "slurmd"} <= set(self._daemons):
            self.command("scancel", "--signal=KILL", "--full", *self.jobs(), check=False)
            self.command("scancel", *self.jobs(), check=False)
            with contextlib.suppress(TimeoutError):
                wait_for(lambda: not self.jobs(), 60, "the last jobs to end")
        for name in ("slurmd", "slurmctld", "munged"):
            self._end(name, signal.SIGTERM)
        shutil.rmtree(self._run, ignore_errors=True)

    def __enter__(self) -> SlurmCluster:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_: object) -> None:
        self.stop()

    # ---- asking

    def command(self, *arguments: str, check: bool = True) -> str:
        """What a Slurm command prints."""
        done = subprocess.run(arguments, env=self.environment, capture_output=True, text=True, timeout=180, check=False)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def jobs(self, *states: str) -> list[str]:
        """Ids of jobs that have not ended, such as `12_3`; only those in `states` where some are given."""
        asked = ["-t", ",".join(states)] if states else []
        return self.command("squeue", "-h", "-r", "-o", "%i", *asked, check=False).split()
