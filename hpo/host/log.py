"""Log records that machines can filter: each carries an action and the ids that it is about."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import MutableMapping

FIELDS = ("action", "study", "trial", "worker")


class ActionLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger whose records carry `action`, and the ids `study`, `trial` and `worker`.

    Each call names its action, a verb phrase in snake_case, and may name ids that it knows:
    `log.warning("trial %d is lost", 3, action="lease_lost", trial=3)`. Unknown ids are None.
    """

    def bind(self, **ids: object) -> ActionLogger:
        """Return a logger whose records carry these ids, too.

        Args:
            ids: `study`, its name; `trial`, its number; `worker`, its id in PostgreSQL.
        """
        return ActionLogger(self.logger, {**(self.extra or {}), **ids})

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        """Move the action and the ids of a call into the record's attributes."""
        own = {name: kwargs.pop(name) for name in FIELDS if name in kwargs}
        kwargs["extra"] = {**dict.fromkeys(FIELDS), **(self.extra or {}), **own}
        return msg, kwargs


def action_logger(name: str) -> ActionLogger:
    """Return the logger of a module, which calls it with its `__name__`."""
    return ActionLogger(logging.getLogger(name), {})


class JsonFormatter(logging.Formatter):
    """Formats a record as one line with a JSON object: time, level, text, action and ids."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; `error` holds a traceback where the record has one."""
        said = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "text": record.getMessage(),
            **{name: getattr(record, name, None) for name in FIELDS},
        }
        if record.exc_info:
            said["error"] = self.formatException(record.exc_info)
        return json.dumps(said, default=str)
