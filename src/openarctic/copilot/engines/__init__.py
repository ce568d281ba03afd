"""The connections themselves, one file a driver: opened for reading, with every lock that the engine has.

The files are read twice: as modules, to read a schema, and as files by `sandbox.py`, in the process that runs statements. So they
import the standard library and their own driver, nothing else, and the driver only when a connection is made.

Each has

- `connect(target)`: a connection that can only read;
- `kind_of(error)`: what an exception means: `timeout`, `capacity`, `missing` (a table or column that is no longer there),
  `locked`, `lost` (the server is gone), `login`, `refused` (the role may write), `denied` (it may not read this),
  `setting` (an option is not one), `failed`;
- a class `Engine(target, memory_bytes)` with `start(request)`, which begins a statement (`sql`, `tables`, `timeout`, `role`; or,
  where `plan` is set, begins to list its plan instead) and gives its column names, `fetch(count)`, which gives its next rows, and
  `finish()`, which ends it, whatever became of it. What `fetch` gives as text although it is none is told in `kinds`, from a
  column's place to a name that `Result.kinds` has.

A target is a dict that JSON can carry; it may hold credentials, so it travels through a pipe alone.
"""
