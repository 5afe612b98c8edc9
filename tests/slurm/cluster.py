"""A real SLURM on this machine, without systemd, on the loopback alone: two virtual nodes, fake GPUs, accounting.

`python -m tests.slurm.cluster up ROOT` starts one and prints what to export; `down ROOT` stops it. ROOT holds all of
it: configuration, key, sockets, spool, logs, database. As root each node has a name of its own (n1, n2); only marked
lines of /etc/hosts are outside ROOT, and gone after `down`. Needs what install.sh installs.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.slurm.settings import DBD_CONF, SLURM_CONF, gpu_lines

NEEDED = ("slurmctld", "slurmd", "munged", "slurmdbd", "mariadbd", "mariadb", "mariadb-install-db", "sbatch")
NODES = ("n1", "n2")
LIMIT_SECONDS = 60.0
HOSTS = Path("/etc/hosts")
SMALL = (  # of a database that nobody will read again
    *("--innodb-log-file-size=4M", "--innodb-doublewrite=0", "--innodb-flush-method=nosync"),
    *("--innodb-flush-log-at-trx-commit=0", "--innodb-temp-data-file-path=ibtmp1:4M:autoextend"),
)


def obstacle() -> str | None:
    """Why there can be no cluster here, None where there can."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    if absent := [name for name in NEEDED if shutil.which(name, path=path) is None]:
        return f"SLURM is not installed (no {', '.join(absent)}): tests/slurm/install.sh does that"
    host = socket.gethostname()
    if os.getuid() and (_address(host), *map(_address, NODES)) != ("127.0.0.1",) * (1 + len(NODES)):
        return f"{host}, {' and '.join(NODES)} must be 127.0.0.1 in /etc/hosts, which root alone can write"
    return None


@dataclass(frozen=True)
class Cluster:
    """One cluster under `root`, whose path is short: sockets lie in it. Ports from `port` on are its own."""

    root: Path
    port: int = 16817

    @property
    def conf(self) -> Path:
        return self.root / "slurm.conf"

    @property
    def environment(self) -> dict[str, str]:
        """Ours, with this cluster found in it."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        return {**kept, "SLURM_CONF": str(self.conf), "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}

    def start(self) -> None:
        """Returns once every node is idle; RuntimeError with the last log lines where that does not happen."""
        self.root.mkdir(parents=True)
        for name in ("run", "log", "state", "spool", "dev", "db"):
            (self.root / name).mkdir()
        self._write_hosts()
        try:
            self._start_munge()
            self._write_settings()
            self._start_accounting()
            self.start_controller()
            for node in NODES:
                self.start_node(node)
            self._until(lambda: self.states() == dict.fromkeys(NODES, "idle"), "idle nodes")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the jobs, then the daemons, then whatever of ours is left; remove everything."""
        if self._alive("slurmctld"):
            self.call("scancel", "--full", "--signal=KILL", "--state=RUNNING", check=False)
            self.call("scancel", f"--user={os.getuid()}", check=False)
            self._wait(lambda: not self.call("squeue", "-h", check=False).stdout.strip(), 5.0)
        for name in (*(f"slurmd.{node}" for node in NODES), "slurmctld"):
            self.kill(name, signal.SIGTERM)
        for pid in self._leftovers():
            os.kill(pid, signal.SIGKILL)
        for name in ("slurmdbd", "mariadb", "munged"):
            self.kill(name, signal.SIGKILL)
        if os.getuid() == 0:
            lines = HOSTS.read_text().splitlines(keepends=True)
            HOSTS.write_text("".join(line for line in lines if not line.endswith(f"{self._mark}\n")))
        shutil.rmtree(self._database.resolve(), ignore_errors=True)
        shutil.rmtree(self.root, ignore_errors=True)

    def call(self, *command: str, check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """A command of SLURM's, or any other, on this cluster."""
        result = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=timeout)
        if check and result.returncode:
            raise RuntimeError(f"{' '.join(command)}: {result.returncode}: {result.stdout}{result.stderr}")
        return result

    def states(self) -> dict[str, str]:
        """What each node is, as sinfo says."""
        out = self.call("sinfo", "-h", "-N", "-p", "main", "-o", "%N %t", check=False).stdout
        return dict(line.split() for line in out.splitlines())

    def start_controller(self) -> None:
        """Start slurmctld, which takes up the state that an earlier one left."""
        self.call("slurmctld", "-f", str(self.conf))
        self._until(lambda: self.call("scontrol", "ping", check=False).returncode == 0, "slurmctld")

    def start_node(self, node: str) -> None:
        """Start the slurmd of one node, with a host name of its own where that is allowed."""
        (self.root / "spool" / node).mkdir(exist_ok=True)
        slurmd = ["slurmd", "-f", str(self.conf), "-N", node]
        own_name = ["unshare", "--uts", "sh", "-c", f'hostname {node}; exec "$@"', "sh"] if _may_unshare() else []
        self.call(*own_name, *slurmd)

    def kill(self, daemon: str, number: int) -> None:
        """Send a signal to the daemon that wrote run/DAEMON.pid, and return once it is gone."""
        file = self.root / "run" / f"{daemon}.pid"
        pid = _pid(file)
        if pid is None or not _is(pid, daemon.partition(".")[0]):
            return
        os.kill(pid, number)
        if not self._wait(lambda: _gone(pid), 20.0):
            os.kill(pid, signal.SIGKILL)
            self._wait(lambda: _gone(pid), 5.0)
        file.unlink(missing_ok=True)

    @property
    def _database(self) -> Path:
        return self.root / "db"

    @property
    def _mark(self) -> str:
        return f"# tests.slurm {self.root}"

    @property
    def _socket(self) -> Path:
        return self.root / "run" / "munge.socket"

    def _write_hosts(self) -> None:
        """Every daemon binds to what its host name resolves to: the loopback."""
        own = socket.gethostname()
        names = [*NODES, *([own] if _address(own) != "127.0.0.1" else [])]  # of the nodes always: others' lines may go
        if os.getuid() == 0:  # in place: it may be a mount of its own in a container; the first line wins
            lines = "".join(f"127.0.0.1 {name} {self._mark}\n" for name in names)
            HOSTS.write_text(lines + HOSTS.read_text())

    def _start_munge(self) -> None:
        key = self.root / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(128))
        run, log = self.root / "run", self.root / "log"
        files = [f"--key-file={key}", f"--socket={self._socket}", f"--pid-file={run / 'munged.pid'}"]
        files += [f"--seed-file={run / 'munge.seed'}", f"--log-file={log / 'munged.log'}"]
        self.call("munged", *files, "--num-threads=2", "--origin=127.0.0.1", "--force")  # the parents may be writable

    def _write_settings(self) -> None:
        host = socket.gethostname()
        values: dict[str, object] = {"root": self.root, "host": host, "user": _user(), "socket": self._socket}
        values |= {"port": self.port, "dbd_port": self.port + 1, "port_1": self.port + 11, "port_2": self.port + 12}
        self.conf.write_text(SLURM_CONF.format(**values, first=int(time.time()) % 10_000_000 + 1000))
        (self.root / "gres.conf").write_text(gpu_lines(self.root / "dev"))
        dbd = self.root / "slurmdbd.conf"
        dbd.touch(0o600)
        dbd.write_text(DBD_CONF.format(**values))

    def _start_accounting(self) -> None:
        data, sock = self._database, self.root / "run" / "mariadb.sock"
        if os.access("/dev/shm", os.W_OK):  # no disk to wait for
            data.rmdir()
            shm = Path("/dev/shm") / f"trigscale-slurm-{self.port}-{os.getuid()}"
            shutil.rmtree(shm, ignore_errors=True)
            shm.mkdir(0o700)
            data.symlink_to(shm)
        own = ["--no-defaults", f"--datadir={data}/", f"--user={_user()}"]
        fresh = ["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"]
        self.call("mariadb-install-db", *own, *fresh, *SMALL)
        files = [f"--socket={sock}", f"--pid-file={self.root / 'run' / 'mariadb.pid'}"]
        files += [f"--log-error={self.root / 'log' / 'mariadb.log'}"]
        small = ["--skip-networking", "--innodb-buffer-pool-size=32M", "--innodb-lock-wait-timeout=900"]
        small += ["--performance-schema=OFF", "--skip-log-bin", *SMALL]
        quiet = subprocess.DEVNULL
        subprocess.Popen(
            ["mariadbd", *own, *files, *small],
            env=self.environment,
            stdin=quiet,
            stdout=quiet,
            stderr=quiet,
            start_new_session=True,
        )
        ask = ["mariadb", "--no-defaults", "-S", str(sock), "-u", "root", "-e"]
        self._until(lambda: self.call(*ask, "select 1", check=False).returncode == 0, "mariadbd")
        self.call(*ask, "create database slurm_acct")
        # libmariadb takes "localhost" for this socket.
        self.call("env", f"MYSQL_UNIX_PORT={sock}", "slurmdbd")
        asked = ("timeout", "5", "sacctmgr", "-n", "list", "cluster")
        self._until(lambda: self.call(*asked, check=False).returncode == 0, "slurmdbd")

    def _leftovers(self) -> list[int]:
        """Processes of jobs, and slurmstepd, that outlived their daemons: their environment names our slurm.conf."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                variables = (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            ours = f"SLURM_CONF={self.conf}".encode() in variables
            job = any(each.startswith(b"SLURM_JOB_ID=") for each in variables)
            if ours and (job or _is(int(folder.name), "slurmstepd")) and int(folder.name) != os.getpid():
                found.append(int(folder.name))
        return found

    def _alive(self, daemon: str) -> bool:
        pid = _pid(self.root / "run" / f"{daemon}.pid")
        return pid is not None and not _gone(pid)

    def _until(self, true: Callable[[], bool], what: str) -> None:
        if not self._wait(true, LIMIT_SECONDS):
            logs = sorted((self.root / "log").glob("*.log"))
            tails = [f"{log.name}:\n" + "\n".join(log.read_text().splitlines()[-8:]) for log in logs]
            raise RuntimeError("\n".join([f"no {what} after {LIMIT_SECONDS:.0f} s", *tails]))

    def _wait(self, true: Callable[[], bool], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not true():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True


def _pid(file: Path) -> int | None:
    text = file.read_text().strip() if file.exists() else ""
    return int(text) if text.isdigit() else None


def _is(pid: int, program: str) -> bool:
    try:
        return program in Path(f"/proc/{pid}/exe").readlink().name
    except OSError:
        return False


def _gone(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] in "ZX"


def _address(name: str) -> str | None:
    try:
        return socket.gethostbyname(name)
    except OSError:
        return None


def _may_unshare() -> bool:
    return os.getuid() == 0 and subprocess.run(["unshare", "--uts", "true"], capture_output=True).returncode == 0


def _user() -> str:
    return subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()


def main(arguments: Sequence[str]) -> None:
    cluster = Cluster(Path(arguments[1]).absolute())
    if arguments[0] == "down":
        cluster.stop()
        return
    cluster.start()
    print(f"export SLURM_CONF={cluster.conf} PATH=$PATH:/usr/sbin:/sbin")


if __name__ == "__main__":
    main(sys.argv[1:])
