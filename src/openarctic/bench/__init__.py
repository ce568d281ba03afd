"""Measuring: engines side by side on one file, each in its own process, with the machine's limits beside.

A room of its own above `planner` and `engine`, because it asks both; `cli/bench.py` is its one door. `server.py` and `peer.py`
run in the measured process, everything else in the one that measures.
"""
