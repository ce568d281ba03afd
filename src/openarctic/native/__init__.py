"""The compiled kernels; import `openarctic.engine` instead."""
