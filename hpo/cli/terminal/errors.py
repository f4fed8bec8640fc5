"""Turn an error into one message on stderr and an exit code."""

from __future__ import annotations

import errno
import gc
import os
import traceback

import click

from hpo.errors import HpoError, StorageFullError, UsageError

INTERRUPTED = 130
_DATABASE = ("sqlalchemy", "psycopg2")


def run_guarded(cli: click.Group) -> int:
    """Run the command line and return its exit code; prints no traceback unless HPO_DEBUG=1."""
    try:
        result = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("hpo: interrupted", err=True)
        gc.freeze()  # the interpreter's last collection takes seconds, and nobody waits for it
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as error:  # noqa: BLE001 - a user gets a message, HPO_DEBUG=1 the traceback
        return _show(meaning(error))
    return result if isinstance(result, int) else 0


def meaning(error: Exception) -> HpoError:
    """The error in words for a user, and what to do about it."""
    if isinstance(error, HpoError):
        return error
    if (refused := _of_database(error)) is not None:
        return refused
    return _plain(error) if isinstance(error, OSError) else _unforeseen(error)


def _of_database(error: Exception) -> HpoError | None:
    """The error in words where PostgreSQL refused or could not do something; else None."""
    cause: BaseException | None = error
    while cause is not None and type(cause).__module__.partition(".")[0] not in _DATABASE:
        cause = cause.__cause__  # Optuna wraps what its storage raises
    if cause is None:
        return None
    from hpo.settings import Settings
    from hpo.storage.postgres.errors import explain
    from hpo.storage.postgres.url import normalise

    plain = explain(cause, normalise(Settings.read().storage or "postgresql://hpo@localhost/hpo"))
    if plain is not None:
        plain.__cause__ = error
    return plain


def no_space(error: OSError) -> StorageFullError:
    """The error for a full device, naming the file that was being written where known."""
    where = f" while writing {error.filename}" if error.filename else ""
    return StorageFullError(
        f"no space left on the device{where}",
        hint="Free some space (`df -h .` shows it), or set HPO_HOME and HPO_ARTIFACTS elsewhere.",
    )


def _plain(error: OSError) -> HpoError:
    """The error of a file or folder that could not be used as it was meant."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return no_space(error)
    plain: HpoError
    if isinstance(error, PermissionError | NotADirectoryError | FileNotFoundError):
        plain = UsageError(
            f"{error.filename}: {error.strerror}",
            hint="Work in a folder of your own, or set HPO_HOME (runs, database) and HPO_ARTIFACTS "
            "(weights, pictures) to folders that can be written.",
        )
    else:
        plain = HpoError(
            f"{error.filename}: {error.strerror}" if error.filename else str(error),
            hint="Check the path and its rights; HPO_DEBUG=1 shows where it was used.",
        )
    plain.__cause__ = error  # so that HPO_DEBUG=1 shows it
    return plain


def _unforeseen(error: Exception) -> HpoError:
    first = str(error).strip().partition("\n")[0]
    plain = HpoError(
        f"{type(error).__name__}: {first}",
        hint="Nobody foresaw this: HPO_DEBUG=1 shows where, and a report would be welcome.",
    )
    plain.__cause__ = error
    return plain


def _show(error: HpoError) -> int:
    if os.environ.get("HPO_DEBUG") == "1":
        traceback.print_exception(error)
    click.echo(f"hpo: {error}", err=True)
    if error.hint:
        click.echo(f"  {error.hint}", err=True)
    return error.exit_code
