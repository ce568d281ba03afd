"""HTTP: the OpenAI-compatible routes on the embedded engine (docs/serve.md). pydantic and FastAPI live in this room alone."""
