"""How many candidates a question gets. A file of its own: help texts tell it, and must load nothing else."""

SHORT_CANDIDATES = 16  # of a small model in this process, for which one more costs little (docs/arctic-nano.md has the gain)
LONG_CANDIDATES = 4  # of every other model
MAX_CANDIDATES = 64
MAX_CANDIDATES_SERVED = 16  # of one request to a server
