"""The compose file in real containers: Docker where its engine runs, else podman.

With podman, Docker's own Compose is used through podman's API, where it can be had: it knows
profiles, `--scale` and the conditions of `depends_on`, and waits for them. podman-compose, which
knows none, is the last resort.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
PREPARE = ROOT.parent / "shared" / "containers" / "prepare"
CPU_INDEX = ("download.pytorch.org", 443)
# Those of the whole file that run on any machine
SERVICES = ("postgres", "s3", "init", "mlflow", "dashboard", "proxy", "ray-head", "worker")

# The whole use, as README has it
TEAM = (
    "deploy/make-env",
    "docker compose up -d --build",
    "docker compose run --rm hpo create-study",
    "docker compose run --rm hpo launch --workers 4",
)
# What podman 4.3 says where it looks at a container, such as init, that ends at this moment
RACE = "/cgroup: no such process"
RACES = 3
# A study that takes a minute or two on two nodes of one core
STUDY = "shapes-quick"
TRIALS = 4
SMALL = ("--trials", str(TRIALS), "--epochs", "4", "--set", "train.imgsz=64")


def run(*words: str | Path, check: bool = True, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; its output is in the error where it fails."""
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False, **more
    )
    assert not check or done.returncode == 0, (
        f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    )
    return done


def engine() -> str:
    """`docker` or `podman`, with all that the compose file names but our own images.

    Skips where neither can be had.
    """
    if shutil.which("docker") and run("docker", "info", check=False).returncode == 0:
        return "docker"
    if os.geteuid() != 0:
        pytest.skip("no Docker engine runs here, and podman is used as root only")
    if PREPARE.exists():
        tag = COMPOSE["services"]["s3"]["image"]
        run(PREPARE, "postgres", "s3", env=os.environ | {"S3_TAG": tag}, timeout=1200)
    if not shutil.which("podman") or not (has_compose() or shutil.which("podman-compose")):
        pytest.skip("neither a Docker engine nor podman with a program for compose files is here")
    return "podman"


def composer(engine: str) -> str:
    """The program for compose files."""
    if engine == "docker":
        return "docker compose"
    return COMPOSER if has_compose() else "podman-compose"


def build(engine: str) -> None:
    """Both images, for the CPU where PyTorch's index of CPU builds can be reached."""
    try:
        socket.create_connection(CPU_INDEX, timeout=5).close()
        device = "cpu"
    except OSError:
        device = "cuda"  # PyPI's own build, which runs on a CPU as well
    print(f"building the images with {engine}, DEVICE={device}", flush=True)
    more = ["--isolation=chroot", "--network=host", "--format=docker"] if engine == "podman" else []
    for target, name in (("service", "hpo-service"), ("proxy", "hpo-proxy")):
        words = ["build", *more, "-f", "deploy/Dockerfile", "--target", target, "-t"]
        words += [f"{name}:0.1.0", "--build-arg", f"DEVICE={device}", "."]
        run(engine, *words, cwd=ROOT, timeout=2400)


class Team:
    """One project of the compose file, in a folder of its own.

    Attributes:
        composer: what reads the compose file.
        work: the folder that is /work in the container of `docker compose run hpo`.
        secrets: name -> value of what deploy/make-env made up.
        port: where the proxy is.
    """

    def __init__(
        self, engine: str, folder: Path, nodes: int, env: dict[str, str] | None = None
    ) -> None:
        """Copy the files and make the passwords up.

        Args:
            engine: as `engine` names it.
            folder: the project's.
            nodes: Ray nodes to start.
            env: variables of the program for compose files.
        """
        self.engine, self.folder, self.name = engine, folder, f"t{os.getpid()}"
        self.composer, self._env = composer(engine), env
        text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
        if self.composer == COMPOSER:
            text = text.replace("\nname: hpo\n", "\n")  # too young for it; -p gives another anyway
        (folder / "docker-compose.yml").write_text(text, encoding="utf-8")
        shutil.copytree(ROOT / "deploy", folder / "deploy")
        run(folder / TEAM[0])
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.work = folder / "work"
        env = folder / ".env"
        said = {"HPO_PORT": str(self.port), "HPO_NODES": str(nodes), "HPO_NODE_CPUS": "1"}
        values = dict(
            line.split("=", 1)
            for line in env.read_text().splitlines()
            if line and not line.startswith("#")
        )
        env.write_text("".join(f"{k}={v}\n" for k, v in (values | said).items()))
        self.secrets = {
            name: value
            for name, value in values.items()
            if name.endswith(("_PASSWORD", "_KEY", "_TOKEN"))
        }

    @property
    def is_old(self) -> bool:
        """Whether the program knows no profiles, no `--scale` and no exit code of `run`."""
        return self.composer == "podman-compose"

    def compose(self, *words: str, check: bool = True, **more: Any) -> Any:
        """`docker compose …` in the project's folder."""
        program = [*self.composer.split(), "-p", self.name, *words]
        for _ in range(RACES):
            done = run(*program, check=False, cwd=self.folder, env=self._env, **more)
            if done.returncode == 0 or RACE not in done.stderr:
                break
        assert not check or done.returncode == 0, (
            f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        )
        return done

    def hpo(self, *words: str, check: bool = True) -> Any:
        """`docker compose run --rm hpo …`, with what it depends on left as it is."""
        return self.compose("run", "--rm", "-T", "--no-deps", "hpo", *words, check=check)

    def json(self, *words: str) -> Any:
        """What a command prints with --json, found among what an old podman-compose says."""
        text = "\n" + self.hpo(*words, "--json").stdout
        for at, sign in enumerate(text):
            if sign == "\n" and text[at + 1 : at + 2] in ("{", "["):
                with suppress(json.JSONDecodeError):
                    return json.JSONDecoder().raw_decode(text, at + 1)[0]
        pytest.fail(f"no JSON in {text}")

    def ids(self, service: str, *, stopped: bool = True) -> list[str]:
        """The containers of a service, stopped ones too unless told otherwise."""
        labels = {"project": self.name, "service": service}
        filters = [f"--filter=label=com.docker.compose.{k}={v}" for k, v in labels.items()]
        return run(self.engine, "ps", "-aq" if stopped else "-q", *filters).stdout.split()

    def inspect(self, container: str) -> Any:
        """All that the engine knows of a container."""
        return json.loads(run(self.engine, "inspect", container).stdout)[0]

    def execute(self, service: str, *words: str, check: bool = True) -> Any:
        """Run a program in a running container of a service."""
        running = self.ids(service, stopped=False)
        return run(self.engine, "exec", running[0], *words, check=check)

    def sql(self, query: str, database: str = "hpo") -> list[str]:
        """Rows of a query, as the superuser."""
        words = ("psql", "-h", "127.0.0.1", "-U", "postgres", "-d", database, "-Atc", query)
        secret = f"PGPASSWORD={self.secrets['POSTGRES_PASSWORD']}"
        done = run(self.engine, "exec", "-e", secret, self.ids("postgres")[0], *words)
        return list(done.stdout.split("\n")[:-1])

    def up(self) -> None:
        """Start everything and wait until init is done and the pages answer."""
        self.compose("up", "-d", *(SERVICES if self.is_old else ()), check=not self.is_old)
        wait(self._initialised, "init to end well", 180)
        wait(lambda: self.page("/mlflow/health")[0] == 200, "MLflow behind the proxy", 180)
        wait(lambda: self.page("/api/meta")[0] == 200, "the dashboard behind the proxy", 180)

    def scale(self, nodes: int, *, profile: str = "") -> None:
        """`docker compose up -d --scale worker=N`, which waits for what each service waits for."""
        profiles = ["--profile", profile] if profile else []
        self.compose(*profiles, "up", "-d", "--scale", f"worker={nodes}")

    def down(self, *words: str) -> None:
        """Stop and remove all containers."""
        self.compose("down", *words, check=False)
        for service in (*SERVICES, "worker-gpu", "hpo"):
            for one in self.ids(service):
                run(self.engine, "rm", "-f", one, check=False)

    def _initialised(self) -> bool:
        state = self.inspect(self.ids("init")[0])["State"]
        assert state["Status"] != "exited" or state["ExitCode"] == 0, self.logs("init")
        return bool(state["Status"] == "exited")

    def logs(self, service: str) -> str:
        """All that a service's containers have said."""
        done = [run(self.engine, "logs", one) for one in self.ids(service)]
        return "".join(one.stdout + one.stderr for one in done)

    def page(
        self, path: str, *words: str, login: str | None = None, host: str = "localhost"
    ) -> tuple[int, str]:
        """(status, body) of a page of the proxy.

        Args:
            path: of the page.
            words: further arguments of curl.
            login: `user:password`, "" for none; None is the right one.
            host: the name by which it is asked for.
        """
        if login is None:
            login = f"hpo:{self.secrets['PROXY_PASSWORD']}"
        # By standard input, as a person's own passwords should go to curl
        config = f'user = "{login}"\n' if login else ""
        config += f'url = "https://{host}:{self.port}{path}"\n'
        config += f'resolve = "{host}:{self.port}:127.0.0.1"\n'
        done = run(
            "curl", "-sk", "--max-time", "30", "-w", "\n%{http_code}", *words, "-K", "-",
            check=False, input=config,
        )  # fmt: skip
        body, _, status = done.stdout.rpartition("\n")
        return int(status), body


def wait(look: Callable[[], Any], what: str, seconds: float) -> Any:
    """What `look` finds, as soon as it is something."""
    until = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < until, f"waited {seconds:g} s for {what}"
        time.sleep(1.0)


COMPOSER = "docker-compose"  # Debian's: Compose 1.29, which needs no engine of Docker's
BEAT_S = 2.0
INSTALL_S = 300.0


@cache
def has_compose() -> bool:
    """Whether Docker's Compose is here; it is installed where Debian's packages can be."""
    if shutil.which(COMPOSER) is None and shutil.which("apt-get") is not None:
        env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        words = ("install", "-y", "-qq", "--no-install-recommends", COMPOSER)
        for arguments in (("update", "-qq"), words):
            with suppress(subprocess.TimeoutExpired):
                subprocess.run(
                    ["apt-get", *arguments], capture_output=True, check=False, timeout=INSTALL_S,
                    env=env,
                )  # fmt: skip
    return shutil.which(COMPOSER) is not None


class PodmanApi:
    """Podman's service, and the timer of health checks that it lacks where no systemd runs.

    A context manager.

    Attributes:
        env: the variables of a program that is to find it.
    """

    def __init__(self, folder: Path) -> None:
        self._socket, self._log = folder / "podman.sock", folder / "podman.log"
        self.env = os.environ | {"DOCKER_HOST": f"unix://{self._socket}"}
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="health-checks", daemon=True)

    def __enter__(self) -> Self:
        words = ["podman", "system", "service", "--time=0", f"unix://{self._socket}"]
        with self._log.open("wb") as log:
            self._service = subprocess.Popen(words, stderr=log)
        until = time.monotonic() + 60
        while not self._socket.exists():
            if time.monotonic() > until or self._service.poll() is not None:
                self._service.kill()
                raise AssertionError(f"podman's service does not start: {self._log.read_text()}")
            time.sleep(0.1)
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._left.set()
        self._thread.join(30)
        self._service.terminate()
        self._service.wait()

    def _beat(self) -> None:
        while not self._left.wait(BEAT_S):
            for one in self._podman("ps", "-q").split():
                # What it finds is podman's to keep; one may be gone by now
                self._podman("healthcheck", "run", one)

    @staticmethod
    def _podman(*words: str) -> str:
        with suppress(subprocess.TimeoutExpired):
            done = subprocess.run(["podman", *words], capture_output=True, check=False, timeout=20)
            return done.stdout.decode()
        return ""
