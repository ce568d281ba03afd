"""What an engine reports, as one of our errors. The kinds are those of `copilot.engines`."""

from __future__ import annotations

from openarctic.copilot.databases.database import Database
from openarctic.errors import CapacityError, CorruptError, MissingError, OpenArcticError, RefusedError, UserError

ROLE_HINT = "connect as a role that may only read, or add allow_writing_role=yes to the URL"


def failure(database: Database, kind: str, message: str, is_open: bool = True) -> OpenArcticError:
    """The error to raise; `is_open` is False while the database is being opened. No secret of the database is in it."""
    text = database.redacted(message)
    place = database.place
    if kind == "lost":
        what = f"the connection to {place} was lost" if is_open else f"cannot connect to {place}"
        return CapacityError(f"{what}: {text}", "check that the server runs and can be reached, and ask again")
    if kind == "missing":
        if is_open:
            return MissingError(f"the database says: {text}", "tables may have changed since their schema was read; ask again")
        return MissingError(f"cannot open {place}: {text}", "check the names in the URL")
    if kind == "failed":
        return (
            UserError(f"the database says: {text}", "check the SQL") if is_open else CorruptError(f"cannot open {place}: {text}")
        )
    made: dict[str, OpenArcticError] = {
        "timeout": CapacityError(f"{text} and was stopped", "raise --timeout or ask for less"),
        "capacity": CapacityError(text, "ask for less at once"),
        "locked": CapacityError(f"{place} is locked by another process", "try again in a moment"),
        "refused": RefusedError("not_permitted", text, ROLE_HINT),
        "denied": RefusedError("not_permitted", f"the database says: {text}", "ask its owner for the right to read this"),
        "login": UserError(f"cannot log in to {place}: {text}", "check user and password (PGPASSFILE or ~/.pgpass keeps it)"),
        "setting": UserError(f"cannot connect to {place}: {text}", "check the options of the URL"),
    }
    return made[kind]
