"""Cluster: a real Slurm cluster of several nodes on this one machine, to be tested on.

Slurm lets several slurmd run on one host when each has a name and a port of its own. Each runs here in its own UTS and
PID namespace, so that `hostname` differs and killing the namespace's init takes everything on a node down at once,
like a power failure. All listen on 127.0.0.1. It needs root on Linux and the programs of Debian's packages `slurm-wlm`
and `munge`; it needs no systemd, containers or cgroups.
"""

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "unshare", "setpriv", "pgrep")
WITH_US = ("setpriv", "--pdeathsig", "KILL")  # what this process starts ends with it, however it ends
SEARCH_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/ctld
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/spool-%n
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/%n.log
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
CommunicationParameters={binding}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_min_interval=500000
SlurmctldTimeout=30
SlurmdTimeout=15
KillWait=15
InactiveLimit=0
MinJobAge=600
MessageTimeout=10
ReturnToService=2
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
"""
NODE = "NodeName={name} NodeHostname={name} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=8192 State=UNKNOWN\n"
PARTITIONS = """
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""
# The first process of a node: it runs slurmd, reaps what jobs leave, and outlives slurmd, as jobs do.
INIT = """
hostname "$1"; trap : HUP
while :; do slurmd -D -f "$2" -N "$1" >/dev/null 2>&1 & wait $!; sleep infinity & wait $!; done
"""


def what_is_missing() -> str | None:
    """Return why no cluster can be started here, None when one can."""
    if os.geteuid() != 0:
        return "needs root, to make namespaces for the nodes"
    missing = [program for program in PROGRAMS if not shutil.which(program, path=SEARCH_PATH)]
    if missing:
        return f"needs {', '.join(missing)}: apt-get install slurm-wlm munge"
    if subprocess.run(
        ["unshare", "--uts", "--pid", "--mount-proc", "--fork", "true"], check=False
    ).returncode:
        return "needs the right to make namespaces"
    return None


class Cluster:
    """Use as a context manager: `with Cluster(folder) as cluster: cluster.submit(script)`.

    Args:
        folder: for configuration, state and logs; short, since it holds a socket.
        nodes: how many; they are called node1, node2, …
    """

    def __init__(self, folder: Path, nodes: int = 2) -> None:
        self.folder = folder
        self.port = 20000 + 10 * (
            os.getpid() % 900
        )  # the first of `nodes + 1`; below those that Linux gives away
        self.nodes = [f"node{number}" for number in range(1, nodes + 1)]
        self.conf = folder / "slurm.conf"
        self.environment = {**os.environ, "PATH": SEARCH_PATH, "SLURM_CONF": str(self.conf)}
        self.inits: dict[str, subprocess.Popen] = {}
        self.daemons: list[subprocess.Popen] = []

    # ---- the daemons

    def __enter__(self) -> "Cluster":
        self._write()
        socket_path, key = self.folder / "munge.socket", self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        options = [f"--socket={socket_path}", f"--key-file={key}", f"--pid-file={self.folder}/munge.pid"]
        options += [f"--seed-file={self.folder}/munge.seed", f"--log-file={self.folder}/munge.log"]
        try:
            self._daemon("munged", "--foreground", "--force", *options)
            self.wait(socket_path.exists, 20, "munged makes its socket")
            self._daemon("slurmctld", "-D", "-f", str(self.conf))
            for node in self.nodes:
                self.boot(node)
            self.wait(self.is_ready, 60, "all nodes are ready")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for daemon in reversed(
            self.daemons
        ):  # the controller before the nodes, lest it requeue what they lose
            daemon.kill()
            daemon.wait()
        for node in list(self.inits):
            self.crash(node)
        self._write_hosts([])

    def _write(self) -> None:
        for name in ("ctld", *(f"spool-{node}" for node in self.nodes)):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        host = socket.gethostname()
        try:
            is_local = socket.gethostbyname(host) == "127.0.0.1"
        except OSError:
            is_local = False
        binding = "NoCtldInAddrAny,NoInAddrAny" if is_local else "NoCtldInAddrAny"
        text = CONF.format(host=host, port=self.port, folder=self.folder, binding=binding)
        for number, name in enumerate(self.nodes, 1):
            text += NODE.format(name=name, port=self.port + number)
        self.conf.write_text(text + PARTITIONS)
        self._write_hosts(self.nodes)

    def _write_hosts(self, nodes: list[str]) -> None:
        """Let the nodes' names be found: a job takes one as its MASTER_ADDR. In place, for it may be a mount."""
        hosts, mark = Path("/etc/hosts"), f"# {self.folder}"
        lines = [line for line in hosts.read_text().splitlines() if not line.endswith(mark)]
        hosts.write_text("\n".join([*lines, *(f"127.0.0.1 {node} {mark}" for node in nodes)]) + "\n")

    def _daemon(self, *command: str) -> None:
        log = open(self.folder / f"{command[0]}.out", "ab")  # noqa: SIM115, it outlives this call
        self.daemons.append(
            subprocess.Popen(
                [*WITH_US, *command], env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        )

    def is_ready(self) -> bool:
        """Whether all nodes answer and take jobs; sets those to work again that Slurm gave up."""
        found = self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%N %T", check=False).split("\n")
        states = dict(line.split() for line in found if " " in line)
        for node, state in states.items():
            if state.rstrip("*") in ("down", "drained"):
                self.run("scontrol", "update", f"NodeName={node}", "State=RESUME", check=False)
        working = ("idle", "mixed", "allocated", "completing")
        return len(states) == len(self.nodes) and all(state in working for state in states.values())

    # ---- nodes

    def boot(self, node: str) -> None:
        """Switch a node on."""
        space = ["unshare", "--uts", "--pid", "--mount-proc", "--fork", "--kill-child"]
        self.inits[node] = subprocess.Popen(
            [*WITH_US, *space, "bash", "-c", INIT, "init", node, str(self.conf)],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def crash(self, node: str) -> None:
        """Take a node down with all that runs on it, as a power failure does."""
        init = self.inits.pop(node)
        init.kill()
        init.wait()

    def processes(self, node: str, pattern: str = "") -> list[int]:
        """Return the processes on a node whose command line holds a pattern, as seen from outside."""
        init = int(self.run("pgrep", "-P", str(self.inits[node].pid)).split()[0])
        space = os.readlink(f"/proc/{init}/ns/pid")
        return [pid for pid in _pids_in(space) if pid != init and re.search(pattern, _command_line(pid))]

    def signal(self, number: signal.Signals, node: str, pattern: str = "") -> None:
        """Send a signal to processes of a node."""
        pids = self.processes(node, pattern)
        assert pids, f"nothing on {node} matches {pattern!r}"
        for pid in pids:
            os.kill(pid, number)

    # ---- jobs

    def run(self, *command: str, check: bool = True) -> str:
        """Run one of Slurm's commands and return what it prints."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, timeout=60
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout

    def submit(self, *arguments: str, **variables: str) -> str:
        """Submit a batch script, with variables of its environment, and return the job's number."""
        exported = ",".join(["ALL", *(f"{name}={value}" for name, value in variables.items())])
        return self.run("sbatch", "--parsable", f"--export={exported}", *arguments).strip()

    def show(self, job: str) -> dict[str, str]:
        """Return what Slurm knows of a job, by field."""
        return dict(re.findall(r"(\w+)=(\S*)", self.run("scontrol", "show", "job", job)))

    def hurry(self, job: str) -> None:
        """Let a requeued job begin: Slurm holds it for two minutes.

        A node refuses to start a job again in the second in which it ended it, hence the pause.
        """
        time.sleep(2)
        self.run("scontrol", "update", f"JobId={job}", "StartTime=now", check=False)

    def finish(self, job: str, seconds: float) -> dict[str, str]:
        """Wait until a job has ended for good, hurrying it whenever it was requeued."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            about = self.show(job)
            if about["JobState"] == "PENDING" and about["Reason"] == "BeginTime":
                self.hurry(job)
            elif about["JobState"] not in (
                "PENDING",
                "RUNNING",
                "COMPLETING",
                "CONFIGURING",
                "REQUEUED",
                "PREEMPTED",
            ):
                return about
            time.sleep(0.5)
        raise TimeoutError(f"job {job} did not end within {seconds} s: {self.show(job)}")

    @staticmethod
    def wait(holds: Callable[[], object], seconds: float, what: str, every_s: float = 0.1) -> None:
        """Wait until something holds, looking every so often.

        Raises:
            TimeoutError: when it does not.
        """
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {seconds} s until {what}")
            time.sleep(every_s)


def _pids_in(space: str) -> Iterator[int]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(folder / "ns/pid") == space:
                yield int(folder.name)
        except OSError:
            continue  # it ended meanwhile


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


if __name__ == "__main__":
    with Cluster(Path("/tmp/slurm-test"), nodes=int(sys.argv[1]) if sys.argv[1:] else 2) as by_hand:
        print(f"export SLURM_CONF={by_hand.conf}    # Ctrl-C ends the cluster")
        signal.pause()
