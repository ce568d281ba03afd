"""How a server runs: one frozen object, made from the command line."""

from __future__ import annotations

from dataclasses import dataclass

from openarctic.errors import UserError
from openarctic.serve.keys import Key

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeSettings:
    """Limits hold for every request; those of a key (`Key`) hold for the key. Times are in seconds, sizes in bytes.

    `hosts` are names by which clients may call (the Host header), beside the address that is bound: a page on another site that
    resolves its own name to this server is refused. `origins` may be read from by pages of other sites (CORS; none by default).
    `log_contents` puts what was asked and answered into the log.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    served_model_name: str | None = None
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    max_body_bytes: int = 4 << 20
    max_output_tokens: int | None = None
    max_concurrent: int = 256
    max_concurrent_per_key: int = 256
    requests_per_minute: int | None = None
    request_timeout_s: float = 600.0
    drain_timeout_s: float = 30.0
    keys: tuple[Key, ...] = ()
    log_contents: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise UserError(f"the port is {self.port}, it must be 0 to 65535")
        for name in ("max_body_bytes", "max_concurrent", "max_concurrent_per_key", "request_timeout_s"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name} is {getattr(self, name)}, it must be above 0")
        for name in ("max_output_tokens", "requests_per_minute"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}, it must be at least 1")
        if self.host not in LOOPBACK and not self.keys:
            raise UserError(
                f"{self.host} can be reached from other machines, and no API key is set",
                "give --api-key-file or OPENARCTIC_API_KEY, or serve on 127.0.0.1",
            )
