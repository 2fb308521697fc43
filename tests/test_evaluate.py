"Evaluation: formulas against brute force, pairing, seeds, run records"
import itertools
import json
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from cotkit.core import CotkitError, Problem
from cotkit.evaluate import (Evaluation, Prediction, RunRecord, Stages, Summary, append_record, compare, compare_seeds, evaluate, git_commit, hardware,
                             mcnemar, paired_interval, pass_at_k, read_output, read_records, score, summarise, t_point, versions)
from cotkit.formats import AnswerOnly, StepByStep, ZeroShotCoT

APPLES = Problem('apples-1', 'Ann has 3 apples. She buys 4 bags with 2 apples each. How many apples does Ann have now?', '11')


def taken(verdicts, name='student', split='test', seed=0, ids=None):
    "An evaluation with these verdicts"
    ids = ids or [f'p{i}' for i in range(len(verdicts))]
    return Evaluation(name, split, [Prediction(id, str(v), '1' if v else '0', bool(v), True) for id, v in zip(ids, verdicts)], seed)


@pytest.mark.parametrize('output, format, answer, correct, strict', [
    ('So 3 + 8 = 11. The answer is 11.', ZeroShotCoT(), '11', True, True),
    ('So she has eleven, that is 11', ZeroShotCoT(), '11', True, False),
    ('The answer is 12.', AnswerOnly(), '12', False, True),
    ('11', StepByStep(), '11', True, True),
    ('no idea', ZeroShotCoT(), None, False, False), ('', StepByStep(), None, False, False)])
def test_outputs_are_read_by_their_own_format(output, format, answer, correct, strict):
    read = read_output(output, APPLES, format)
    assert (read.answer, read.correct, read.strict) == (answer, correct, strict)


def test_both_readings_and_the_unreadable_are_counted():
    outputs = ['The answer is 11.', 'It must be 11', 'The answer is 9.', 'hm']
    found = score(outputs, [APPLES] * 4, ZeroShotCoT(), 'student', 'test')
    assert (found.accuracy.correct, found.strict.correct, found.accuracy.n, found.strict.n, found.unreadable) == (2, 1, 4, 4, 1)
    row = json.loads(json.dumps(found.summary()))
    assert row['accuracy'] == 0.5 and row['strict']['accuracy'] == 0.25 and row['low'] < 0.5 < row['high'] and row['n'] == 4
    assert Evaluation.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert '50.0 %' in found._repr_html_() and '25.0 %' in found._repr_html_() and len(repr(found)) < 100


def test_names_are_escaped_in_reprs():
    assert '<img' not in taken([1, 0], name='<img src=x>')._repr_html_()
    assert '<img' not in compare(taken([1, 0], name='<img src=x>'), taken([0, 0]))._repr_html_()
    assert '<img' not in summarise([taken([1, 0], name='<img src=x>')])._repr_html_()


def test_counts_must_match():
    with pytest.raises(CotkitError, match='2 outputs for 1 problems'): score(['a', 'b'], [APPLES], ZeroShotCoT())
    with pytest.raises(CotkitError, match='nothing to evaluate'): score([], [], ZeroShotCoT())


def test_a_real_student_takes_the_test():
    import torch
    from cotkit.models import Student, build_model, train_tokenizer
    torch.set_num_threads(1)
    tokenizer = train_tokenizer([APPLES.question + ' The answer is 11.'] * 3, vocab_size=300)
    for arch in ('causal', 'seq2seq'):
        if arch == 'seq2seq': tokenizer = train_tokenizer([APPLES.question + ' The answer is 11.'] * 3, arch=arch, vocab_size=300)
        student = Student(build_model('tiny', tokenizer, arch), tokenizer, AnswerOnly(), arch)
        problems = [Problem(f'p{i}', f'{APPLES.question} {i}', '11') for i in range(5)]
        first, again = (evaluate(student, problems, split='test', max_new_tokens=6) for _ in range(2))
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
            low, high = paired_interval(b, c, n)
            if low <= pb - pc <= high:
                rest = n - b - c
                logs = math.lgamma(n + 1) - math.lgamma(b + 1) - math.lgamma(c + 1) - math.lgamma(rest + 1)
                total += math.exp(logs + b * math.log(pb) + c * math.log(pc) + rest * math.log(1 - pb - pc))
    return total


@pytest.mark.parametrize('pb, pc', [(0.05, 0.05), (0.1, 0.01), (0.3, 0.05), (0.3, 0.3), (0.02, 0.001), (0.85, 0.01)])
def test_paired_interval_covers(pb, pc):
    assert exact_coverage(60, pb, pc) > 0.935


def test_paired_interval_is_symmetric_and_narrows():
    low, high = paired_interval(12, 5, 100)
    assert paired_interval(5, 12, 100) == (pytest.approx(-high), pytest.approx(-low))
    assert low < 0.07 < high
    width = lambda n: np.diff(paired_interval(n // 10, n // 20, n))[0]
    assert width(100) > 2.8 * width(1000)
    assert all(-1 <= o <= 1 for b in range(4) for o in paired_interval(b, 3 - b, 3))


def test_never_disagreeing_is_not_certainty():
    low, high = paired_interval(0, 0, 50)
    assert low == -high and 0.02 < high < 0.08


@pytest.mark.parametrize('freedom, point', [(1, 12.7062), (2, 4.3027), (3, 3.1824), (5, 2.5706), (10, 2.2281), (30, 2.0423), (100, 1.9840), (999, 1.96234), (1001, 1.96234), (1e6, 1.95997)])
def test_t_point_against_the_tables(freedom, point): assert t_point(freedom) == pytest.approx(point, abs=2e-4)


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
    shuffled = [Evaluation('b', 'test', e.predictions[::-1], e.seed) for e in b]
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
    assert Summary.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_pass_at_k_against_enumeration():
    rng = np.random.default_rng(1)
    runs = [taken(rng.random(6) < 0.4, seed=s) for s in range(5)]
    table = np.array([[p.correct for p in e.predictions] for e in runs])
    for k in range(1, 6):
        brute = np.mean([[table[list(chosen), j].any() for chosen in itertools.combinations(range(5), k)] for j in range(6)])
        assert pass_at_k(runs, k) == pytest.approx(brute)
    with pytest.raises(CotkitError, match='from 1 to 5'): pass_at_k(runs, 6)


# ---------------------------------------------------------------- records

def test_record_survives_the_disk(tmp_path):
    record = RunRecord({'size': 'tiny', 'path': tmp_path, 'nested': {'HF_TOKEN': 'hf_x', 'max_tokens': 5, 'password': 'x', 'key_env': 'OPENAI_API_KEY'}}, seed=3,
                       data={'word_problems': 'abc'}, seconds={'train': 1.5}, results={'accuracy': 0.5, 'name': 'Zoë'})
    again = RunRecord.load(record.save(tmp_path / 'runs' / 'run.json'))
    assert again == record and os.listdir(tmp_path / 'runs') == ['run.json']
    assert record.config['nested'] == {'HF_TOKEN': '[removed]', 'max_tokens': 5, 'password': '[removed]', 'key_env': 'OPENAI_API_KEY'}
    assert record.versions['python'] == '.'.join(map(str, sys.version_info[:3])) and 'torch' in record.versions
    assert record.hardware['cores'] >= 1 and record.hardware['processor']


def test_record_refuses_what_json_cannot_hold(tmp_path):
    with pytest.raises(CotkitError, match='cannot hold'): RunRecord({}, results={'model': object()}).save(tmp_path / 'run.json')
    assert os.listdir(tmp_path) == []


def test_a_diverged_run_has_a_record_too(tmp_path):
    record = RunRecord({'sizes': (1, 2)}, results={'loss': math.nan, 'losses': [1.0, -math.inf], 'steps': np.int64(3), 'rate': np.float32(0.5)})
    again = RunRecord.load(record.save(tmp_path / 'run.json'))
    assert again == record and again.results == {'loss': 'nan', 'losses': [1.0, '-inf'], 'steps': 3, 'rate': 0.5} and again.config == {'sizes': [1, 2]}


@pytest.mark.parametrize('text, problem', [
    ('{', 'not valid JSON'), ('[]', 'config'), ('{"seed": 1}', 'config'), ('{"config": {}, "schema": 2}', 'newer'), ('{"config": {}}', 'schema'),
    ('{"config": {}, "schema": 1, "colour": "red"}', 'no run record has'), ('{"config": {}, "schema": 1, "seconds": 3}', 'seconds'), ('\udcff', 'not valid JSON')])
def test_bad_records_are_explained(tmp_path, text, problem):
    path = tmp_path / 'run.json'
    path.write_bytes(text.encode('utf-8', 'surrogateescape'))
    with pytest.raises(CotkitError, match=problem) as error: RunRecord.load(path)
    assert str(path) in str(error.value)


def test_missing_record(tmp_path):
    with pytest.raises(CotkitError, match='no such run record'): RunRecord.load(tmp_path / 'run.json')


def test_records_are_appended_by_many(tmp_path):
    path = tmp_path / 'runs.jsonl'
    one = RunRecord({'filler': 'x' * 20_000})
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda seed: append_record(path, RunRecord(one.config, seed=seed, versions={}, git={}, hardware={})), range(40)))
    assert sorted(r.seed for r in read_records(path)) == list(range(40))


def test_a_torn_line_is_named_and_spoils_nothing(tmp_path):
    path = tmp_path / 'runs.jsonl'
    append_record(path, RunRecord({}, seed=1))
    with path.open('a') as f: f.write('{"config": {"half')
    append_record(path, RunRecord({}, seed=2))
    assert json.loads(path.read_text().splitlines()[-1])['seed'] == 2
    with pytest.raises(CotkitError) as error: read_records(path)
    assert error.value.line == 2


def test_stages_add_up_and_count_failures():
    stages = Stages()
    with stages('train'): pass
    before = stages.seconds['train']
    with pytest.raises(KeyError):
        with stages('train'): raise KeyError
    assert stages.seconds['train'] > before and list(stages.seconds) == ['train']


def test_commit_of_a_checkout(tmp_path):
    assert git_commit(tmp_path) == {} or git_commit(tmp_path)['commit'] != ''
    run = lambda *words: subprocess.run(['git', '-c', 'user.name=a', '-c', 'user.email=a@b', *words], cwd=tmp_path, check=True, capture_output=True)
    run('init', '-q')
    (tmp_path / 'file').write_text('one')
    run('add', 'file')
    run('commit', '-qm', 'first')
    assert len(git_commit(tmp_path)['commit']) == 40 and not git_commit(tmp_path)['dirty']
    (tmp_path / 'other').write_text('untracked')
    assert not git_commit(tmp_path)['dirty']
    (tmp_path / 'file').write_text('two')
    assert git_commit(tmp_path)['dirty']


def test_nothing_heavy_is_imported():
    code = 'import sys, cotkit.evaluate, cotkit.curate as c; from cotkit.evaluate import RunRecord; RunRecord({}); print([m for m in ("torch", "transformers", "datasets", "openai", "pandas") if m in sys.modules])'
    ran = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == '[]'


def test_versions_and_hardware_are_json(): json.dumps([versions(), hardware()])


def test_a_summary_is_enough_for_every_table():
    "Accuracy, intervals and paired comparisons from what a run record keeps"
    def made(pattern, seed): return Evaluation('student', 'test', [Prediction(f'test-{i}', 'x', '1', digit == '1', True) for i, digit in enumerate(pattern)], seed)
    full = [made('1101001110', 0), made('1111001010', 1)]
    kept = [Evaluation.from_summary(json.loads(json.dumps(e.summary()))) for e in full]
    assert [e.accuracy for e in kept] == [e.accuracy for e in full] and [e.seed for e in kept] == [0, 1]
    assert summarise(kept) == summarise(full) and compare(*kept) == compare(*full)
