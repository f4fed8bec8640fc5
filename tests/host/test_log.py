"""Log records with an action and ids, and that every call of the running service gives its own."""

from __future__ import annotations

import ast
import json
import logging
import logging.config
import re
from typing import TYPE_CHECKING

from support.sources import ROOT

from hpo.host.log import JsonFormatter, action_logger

if TYPE_CHECKING:
    import pytest

PACKAGES = ("workers", "hpo/claims", "hpo/tracking", "hpo/promotion")
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
LOGGERS = {"log", "_log", "logger", "_logger"}
VERB_PHRASE = re.compile(r"[a-z]+(_[a-z]+)+")


def test_log_records_carry_action_and_ids(caplog: pytest.LogCaptureFixture) -> None:
    """Those of the call and those that were bound before; what is unknown is None."""
    log = action_logger("hpo.some.module").bind(study="harbour", worker=7)
    log.warning("trial %d is lost", 3, action="lease_lost", trial=3)
    log.warning("the mirror works again", action="mirror_recovered")
    first, second = caplog.records
    assert (first.name, first.getMessage()) == ("hpo.some.module", "trial 3 is lost")
    assert [vars(first)[name] for name in ("action", "study", "trial", "worker")] == [
        *("lease_lost", "harbour", 3, 7)
    ]
    assert (vars(second)["action"], vars(second)["trial"]) == ("mirror_recovered", None)


def test_log_records_become_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Through a logging configuration; a record of another library has no action."""
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"json": {"()": f"{JsonFormatter.__module__}.{JsonFormatter.__name__}"}},
            "handlers": {
                "out": {
                    "class": "logging.StreamHandler",
                    "formatter": "json",
                    "stream": "ext://sys.stdout",
                }
            },
            "loggers": {"json-lines": {"handlers": ["out"], "propagate": False}},
        }
    )
    action_logger("json-lines").warning("it's %r", "so", action="something_seen", trial=1)
    try:
        int("broken")
    except ValueError:
        logging.getLogger("json-lines").exception("failed")
    own, other = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (own["text"], own["level"], own["logger"]) == ("it's 'so'", "WARNING", "json-lines")
    assert (own["action"], own["study"], own["trial"]) == ("something_seen", None, 1)
    assert (other["action"], "ValueError: invalid literal" in other["error"]) == (None, True)


def calls(tree: ast.AST) -> list[ast.Call]:
    """Return the calls of a logger's methods."""
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in LEVELS
        and ast.unparse(node.func.value).rpartition(".")[2] in LOGGERS
    ]


def test_log_calls_of_the_running_service_name_an_action() -> None:
    """No package of them makes a plain logger, and each call has a verb phrase or hands one on."""
    found = 0
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        where = path.relative_to(ROOT)
        assert "getLogger(__name__)" not in text, f"{where}: use action_logger(__name__)"
        for call in calls(ast.parse(text)):
            found += 1
            (action,) = [one.value for one in call.keywords if one.arg == "action"] or [None]
            words = action.value if isinstance(action, ast.Constant) else action
            assert (isinstance(words, ast.Name) and words.id == "action") or (
                isinstance(words, str) and VERB_PHRASE.fullmatch(words)
            ), f"{where}:{call.lineno} names no action"
    assert found > 20
