"""What generated Python may do, seen from its tree; nothing of it runs.

Imports are on a list, SQL must be plain text, and what runs, imports or builds code, starts processes, opens connections other
than a database's, or writes files that are no targets is refused. This keeps a model's mistakes and plain malice out. It is no
sandbox: read a script before you run it.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from openarctic.copilot.writing.draft import Problem

MODULES = frozenset(
    """
    __future__ abc argparse collections collections.abc contextlib csv dataclasses datetime decimal enum fractions functools
    hashlib itertools json logging math os pathlib re statistics string sys textwrap time typing unicodedata uuid zoneinfo
    duckdb sqlite3 psycopg psycopg.rows snowflake.connector pandas polars pyarrow pyarrow.parquet numpy
    """.split()
)
# Of modules that can do more than that: what may be used of them.
ONLY = {
    "os": {"environ", "getenv", "path"},
    "sys": {"exit", "stderr", "stdout", "argv", "stdin"},
    "sqlite3": {"connect", "Connection", "Cursor", "Row", "Error", "DatabaseError", "OperationalError", "IntegrityError"},
}
FORBIDDEN_NAMES = frozenset(
    "eval exec compile __import__ getattr setattr delattr vars globals locals breakpoint input open help __builtins__ "
    "__loader__ __spec__".split()
)
FORBIDDEN_ATTRIBUTES = frozenset(
    """
    system popen spawn spawnl spawnv fork forkpty kill execv execve execl execlp execvp startfile putenv unsetenv unlink rmdir
    removedirs rmtree renames chmod chown symlink link symlink_to hardlink_to touch mkdir makedirs write_text write_bytes open
    fdopen eval exec compile read_pickle to_pickle read_html read_xml executescript copy_expert copy_from copy_to load_extension
    enable_load_extension create_function create_aggregate create_collation set_authorizer set_trace_callback backup iterdump
    install_extension read_csv_auto from_csv_auto from_parquet export_database import_database execute_string execute_stream
    execute_async write_pandas to_clipboard attrgetter methodcaller modules meta_path path_hooks settrace setprofile callproc
    blobopen insert_into create_view to_table to_view get_type_hints ForwardRef evaluate_forward_ref gi_frame cr_frame ag_frame
    tb_frame f_globals f_builtins f_locals f_back gi_code cr_code FileHandler FileType ParquetWriter ExcelWriter HDFStore OSFile
    memory_map memmap create_memory_map output_stream DataSource to_gbq
    """.split()
)
# Modules that other modules hold as attributes (`logging.os`).
HIDDEN_MODULES = frozenset(
    "os sys io subprocess shutil socket builtins importlib ctypes pickle marshal urllib http codecs runpy pty signal ssl ftplib "
    "smtplib tempfile multiprocessing threading asyncio inspect gc code fs flight ctypeslib f2py distutils testing".split()
)
# Methods of pandas, polars, pyarrow and DuckDB that write a file: the path must be a named target.
FILE_WRITERS = frozenset(
    """
    to_csv to_parquet to_json to_excel to_feather to_hdf to_orc to_stata to_xml to_html to_latex to_markdown write_csv
    write_parquet write_json write_ndjson write_excel write_ipc write_avro write_table write_feather savez savez_compressed save
    savetxt tofile sink_csv sink_parquet sink_ndjson sink_ipc write_to_dataset write_database create dump
    """.split()
)
SQL_METHODS = frozenset(
    "execute executemany sql query stream read_sql read_sql_query read_database read_database_uri sqlquery from_query".split()
)


NOT_IMPORTED = FORBIDDEN_ATTRIBUTES | FORBIDDEN_NAMES | FILE_WRITERS | HIDDEN_MODULES | SQL_METHODS


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL that a script runs, and where."""

    sql: str
    line: int


class PythonCode:
    """A parsed script. `problems` has what is forbidden, `statements` the SQL in it."""

    def __init__(self, source: str, file: str, targets: Iterable[str] = ()) -> None:
        self.file = file
        self.targets = {target.lower() for target in targets}
        self.problems: list[Problem] = []
        self.statements: list[Statement] = []
        try:
            tree = ast.parse(source, file)
            compile(tree, file, "exec", dont_inherit=True)  # also what a tree alone does not show: `return` outside of a function
        except SyntaxError as error:
            self.problems.append(Problem(file, error.lineno, f"this is not Python: {error.msg}"))
            return
        except (ValueError, RecursionError, MemoryError) as error:
            self.problems.append(Problem(file, None, f"this is not Python: {error}"))
            return
        self._constants = _constants(tree)
        self._looked_into = {node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        self._called = {node.func for node in ast.walk(tree) if isinstance(node, ast.Call)}
        self._modules = dict(_module_names(tree))
        self._imported = {*self._modules.values(), *(n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom))}
        for node in ast.walk(tree):
            self._visit(node)
        self.problems.sort(key=lambda problem: problem.line or 0)

    def _refuse(self, node: ast.AST, message: str, hint: str | None = None) -> None:
        self.problems.append(Problem(self.file, getattr(node, "lineno", None), message, hint))

    def _visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                self._import(node, alias.name)
        elif isinstance(node, ast.ImportFrom):
            self._import_from(node)
        elif isinstance(node, ast.Name):
            self._name(node)
        elif isinstance(node, ast.Attribute):
            self._attribute(node)
        elif isinstance(node, ast.Call):
            self._call(node)
        elif isinstance(node, ast.MatchClass) and node.kwd_attrs:
            self._refuse(node, "patterns that look at attributes may not be used")

    def _import(self, node: ast.AST, module: str) -> bool:
        if module in MODULES:
            return True
        self._refuse(node, f"{module} may not be imported", f"allowed: {', '.join(sorted(MODULES))}")
        return False

    def _import_from(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        if node.level:
            self._refuse(node, "relative imports may not be used")
            return
        if module == "snowflake" and all(alias.name == "connector" for alias in node.names):
            return
        if not self._import(node, module):
            return
        for alias in node.names:
            if alias.name == "*":
                self._refuse(node, "import * may not be used", "name what is needed")
            elif alias.name in NOT_IMPORTED or alias.name.startswith("_") or alias.name not in ONLY.get(module, {alias.name}):
                self._refuse(node, f"{module}.{alias.name} may not be used")

    def _name(self, node: ast.Name) -> None:
        if node.id in FORBIDDEN_NAMES:
            hint = {"open": "write to a target table; read with the csv or json module from sys.stdin"}.get(node.id)
            self._refuse(node, f"{node.id} may not be used", hint)
        elif node.id in self._modules and isinstance(node.ctx, ast.Store | ast.Del):
            self._refuse(node, f"{node.id} is a module and may not be assigned to")
        elif self._modules.get(node.id) in ONLY and node not in self._looked_into:
            self._refuse(node, f"the module {node.id} may not be passed on", f"write {node.id}.name where it is needed")

    def _attribute(self, node: ast.Attribute) -> None:
        name = node.attr
        is_own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls") and not name.startswith("__")
        if name.startswith("_") and not is_own:
            self._refuse(node, f"{name} may not be used")
        elif isinstance(node.ctx, ast.Store | ast.Del) and name in SQL_METHODS | FILE_WRITERS | FORBIDDEN_ATTRIBUTES:
            self._refuse(node, f"{name} may not be assigned to")
        elif name in FORBIDDEN_ATTRIBUTES | FORBIDDEN_NAMES or name in HIDDEN_MODULES:
            self._refuse(node, f".{name} may not be used")
        elif (name in SQL_METHODS or name in FILE_WRITERS) and node not in self._called:
            self._refuse(node, f".{name} may only be called where it stands", "call it with the SQL as plain text")
        elif isinstance(node.value, ast.Name) and (allowed := ONLY.get(self._modules.get(node.value.id, ""))) is not None:
            if name not in allowed:
                module = self._modules[node.value.id]
                self._refuse(node, f"{module}.{name} may not be used", f"allowed: {', '.join(sorted(allowed))}")

    def _call(self, node: ast.Call) -> None:
        for keyword in node.keywords:
            self._keyword(node, keyword)
        if not isinstance(node.func, ast.Attribute):
            return
        name = node.func.attr
        if name in SQL_METHODS:
            self._sql(node)
        elif name == "to_sql":
            self._target(node, self._argument(node, "name"), "table")
        elif name in FILE_WRITERS:
            path = self._argument(node, "path_or_buf", "path", "file", "path_or_buffer")
            is_json_text = name == "dump" and len(node.args) > 1
            if path is not None and not is_json_text:
                self._target(node, path, "file")
        elif name.startswith(("read_", "scan_")) and any("://" in text for text in self._texts(self._argument(node))):
            self._refuse(node, "nothing may be read from the network")
        else:
            self._homonym(node, name)

    def _keyword(self, node: ast.Call, keyword: ast.keyword) -> None:
        if keyword.arg == "allow_pickle" or (keyword.arg == "filename" and isinstance(node.func, ast.Attribute)):
            self._refuse(node, f"{keyword.arg} may not be used")
        if keyword.arg in ("password", "passwd", "pwd", "token", "private_key") and isinstance(keyword.value, ast.Constant):
            self._refuse(node, f"{keyword.arg} stands in the script", "read it from os.environ")

    def _homonym(self, node: ast.Call, name: str) -> None:
        """Methods that lists and frames have, and databases and paths too: their arguments tell which it is."""
        count = len(node.args)
        if name == "copy" and count:
            self._refuse(node, "COPY may not be used")
        elif (name == "append" and count > 1) or (name == "insert" and count == 1):
            self._refuse(node, f".{name} of a database may not be used", "INSERT INTO a target")
        elif name == "update" and (count > 1 or any(keyword.arg in ("set", "condition") for keyword in node.keywords)):
            self._refuse(node, f".{name} of a database may not be used", "UPDATE a target")
        elif name in ("rename", "replace") and "pathlib" in self._imported and count == 1 and not node.keywords:
            self._refuse(node, f".{name} of a path may not be used")

    def _argument(self, node: ast.Call, *names: str) -> ast.expr | None:
        named = next((keyword.value for keyword in node.keywords if keyword.arg in names), None)
        return node.args[0] if node.args else named

    def _target(self, node: ast.Call, value: ast.expr | None, what: str) -> None:
        texts = self._texts(value)
        if not texts:
            self._refuse(node, f"the {what} that is written must be a plain text", "name it with --target")
        for text in texts:
            if text.lower() not in self.targets:
                told = ", ".join(sorted(self.targets)) or "none"
                self._refuse(node, f"{text} is not a target", f"targets: {told}")

    def _sql(self, node: ast.Call) -> None:
        value = self._argument(node, "sql", "query", "operation", "statement", "command")
        texts = [] if any(isinstance(argument, ast.Starred) for argument in node.args[:1]) else self._texts(value)
        if not texts:
            self._refuse(
                node,
                "its SQL is built at run time and cannot be checked",
                "write it as one plain text; values go in as parameters",
            )
        self.statements += [Statement(text, node.lineno) for text in texts]

    def _texts(self, value: ast.expr | None) -> list[str]:
        """The texts that an expression can be: a literal, or a name that only ever holds literals."""
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            return [value.value]
        if isinstance(value, ast.Name):
            return self._constants.get(value.id, [])
        return []


def _module_names(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Names that stand for modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.asname or alias.name.split(".")[0], alias.name if alias.asname else alias.name.split(".")[0]


def _constants(tree: ast.AST) -> dict[str, list[str]]:
    """Names that hold nothing but literal texts wherever they are bound: assigned one, or running over a literal list of them."""
    found: dict[str, list[str] | None] = {}
    lists: dict[str, list[str] | None] = {}

    def bound(name: str, texts: list[str] | None) -> None:
        before = found.get(name, [])
        found[name] = None if texts is None or before is None else [*before, *texts]

    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign):
            value = node.value
            for target in _plain_targets(node):
                lists[target.id] = _listed(value) if target.id not in lists else None
                bound(target.id, [value.value] if isinstance(value, ast.Constant) and isinstance(value.value, str) else None)
    unfollowed = {name for name, is_followed in _bindings(tree) if not is_followed}
    looped_over = {id(node.iter) for node in ast.walk(tree) if isinstance(node, ast.For | ast.comprehension)}
    for node in ast.walk(tree):
        # A list that is used in any other way than in a loop may hold something else by then.
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and id(node) not in looped_over:
            lists[node.id] = None
    for node in ast.walk(tree):
        if isinstance(node, ast.For | ast.comprehension) and isinstance(node.target, ast.Name):
            source = node.iter
            is_list = isinstance(source, ast.Name) and source.id not in unfollowed
            texts = lists.get(source.id) if is_list and isinstance(source, ast.Name) else _listed(source)
            bound(node.target.id, texts)
    for name in unfollowed:
        found[name] = None
    return {name: texts for name, texts in found.items() if texts}


def _plain_targets(node: ast.Assign | ast.AnnAssign) -> list[ast.Name]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [target for target in targets if isinstance(target, ast.Name)]


def _listed(value: ast.AST | None) -> list[str] | None:
    if isinstance(value, ast.List | ast.Tuple):
        texts = [item.value for item in value.elts if isinstance(item, ast.Constant) and isinstance(item.value, str)]
        return texts if len(texts) == len(value.elts) else None
    return None


def _loop_and_plain_targets(tree: ast.AST) -> Iterator[ast.Name]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign):
            yield from _plain_targets(node)
        elif isinstance(node, ast.For | ast.comprehension) and isinstance(node.target, ast.Name):
            yield node.target


def _bindings(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """Names and whether each binding is one that `_constants` follows: a parameter, a module or `+=` is none."""
    followed = {id(node) for node in _loop_and_plain_targets(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
            yield node.id, id(node) in followed
        elif isinstance(node, ast.arg):
            yield node.arg, False
        elif isinstance(node, ast.alias):
            yield (node.asname or node.name).split(".")[0], False
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            yield node.name, False
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            yield node.name, False
        elif isinstance(node, ast.Global | ast.Nonlocal):
            yield from ((name, False) for name in node.names)


BUILTINS = frozenset(dir(builtins)) | {"__name__", "__file__", "__doc__"}
