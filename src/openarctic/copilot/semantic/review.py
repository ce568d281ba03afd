"""May a draft become a verified query of a semantic model?"""

from __future__ import annotations

from openarctic.copilot.feedback import Draft
from openarctic.copilot.semantic.layer import SemanticLayer
from openarctic.copilot.semantic.model import SemanticModel
from openarctic.copilot.semantic.probe import Probe
from openarctic.copilot.vote import result_key
from openarctic.errors import UserError


def check_draft(draft: Draft, model: SemanticModel, probe: Probe) -> None:
    """Its SQL, written in the database's names, must run, and give the same rows when it is read in the model's names.

    Raises the errors of guard and worker, UserError where the rows differ or the draft was rejected.
    """
    if draft.status == "rejected":
        raise UserError(
            f"draft {draft.id} was rejected by {draft.reviewed_by}", "add the SQL again as a correction, if it is right"
        )
    layer = SemanticLayer(model, probe.schema)
    logical = probe.rows(layer.physical(draft.sql), limit=1000)
    try:
        plain = probe.rows(draft.sql, limit=1000)
    except UserError:
        return  # it is written in logical names alone
    if result_key(plain) != result_key(logical):
        raise UserError(
            f"draft {draft.id} means something else in the semantic model's names than in the database's",
            "write its SQL with the model's names, and add it as a correction",
        )
