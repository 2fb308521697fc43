"Evaluation: formulas against brute force, pairing, seeds"
import itertools
import json
import math
import os
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from cotkit.data.core import CotkitError, Problem
from cotkit.data.formats import AnswerOnly, StepByStep, ZeroShotCoT
from cotkit.evaluation.evaluate import (Evaluation, Prediction, add_scores, compare, compare_seeds, contrast, evaluate,
                                        score_outputs, score_table, select_checkpoint, summarise)
from cotkit.evaluation.metrics import brier, edit_distance, log_likelihood, numeric_error, read_trace, token_edit_distance
from cotkit.evaluation.statistics import (Estimate, bonett_price, holm, mcnemar, mean_estimate, paired_difference,
                                          pass_at_k, t_quantile)
from cotkit.evaluation.strategies import (Likelihood, SingleTurn, Trace, Vote, choice_examples, majority,
                                          strategy_from_dict, strategy_to_dict)
from cotkit.models.generate import DecodingParams
from cotkit.teachers.collect import RequestLimits
from cotkit.teachers.openai import EndpointConfig, OpenAITeacher
from cotkit.teachers.protocol import NoAnswerError, OracleTeacher, SamplingParams, TeacherError
from loopback import Loopback, Raw, reply

ROOT = Path(__file__).resolve().parent.parent
APPLES = Problem('apples-1', 'Ann has 3 apples. She buys 4 bags with 2 apples each. How many apples does Ann have now?', '11')


def taken(verdicts, name='student', split='test', seed=0, ids=None):
    "An evaluation with these verdicts"
    ids = ids or [f'p{i}' for i in range(len(verdicts))]
    return Evaluation(name, split, [Prediction(id, str(v), '1' if v else '0', {'exact_match': float(v > 0)}, True) for id, v in zip(ids, verdicts)], seed)


@pytest.mark.parametrize('output, format, answer, correct, strict', [
    ('So 3 + 8 = 11. The answer is 11.', ZeroShotCoT(), '11', True, True),
    ('So she has eleven, that is 11', ZeroShotCoT(), '11', True, False),
    ('The answer is 12.', AnswerOnly(), '12', False, True),
    ('11', StepByStep(), '11', True, True),
    ('no idea', ZeroShotCoT(), None, False, False), ('', StepByStep(), None, False, False)])
def test_outputs_are_read_by_their_own_format(output, format, answer, correct, strict):
    read = read_trace(output, APPLES, format)
    assert (read.answer, read.correct, read.marked) == (answer, correct, strict)


def test_both_readings_and_the_unparsed_are_counted():
    outputs = ['The answer is 11.', 'It must be 11', 'The answer is 9.', 'hm']
    found = score_outputs(outputs, [APPLES] * 4, ZeroShotCoT(), 'student', 'test')
    assert (found.accuracy.correct, found.strict.correct, found.accuracy.n, found.strict.n, found.unparsed) == (2, 1, 4, 4, 1)
    row = json.loads(json.dumps(found.summary()))
    assert row['accuracy'] == 0.5 and row['strict']['accuracy'] == 0.25 and row['low'] < 0.5 < row['high'] and row['n'] == 4
    assert Evaluation.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert '50.0 %' in found._repr_html_() and '25.0 %' in found._repr_html_() and len(repr(found)) < 100


def test_names_are_escaped_in_reprs():
    assert '<img' not in taken([1, 0], name='<img src=x>')._repr_html_()
    assert '<img' not in compare(taken([1, 0], name='<img src=x>'), taken([0, 0]))._repr_html_()
    assert '<img' not in summarise([taken([1, 0], name='<img src=x>')])._repr_html_()


def test_problems_without_gold_answers_are_no_test():
    with pytest.raises(CotkitError, match='no gold answers'): score_outputs(['The answer is 4.'], [Problem('p', 'How many?', '')], ZeroShotCoT())


def test_counts_must_match():
    with pytest.raises(CotkitError, match='2 outputs for 1 problems'): score_outputs(['a', 'b'], [APPLES], ZeroShotCoT())
    with pytest.raises(CotkitError, match='nothing to evaluate'): score_outputs([], [], ZeroShotCoT())


def test_a_real_student_takes_the_test():
    import torch
    from cotkit.models.students import Student, build_model
    from cotkit.models.tokenizers import train_tokenizer
    torch.set_num_threads(1)
    tokenizer = train_tokenizer([APPLES.question + ' The answer is 11.'] * 3, vocab_size=300)
    for arch in ('causal', 'seq2seq'):
        if arch == 'seq2seq': tokenizer = train_tokenizer([APPLES.question + ' The answer is 11.'] * 3, arch=arch, vocab_size=300)
        student = Student(build_model('tiny', tokenizer, arch), tokenizer, AnswerOnly(), arch)
        problems = [Problem(f'p{i}', f'{APPLES.question} {i}', '11') for i in range(5)]
        first, again = (evaluate(SingleTurn(student, decoding=DecodingParams(6)), problems, split='test') for _ in range(2))
        assert first == again and first.name == 'answer-only' and [p.problem_id for p in first.predictions] == [p.id for p in problems]
    with pytest.raises(CotkitError, match='no problems'): evaluate(student, [])


# ---------------------------------------------------------------- formulas

def brute_mcnemar(b, c):
    "Every way in which b + c fair coins can fall, counted"
    n, observed = b + c, abs(b - c)
    return sum(1 for coins in itertools.product((0, 1), repeat=n) if abs(2 * sum(coins) - n) >= observed) / 2 ** n


@pytest.mark.parametrize('b, c', [(b, c) for b in range(8) for c in range(8 - b)])
def test_mcnemar_against_enumeration(b, c): assert mcnemar(b, c) == pytest.approx(brute_mcnemar(b, c))


def test_mcnemar_of_many():
    assert mcnemar(3000, 3000) == 1.0
    assert mcnemar(0, 5000) == float(Fraction(2, 2 ** 5000)) == 0.0
    assert mcnemar(40, 20) == mcnemar(20, 40) == pytest.approx(0.0135, abs=5e-5)


def exact_coverage(n, pb, pc):
    "Probability that the interval covers pb - pc, over every possible (b, c)"
    total = 0.0
    for b in range(n + 1):
        for c in range(n + 1 - b):
            low, high = bonett_price(b, c, n)
            if low <= pb - pc <= high:
                rest = n - b - c
                logs = math.lgamma(n + 1) - math.lgamma(b + 1) - math.lgamma(c + 1) - math.lgamma(rest + 1)
                total += math.exp(logs + b * math.log(pb) + c * math.log(pc) + rest * math.log(1 - pb - pc))
    return total


@pytest.mark.parametrize('pb, pc', [(0.05, 0.05), (0.1, 0.01), (0.3, 0.05), (0.3, 0.3), (0.02, 0.001), (0.85, 0.01)])
def test_paired_interval_covers(pb, pc):
    assert exact_coverage(60, pb, pc) > 0.935


def test_paired_interval_is_symmetric_and_narrows():
    low, high = bonett_price(12, 5, 100)
    assert bonett_price(5, 12, 100) == (pytest.approx(-high), pytest.approx(-low))
    assert low < 0.07 < high
    width = lambda n: np.diff(bonett_price(n // 10, n // 20, n))[0]
    assert width(100) > 2.8 * width(1000)
    assert all(-1 <= o <= 1 for b in range(4) for o in bonett_price(b, 3 - b, 3))


def test_never_disagreeing_is_not_certainty():
    low, high = bonett_price(0, 0, 50)
    assert low == -high and 0.02 < high < 0.08


@pytest.mark.parametrize('freedom, point', [(1, 12.7062), (2, 4.3027), (3, 3.1824), (5, 2.5706), (10, 2.2281), (30, 2.0423), (100, 1.9840), (999, 1.96234), (1001, 1.96234), (1e6, 1.95997)])
def test_t_quantile_against_the_tables(freedom, point): assert t_quantile(freedom) == pytest.approx(point, abs=6e-5)


# ---------------------------------------------------------------- pairs

def test_compare_pairs_by_problem_whatever_the_order():
    first = taken([1, 1, 0, 1, 0])
    second = Evaluation('other', 'test', taken([0, 1, 1, 0, 0]).predictions[::-1])
    found = compare(first, second)
    assert (found.only_first, found.only_second, found.n) == (2, 1, 5)
    assert found.difference == pytest.approx(0.2) and found.p == mcnemar(2, 1)
    assert json.loads(json.dumps(found.to_dict()))['n'] == 5


def test_compare_refuses_other_problems():
    with pytest.raises(CotkitError, match="such as 'p2'"): compare(taken([1, 0]), taken([1, 0, 1]))
    with pytest.raises(CotkitError, match='twice'): compare(taken([1, 0], ids=['a', 'a']), taken([1], ids=['a']))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_comparison_is_antisymmetric(pairs):
    a, b = taken([x for x, _ in pairs], 'a'), taken([y for _, y in pairs], 'b')
    there, back = compare(a, b), compare(b, a)
    assert there.difference == pytest.approx(a.accuracy.value - b.accuracy.value) == pytest.approx(-back.difference)
    assert there.p == back.p and there.low == pytest.approx(-back.high)


# ---------------------------------------------------------------- seeds

def simulated(rng, k, m, seed_spread, item_spread, level):
    "A (seeds, items) table: logistic, with an effect of the seed and one of the item"
    logits = level + seed_spread * rng.standard_normal((k, 1)) + item_spread * rng.standard_normal((1, m))
    return (rng.random((k, m)) < 1 / (1 + np.exp(-logits))).astype(int)


def true_mean(seed_spread, item_spread, level):
    rng = np.random.default_rng(99)
    logits = level + np.hypot(seed_spread, item_spread) * rng.standard_normal(400_000)
    return float((1 / (1 + np.exp(-logits))).mean())


@pytest.mark.parametrize('k, m, seed_spread, item_spread, level', [
    (3, 100, 0.0, 0.0, 0.5), (3, 100, 0.3, 2.0, 0.5), (3, 200, 0.8, 1.0, 1.0), (5, 100, 0.2, 3.0, 2.0), (3, 150, 0.1, 1.0, 4.0)])
def test_interval_over_seeds_covers(k, m, seed_spread, item_spread, level):
    "New seeds and new problems each time: the interval must hold the mean over both at least about 95 % of the time"
    rng, truth, trials = np.random.default_rng(k * m), true_mean(seed_spread, item_spread, level), 400
    hits = 0
    for _ in range(trials):
        table = simulated(rng, k, m, seed_spread, item_spread, level)
        found = summarise([taken(row, seed=i) for i, row in enumerate(table)])
        hits += found.low <= truth <= found.high
    assert hits / trials > 0.92


def test_items_count_even_if_seeds_agree():
    "Three seeds that answer alike are worth one run: the t-interval over seeds alone would have no width"
    row = [1] * 70 + [0] * 30
    found = summarise([taken(row, seed=s) for s in range(3)])
    alone = summarise([taken(row)])
    assert (alone.low, alone.high) == (pytest.approx(taken(row).accuracy.low), pytest.approx(taken(row).accuracy.high))
    assert found.low == pytest.approx(alone.low, abs=0.01) and found.high == pytest.approx(alone.high, abs=0.01)


def test_seeds_count_even_if_items_agree():
    "Seeds that differ a lot make a wide interval however many problems there are"
    rng = np.random.default_rng(0)
    tables = [(rng.random(5000) < p).astype(int) for p in (0.5, 0.6, 0.7)]
    found = summarise([taken(row, seed=i) for i, row in enumerate(tables)])
    assert found.high - found.low > 0.3


@pytest.mark.parametrize('value', [0, 1])
def test_interval_over_seeds_at_the_ends(value):
    found = summarise([taken([value] * 50, seed=s) for s in range(3)])
    assert found.value == value and 0 <= found.low < found.high <= 1 and found.high - found.low > 0.03


def test_summarise_refuses_a_mixture():
    with pytest.raises(CotkitError, match='different students'): summarise([taken([1, 0], 'a'), taken([1, 0], 'b')])
    with pytest.raises(CotkitError, match='different problems'): summarise([taken([1, 0]), taken([1, 0, 1])])
    with pytest.raises(CotkitError, match='no evaluations'): summarise([])


def test_compare_seeds_pairs_problems():
    rng = np.random.default_rng(3)
    a = [taken(rng.random(300) < 0.8, 'a', seed=s) for s in range(3)]
    b = [taken(rng.random(300) < 0.6, 'b', seed=s) for s in range(3)]
    shuffled = [Evaluation('b', 'test', e.predictions[::-1], e.train_seed) for e in b]
    there = compare_seeds(a, b)
    assert compare_seeds(a, shuffled) == there
    assert there.low < 0.2 < there.high and there.low > 0
    back = compare_seeds(b, a)
    assert back.low == pytest.approx(-there.high) and back.value == pytest.approx(-there.value)
    assert 'points' in str(there) and there.difference
    with pytest.raises(CotkitError, match='3 seeds against 2'): compare_seeds(a, b[:2])


def test_compare_seeds_of_twins_is_not_certainty():
    twins = [taken([1, 0] * 50, seed=s) for s in range(3)]
    found = compare_seeds(twins, twins)
    assert found.value == 0 and found.low < 0 < found.high
    assert Estimate.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def drawn(rng, rate, k=3, m=40): return [taken(rng.random(m) < rate, seed=seed) for seed in range(k)]


def test_a_contrast_of_two_is_their_difference():
    rng = np.random.default_rng(0)
    first, second = drawn(rng, 0.7), drawn(rng, 0.4)
    difference, same = compare_seeds(first, second), contrast([(1, first), (-1, second)], 'one - two')
    assert (same.value, same.low, same.high, *same.by_seed) == pytest.approx((difference.value, difference.low, difference.high, *difference.by_seed))
    assert same.name == 'one - two' and same.difference and same.n == 40


def test_a_contrast_pairs_problems_whatever_their_order():
    rng = np.random.default_rng(1)
    first, second = drawn(rng, 0.7), drawn(rng, 0.4)
    turned = [Evaluation(e.name, e.split, e.predictions[::-1], e.train_seed) for e in second]
    assert contrast([(0.5, first), (0.5, turned)]) == contrast([(0.5, first), (0.5, second)])
    with pytest.raises(CotkitError, match='different problems'): contrast([(1, first), (-1, [taken([1] * 40, ids=[f'q{i}' for i in range(40)])] * 3)])


@pytest.mark.parametrize('weights', [(1, 1, -2), (0.5, 0.5, -1), (1, -0.5, -0.5)])
def test_a_contrast_covers(weights):
    "95 % intervals over new seeds and new problems: 300 draws with a known mean"
    rng, rates, inside = np.random.default_rng(2), (0.8, 0.5, 0.3), 0
    truth = sum(w * r for w, r in zip(weights, rates))
    for _ in range(300):
        found = contrast([(w, drawn(rng, r)) for w, r in zip(weights, rates)])
        inside += found.low <= truth <= found.high
    assert 0.90 <= inside / 300 <= 0.99


def test_a_contrast_of_one_seed_rests_on_problems():
    verdicts = np.array([1, 1, 0, 1, 0, 1, 1, 0, 1, 1])
    found = contrast([(1, [taken(verdicts)]), (-0.5, [taken([1] * 10)])])
    half = t_quantile(9) * (verdicts - 0.5).std(ddof=1) / math.sqrt(10)
    assert (found.low, found.high) == pytest.approx((0.2 - half, 0.2 + half))


def test_a_contrast_without_differences_is_not_certain():
    twins = [taken([1, 0] * 20, seed=seed) for seed in range(3)]
    found = contrast([(1, twins), (-1, twins)])
    assert found.value == 0 and (found.low, found.high) == pytest.approx(bonett_price(0, 0, 40))
    assert contrast([(2, twins), (-2, twins)]).high == pytest.approx(2 * found.high)


def test_contrast_refuses():
    for terms, match in (([], 'no evaluations'), ([(1, [])], 'no evaluations'), ([(1, [taken([1, 0])]), (1, [taken([1, 0])] * 2)], 'seeds'), ([(1, [taken([1])])], 'one answer')):
        with pytest.raises(CotkitError, match=match): contrast(terms)


# Which checkpoint

def curve_of(**splits): return {100 * (i + 1): {split: taken([1] * right[i] + [0] * (10 - right[i])) for split, right in splits.items()} for i in range(len(next(iter(splits.values()))))}


def test_the_best_validation_chooses_and_test_only_judges():
    curve = curve_of(validation=(3, 8, 5), test=(2, 6, 9))
    found = select_checkpoint(curve)
    assert (found.step, found.validation, found.test, found.best_step, found.best) == (200, 0.8, 0.6, 300, 0.9)
    assert found.regret == pytest.approx(0.3) and str(found) == 'step 200: 60.0 % on test, regret 30.0 points (best: step 300)'
    assert '30.0 points' in found._repr_html_() and 'best, at step 300' in found._repr_html_()
    assert select_checkpoint(curve, report_on=('validation',)).regret == 0


def test_splits_count_the_same_whatever_their_size():
    curve = {1: {'a': taken([1] * 9 + [0]), 'b': taken([0] * 2), 'test': taken([1, 0])}, 2: {'a': taken([1] * 5 + [0] * 5), 'b': taken([1, 0]), 'test': taken([1, 1])}}
    assert select_checkpoint(curve, ['a']).step == 1 and select_checkpoint(curve, ['b']).step == 2
    assert select_checkpoint(curve, ['a', 'b']).validation == 0.5, 'not 9 of 12'


def test_the_earliest_of_equals_is_chosen_in_the_order_of_steps():
    "Also where steps are keys of JSON, whose texts sort otherwise, and where thirds do not add up in floating point"
    looked = {str(step): {f'v{i}': taken([1] * right + [0] * (3 - right)) for i, right in enumerate(rights)} | {'test': taken([1, 0])}
              for step, rights in ((1000, (1, 1, 1)), (200, (2, 1, 0)), (90, (0, 0, 0)))}
    found = select_checkpoint(looked, ['v0', 'v1', 'v2'])
    assert found.step == 200 and found.best_step == 90


def test_summaries_do_as_well():
    curve = curve_of(validation=(3, 8, 5), test=(2, 6, 9))
    rows = json.loads(json.dumps({step: {split: e.summary() for split, e in looked.items()} for step, looked in curve.items()}))
    assert select_checkpoint(rows) == select_checkpoint(curve)


@given(st.lists(st.tuples(st.integers(0, 10), st.integers(0, 10)), min_size=1, max_size=8))
def test_regret_is_what_a_search_finds(accuracies):
    found = select_checkpoint(curve_of(validation=[a for a, _ in accuracies], test=[b for _, b in accuracies]))
    chosen = min(range(len(accuracies)), key=lambda i: (-accuracies[i][0], i))
    assert found.step == 100 * (chosen + 1) and found.regret == pytest.approx((max(b for _, b in accuracies) - accuracies[chosen][1]) / 10)


def test_a_selection_refuses():
    with pytest.raises(CotkitError, match='is empty'): select_checkpoint({})
    with pytest.raises(CotkitError, match='is empty'): select_checkpoint(curve_of(validation=(1,), test=(1,)), select_on=())
    with pytest.raises(CotkitError, match="step 100 has no split 'longer'"): select_checkpoint(curve_of(validation=(1,), test=(1,)), report_on=['longer'])


@pytest.mark.parametrize('freedom', [1, 2, 3, 7.5, 40, 1500])
def test_t_quantile_inverts_the_density(freedom):
    "The density of Student's t, integrated up to the point, is 0.975"
    angle = np.linspace(0, math.atan(t_quantile(freedom) / math.sqrt(freedom)), 200_001)
    density = np.cos(angle) ** (freedom - 1)
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    assert 0.5 + scale * np.trapezoid(density, angle) == pytest.approx(0.975, abs=1e-9)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_against_its_definition(p_values):
    "Rejected at a level: the tests before the first that its own threshold stops, smallest first"
    corrected, order = holm(p_values), sorted(range(len(p_values)), key=lambda i: p_values[i])
    for level in (0.01, 0.05, 0.3):
        rejected = set()
        for rank, i in enumerate(order):
            if (len(p_values) - rank) * p_values[i] >= level: break
            rejected.add(i)
        assert {i for i, p in enumerate(corrected) if p < level} == rejected
    assert holm([]) == []


def test_means_of_other_numbers_have_no_per_cent():
    "Edit distances, for example: Student's t, also where they happen to be 0"
    table = np.array([[0.0, 3, 1, 2], [1, 4, 1, 2]])
    found, same = mean_estimate(table, share=False), paired_difference(table, table, share=False)
    assert found.value == 1.75 and found.low < 1.75 < found.high and '%' not in str(found) and not found.share
    assert (same.low, same.high) == (0, 0) and 'points' not in str(same)
    only = paired_difference(table[:1], np.zeros((1, 4)), share=False)
    half = t_quantile(3) * table[0].std(ddof=1) / 2
    assert (only.low, only.high) == pytest.approx((1.5 - half, 1.5 + half))


def test_pass_at_k_against_enumeration():
    rng = np.random.default_rng(1)
    runs = [taken(rng.random(6) < 0.4, seed=s) for s in range(5)]
    table = np.array([[p.correct for p in e.predictions] for e in runs])
    for k in range(1, 6):
        brute = np.mean([[table[list(chosen), j].any() for chosen in itertools.combinations(range(5), k)] for j in range(6)])
        assert pass_at_k(score_table(runs), k) == pytest.approx(brute)
    with pytest.raises(CotkitError, match='from 1 to 5'): pass_at_k(score_table(runs), 6)


def test_nothing_heavy_is_imported():
    code = 'import sys, cotkit.evaluation.evaluate, cotkit.teachers.curate as c; from cotkit.data.records import RunRecord; RunRecord({}); print([m for m in ("torch", "transformers", "datasets", "openai", "pandas") if m in sys.modules])'
    ran = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == '[]'


def test_a_summary_is_enough_for_every_table():
    "Accuracy, intervals and paired comparisons from what a run record keeps"
    def made(pattern, seed): return Evaluation('student', 'test', [Prediction(f'test-{i}', 'x', '1', {'exact_match': float(digit)}, True) for i, digit in enumerate(pattern)], seed)
    full = [made('1101001110', 0), made('1111001010', 1)]
    kept = [Evaluation.from_summary(json.loads(json.dumps(e.summary()))) for e in full]
    assert [e.accuracy for e in kept] == [e.accuracy for e in full] and [e.train_seed for e in kept] == [0, 1]
    assert summarise(kept) == summarise(full) and compare(*kept) == compare(*full)


def test_a_p_value_agrees_with_its_interval():
    "Below 0.05 exactly if the interval leaves the tested value out; nan where no t-interval is"
    from scipy import stats
    from cotkit.evaluation.statistics import contrast, p_value, paired_difference
    rng = np.random.default_rng(3)
    for gain in (0.0, 0.1, 0.2):
        first, second = rng.random((3, 60)) < 0.4 + gain, rng.random((3, 60)) < 0.4
        for found in (paired_difference(first, second), contrast([(1, first), (-1, second)])):
            assert (p_value(found) < 0.05) == (found.low > 0 or found.high < 0)
            assert p_value(found, found.low) == pytest.approx(0.05) and p_value(found, found.high) == pytest.approx(0.05)
    one = np.array([[0.1, 0.4, 0.2, 0.9]])
    assert p_value(contrast([(1, one)])) == pytest.approx(stats.ttest_1samp(one[0], 0).pvalue)
    assert math.isnan(p_value(paired_difference(first[:1], second[:1]))) and math.isnan(p_value(paired_difference(first, first)))


# ---------------------------------------------------------------- scores, summaries, strategies

WORDS = [Problem(f'w{i}', f'Ann has {i} apples and finds 2 more. How many?', str(i + 2), gold_steps=(f'{i} + 2 = {i + 2}.',))
         for i in range(12)]
COLOURS = [Problem(f'c{i}', f'Which colour has apple {i}?', ('red', 'green')[i % 2], kind='choice',
                   choices=('red', 'green', 'a rather long colour')) for i in range(4)]


def stored(e): return Evaluation.from_summary(json.loads(json.dumps(e.summary())))


def test_a_summary_pairs_with_a_whole_evaluation():
    "By the ids of the problems, in any order; an old summary, which has none, does not"
    whole, other = taken([1, 1, 0, 1, 0], 'a'), Evaluation('b', 'test', taken([0, 1, 1, 0, 0]).predictions[::-1])
    assert compare(whole, stored(other)) == compare(whole, other) and compare(stored(whole), other) == compare(whole, other)
    old = Evaluation.from_summary({'name': 'b', 'split': 'test', 'items': '00110', 'seed': 3})
    assert old.train_seed == 3 and [p.problem_id for p in old.predictions][:2] == ['test-0', 'test-1']
    with pytest.raises(CotkitError, match='different problems'): compare(whole, old)


def test_a_summary_keeps_every_count_and_score():
    outputs = [Trace('w0', 'The answer is 2.', finish_reason='stop'), Trace('w1', 'It is 3'),
               Trace('w2', 'The answer is 9.', finish_reason='stop'), Trace('w3', 'hm', finish_reason='length')]
    found = add_scores(score_outputs(outputs, WORDS[:4], ZeroShotCoT(), 's', 'test', 5), WORDS, ['token_edit_distance', 'numeric_error'])
    kept = stored(found)
    for e in (found, kept):
        assert (e.accuracy.correct, e.strict.correct, e.unparsed, e.truncated, e.train_seed) == (2, 1, 1, 1, 5)
        assert e.scores('token_edit_distance') == [0, 0, 1, 1] and e.scores('numeric_error') == [0, 0, 1, 1]
    assert kept.summary() == found.summary()
    assert summarise([kept], 'token_edit_distance') == summarise([found], 'token_edit_distance')
    with pytest.raises(CotkitError, match="no scores of 'brier'. It has: exact_match"): kept.scores('brier')


def test_old_files_are_read():
    "Summaries with digits and `unreadable`, predictions with `correct` and `strict`"
    row = {'name': 's', 'split': 'test', 'seed': 2, 'accuracy': 0.6, 'low': 0.2, 'high': 0.9, 'correct': 3, 'n': 5,
           'strict': {'accuracy': 0.4, 'low': 0.1, 'high': 0.8, 'correct': 2, 'n': 5}, 'unreadable': 1, 'items': '10110'}
    old = Evaluation.from_summary(row)
    assert (old.accuracy.correct, old.strict.correct, old.unparsed, old.truncated) == (3, 2, 1, 0)
    assert [p.correct for p in old.predictions] == [True, False, True, True, False]
    whole = Evaluation.from_dict({'name': 's', 'split': 'test', 'seed': 2, 'predictions': [
        {'problem_id': 'a', 'output': 'x', 'answer': '1', 'correct': True, 'strict': True}, {'problem_id': 'b', 'output': 'y', 'answer': None, 'correct': False, 'strict': False}]})
    assert whole.train_seed == 2 and [(p.correct, p.strict, p.answer) for p in whole.predictions] == [(True, True, '1'), (False, False, None)]


def test_metrics_against_their_definitions():
    def brute(a, b): return max(len(a), len(b)) if not a or not b else min(brute(a[1:], b) + 1, brute(a, b[1:]) + 1, brute(a[1:], b[1:]) + (a[0] != b[0]))
    rng = np.random.default_rng(0)
    for _ in range(60):
        a, b = (rng.integers(0, 3, rng.integers(0, 6)).tolist() for _ in range(2))
        assert edit_distance(a, b) == brute(a, b)
    read = lambda text: read_trace(text, APPLES, ZeroShotCoT())
    assert [token_edit_distance(read(f'The answer is {o}.'), APPLES) for o in ('11', '1', '1,100', '-11')] == [0, 1, 2, 1]
    assert [numeric_error(read(f'The answer is {o}.'), APPLES) for o in ('11', '5.5', '33', 'red')] == [0, 0.5, 1, 1]
    with pytest.raises(CotkitError, match='is no number'): numeric_error(read('The answer is 11.'), COLOURS[0])
    with pytest.raises(CotkitError, match='Likelihood'): brier(read('The answer is 11.'), COLOURS[0])
    three = Prediction('c0', '', choice_logprobs={'red': math.log(0.2), 'green': math.log(0.2), 'a rather long colour': math.log(0.1)})
    assert brier(three, COLOURS[0]) == pytest.approx(0.6 ** 2 + 0.4 ** 2 + 0.2 ** 2) and log_likelihood(three, COLOURS[0]) == math.log(0.2)


def test_an_unknown_metric_is_refused():
    with pytest.raises(CotkitError, match='Did you mean exact_match'): add_scores(taken([1]), [], ['exact_mach'])
    with pytest.raises(CotkitError, match='is not registered'): add_scores(taken([1]), [], [lambda prediction, problem: 1])


@pytest.fixture(scope='module')
def student():
    import torch
    from cotkit.models.students import StudentConfig, make_student
    torch.set_num_threads(1)
    texts = [t for p in COLOURS for e in choice_examples(p, AnswerOnly()).values() for t in (e.input, e.target)]
    return make_student(StudentConfig('nano', vocab_size=300), AnswerOnly(), texts * 3)


def test_a_teacher_is_evaluated_with_the_same_call(tmp_path):
    "And is asked once: the second call reads the store"
    teacher = OracleTeacher(WORDS, accuracy=0.7, seed=1)
    asked = SingleTurn(teacher, ZeroShotCoT(), store=tmp_path/'a.db')
    found = evaluate(asked, WORDS, 'oracle', 'words', ['strict_match'], train_seed=0)
    assert [p.correct for p in found.predictions] == [teacher.is_right(p.id) for p in WORDS] and 0 < found.accuracy.correct < 12
    assert found.scores('strict_match') == [float(p.correct) for p in found.predictions]
    assert evaluate(asked, WORDS, 'oracle', 'words', ['strict_match']) == found
    again = strategy_from_dict(json.loads(json.dumps(found.strategy)), teacher, tmp_path/'a.db')
    assert again.solve(WORDS) == asked.solve(WORDS)
    with pytest.raises(CotkitError, match='store'): SingleTurn(teacher, ZeroShotCoT())
    with pytest.raises(CotkitError, match='format'): SingleTurn(teacher, store=tmp_path/'a.db')


class Moody(OracleTeacher):
    "Refuses one question; another time its endpoint is down"
    down = False

    async def complete(self, request):
        if request.problem_id == 'w3': raise NoAnswerError('the model refused')
        if self.down and request.problem_id in ('w5', 'w6'): raise TeacherError('HTTP 404', status=404)
        return await super().complete(request)


def test_a_refusal_is_wrong_and_a_failure_stops(tmp_path):
    teacher = Moody(WORDS, accuracy=1.0)
    teacher.down = True
    asked = SingleTurn(teacher, ZeroShotCoT(), store=tmp_path/'a.db', limits=RequestLimits(retries=0, progress=False))
    with pytest.raises(CotkitError, match='2 of 12 answers are missing: HTTP 404'): evaluate(asked, WORDS)
    teacher.down = False
    found = evaluate(asked, WORDS)
    assert (found.accuracy.correct, found.unparsed) == (11, 1) and found.predictions[3].output == ''


def test_an_endpoint_is_evaluated_and_its_truncated_answers_counted(tmp_path, monkeypatch):
    "A real client against a loopback server; one answer is cut at its limit, one is refused"
    monkeypatch.setenv('OPENAI_API_KEY', 'sk-1')
    def answer(n, body):
        asked = int(re.search(r'has (\d+) apples', body['messages'][-1]['content'])[1])
        made = reply(body)
        choice = made['choices'][0]
        choice['message']['content'] = f'The answer is {asked + 2}.'
        if asked == 4: choice['message']['content'], choice['finish_reason'] = 'Ann has 4 apples and', 'length'
        if asked == 7: choice['message'] |= {'content': None, 'refusal': 'I cannot help with apples.'}
        return Raw(json.dumps(made))
    with Loopback(answer) as server:
        teacher = OpenAITeacher('big', EndpointConfig(server.base_url))
        found = evaluate(SingleTurn(teacher, ZeroShotCoT(), store=tmp_path/'a.db'), WORDS, 'big', 'words')
        assert len(server.received) == 12
    assert (found.accuracy.correct, found.truncated, found.unparsed) == (10, 1, 1)
    assert [p.output for p in found.predictions if not p.correct] == ['Ann has 4 apples and', '']


def test_a_vote_takes_the_most_common_answer(tmp_path):
    teacher = OracleTeacher(WORDS, accuracy=0.6, seed=3)
    sampled = SingleTurn(teacher, ZeroShotCoT(), sampling=SamplingParams(temperature=0.7), store=tmp_path/'a.db')
    for problem, trace, samples in zip(WORDS, Vote(sampled, 5).solve(WORDS), sampled.sample(WORDS, 5)):
        answers = [ZeroShotCoT().parse(s.output, problem).value for s in samples]
        assert trace.samples == tuple(s.output for s in samples) and trace.tokens == sum(s.tokens for s in samples)
        assert answers.count(ZeroShotCoT().parse(trace.output, problem).value) == max(map(answers.count, answers))
    half = Problem('h', 'Which share of the apples is red?', '50%')
    votes = [Trace('h', f'The answer is {o}.') for o in ('3', '0.5', '50%', '3', '1/2')]
    assert majority(half, votes, ZeroShotCoT()).output == 'The answer is 0.5.', 'three ways to write one half'
    with pytest.raises(CotkitError, match='temperature'): Vote(SingleTurn(teacher, ZeroShotCoT(), store=tmp_path/'a.db'), 5)
    with pytest.raises(CotkitError, match='k'): Vote(sampled, 0)
    assert strategy_from_dict(strategy_to_dict(Vote(sampled, 5)), teacher, tmp_path/'a.db') == Vote(sampled, 5)


def test_a_student_votes_over_different_samples(student):
    voted = Vote(SingleTurn(student, decoding=DecodingParams(8, temperature=2.0)), 4)
    first, again = voted.solve(COLOURS), voted.solve(COLOURS)
    assert first == again and all(len(t.samples) == 4 for t in first) and max(len(set(t.samples)) for t in first) > 1


@pytest.mark.parametrize('arch', ['causal', 'seq2seq'])
@pytest.mark.parametrize('normalise', ['sum', 'token', 'byte'])
def test_likelihood_against_one_forward_pass_each(normalise, arch):
    import torch
    from cotkit.models.students import StudentConfig, make_student
    from cotkit.models.tokenizers import tokenize_inputs, tokenize_targets
    examples = [e for p in COLOURS for e in choice_examples(p, AnswerOnly()).values()]
    student = make_student(StudentConfig('nano', arch, 300), AnswerOnly(), [t for e in examples for t in (e.input, e.target)] * 3)
    traces = Likelihood(student, normalise=normalise, batch_size=5).solve(COLOURS)
    expected = []
    for e in examples:
        (read,), (target,) = tokenize_inputs(student.tokenizer, [e.input], arch), tokenize_targets(student.tokenizer, [e.target], arch)
        with torch.no_grad():
            if arch == 'causal': logits = student.model(torch.tensor([[*read, *target]])).logits[0, len(read) - 1:-1]
            else: logits = student.model(input_ids=torch.tensor([read]), labels=torch.tensor([target])).logits[0]
        total = logits.log_softmax(-1)[range(len(target)), target].sum().item()
        expected.append(total / {'sum': 1, 'token': len(target), 'byte': len(e.target.encode())}[normalise])
    assert [v for t in traces for v in t.choice_logprobs.values()] == pytest.approx(expected, abs=1e-4)
    found = evaluate(Likelihood(student, normalise=normalise), COLOURS, metrics=['brier', 'log_likelihood'])
    best = [max(t.choice_logprobs, key=t.choice_logprobs.get) for t in traces]
    assert [p.answer for p in found.predictions] == best and found.unparsed == 0
    assert found.scores('log_likelihood') == [t.choice_logprobs[p.answer] for t, p in zip(traces, COLOURS)]
    assert strategy_from_dict(json.loads(json.dumps(found.strategy)), student) == Likelihood(student, normalise=normalise)


def test_likelihood_refuses(student):
    with pytest.raises(CotkitError, match='no choices'): Likelihood(student).solve([APPLES])
    with pytest.raises(CotkitError, match='no target without reasoning'): Likelihood(student, ZeroShotCoT()).solve(COLOURS)
    with pytest.raises(CotkitError, match="is 'bytes'. sum, token or byte"): Likelihood(student, normalise='bytes')


def test_truncated_outputs_are_counted(student):
    "F42: all four are cut at the limit"
    found = evaluate(SingleTurn(student, decoding=DecodingParams(3)), COLOURS)
    assert found.truncated == 4 == found.summary()['truncated'] and all(p.tokens == 3 for p in found.predictions)
    assert 'truncated' in found._repr_html_()


class Backwards:
    "A strategy with a fault, and without settings"
    format = ZeroShotCoT()
    turned = True

    def solve(self, problems):
        traces = [Trace(p.id, f'The answer is {p.answer}.') for p in problems]
        return traces[::-1] if self.turned else traces


def test_a_strategy_that_mixes_up_its_problems_is_noticed():
    strategy = Backwards()
    with pytest.raises(CotkitError, match="'w11' for 'w0'"): evaluate(strategy, WORDS)
    strategy.turned = False
    found = evaluate(strategy, WORDS)
    assert found.accuracy.value == 1 and found.strategy == {'strategy': 'Backwards'}
    strategy.format = None
    with pytest.raises(CotkitError, match='has no format'): evaluate(strategy, WORDS)


def test_an_own_strategy_and_metric_survive_a_process(tmp_path):
    "Another process that imports the file reads the evaluation and makes the strategy again; one that does not is told so"
    (tmp_path/'mine.py').write_text('''
from dataclasses import dataclass
from cotkit.data.formats import ZeroShotCoT
from cotkit.evaluation.metrics import register_metric
from cotkit.evaluation.strategies import Trace, register_strategy

@register_strategy('parrot')
@dataclass
class Parrot:
    model: object
    words: str = ''
    format = ZeroShotCoT()
    def solve(self, problems): return [Trace(p.id, self.words) for p in problems]
    def config(self): return {'words': self.words}

@register_metric('length')
def length(prediction, problem): return len(prediction.output)
''')
    run = lambda code: subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=tmp_path, env={**os.environ, 'PYTHONPATH': f'{ROOT}:{tmp_path}'})
    made = run('import json, mine; from cotkit.evaluation.evaluate import evaluate; from cotkit.data.core import Problem\n'
               'e = evaluate(mine.Parrot(None, "The answer is 4."), [Problem("a", "2 + 2?", "4")], metrics=["length"])\n'
               'json.dump(e.to_dict(), open("e.json", "w"))')
    assert made.returncode == 0, made.stderr
    read = ('import json; from cotkit.evaluation.evaluate import Evaluation; from cotkit.evaluation.strategies import strategy_from_dict\n'
            'e = Evaluation.from_dict(json.load(open("e.json"))); print(e.scores("length"), strategy_from_dict(e.strategy, None))')
    assert run(f'import mine\n{read}').stdout.strip() == "[16.0] Parrot(model=None, words='The answer is 4.')"
    assert "no strategy 'parrot'" in run(read).stderr and 'import the file' in run(read).stderr
