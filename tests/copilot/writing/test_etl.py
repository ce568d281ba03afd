"""Python scripts: a good one passes both linters, each bad one is found, and nothing runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from openarctic.copilot.writing.etl import Etl
from openarctic.copilot.writing.lint import find_ruff

from .world import ETL, shop

CONNECT = "import duckdb\nc = duckdb.connect('shop')\n"


def found(source: str, ruff: str | None = None, targets: tuple[str, ...] = ("monthly_revenue", "out.csv")) -> list[str]:
    task = Etl("load", shop("duckdb"), targets, ruff=ruff)
    return [str(problem) for problem in task.check({"etl.py": source})]


@pytest.mark.parametrize("ruff", [find_ruff(), None], ids=["ruff", "own"])
def test_a_good_script_passes(ruff: str | None) -> None:
    task = Etl("load", shop("duckdb"), ("monthly_revenue",), ruff=ruff)
    files = task.read(f"Here it is:\n\n```python\n{ETL}```\nRun it daily.")
    assert files == {"etl.py": ETL} and task.check(files) == []
    assert ("ruff is not installed" in " ".join(task.checks)) == (ruff is None)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import subprocess\nsubprocess.run(['ls'])", "subprocess may not be imported"),
        ("import os\nos.system('ls')", ".system may not be used"),
        ("import os as o\no.remove('x')", "os.remove may not be used"),
        ("from os import system\nsystem('x')", "os.system may not be used"),
        ("import logging\nlogging.os.remove('x')", ".os may not be used"),
        ("import sys\nsys.modules['os']", ".modules may not be used"),
        ("eval('1')", "eval may not be used"),
        ("exec('1')", "exec may not be used"),
        ("__import__('os')", "__import__ may not be used"),
        ("().__class__.__bases__[0].__subclasses__()", "__subclasses__ may not be used"),
        ("getattr(print, 'x')", "getattr may not be used"),
        ("open('x', 'w')", "open may not be used"),
        ("import pathlib\npathlib.Path('x').write_text('y')", ".write_text may not be used"),
        ("import pathlib\npathlib.Path('x').replace('y')", ".replace of a path"),
        ("import urllib.request\nurllib.request.urlopen('http://x')", "urllib.request may not be imported"),
        ("import pickle\npickle.loads(b'')", "pickle may not be imported"),
        ("import pandas as pd\npd.read_csv('https://evil/x')", "from the network"),
        ("import pandas as pd\npd.DataFrame().to_csv('/etc/passwd')", "/etc/passwd is not a target"),
        ("import pandas as pd\npd.DataFrame().to_sql('orders', None)", "orders is not a target"),
        ("import psycopg\npsycopg.connect(host='x', password='secret')", "password stands in the script"),
        (f"{CONNECT}c.execute('DROP TABLE orders')", "orders is a table of the source"),
        (f"{CONNECT}c.execute('DELETE FROM orders')", "orders is a table of the source"),
        (f"{CONNECT}t = 'orders'\nc.execute(f'SELECT * FROM {{t}}')", "built at run time"),
        (f"{CONNECT}c.execute('SELECT * FROM ' + 'orders')", "built at run time"),
        (f"{CONNECT}c.execute('SELECT {{}}'.format(1))", "built at run time"),
        (f"{CONNECT}q = 'SELECT 1'\nq += '; DROP TABLE orders'\nc.execute(q)", "built at run time"),
        (f"{CONNECT}def run(q):\n    c.execute(q)\nrun('DROP TABLE orders')", "built at run time"),
        (f"{CONNECT}for q in ['SELECT 1', 'DROP TABLE orders']:\n    c.execute(q)", "orders is a table of the source"),
        (f"{CONNECT}e = c.execute\ne('DROP TABLE orders')", "may only be called where it stands"),
        (f"{CONNECT}list(map(c.execute, ['DROP TABLE orders']))", "may only be called where it stands"),
        (f"{CONNECT}c.execute(*['DROP TABLE orders'])", "built at run time"),
        (f"{CONNECT}c.sql('SELECT nome FROM customers')", "did you mean name?"),
        (f"{CONNECT}c.execute(\"COPY orders TO '/tmp/x'\")", "COPY may not be used"),
        (f"{CONNECT}c.execute(\"SELECT * FROM read_text('/etc/passwd')\")", "may not"),
        (f"{CONNECT}c.execute(\"ATTACH 'x.db' AS x\")", "ATTACH may not be used"),
        (f"{CONNECT}c.execute('INSTALL httpfs')", "may not be used"),
        ("import sqlite3\nsqlite3.connect('x').executescript('DROP TABLE orders')", ".executescript may not be used"),
        ("from json import *", "import * may not be used"),
        ("from logging import os\nos.remove('x')", "logging.os may not be used"),
        ("import argparse\nargparse._os.remove('x')", "_os may not be used"),
        ("import os\nm = os\nm.remove('x')", "may not be passed on"),
        ("match print:\n    case object(__self__=b):\n        b.exec('x')", "patterns"),
        ("import typing\ntyping.get_type_hints(print)", ".get_type_hints"),
        ("def f():\n    yield\nf().gi_frame", ".gi_frame"),
        ("import logging\nlogging.basicConfig(filename='x')", "filename may not be used"),
        (f"{CONNECT}S = ['SELECT 1']\nS.append('DROP TABLE orders')\nfor q in S:\n    c.execute(q)", "built at run time"),
        (f"{CONNECT}S = ['SELECT 1']\nS[0] = 'x'\nfor q in S:\n    c.execute(q)", "built at run time"),
        (f"{CONNECT}S = ['SELECT 1']\nS += ['x']\nfor q in S:\n    c.execute(q)", "built at run time"),
        (f"{CONNECT}args = c\nargs.query", "may only be called where it stands"),
        (f"{CONNECT}c.append('orders', None)", ".append of a database"),
        (f"{CONNECT}c.table('orders').insert([1])", ".insert of a database"),
        (f"{CONNECT}c.execute('SELECT 1 /* /* */ ; DROP TABLE orders; */')", "a comment stands in a comment"),
        ("def f(:", "this is not Python"),
        ("return 1", "this is not Python"),
        ("x = '\ud800'", "this is not Python"),
        ("x = " + "(" * 500 + ")" * 500, "this is not Python"),
    ],
)
def test_each_bad_script_is_found(source: str, told: str) -> None:
    problems = found(source + "\n")
    assert any(told in problem for problem in problems), problems


@pytest.mark.parametrize("ruff", [find_ruff(), None], ids=["ruff", "own"])
@pytest.mark.parametrize(
    "source",
    [
        "import json\n",
        "print(undefined_name)\n",
        "def f():\n    return missing\n",
        "print(missing)  # noqa\n",
        "def f():\n    x = [y for z in range(3)]\n    return x\n",
    ],
)
def test_both_linters_find_names_and_imports(ruff: str | None, source: str) -> None:
    assert found(source, ruff)


@pytest.mark.parametrize(
    "source",
    [
        "import pandas as pd\nframe = pd.DataFrame({'a': [1]}).rename(columns={'a': 'b'}).copy()\nframe.to_csv('out.csv')\n",
        "def f(a, *b, c=1, **d):\n    global e\n    e = [x for x in b]\n    return lambda y: (a, c, d, e, y)\n",
        "class A:\n    x = 1\n\n    def f(self):\n        return __name__, self.x\n",
        "try:\n    print(1)\nexcept Exception as error:\n    print(error)\n",
        f"{CONNECT}c.execute('SELECT name FROM customers WHERE id = $id LIMIT ?', [1])\n",
        "import os\nimport psycopg\nwith psycopg.connect(os.environ['DSN']) as c:\n    c.execute('SELECT 1')\n",
    ],
)
def test_what_is_harmless_passes(source: str) -> None:
    assert found(source) == []


def test_a_script_is_never_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    found(f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n", find_ruff())
    assert not mark.exists()
