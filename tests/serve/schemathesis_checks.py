"""What schemathesis checks of every answer beside its own checks; SCHEMATHESIS_HOOKS has it load this file."""

from __future__ import annotations

import re

import schemathesis

# Of this machine or of our code: nothing that a client sent itself.
LEAKS = re.compile(r"Traceback \(most recent|\.py\b\"?, line \d+|site-packages|/(?:tmp|root|home|usr|work)/\w+/|0x[0-9a-f]{8,}")


@schemathesis.check
def no_leaks(ctx, response, case) -> None:  # type: ignore[no-untyped-def]
    """No traces, no paths, no addresses of objects."""
    text = response.content.decode(errors="replace")
    for found in LEAKS.finditer(text):
        sent = f"{case.body!r}{case.query!r}{case.path_parameters!r}"
        assert found.group() in sent, f"the answer tells of {found.group()!r}"
