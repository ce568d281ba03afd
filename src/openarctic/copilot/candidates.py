"""How many candidates a question gets. A file of its own, because help texts tell it and must load nothing else."""

CANDIDATES = 4  # where nobody asks for another number
MAX_CANDIDATES = 64
MAX_CANDIDATES_SERVED = 16  # of one request to a server
