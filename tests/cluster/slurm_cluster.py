"""A real Slurm on this machine: a controller and two nodes, in a folder, nothing installed.

Debian's packages are downloaded and unpacked. Munge and cgroups, which need root, are replaced by
Slurm's own plugins `auth/none` and `proctrack/linuxproc`.
"""

import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from faults.servers import until, unused_port

PACKAGES = (
    "slurmctld",
    "slurmd",
    "slurm-client",
    "slurm-wlm-basic-plugins",
    "libhwloc15",
)
HOST = socket.gethostname()
NODES = (HOST, f"{HOST}-b")  # ranks meet at the first one, which has an address
DOWN_AFTER_S = 5  # without an answer; Slurm's default is 300
# Its default is 120: a requeued job starts no earlier, when its old credential has expired.
REQUEUED_AFTER_S = 5

CONFIG = """\
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire={requeued_after_s}
PluginDir={plugins}
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
ReturnToService=2
SlurmdParameters=config_overrides
SlurmdTimeout={down_after_s}
MessageTimeout=2
TCPTimeout=1
SchedulerParameters=sched_interval=1,bf_interval=1
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
"""
NODE = "NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs=2\n"
PARTITION = "PartitionName=main Nodes=ALL Default=YES State=UP\n"


class NotAvailableError(Exception):
    """Debian's packages of Slurm cannot be downloaded."""


class SlurmCluster:
    """A running Slurm, which `stop` ends with every process that it started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "slurm.conf"
        self.programs = _unpacked(folder)
        libraries = next(self.programs.glob("usr/lib/*/slurm-wlm"))
        self.path = self.programs / "usr/bin"  # its commands
        self.user = pwd.getpwuid(os.getuid()).pw_name
        self.env = {
            "SLURM_CONF": str(self.config),
            "LD_LIBRARY_PATH": f"{libraries.parent}:{libraries}",
        }
        self.config.write_text(self._configured(libraries))
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start the controller and both nodes; return when they are idle."""
        (self.folder / "state").mkdir()
        self._start("slurmctld", "-c")
        until(lambda: self._call("scontrol", "ping").returncode == 0, what="the controller")
        for node in NODES:
            (self.folder / node).mkdir()
            # A copy for each node: what runs in it belongs to the node.
            shutil.copy(self.programs / "usr/sbin/slurmstepd-wlm", self.folder / node)
        self.recover()

    def recover(self) -> None:
        """Start the nodes that were killed; return when both are idle."""
        for node in [node for node in NODES if node not in self._daemons]:
            self.start_node(node)
        until(lambda: self.states() == dict.fromkeys(NODES, "idle"), what=f"Slurm: {self.logs()}")

    def start_node(self, node: str) -> None:
        """Start a node's daemon."""
        stepd = self.folder / node / "slurmstepd-wlm"
        self._start("slurmd", "-N", node, "-d", str(stepd), node=node)

    def kill_node(self, node: str) -> None:
        """Kill every process of a node, as a power failure would."""
        _kill({"SLURM_CONF": str(self.config), "SLURMD_NODENAME": node}, self.folder / node)
        self._daemons.pop(node).wait()

    def run(self, *command: str | Path, **options: Any) -> str:
        """Run one of Slurm's commands and return what it printed."""
        ended = self._call(*command, **options)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def _call(
        self, *command: str | Path, cwd: Path | None = None, env: Mapping[str, str] = os.environ
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(self.path / command[0]), *map(str, command[1:])],
            cwd=cwd,
            env={**env, **self.env},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    def states(self) -> dict[str, str]:
        """Return each node's state."""
        lines = self.run("sinfo", "--noheader", "--Node", "--format=%N %t").splitlines()
        return dict(line.split() for line in lines)

    def jobs(self) -> Mapping[str, str]:
        """Return the state of each pending or running job, by its number in its array."""
        lines = self.run("squeue", "--noheader", "--array", "--format=%K %T").splitlines()
        return dict(line.split() for line in lines)

    def job(self) -> str:
        """Return the number of the only job."""
        (number,) = self.run("squeue", "--noheader", "--array", "--format=%A").split()
        return number

    def node(self) -> str:
        """Return the node of the only job."""
        (node,) = self.run("squeue", "--noheader", "--format=%N").split()
        return node

    def logs(self) -> str:
        """Return the end of each daemon's log."""
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"{log.name}: {log.read_text()[-1000:]}" for log in logs)

    def stop(self) -> None:
        """End the daemons and every process of a job."""
        _kill({"SLURM_CONF": str(self.config)}, self.folder)
        for daemon in self._daemons.values():
            daemon.wait()

    def _start(self, program: str, *options: str, node: str | None = None) -> None:
        # As Slurm does for jobs.
        name = {"SLURMD_NODENAME": node} if node else {}
        self._daemons[node or program] = subprocess.Popen(
            [self.programs / f"usr/sbin/{program}-wlm", "-D", *options],
            env=os.environ | self.env | name,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _configured(self, libraries: Path) -> str:
        settings = CONFIG.format(
            folder=self.folder,
            user=self.user,
            plugins=libraries,
            controller=unused_port(),
            down_after_s=DOWN_AFTER_S,
            requeued_after_s=REQUEUED_AFTER_S,
        )
        nodes = [NODE.format(name=name, port=unused_port()) for name in NODES]
        return "".join([settings, *nodes, PARTITION])


def _kill(variables: dict[str, str], folder: Path) -> None:
    """Kill the processes that have these variables, or run a program in a folder."""

    def is_wanted(process: psutil.Process) -> bool:
        with suppress(psutil.Error):
            in_folder = Path(process.exe()).is_relative_to(folder)
            return in_folder or variables.items() <= process.environ().items()
        return False

    while processes := list(filter(is_wanted, psutil.process_iter())):
        # Stopped first: what starts a job's program would report its end to the controller.
        for signal_all in (psutil.Process.suspend, psutil.Process.kill):
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    signal_all(process)
        psutil.wait_procs(processes, timeout=1)


def _unpacked(folder: Path) -> Path:
    """Download Slurm's packages into a folder and unpack them; return the root of their files."""
    try:
        subprocess.run(
            ["apt-get", "download", *PACKAGES], cwd=folder, check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        output = getattr(error, "stderr", b"").decode().strip().splitlines()
        raise NotAvailableError(output[-1] if output else str(error)) from None
    root = folder / "root"
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, root], check=True)
    return root
