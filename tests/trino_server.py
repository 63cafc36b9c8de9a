"""A real Trino on loopback: fetched by its Maven coordinates, kept in the user's cache, ended with the tests."""

import os
import re
import shutil
import signal
import socket
import subprocess
import tarfile
import time
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

# the release, and the Java that it asks for, at least
RELEASE, JAVA = "476", 24
PLUGINS = {"delta-lake"}
FETCH_S = 900
START_S = 180


class Unavailable(Exception):
    """There is no Trino here; says what is missing and what would help."""


@dataclass(frozen=True)
class Server:
    """A server that answers: where it listens, and the folder below which it reads and writes."""

    port: int
    base: Path

    def location(self, folder: str | Path) -> str:
        """How the server calls a folder below the base."""
        return f"local:///{Path(folder).relative_to(self.base)}"


@contextmanager
def started(base: Path):
    """A server that reads and writes below `base`, until the block ends.

    Raises Unavailable: no Java that fits, no Maven, or the server cannot be fetched.
    """
    java, home = newest_java(), fetch()
    etc, port = base / "trino" / "etc", _free_port()
    _configure(etc, base, port)
    log = base / "trino" / "server.log"
    command = [
        java,
        "-Xmx2G",
        "-XX:+UseG1GC",
        "-XX:+ExitOnOutOfMemoryError",
        "-Dfile.encoding=UTF-8",
        "--enable-native-access=ALL-UNNAMED",
        "--sun-misc-unsafe-memory-access=allow",
        "-Dnode.environment=test",
        "-Dnode.id=test",
        f"-Dnode.data-dir={base / 'trino' / 'data'}",
        f"-Dconfig={etc / 'config.properties'}",
        f"-Dplugin.dir={home / 'plugin'}",
        f"-Dcatalog.config-dir={etc / 'catalog'}",
        f"-Dlog.levels-file={etc / 'log.properties'}",
        "-cp",
        f"{home / 'lib'}/*",
        "io.trino.server.TrinoServer",
    ]
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=base / "trino", stdout=out, stderr=subprocess.STDOUT)
    try:
        _wait(process, port, log)
        yield Server(port, base)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def newest_java() -> str:
    """The newest Java of this machine, where it runs the server."""
    found = sorted(javas())
    if not found or found[-1][0] < JAVA:
        have = ", ".join(str(version) for version, _ in found) or "none"
        raise Unavailable(f"Trino {RELEASE} needs Java {JAVA} or later; here is {have}")
    return found[-1][1]


def javas() -> set[tuple[int, str]]:
    """Every Java of this machine: its feature version and its command."""
    places = [Path(os.environ["JAVA_HOME"]) / "bin" / "java"] if os.environ.get("JAVA_HOME") else []
    places += Path("/usr/lib/jvm").glob("*/bin/java")
    if on_path := shutil.which("java"):
        places.append(Path(on_path))
    found = set()
    for path in {place.resolve() for place in places if place.exists()}:
        with suppress(OSError, subprocess.TimeoutExpired):
            said = subprocess.run([path, "-version"], capture_output=True, text=True, timeout=30).stderr
            if match := re.search(r'version "(\d+)', said):
                found.add((int(match[1]), str(path)))
    return found


def fetch() -> Path:
    """The unpacked server, from the cache or by Maven."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cryptomon" / "trino"
    home = cache / f"trino-server-{RELEASE}"
    if home.is_dir():
        return home
    archive = cache / "maven" / "io" / "trino" / "trino-server" / RELEASE / f"trino-server-{RELEASE}.tar.gz"
    if not archive.exists():
        _by_maven(cache / "maven")
    unpacked = cache / f"unpacking-{os.getpid()}"
    with tarfile.open(archive) as packed:
        packed.extractall(unpacked, filter="data")
    for plugin in (unpacked / home.name / "plugin").iterdir():
        if plugin.name not in PLUGINS:
            shutil.rmtree(plugin)
    with suppress(OSError):
        # another run may have been first
        (unpacked / home.name).rename(home)
    shutil.rmtree(unpacked)
    return home


def _by_maven(repository: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise Unavailable("no mvn, by which io.trino:trino-server is fetched")
    repository.mkdir(parents=True, exist_ok=True)
    command = [
        maven,
        "--quiet",
        "--batch-mode",
        f"-Dmaven.repo.local={repository}",
        "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:get",
        f"-Dartifact=io.trino:trino-server:{RELEASE}:tar.gz",
        "-Dtransitive=false",
    ]
    try:
        done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=FETCH_S)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"io.trino:trino-server:{RELEASE} did not come within {FETCH_S} s") from error
    if done.returncode:
        lines = [line for line in done.stdout.splitlines() if "ERROR" in line] or ["mvn said nothing"]
        raise Unavailable(f"io.trino:trino-server:{RELEASE} cannot be fetched: {lines[0][:300]}")


def _configure(etc: Path, base: Path, port: int) -> None:
    (etc / "catalog").mkdir(parents=True)
    (base / "metastore").mkdir()
    (etc / "config.properties").write_text(
        "coordinator=true\n"
        "node-scheduler.include-coordinator=true\n"
        f"http-server.http.port={port}\n"
        f"discovery.uri=http://127.0.0.1:{port}\n"
        "node.bind-ip=127.0.0.1\n"
        "node.internal-address=127.0.0.1\n"
        "query.max-memory=1GB\n"
        "query.max-memory-per-node=1GB\n"
        "memory.heap-headroom-per-node=400MB\n"
        "query.max-length=10000000\n"
    )
    (etc / "log.properties").write_text("io.trino=WARN\n")
    (etc / "catalog" / "delta.properties").write_text(
        "connector.name=delta_lake\n"
        "hive.metastore=file\n"
        "hive.metastore.catalog.dir=local:///metastore\n"
        "fs.native-local.enabled=true\n"
        f"local.location={base}\n"
        "delta.register-table-procedure.enabled=true\n"
    )


def _wait(process: subprocess.Popen, port: int, log: Path) -> None:
    ends = time.monotonic() + START_S
    while time.monotonic() < ends:
        if process.poll() is not None:
            tail = log.read_text(errors="replace")[-3000:]
            raise RuntimeError(f"Trino ended with {process.returncode}:\n{tail}")
        with (
            suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/info", timeout=2) as answer,
        ):
            if b'"starting":false' in answer.read():
                return
        time.sleep(0.5)
    raise RuntimeError(f"Trino did not start within {START_S} s:\n{log.read_text(errors='replace')[-3000:]}")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
