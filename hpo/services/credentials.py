"""Read the URLs that `hpo provision` is given into checked logins.

Every fault of all URLs is told at once, and none with a password in it. The secrets of other parts
(object store, proxy) are checked too: who leaves an example's in one place does so in others.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy.engine import make_url

from hpo.errors import FaultsError, UsageError
from hpo.storage.postgres.roles import Login
from hpo.storage.postgres.url import normalise

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ADMIN, SERVICE = "HPO_ADMIN_STORAGE", "HPO_STORAGE"
MLFLOW, READER = "MLFLOW_BACKEND_STORE_URI", "HPO_READER_STORAGE"
# variable -> the one with the name that it goes with
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "AWS_ACCESS_KEY_ID",
    "RAY_AUTH_TOKEN": "",
    "PROXY_PASSWORD": "PROXY_USER",
}
SHORTEST = 8  # characters of a password
# What examples, images and tutorials are full of; compared without case and punctuation
_KNOWN = (
    *("admin", "example", "hpo", "hporeader", "letmein", "minioadmin", "mlflow", "optuna"),
    *("pass", "passw0rd", "password", "postgres", "postgresql", "root", "secret", "test", "user"),
)
_PLACEHOLDERS = ("changeme", "changethis", "replaceme", "yourpassword", "todo")


@dataclass(frozen=True)
class Logins:
    """Who shall be able to log in.

    Attributes:
        service: the service's role, which owns the studies' database.
        admin: who makes the others; None: they exist, and only tables and rights are made.
        mlflow: MLflow's role, which owns its database; None: not on PostgreSQL, or not ours.
        reader: who may only read the studies' database; None for nobody.
    """

    service: Login
    admin: Login | None = None
    mlflow: Login | None = None
    reader: Login | None = None

    @property
    def made(self) -> tuple[Login, ...]:
        """The logins whose role `hpo provision` makes."""
        return tuple(one for one in (self.service, self.mlflow, self.reader) if one is not None)


def read_logins(env: Mapping[str, str]) -> Logins:
    """The logins that the environment names.

    Raises:
        FaultsError: something about them is wrong, or a password is an example's; also another
            secret of the environment.
        UsageError: HPO_STORAGE is not set.
    """
    if not env.get(SERVICE):
        raise UsageError(
            f"{SERVICE} is not set: whose tables are to be made is not known",
            hint=f"Set {SERVICE}=postgresql://hpo:PASSWORD@HOST:5432/hpo. The private PostgreSQL "
            "of a project needs no provisioning.",
        )
    found: dict[str, Login] = {}
    faults: list[str] = []
    for name in (ADMIN, SERVICE, MLFLOW, READER):
        if env.get(name):
            try:
                found[name] = _login(name, env[name])
            except UsageError as error:
                faults.append(f"{name}: {error}")
    faults += _faults(found)
    faults += _secret_faults(env)
    if faults:
        raise FaultsError(
            "the roles' URLs and the secrets beside them",
            faults,
            hint="`deploy/make-env` writes a file with random passwords; "
            "`openssl rand -hex 24` makes one.",
        )
    return Logins(found[SERVICE], found.get(ADMIN), found.get(MLFLOW), found.get(READER))


def _login(variable: str, text: str) -> Login:
    url = make_url(normalise(text))
    if not url.username:
        raise UsageError("the URL names no role")
    return Login(
        variable=variable,
        role=url.username,
        password=str(url.password or ""),
        database=str(url.database),
        url=url.render_as_string(hide_password=False),
    )


def _faults(found: Mapping[str, Login]) -> Iterator[str]:
    for name, login in found.items():
        # An administrator may come in by another way: a certificate, a .pgpass file
        if (login.password or name != ADMIN) and (why := weakness(login.password, login.role)):
            yield f"{name}: the password of '{login.role}' {why}"
    roles: dict[str, str] = {}
    passwords: dict[str, str] = {}
    for name, login in found.items():
        if (other := roles.setdefault(login.role, name)) != name:
            yield f"{name}: the role '{login.role}' is that of {other} too; each needs its own"
        elif login.password and (other := passwords.setdefault(login.password, name)) != name:
            yield f"{name}: its password is that of {other} too; each needs its own"
    service, mlflow, reader = (found.get(name) for name in (SERVICE, MLFLOW, READER))
    if service and mlflow and service.database == mlflow.database:
        yield f"{MLFLOW}: the database '{mlflow.database}' is the studies'; MLflow needs its own"
    if service and reader and service.database != reader.database:
        yield f"{READER}: '{reader.database}' is not the database of {SERVICE}"


def _secret_faults(env: Mapping[str, str]) -> Iterator[str]:
    for variable, whose in SECRETS.items():
        if env.get(variable) and (why := weakness(env[variable], env.get(whose, ""))):
            yield f"{variable}: its value {why}"


def weakness(password: str, role: str) -> str:
    """Why the password is none, to stand after "the password"; "" where it will do."""
    bare = re.sub(r"[\W_]", "", password.lower())
    if not password:
        return "is missing"
    if bare.startswith(_PLACEHOLDERS):
        return "is the example's"
    if bare in _KNOWN or bare == re.sub(r"[\W_]", "", role.lower()) or len(set(bare)) <= 1:
        return "is one that everybody knows"
    if len(password) < SHORTEST:
        return f"is shorter than {SHORTEST} characters"
    return ""
