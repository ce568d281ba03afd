"""From a thumb to a verified query and a training pair, and the ways in which a file of feedback can be wrong."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlglot

from openarctic.copilot.databases import open_database, read_schema
from openarctic.copilot.examples import Databases, read_pairs
from openarctic.copilot.execute import Worker
from openarctic.copilot.feedback import Feedback, FeedbackFile, Review, draft_id, drafts_of, find_draft, with_verified
from openarctic.copilot.feedback_pairs import PairWriter
from openarctic.copilot.guard import check
from openarctic.copilot.joins import expand
from openarctic.copilot.semantic.cortex import parse_cortex
from openarctic.copilot.semantic.model import SemanticModel, VerifiedQuery
from openarctic.copilot.semantic.probe import Probe
from openarctic.copilot.semantic.review import check_draft
from openarctic.errors import CapacityError, CorruptError, MissingError, RefusedError, UserError
from tests.copilot.files import write_both
from tests.copilot.semantic.shop import MODEL, SCRIPT

QUESTION = "How many orders are open?"
WRONG, RIGHT = "SELECT COUNT(*) FROM ord", "SELECT COUNT(*) FROM ord WHERE st = 'open'"


def said(verdict: str, sql: str = WRONG, corrected: str = "", by: str = "ada", at: int = 1, question: str = QUESTION) -> Feedback:
    return Feedback(question=question, sql=sql, verdict=verdict, corrected=corrected, by=by, at=at)  # type: ignore[arg-type]


def test_thumbs_and_corrections_make_drafts() -> None:
    drafts = drafts_of(
        [
            said("up", at=1),
            said("up", by="ben", at=2, question="how many orders are OPEN"),
            said("down", corrected=RIGHT, by="cleo", at=3),
            said("down", by="dan", at=4),
        ]
    )
    (draft,) = drafts  # two thumbs up and two down: nobody needs to look at the first
    assert (draft.sql, draft.corrections, draft.people, draft.status) == (RIGHT, 1, ["cleo"], "open")
    assert draft.id == draft_id("How many orders are open", f"  {RIGHT} ;") and draft.rivals == ()


def test_an_edited_sql_says_nothing_against_the_answer() -> None:
    drafts = {d.sql: d for d in drafts_of([said("up"), said("up", corrected=RIGHT, at=2)])}
    assert (drafts[WRONG].up, drafts[RIGHT].corrections) == (1, 1)
    assert drafts[WRONG].rivals == (drafts[RIGHT].id,)


def test_reviews_decide_and_stay(tmp_path: Path) -> None:
    file = FeedbackFile(tmp_path / "f.jsonl")
    for record in (said("up"), said("up", question="Which clients are there?", sql="SELECT nm FROM clients")):
        file.append(record)
    first, second = file.drafts()
    file.append(Review(id=first.id, decision="accepted", by="Zoe", at=1714521600))
    file.append(Review(id=second.id, decision="rejected", by="Zoe"))
    file.append(said("down", question=first.question, sql=first.sql))
    status = {d.id: d for d in file.drafts()}
    assert status[second.id].status == "rejected" and status[second.id].reviewed_at > 1_700_000_000
    assert status[first.id].verified_query().badge == "verified by Zoe on 2024-05-01"
    assert find_draft(file.drafts(), first.id[:5]).id == first.id
    with pytest.raises(MissingError):
        find_draft(file.drafts(), "nothing")
    with pytest.raises(MissingError):
        find_draft(file.drafts(), "")


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"question": ""}, UserError),
        ({"question": "???"}, UserError),
        ({"question": "drop all tables"}, RefusedError),
        ({"question": "x" * 3000}, UserError),
        ({"sql": " "}, UserError),
        ({"sql": "x" * 30_000}, UserError),
        ({"verdict": "meh"}, UserError),
        ({"by": "x" * 300}, UserError),
        ({"by": "\x1b[31m"}, UserError),
    ],
)
def test_feedback_has_limits(values: dict[str, str], error: type[Exception]) -> None:
    with pytest.raises(error):
        Feedback(**{"question": QUESTION, "sql": WRONG, "verdict": "up", **values})  # type: ignore[arg-type]


def test_a_review_names_who_makes_it() -> None:
    with pytest.raises(UserError, match="needs the name"):
        Review(id="x", decision="accepted", by=" ")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2 is not JSON"),
        ("[" * 100_000, "line 2"),
        ("[1]", "line 2 is neither"),
        ('{"kind": "vote"}', "line 2 is neither"),
        ('{"kind": {}}', "line 2 is neither"),
        ('{"kind": "feedback", "question": "q"}', "line 2 is not what a line must be"),
        ('{"kind": "feedback", "question": "q", "sql": 5, "verdict": "up"}', "line 2 is not what a line must be"),
        ('{"kind": "feedback", "question": "q", "sql": "s", "verdict": "up", "x": "y"}', "line 2 is not what"),
        ('{"kind": "review", "id": "a", "decision": "maybe", "by": "z"}', "line 2 is not what"),
    ],
)
def test_broken_lines_are_told(tmp_path: Path, line: str, words: str) -> None:
    file = FeedbackFile(tmp_path / "f.jsonl")
    file.append(said("up"))
    with file.path.open("a") as lines:
        lines.write(line + "\n")
    with pytest.raises(CorruptError, match=words):
        file.drafts()


def test_files_that_are_not_there_and_lines_that_are_too_long(tmp_path: Path) -> None:
    file = FeedbackFile(tmp_path / "f.jsonl")
    with pytest.raises(MissingError, match="no feedback at"):
        file.drafts()
    file.append(said("up", sql="€" * 19_000, corrected="🦊" * 19_999))
    with pytest.raises(CapacityError, match="bytes"):
        file.append(said("up", sql="\x01" * 19_000, corrected="\x01" * 19_999))
    assert len(file.drafts()) == 1
    assert file.path.stat().st_mode & 0o077 == 0


def test_several_writers_do_not_cut_each_others_lines(tmp_path: Path) -> None:
    def add_many(name: str) -> None:
        for i in range(200):
            FeedbackFile(tmp_path / "f.jsonl").append(said("up", sql=f"SELECT {i} -- {'x' * 5000}", by=name))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add_many, ("ada", "ben", "cleo", "dan")))
    drafts = FeedbackFile(tmp_path / "f.jsonl").drafts()
    assert len(drafts) == 200 and all(d.up == 4 for d in drafts)


def test_one_question_has_one_verified_query() -> None:
    query = VerifiedQuery(question=QUESTION, sql=RIGHT)
    model = with_verified(SemanticModel(name="x"), query)
    assert with_verified(
        model, VerifiedQuery(question="how many orders are open", sql=f"{RIGHT} ", verified_by="z")
    ).verified_queries
    with pytest.raises(UserError, match="already verified"):
        with_verified(model, VerifiedQuery(question="how many orders are open", sql=WRONG))


def test_what_means_something_else_in_the_models_names_is_not_accepted(tmp_path: Path) -> None:
    # In the model, `ord` is what is open alone.
    text = "name: x\ntables:\n- name: ord\n  base_table: {definition: SELECT * FROM ord WHERE st = 'open'}\n"
    text += "  dimensions: [{name: oid, expr: oid}, {name: st, expr: st}]\n"
    database = open_database(write_both(tmp_path, SCRIPT)["sqlite"])
    (draft,) = drafts_of([said("up", sql="SELECT COUNT(oid) FROM ord")])
    with Probe(database, read_schema(database)) as probe:
        check_draft(draft, SemanticModel(name="y"), probe)
        with pytest.raises(UserError, match="means something else"):
            check_draft(draft, parse_cortex(text).model, probe)
        (wrong,) = drafts_of([said("up", sql="DELETE FROM ord")])
        with pytest.raises(UserError, match="is not a query"):
            check_draft(wrong, SemanticModel(name="y"), probe)
        (rejected,) = drafts_of([said("up"), Review(id=draft_id(QUESTION, WRONG), decision="rejected", by="z")])
        with pytest.raises(UserError, match="was rejected by z"):
            check_draft(rejected, SemanticModel(name="y"), probe)


LOGICAL = [
    VerifiedQuery(question=QUESTION, sql="SELECT COUNT(*) FROM orders WHERE state = 'open'"),
    VerifiedQuery(question="Names of the customers with paid orders", sql=(
        "SELECT DISTINCT customer_name FROM customers c JOIN orders o ON o.client_id = c.client_id WHERE o.state = 'paid'")),
    VerifiedQuery(question="Pieces of each order", sql="SELECT order_id, SUM(pieces) FROM lines GROUP BY order_id"),
    VerifiedQuery(question="Broken", sql="SELECT nothing FROM orders"),
]  # fmt: skip


@pytest.mark.parametrize("dialect", ["sqlite", "duckdb"])
def test_pairs_are_read_by_training_and_mean_the_same(tmp_path: Path, dialect: str) -> None:
    paths = write_both(tmp_path, SCRIPT)
    database = open_database(paths[dialect])
    schema = read_schema(database)
    writer, worker = PairWriter(schema, "shop", parse_cortex(MODEL).model), Worker(database)

    def rows(sql: str) -> list[tuple[object, ...]]:
        return sorted(worker.execute(check(sql, dialect, schema)).rows, key=repr)

    truth = [rows(writer.layer.physical(q.sql).sql(dialect=dialect)) for q in LOGICAL[:3]]
    spider = [json.loads(line) for line in writer.lines(LOGICAL, "spider")]
    assert [r["question"] for r in spider] == [q.question for q in LOGICAL[:3]] and writer.skipped[0][0] == "Broken"
    assert [rows(r["query"]) for r in spider] == truth and not any("(SELECT" in r["query"] for r in spider)
    sft = [json.loads(line) for line in writer.lines(LOGICAL, "sft")]
    full = [writer.layer.physical(expand(r["response"].strip(), writer.layer.logical, dialect)) for r in sft]
    assert [rows(tree.sql(dialect=dialect)) for tree in full] == truth
    assert sft[0]["prompt"].endswith("Q: How many orders are open? [open = orders.state]\nSQL:")
    assert sft[0]["response"] == " SELECT COUNT(*) FROM orders WHERE state = 'open'"
    # What `openarctic train nano` makes of the same lines.
    folder = tmp_path / "databases" / "shop"
    folder.mkdir(parents=True)
    (folder / "shop.sqlite").write_bytes(paths["sqlite"].read_bytes())
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in spider))
    pairs = list(read_pairs(tmp_path / "pairs.jsonl", Databases(tmp_path / "databases")))
    plain = PairWriter(schema, "shop")
    queries = [VerifiedQuery(question=r["question"], sql=sqlglot.transpile(r["query"], "sqlite", dialect)[0]) for r in spider]
    responses = [json.loads(line)["response"] for line in plain.lines(queries, "sft")]
    assert [f" {pair.sql}" for pair in pairs] == responses and len(responses) == 3
    worker.close()
