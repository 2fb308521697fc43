"Emergence on tables: expected values of real tables, error rates on simulated truth, bad input, figures, the command"
import csv
import gzip
import json
import math
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cotkit.app.cli import main
from cotkit.data.core import CotkitError
from cotkit.evaluation.emergence import Criteria, judge
from cotkit.evaluation.emergence_errors import TASKS, TRUTH, Setting, error_rates, simulate_task
from cotkit.evaluation.emergence_tables import Curve, TableColumns, curves_of, is_score, lower_is_better, read_curves, read_number, rows_of
from cotkit.evaluation.emergence_tests import hinge_test, chance_test, constant_answer, emergence_score, find_jump, smooth_null
from cotkit.evaluation.onsets import choice_curves, crossing, metric_chain, midpoint, onset

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get('COTKIT_DATA') or ROOT.parent/'shared'/'data')/'emergence'
real = pytest.mark.skipif(not DATA.is_dir(), reason='the real tables are not here')
SCALES = np.logspace(18, 22.5, 10)


def row(**fields): return {'family': 'ann', 'task': 'apples', 'metric': 'accuracy', 'scale': 1e18, 'value': 0.5, 'n': 100, 'chance': 0.25, **fields}


def write(path, rows):
    with path.open('w', newline='') as f:
        writer = csv.DictWriter(f, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def told(argv, capsys):
    "The JSON of a command that succeeded"
    assert main([*map(str, argv), '--json']) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


# The emergence score and its null

def test_the_score_is_the_formula():
    y = [0.0, 0.1, 0.05, 0.9]
    assert emergence_score(y) == pytest.approx(0.9 / math.sqrt(np.median(np.diff(y) ** 2)))
    assert emergence_score(y[::-1]) == -emergence_score(y) and emergence_score([0.3] * 5) == 0
    assert emergence_score([0, 0, 0, 1]) == math.inf and emergence_score([0, 0, 0, 1], 0.01) == pytest.approx(100)


def test_the_null_grows_with_the_number_of_scales():
    curves = [Curve('a', 't', 'accuracy', np.logspace(18, 22, k), np.linspace(0, 0.8, k), (10 ** 6,) * k, 0.0) for k in (5, 9, 13)]
    means = [smooth_null(c).mean() for c in curves]
    assert means == pytest.approx([4, 8, 12], rel=0.02)


def test_a_break_test_holds_its_level():
    "On straight lines with normal noise at most a twentieth breaks"
    rng = np.random.default_rng(0)
    p = [hinge_test(Curve('a', 't', 'loss', SCALES, 3 - 0.2 * np.arange(10) + rng.normal(0, 0.1, 10), lower=True))[0] for _ in range(300)]
    assert np.mean(np.array(p) < 0.05) <= 0.08


def test_a_prediction_holds_its_level():
    rng = np.random.default_rng(1)
    p = [find_jump(Curve('a', 't', 'score of ours', SCALES, 0.1 * np.arange(10) + 1 + rng.normal(0, 0.05, 10))).p_line for _ in range(300)]
    assert np.mean(np.array(p) < 0.025) <= 0.045


def test_chance_is_tested_with_the_scatter_below_it():
    "A model that changes between constant answers scatters far more than binomially on both sides of chance"
    letters = Curve('a', 't', 'accuracy', SCALES, np.array([190, 310, 200, 290, 180, 320, 210, 300, 190, 310]) / 1000, (1000,) * 10, 0.25)
    assert chance_test(letters, 0.25) > 0.05
    assert chance_test(replace(letters, values=np.linspace(0.25, 0.4, 10)), 0.25) < 1e-6


@pytest.mark.parametrize('right, n, chance, constant', [
    ([38] * 8, 104, 0.5, True), ([38, 38, 66, 38, 38, 66, 38, 38], 104, 0.5, True),  # the other of two answers
    ([50, 51, 48, 52, 49, 53, 47, 54], 100, 0.5, False), ([0] * 8, 100, 0.0, False), ([100] * 8, 100, 0.25, False)])
def test_constant_answers(right, n, chance, constant):
    curve = Curve('a', 't', 'accuracy', SCALES[:8], np.array(right) / n, (n,) * 8, chance)
    assert (constant_answer(curve) is not None) == constant
    if constant: assert judge([curve])[0].verdict == 'at chance'


# Verdicts on known truth

NOT_EMERGENT = [name for name, (score, metric) in TRUTH.items() if 'emergent' not in score | metric]


@pytest.mark.parametrize('setting', [Setting(8), Setting(11, n=200, scatter=0.05)], ids=str)
def test_false_alarms_are_rare(setting):
    "Nothing that does not emerge is called so; what is at chance, constant, six items or smooth is called by its name"
    rates = error_rates(NOT_EMERGENT, setting, draws=8, seed=1)
    assert sum(found.get('emergent', 0) for found in rates.values()) == 0
    wrong = [1 - sum(found.get(v, 0) for v in TRUTH[name][kind == 'metric']) for (name, kind), found in rates.items()]
    assert np.mean(wrong) < 0.08
    for name in ('six items', 'constant answer', 'floor', 'guesses'): assert rates[name, 'score'].get('smooth', 0) + rates[name, 'score'].get('metric artefact', 0) <= 0.13


def test_thresholds_are_found():
    rates = error_rates(['step', 'step above chance', 'hinge', 'step of a loss'], Setting(10), draws=12)
    assert all(found.get('emergent', 0) >= 0.75 for found in rates.values())


def test_artefacts_are_found_and_never_called_emergent():
    rates = error_rates([o for o in TASKS if o.startswith('artefact')], Setting(12), draws=10)
    for (name, kind), found in rates.items():
        assert found.get('metric artefact' if kind == 'score' else 'smooth', 0) >= 0.8 and not found.get('emergent')


@pytest.mark.parametrize('k', [2, 3, 4])
def test_a_few_scales_say_nothing(k):
    jump = Curve('a', 't', 'exact_match', SCALES[:k], [0] * (k - 1) + [0.8], (1000,) * k, 0.0)
    drop = Curve('a', 't', 'loss', SCALES[:k], [3] * (k - 1) + [1], lower=True)
    assert {v.verdict for v in judge([jump, drop])} == {'undecided'}


def test_a_jump_needs_its_continuous_metric():
    rng = np.random.default_rng(3)
    score, metric = simulate_task('step', Setting(10), rng)
    assert judge([score, metric])[0].verdict == 'emergent'
    assert judge([score])[0].verdict == 'undecided' and 'continuous metric' in judge([score])[0].why
    assert judge([replace(score, n=()), metric])[0].verdict == 'undecided'
    smooth = replace(metric, values=np.linspace(5, 1, 10) + rng.normal(0, 0.02, 10))
    assert judge([score, smooth])[0].verdict == 'metric artefact'
    assert judge([score, replace(smooth, family='bea')])[0].verdict == 'undecided'  # another family's metric says nothing


def test_many_curves_are_corrected():
    "A break that is significant alone is not among a thousand"
    score, metric = simulate_task('step', Setting(10), np.random.default_rng(3))
    flat = [Curve('a', f't{i}', 'loss', SCALES, 2 + np.random.default_rng(i).normal(0, 0.1, 10), lower=True) for i in range(60)]
    alone, among = judge([metric])[0], judge([metric, *flat])[0]
    assert alone.p_break < among.p_break <= 61 * alone.p_break + 1e-12
    assert 'emergent' not in {v.verdict for v in judge(flat)}


def test_direction_and_units_do_not_matter():
    "Loss as it is and as its negative; scales as FLOPs and as thousands"
    _, metric = simulate_task('step', Setting(10), np.random.default_rng(3))
    turned = replace(metric, metric='gain', values=[-v for v in metric.values], lower=False)
    small = replace(metric, scales=[s / 1e16 for s in metric.scales])
    assert {judge([o])[0].verdict for o in (metric, turned, small)} == {'emergent'}


def test_criteria_are_obeyed():
    score, metric = simulate_task('step', Setting(10, n=200), np.random.default_rng(3))
    assert judge([score, metric], Criteria(min_items=300))[0].verdict == 'undecided'


# Tables

def test_scores_and_directions_by_name():
    assert all(map(is_score, ['accuracy', 'Exact Match', 'acc,none', 'pass@10', 'exact_match,strict-match', 'multiple_choice_grade']))
    assert not any(map(is_score, ['bleu', 'log_likelihood', 'brier', 'my metric', 'loss']))
    assert all(map(lower_is_better, ['loss', 'perplexity', 'token_edit_distance', 'bits_per_byte', 'brier', 'val-loss']))
    assert not any(map(lower_is_better, ['log_likelihood', 'bleu', 'accuracy', 'my metric']))


@pytest.mark.parametrize('text, value', [('125M', 125e6), ('6.7b', 6.7e9), ('1e21', 1e21), ('3T', 3e12), (7, 7.0), ('1_000', 1000.0), ('+.5', 0.5)])
def test_numbers(text, value): assert read_number(text, 'scale') == value


@pytest.mark.parametrize('text', ['nan', 'inf', '1e999', '', 'big', '0x10', True, '1,5'])
def test_no_numbers(text):
    with pytest.raises(CotkitError, match='field "scale"'): read_number(text, 'scale')


def test_unsorted_and_repeated_scales():
    rows = [row(scale=s, value=v) for s, v in [('1B', 0.6), ('10M', 0.3), ('1e9', 0.8), ('100M', 0.5), ('10M', 0.4)]]
    [curve] = curves_of(rows_of(rows))
    assert curve.scales == (1e7, 1e8, 1e9) and curve.values == pytest.approx((0.35, 0.5, 0.7)) and curve.seeds == 2
    assert not math.isnan(curve.errors[0])


def test_items_of_0_and_1():
    rows = [row(scale=s, value=int(i < k), item=f'q{i}', n=None) for s, k in [(1e6, 3), (1e7, 8)] for i in range(10)]
    [curve] = curves_of(rows_of(rows))
    assert curve.values == (0.3, 0.8) and curve.n == (10, 10) and curve.items.shape == (2, 10)


def test_n_from_a_standard_error():
    rows = [row(scale=s, value=p, n=None, stderr=math.sqrt(p * (1 - p) / 1266) if p else 0) for s, p in [(1, 0.0), (2, 0.5), (3, 0.7)]]
    assert curves_of(rows_of(rows))[0].n == (1267,) * 3


def test_percentages_and_columns_of_another_name(tmp_path):
    rows = [{'model': 'a', 'bench': 'x', 'flops': 10 ** k, 'acc': 10 * k} for k in range(1, 9)]
    columns = TableColumns(family_column='model', task_column='bench', scale_column='flops', value_column='acc', metric='accuracy', percent=True, chance=0.0, n=50)
    [curve] = read_curves(write(tmp_path/'t.csv', rows), columns)
    assert curve.values == pytest.approx([k / 10 for k in range(1, 9)]) and curve.n == (50,) * 8 and curve.family == 'a'


def test_rows_are_told_apart_and_chosen():
    rows = [row(scale=s, value=v, shots=k) for k in (0, 5) for s, v in [(1e6, 0.3), (1e7, 0.4 + k / 20)]]
    assert [c.by for c in curves_of(rows_of(rows))] == [(('shots', '0'),), (('shots', '5'),)]
    [curve] = curves_of(rows_of(rows), TableColumns(where=('shots=5',)))
    assert curve.values == (0.3, 0.65)


BAD = {'a percentage': (row(value=62), 'value', 'percent'), 'below its range': (row(value=-0.1), 'value', 'range'), 'NaN': (row(value='NaN'), 'value', 'NaN'),
       'no value': (row(value=''), 'value', 'missing'), 'no chance': (row(chance=''), 'chance', 'no chance level'), 'chance of 1': (row(chance=1), 'chance', 'below 1'),
       'a text': (row(value='good'), 'value', 'not a finite number'), 'negative scale': (row(scale=-1), 'scale', 'above 0'), 'infinite': (row(scale='inf'), 'scale', 'finite'),
       'half an item': (row(n=10.5), 'n', 'whole number'), 'no items': (row(n=0), 'n', 'at least 1'), 'two chances': (row(chance=0.5), 'chance', 'two chance levels'),
       'Brier of 3': (row(metric='brier', value=3), 'value', 'beyond its range'), 'no task': (row(task=''), 'task', 'missing')}


@pytest.mark.parametrize('name', BAD)
@pytest.mark.parametrize('ending', ['csv', 'jsonl.gz'])
def test_bad_rows_are_named(tmp_path, capsys, name, ending):
    "One line on standard error with file, line and field; exit code 2"
    bad, field, said = BAD[name]
    rows, path = [row(scale=1e16), row(scale=1e17), bad], tmp_path/f't.{ending}'
    if ending == 'csv': write(path, rows)
    else: path.write_bytes(gzip.compress('\n'.join(map(json.dumps, rows)).encode()))
    assert main(['emergence', str(path)]) == 2
    error = capsys.readouterr().err.strip()
    assert error.count('\n') == 0 and f'{path}:{4 if ending == "csv" else 3}: field "{field}"' in error and said in error


def test_nan_of_json(tmp_path, capsys):
    path = tmp_path/'t.jsonl'
    path.write_text('\n'.join(json.dumps(row(scale=s, value=v)) for s, v in [(1, 0.1), (2, math.nan)]))
    assert main(['emergence', str(path)]) == 2 and f'{path}:2: field "value": is NaN' in capsys.readouterr().err


@pytest.mark.parametrize('rows, said', [
    ([row()], 'one scale'), ([row(), row(value=0.4)], 'one scale'),
    ([{**row(scale=s), 'item': i} for s, items in [(1, 'ab'), (2, 'ac')] for i in items], "unequal item sets: 'b'"),
    ([{**row(scale=s), 'item': i} for s, items in [(1, 'ab'), (2, 'a')] for i in items], "unequal item sets: 'b'"),
    ([{**row(scale=s), 'item': i} for s in (1, 2) for i in 'aa'], 'stands twice'), ([{**row(scale=s), 'item': i} for s in (1, 2) for i in ('a', '')], 'Items everywhere'),
    ([{'task': 'x', 'metric': 'loss', 'flops': 3, 'value': 1}], 'no such column. Name another with --scale-column')])
def test_tables_that_make_no_curve(tmp_path, capsys, rows, said):
    path = write(tmp_path/'t.csv', rows)
    assert main(['emergence', str(path)]) == 2
    error = capsys.readouterr().err
    assert said in error and f'{path}:' in error and error.strip().count('\n') == 0


def test_continuous_metrics_need_neither_chance_nor_n():
    [curve] = curves_of(rows_of([{'task': 't', 'metric': 'mystery', 'scale': 10 ** k, 'value': 100 + k} for k in range(8)]))
    assert not curve.share and judge([curve])[0].verdict == 'smooth'


# Places on the axis

def test_onset_brackets_the_truth():
    truth = np.where(np.arange(10) < 4, 0.25, 0.6)
    found = [onset(Curve('a', 't', 'accuracy', SCALES, np.random.default_rng(i).binomial(500, truth) / 500, (500,) * 10, 0.25), draws=100) for i in range(10)]
    assert all(o.low <= SCALES[4] <= o.high for o in found) and np.mean([o.scale == SCALES[4] for o in found]) >= 0.8
    never = onset(Curve('a', 't', 'accuracy', SCALES, [0.25] * 10, (500,) * 10, 0.25), draws=100)
    assert math.isnan(never.scale) and never.high == math.inf
    with pytest.raises(CotkitError, match='n'): onset(Curve('a', 't', 'accuracy', SCALES, [0.25] * 10, chance=0.25))


def test_crossing_covers_the_truth():
    x = np.log10(SCALES)
    hits = 0
    for i in range(20):
        rng = np.random.default_rng(i)
        slow, fast = (Curve('a', 't', 'accuracy', SCALES, rng.binomial(800, p) / 800, (800,) * 10, 0.0) for p in (np.full(10, 0.3), 0.3 + 0.08 * (x - 20.5)))
        found = crossing(fast, slow, draws=200)
        hits += found.low <= 10 ** 20.5 <= found.high
    assert hits >= 16
    assert math.isnan(crossing(slow, replace(slow, values=[v + 0.3 for v in slow.values]), draws=50).scale)


def test_midpoint_of_families():
    curves = [Curve(str(i), 't', 'accuracy', SCALES, np.random.default_rng(i + 2).binomial(500, 0.8 / (1 + np.exp(-3 * (np.log10(SCALES) - 20.5 - 0.1 * i)))) / 500, (500,) * 10, 0.0) for i in (-2, -1, 0, 1, 2)]
    found = midpoint(curves, draws=100)
    assert found.low < 10 ** 20.5 < found.high and abs(math.log10(found.scale) - 20.5) < 0.3


def test_the_chain_ends_in_accuracy():
    rng = np.random.default_rng(0)
    logprobs = np.log(rng.dirichlet(np.ones(4), (6, 200)))
    curves = choice_curves(logprobs, rng.integers(4, size=200), SCALES[:6])
    assert [c.metric for c in curves] == ['log_likelihood', 'probability', 'choice_probability', 'accuracy']
    assert np.allclose(curves[1].values, curves[2].values) and curves[3].chance == 0.25  # the choices are the whole vocabulary here
    assert {o.verdict for o in metric_chain(curves)} <= {'smooth', 'at chance', 'undecided'}


# The command and its figures

@pytest.fixture(scope='module')
def simulated(tmp_path_factory):
    rows = []
    for task in ('step', 'artefact, edit distance'):
        for c in simulate_task(task, Setting(11), np.random.default_rng(3)):
            rows += [row(family='sim', task=task, metric=c.metric, scale=s, value=v, n=c.n[0] or '', chance='' if c.chance is None else c.chance) for s, v in zip(c.scales, c.values)]
    return write(tmp_path_factory.mktemp('emergence')/'simulated.csv', rows)


def test_the_command_ends_with_curves(simulated, capsys):
    found = told(['emergence', simulated], capsys)
    assert {(c['task'], c['metric']): c['verdict'] for c in found['curves']} == {
        ('step', 'accuracy'): 'emergent', ('step', 'token_edit_distance'): 'emergent',
        ('artefact, edit distance', 'accuracy'): 'metric artefact', ('artefact, edit distance', 'token_edit_distance'): 'smooth'}
    assert all({'family', 'task', 'metric', 'verdict', 'why', 'score'} <= c.keys() and c['why'] for c in found['curves'])


def test_the_command_prints_a_table(simulated, capsys):
    assert main(['emergence', str(simulated)]) == 0
    out = capsys.readouterr().out
    assert 'metric artefact' in out and 'jumps from chance' in out


@pytest.mark.parametrize('ending', ['html', 'png', 'svg'])
def test_figures(simulated, tmp_path, capsys, ending):
    path = tmp_path/f'out.{ending}'
    assert told(['emergence', simulated, '--figure', path], capsys)['figure'] == str(path)
    assert path.stat().st_size > 5000
    if ending == 'html': assert 'metric artefact' in path.read_text()
    assert main(['emergence', str(simulated), '--figure', str(tmp_path/'out.docx')]) == 2


def test_an_infinite_score_is_valid_json(tmp_path, capsys):
    values = [0] * 6 + [0.3, 0.4]
    path = write(tmp_path/'t.csv', [row(scale=10 ** i, value=v, chance=0) for i, v in enumerate(values)])
    assert main(['emergence', str(path), '--json']) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    [curve] = json.loads(line, parse_constant=lambda name: pytest.fail(name))['curves']
    assert curve['score'] is None and curve['score_guarded'] == pytest.approx(40)


# Real tables

def by_key(path, **columns):
    curves = read_curves(DATA/path, TableColumns(**columns))
    return {(v.family, v.task, v.metric): v for v in judge(curves)}


@real
def test_emergence_scores_as_published():
    found = by_key('emergent_2shot.jsonl.gz', scale_column='flops')
    assert found['Pythia', 'arithmetic_2da', 'accuracy'].score == pytest.approx(19.75, abs=0.005)
    assert found['Pythia', 'arithmetic_3da', 'accuracy'].score == pytest.approx(25.27, abs=0.005)
    assert found['OPT', 'ipa_transliterate', 'exact_match'].score == math.inf
    assert found['OPT', 'ipa_transliterate', 'bleu'].score == pytest.approx(25.03, abs=0.005)
    assert not {v.verdict for v in found.values()} & {'emergent', 'metric artefact'}  # without n, and no metric beside the arithmetic


@real
def test_lambada_is_smooth():
    found = by_key('scores.csv.gz', scale_column='flops_6nd', chance=0.0, where=('family=pythia', 'step=143000', 'shots=0', 'task=lambada_openai'))
    accuracy, perplexity = found['pythia', 'lambada_openai', 'acc'], found['pythia', 'lambada_openai', 'ppl']
    assert accuracy.score == pytest.approx(11.36, abs=0.005) and perplexity.score == pytest.approx(-75.69, abs=0.005)
    assert accuracy.verdict == perplexity.verdict == 'smooth' and accuracy.n == 5152


@real
def test_wsc_is_a_constant_answer():
    curves = read_curves(DATA/'scores.csv.gz', TableColumns(scale_column='flops_6nd', chance=0.5, where=('task=wsc', 'step=143000')))
    assert len(curves) == 4 and {v.verdict for v in judge(curves)} == {'at chance'}
    assert sum('constant answer' in v.why for v in judge(curves)) >= 3


@real
def test_mmlu_raises_no_alarm():
    columns = TableColumns(scale_column='params', chance=0.25, task_column='subject', value_column='acc', metric='accuracy')
    counts = Counter(v.verdict for v in judge(read_curves(DATA/'mmlu_subjects_final.csv.gz', columns)))
    assert not counts['emergent'] and not counts['metric artefact'] and counts['at chance'] > 0.94 * sum(counts.values())


@real
def test_gpt3_climbs_smoothly(capsys):
    found = told(['emergence', DATA/'gpt3_by_size.csv', '--scale-column', 'flops'], capsys)
    assert len(found['curves']) == 6 and {c['verdict'] for c in found['curves']} == {'smooth'}


@real
def test_lambada_is_learned_after_step_512():
    columns = TableColumns(scale_column='tokens', chance=0.0, by=('size', 'family'), where=('task=lambada_openai', 'shots=0', 'size=6.9b', 'metric=acc', 'family=pythia-deduped'))
    found = onset(read_curves(DATA/'scores.csv.gz', columns)[0], draws=100)
    assert found.last_at_chance == 512 * 2097152 and found.low <= found.scale <= found.high
