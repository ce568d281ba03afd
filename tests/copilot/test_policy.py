"""Policy files: what is wrong with one is said with line and key; and what the rules become, in every dialect."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlglot

from openarctic.copilot.access import open_access
from openarctic.copilot.guard import DIALECTS
from openarctic.copilot.policy import Policy, parse_policy, read_policy
from openarctic.copilot.schema import Column, ForeignKey, Schema, Table
from openarctic.errors import CapacityError, MissingError, RefusedError, UserError

ROLE = "roles:\n  r:\n    tables:\n      t:\n"
USERS = "users: {ann: [r]}\n"


def schema(dialect: str = "duckdb") -> Schema:
    texts = [Column(name=name, type="VARCHAR", values=("x", "y")) for name in ("name", "Team")]
    number = Column(name="id", type="INTEGER")
    return Schema(
        dialect=dialect,
        tables=(
            Table(name="t", columns=(number, *texts), primary_key=("id",), row_count=7),
            Table(
                name="u",
                columns=(number, Column(name="t_id", type="INTEGER")),
                foreign_keys=(ForeignKey(column="t_id", table="t", to_column="id"),),
                row_count=9,
            ),
            Table(name="v", columns=(number, texts[0]), is_view=True, definition="CREATE VIEW v AS SELECT id, name FROM t"),
            Table(name="odd", columns=(number,), is_view=True, definition="CREATE VIEW odd AS SELECT id FROM read_csv('x')"),
        ),
    )


def policy(rules: str, users: str = USERS) -> Policy:
    return parse_policy(f"roles:\n  r:\n    tables:\n      {rules}\n{users}", file="p.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("roles: [", "p.yaml, line 1: this is not YAML"),
        ("roles:\n  r: {}\n\tusers: {}", "p.yaml, line 3"),
        ("", "p.yaml is empty"),
        ("[]", "p.yaml, line 1: the file must be a mapping"),
        (USERS, "has no roles"),
        (ROLE, "has no users"),
        ("rolls: {}\n" + ROLE + USERS, "has no roles|rolls is no key"),
        (ROLE + USERS + "extra: 1", "line 6: extra is no key of a policy"),
        (ROLE + "users: {ann: [boss]}", r"line 5: users.ann\[0\] is 'boss', which is no role"),
        (ROLE + "users: {ann: r}", "line 5: users.ann must be a list"),
        (ROLE + "users: {ann: [r, r]}", "names role r twice"),
        (ROLE + "users:\n  ann: [r]\n  ann: []", r"line 7: users.ann is given twice \(first in line 6\)"),
        (ROLE + "users: {'': [r]}", "is no name of a user"),
        ("roles: {r: {tables: {t: {column: {}}}}}\n" + USERS, "line 1: roles.r.tables.t.column is no key"),
        ("roles: {r: {tables: {t: {columns: {hide: [a]}}}}}\n" + USERS, "roles.r.tables.t.columns.hide is no key"),
        ("roles: {r: {tables: {t: {columns: {mask: {a: blur}}}}}}\n" + USERS, "mask.a is 'blur'"),
        ("roles: {r: {tables: {t: {columns: {deny: [A], mask: {a: null}}}}}}\n" + USERS, "denied and masked at once"),
        ("roles: {r: {tables: {t: {columns: {mask: {a: null, A: hash}}}}}}\n" + USERS, "masked twice"),
        ("roles: {r: {tables: {t: , T: }}}\n" + USERS, "is the same table as t"),
        ("roles: {r: {tables: {'*': {rows: x}}}}\n" + USERS, "stands for every other table"),
        ("roles: {r: {tables: {t: {security: owner}}}}\n" + USERS, "security is 'owner'"),
        ("roles: {r: {functions: [load_extension]}}\n" + USERS, "'load_extension', which nobody may use"),
        ("roles: {r: {limits: {rows: 0}}}\n" + USERS, "limits.rows is 0, it must be a number above 0"),
        ("roles: {r: {limits: {rows: many}}}\n" + USERS, "limits.rows must be a whole number"),
        ("roles: {r: {limits: {seconds: -1}}}\n" + USERS, "limits.seconds is -1"),
        (ROLE + USERS + "salt: short", "line 6: salt has 5 characters, it must have 16"),
        ("roles: {a: {database_role: x}, b: {database_role: y}}\nusers: {ann: [a, b]}", "contradict each other: a and b"),
    ],
)
def test_every_mistake_is_named_with_line_and_key(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_policy(text, file="p.yaml")


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ("nowhere: ", "line 4: roles.r.tables.nowhere is no table of this database"),
        ("t: {columns: {deny: [nam]}}", "speaks of column nam, which the table does not have"),
        ("t: {columns: {mask: {nam: null}}}", "speaks of column nam"),
        ("t: {columns: {deny: [id, name, team]}}", "denies every column"),
        ("t: {security: definer}", "is a table"),
        ("t: {rows: 'id >'}", "line 4: roles.r.tables.t.rows is not duckdb SQL"),
        ("t: {rows: 'nothing = 1'}", "makes no sense: column nothing is not in scope"),
        ("t: {rows: 'id IN (SELECT id FROM nowhere)'}", "there is no table nowhere"),
        ("t: {rows: 'id = 1; DROP TABLE t'}", "is not duckdb SQL"),
        ("t: {rows: 'id IN (DELETE FROM t)'}", "is not duckdb SQL|makes no sense"),
        ("t: {rows: \"name = getenv('HOME')\"}", "makes no sense: function getenv"),
        ("t: {rows: 'name = :role'}", "rows holds :role"),
        ("t: {rows: ''}", "rows is empty"),
    ],
)
def test_a_policy_must_fit_the_database(rules: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        open_access(schema(), policy(rules), "ann")
    assert caught.value.exit_code == 2


def test_hints_name_the_nearest() -> None:
    with pytest.raises(UserError) as caught:
        open_access(schema(), policy("t: {columns: {deny: [nam]}}"), "ann")
    assert caught.value.hint == "did you mean name?"


def test_roles_that_contradict_each_other_are_refused() -> None:
    text = "roles: {a: {tables: {t: , v: {security: definer}}}, b: {tables: {v: }}}\nusers: {ann: [a, b], bob: [a]}"
    with pytest.raises(UserError, match="as invoker by one role of ann and as definer by another"):
        open_access(schema(), parse_policy(text), "ann")
    assert open_access(schema(), parse_policy(text), "bob").check("SELECT name FROM v").tables == ("t", "v")


def test_files_are_read_with_limits(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    with pytest.raises(MissingError, match="no policy file"):
        read_policy(path)
    path.write_text("#" * (1 << 20) + "\n" + ROLE + USERS)
    with pytest.raises(CapacityError, match="larger than"):
        read_policy(path)
    path.write_text(ROLE + USERS + "audit: log.jsonl")
    assert read_policy(path).audit == tmp_path / "log.jsonl"


def test_names_that_differ_in_case_alone_cannot_have_rules() -> None:
    twins = Schema(dialect="postgres", tables=tuple(Table(name=n, columns=(Column(name="id"),)) for n in ("t", "T")))
    with pytest.raises(UserError, match="differ in case alone"):
        open_access(twins, policy("t: "), "ann")


def test_a_role_of_the_database_needs_a_database_with_roles() -> None:
    text = "roles: {r: {tables: {t: }, database_role: analyst}}\n" + USERS
    assert open_access(schema("postgres"), parse_policy(text), "ann").check("SELECT id FROM t").role == "analyst"
    with pytest.raises(UserError, match="duckdb has no roles"):
        open_access(schema("duckdb"), parse_policy(text), "ann")


def test_what_cannot_be_followed_is_not_permitted() -> None:
    with pytest.raises(RefusedError, match="may read nothing here"):
        open_access(schema(), policy("odd: "), "ann")
    assert open_access(schema(), policy("odd: {security: definer}"), "ann").check("SELECT id FROM odd").tables == ("odd",)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("user", ["ann", "o'hara", "back\\slash", 'quo"te', "' OR 1 = 1 --", "\N{SNOWMAN}"])
def test_the_name_of_the_user_is_one_literal(dialect: str, user: str) -> None:
    rules = policy("t: {rows: 'name = :user'}").roles
    access = open_access(schema(dialect), Policy(roles=rules, users={user: ("r",)}, salt="s" * 16), user)
    tree = sqlglot.parse_one(access.check("SELECT id FROM t").sql, read=dialect)
    assert [literal.this for literal in tree.find_all(sqlglot.exp.Literal) if literal.is_string] == [user]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_gets_its_masks_and_its_fence(dialect: str) -> None:
    rules = "t: {columns: {mask: {name: hash, team: last4, id: null}}, rows: 'id > 1'}"
    checked = open_access(schema(dialect), policy(rules), "ann").check("SELECT * FROM t AS x WHERE x.name = 'a'")
    assert checked.original is not None and "OFFSET" not in checked.shown
    assert "OFFSET 0" in checked.sql and checked.filtered == ("t",)
    hashes = {"duckdb": "SHA256(", "sqlite": "SHA256(", "postgres": "CONVERT_TO(", "snowflake": "SHA2("}
    assert hashes[dialect] in checked.sql.upper()
    assert isinstance(sqlglot.parse_one(checked.sql, read=dialect), sqlglot.exp.Select)


def test_one_table_may_be_read_as_it_is() -> None:
    access = open_access(schema(), policy("t: {columns: {deny: [team]}}\n      u:"), "ann")
    assert access.check("SELECT t_id FROM u").sql == "SELECT t_id FROM u"
    t = access.schema.table("t")
    assert t is not None and t.row_count == 7 and t.columns[1].values == ("x", "y")


def test_a_join_over_a_mask_is_no_key() -> None:
    access = open_access(schema(), policy("t: {columns: {mask: {id: null}}}\n      u:"), "ann")
    t, u = access.schema.table("t"), access.schema.table("u")
    assert t is not None and u is not None and u.foreign_keys == () and t.primary_key == ()


def test_the_example_of_the_documentation_is_a_policy() -> None:
    text = (Path(__file__).parents[2] / "docs/policy.md").read_text(encoding="utf-8")
    example = text.split("```yaml\n")[1].split("```")[0]
    assert parse_policy(example).users == {"ann": ("seller",), "eve": ("seller", "analyst")}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_functions_are_known_by_the_names_that_people_write(dialect: str) -> None:
    functions = ("count", "date_trunc", "substr", "length", "coalesce", "string_agg")
    text = f"roles: {{r: {{tables: {{t: }}, functions: [{', '.join(functions)}]}}}}\n{USERS}"
    access = open_access(schema(dialect), parse_policy(text), "ann")
    calls = ["count(*)", "count(DISTINCT id)", "substr(name, 1, 2)", "length(name)", "coalesce(name, 'x')"]
    for call in calls if dialect == "sqlite" else [*calls, "date_trunc('month', team)", "string_agg(name, ',')"]:
        assert access.check(f"SELECT {call} FROM t").sql
    for call in ("sum(id)", "upper(name)", "max(name)"):
        with pytest.raises(RefusedError, match="may not be used here"):
            access.check(f"SELECT {call} FROM t")
