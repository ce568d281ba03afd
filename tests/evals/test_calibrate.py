"""The regression against its own definition, folds that keep databases apart, and a calibration that finds what was put in."""

from __future__ import annotations

import math
import random
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from openarctic.copilot.confidence import Linear
from openarctic.copilot.execute import Result
from openarctic.copilot.features import FEATURES
from openarctic.copilot.guard import Checked
from openarctic.copilot.vote import Candidate
from openarctic.errors import UserError
from openarctic.evals.calibrate import Case, calibrate
from openarctic.evals.curve import accuracy_at, area, calibration_error, curve_page, curve_rows, risk_coverage
from openarctic.evals.logistic import fit_choice, fit_logistic, folds


def drawn(count: int, seed: int = 0) -> tuple[list[dict[str, float]], list[bool]]:
    draw = random.Random(seed)
    rows = [{"a": draw.gauss(3, 2), "b": draw.gauss(0, 1), "same": 1.0} for _ in range(count)]
    return rows, [draw.random() < 1 / (1 + math.exp(-(row["a"] - 3))) for row in rows]


def test_the_fit_has_no_slope_left() -> None:
    """At the optimum the gradient, computed anew from the definition, is zero."""
    rows, events = drawn(200)
    weights = [1 + i % 3 for i in range(200)]
    linear = fit_logistic(rows, events, ["a", "b", "same"], penalty=2.0, weights=weights)
    assert set(linear.terms) == {"a", "b"}  # what never varies tells nothing
    errors = [w * (linear.probability(row) - event) for row, event, w in zip(rows, events, weights, strict=True)]
    for name, (mean, scale, weight) in linear.terms.items():
        inputs = [max(-4, min(4, (row[name] - mean) / scale)) for row in rows]
        assert sum(e * x for e, x in zip(errors, inputs, strict=True)) + 2.0 * weight == pytest.approx(0, abs=1e-5)
    assert sum(errors) == pytest.approx(0, abs=1e-4)
    assert linear.terms["a"][2] > 1 > abs(linear.terms["b"][2])


def test_the_choice_has_no_slope_left_and_knows_nothing_of_what_a_question_shares() -> None:
    draw = random.Random(2)
    questions = []
    for _ in range(60):
        shared = draw.gauss(0, 1)
        rows = [{"a": draw.gauss(0, 1), "b": draw.gauss(0, 1), "shared": shared} for _ in range(draw.randint(2, 5))]
        best = max(range(len(rows)), key=lambda i: rows[i]["a"] + draw.gauss(0, 0.5))
        questions.append([(row, i == best or (i == 0 and draw.random() < 0.2)) for i, row in enumerate(rows)])
    linear = fit_choice(questions, ["a", "b", "shared"], penalty=1.0)
    assert abs(linear.terms["shared"][2]) < 1e-6 and linear.terms["a"][2] > 1 > abs(linear.terms["b"][2])
    slopes = dict.fromkeys(linear.terms, 0.0)
    for question in (q for q in questions if len({right for _, right in q}) == 2):
        powers = [math.exp(linear.log_odds(row)) for row, _ in question]
        right = sum(p for p, (_, is_right) in zip(powers, question, strict=True) if is_right)
        for power, (row, is_right) in zip(powers, question, strict=True):
            gap = power / sum(powers) - (power / right if is_right else 0)
            for name, (mean, scale, _) in linear.terms.items():
                slopes[name] += gap * max(-4, min(4, (row[name] - mean) / scale))
    for name, (_, _, weight) in linear.terms.items():
        assert slopes[name] + 1.0 * weight == pytest.approx(0, abs=1e-2)


def test_the_fit_of_separable_rows_is_finite() -> None:
    linear = fit_logistic([{"a": float(i)} for i in range(20)], [i > 9 for i in range(20)], ["a"], penalty=0.5)
    assert linear.probability({"a": 19.0}) > 0.9 > 0.1 > linear.probability({"a": 0.0})
    with pytest.raises(ValueError, match="the same"):
        fit_logistic([{"a": 1.0}], [True], ["a"], penalty=1.0)


def test_a_weight_of_the_wrong_sign_is_left_out() -> None:
    rows, events = drawn(200)
    assert set(fit_logistic(rows, events, ["a", "b"], penalty=1.0, against=frozenset({"a"})).terms) <= {"b"}
    free, held = (fit_logistic(rows, events, ["a"], penalty=1.0, against=a) for a in (None, frozenset[str]()))
    assert free == held  # nothing to leave out


def test_no_group_stands_on_both_sides() -> None:
    groups = [random.Random(1).choice("abcdefghijk") for _ in range(100)]
    seen: list[int] = []
    for fit_on, held in folds(groups, 4):
        assert not {groups[i] for i in fit_on} & {groups[i] for i in held}
        assert sorted([*fit_on, *held]) == list(range(100))
        seen += held
    assert sorted(seen) == list(range(100))


def test_risk_and_coverage_by_hand() -> None:
    judged = [(0.9, True), (0.8, True), (0.8, False), (0.1, False)]
    assert [(p.confidence, p.coverage, p.error) for p in risk_coverage(judged)] == [
        (0.1, 1.0, 0.5),
        (0.8, 0.75, pytest.approx(1 / 3)),
        (0.9, 0.25, 0.0),
    ]
    assert [accuracy_at(c, judged) for c in (0.25, 0.5, 0.75, 1)] == [1, 0.75, pytest.approx(2 / 3), 0.5]
    assert area(judged) == pytest.approx((0 + 0.25 + 1 / 3 + 0.5) / 4)
    # Sorted by confidence in two halves: 0.9 expected and none right, 1.7 expected and both right.
    assert calibration_error(judged, parts=2) == pytest.approx(((0.9 - 0) + (2 - 1.7)) / 4)
    assert [(c, n) for c, n, _, _ in curve_rows(judged)][:2] == [(1.0, 4), (0.9, 4)]


def cases(count: int, parts: int, seed: int = 0) -> list[Case]:
    """Two candidates a question; the one that the features speak for is right nine times of ten, the model's favourite half."""
    draw = random.Random(seed)
    made = []
    for i in range(count):
        good = draw.random() < 0.5
        told = {name: draw.gauss(0, 1) for name in FEATURES}
        pair = []
        for j, speaks in enumerate((good, not good)):
            result = Result(["a"], [(i, j)], False, 0.0)
            features = {**told, "links_unused": float(not speaks), "is_first": float(j == 0)}
            pair.append(Candidate(Checked(f"{i} {j}", (), ()), -1.0 - j, result=result, features=features))
        right = [good, not good] if draw.random() < 0.9 else [not good, good]
        made.append(Case(f"db{i % parts}", tuple(pair), tuple(right)))
    return made


def test_a_calibration_finds_what_speaks_for_a_candidate() -> None:
    fit = calibrate(cases(240, 6), "m", "f")
    terms = fit.calibration.correct.terms
    assert max(terms, key=lambda name: abs(terms[name][2])) == "links_unused" and terms["links_unused"][2] < 0
    assert 0.8 < fit.accuracy < 0.97 and len(fit.judged) == 240
    assert calibration_error(fit.judged) < 0.1
    again = calibrate(cases(240, 6, seed=1), "m", "f", base=fit.calibration)
    assert again.calibration.correct == fit.calibration.correct and again.calibration.curve != fit.calibration.curve


def test_few_questions_get_few_weights_and_too_few_none() -> None:
    fit = calibrate(cases(40, 40), "m", "f")
    assert "links_unused" not in fit.calibration.correct.terms
    with pytest.raises(UserError, match="at least 20"):
        calibrate(cases(19, 19), "m", "f")
    with pytest.raises(UserError, match="nothing can be fitted"):
        calibrate([Case(c.part, c.candidates, (False, False)) for c in cases(30, 3)], "m", "f")


def test_one_database_is_divided_by_question() -> None:
    assert len({c for c, _ in calibrate(cases(40, 1), "m", "f").judged}) > 8


def test_the_greedy_candidate_alone_is_fitted_on_too_but_never_beside_its_own_database() -> None:
    several, misleading = cases(240, 6), [Case(c.part, c.candidates, c.right[::-1]) for c in cases(240, 6) if c.part == "db0"]
    fit, both = calibrate(several, "m", "f"), calibrate(several, "m", "f", alone=misleading * 20)
    assert both.calibration.correct != fit.calibration.correct
    of_it = [i for i, case in enumerate(several) if case.part == "db0"]
    assert [both.judged[i][1] for i in of_it] == [fit.judged[i][1] for i in of_it]
    assert [right for _, right in both.judged] != [right for _, right in fit.judged]
    one = cases(60, 1)
    assert calibrate(one, "m", "f", alone=one) == calibrate(one, "m", "f")


def test_questions_without_candidates_count_as_wrong() -> None:
    fit = calibrate([*cases(60, 6), Case("none", (), ())], "m", "f")
    assert fit.judged[-1] == (0.0, False) and len(fit.judged) == 61


def test_the_page_escapes_and_its_picture_is_xml() -> None:
    judged = [(i / 50, i % 3 > 0) for i in range(50)]
    page = curve_page("a <b>", ["x & y"], judged, [("<script>", "SELECT '<'", "SELECT 1")])
    assert "<script>" not in page and "a &lt;b&gt;" in page and "x &amp; y" in page
    start, end = page.index("<svg"), page.index("</svg>") + 6
    assert ElementTree.fromstring(page[start:end]).tag.endswith("svg")


def test_numpy_and_plain_scores_agree() -> None:
    """`Linear` is what `ask` computes without numpy; the fit computed with it."""
    rows, events = drawn(50, seed=3)
    linear: Linear = fit_logistic(rows, events, ["a", "b"], penalty=1.0)
    matrix = np.array([[row["a"], row["b"]] for row in rows])
    mean, scale, weight = (np.array([linear.terms[n][k] for n in ("a", "b")]) for k in range(3))
    plain = [linear.probability(row) for row in rows]
    assert 1 / (1 + np.exp(-(linear.bias + np.clip((matrix - mean) / scale, -4, 4) @ weight))) == pytest.approx(plain)
