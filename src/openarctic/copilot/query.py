"""A statement written by hand, the same whichever way it came: checked, run, recorded, told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from openarctic.copilot.access import Access
from openarctic.copilot.execute import Result, Worker
from openarctic.copilot.guard import Checked


@dataclass(frozen=True, slots=True)
class Queried:
    """What a statement gave; `hidden_by_policy` is as in `Answer`."""

    checked: Checked
    result: Result
    dialect: str

    def to_dict(self) -> dict[str, Any]:
        """The fields that the command line and the servers all tell; each has some of its own beside them."""
        return {
            "status": "ok",
            "sql": self.checked.shown,
            "dialect": self.dialect,
            "columns": self.result.columns,
            "rows": self.result.rows,
            "truncated": self.result.truncated,
            "hidden_by_policy": self.checked.filtered,
        }


def run_query(access: Access, worker: Worker, sql: str, limit: int, timeout_s: float, is_exact: bool = False) -> Queried:
    """Check and run a statement, as one event of the audit log; `is_exact` as in `Worker.execute`.

    Raises RefusedError, CapacityError, MissingError, UserError as `Access.check` and `Worker.execute`.
    """
    with access.recorded("query", sql=sql) as event:
        event.checked = checked = access.check(sql)
        result = worker.execute(checked, limit=limit, timeout_s=timeout_s, is_exact=is_exact)
        event.rows, event.truncated = len(result.rows), result.truncated
    return Queried(checked, result, access.dialect)
