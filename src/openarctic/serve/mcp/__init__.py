"""The Model Context Protocol: `tools.py` what clients may call, `server.py` the official SDK around it (docs/mcp.md)."""
