"The study of Distilling step-by-step: its records are whole, every table and verdict follows from them, and a run is what it says"
import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from cotkit.app.study import after_holm, estimate_text, main, verdict
from cotkit.data.answers import Accuracy
from cotkit.data.core import CotkitError
from cotkit.evaluation.statistics import mean_estimate, paired_difference
from cotkit.data.formats import StepByStep, ZeroShotCoT
from cotkit.papers import distilling_step_by_step as study
from cotkit.data.records import read_records
from cotkit.data.word_problems import word_problems
from shown import shown_text

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT/'nbs'/'papers'/'distilling_step_by_step.ipynb'
RECORDS = ROOT/'nbs'/'papers'/'records'/'distilling_step_by_step.jsonl'
TRIALS = RECORDS.with_name('distilling_step_by_step_trials.jsonl')
SEEDS, AGAIN = (0, 1, 2), (3, 4, 5)
PROBLEMS = (250, 500, 1000, 2000, 4000)
SMALL = study.Cell(size='nano', problems=30, validation=5, test=6, max_steps=3, batch_size=4)
SIZES = ({'size': 'nano'}, {'size': 'tiny'}, {'size': 'mini', 'learning_rate': 2e-3})
SETTING = {'arch': 'causal', 'size': 'tiny', 'steps': [1, 2], 'largest': 10, 'problems': 4000, 'labelled': 1.0, 'teacher_accuracy': 0.8, 'max_steps': 1400, 'batch': 8,
           'learning_rate': 3e-3, 'validation': 250, 'test': 250}  # as the saved records call it
ENCODER_DECODERS = [{'size': size, 'arch': 'seq2seq', 'learning_rate': 1e-3} for size in ('nano', 'tiny', 'mini')]
ALPHA = {'finetuning': 1.0, 'step-by-step': 0.5, 'single-task': None}


def key(config): return json.dumps(config, sort_keys=True)


@pytest.fixture(scope='module')
def records(): return read_records(RECORDS)


@pytest.fixture(scope='module')
def shown(): return shown_text(NOTEBOOK)


def runs(records, method, seeds=SEEDS, **changed):
    "Records by the words that they were written with"
    wanted = {**SETTING, 'method': method, 'alpha': ALPHA[method], **changed}
    mine = sorted((r for r in records if r.seed in seeds and key({**r.config, 'seed': 0}) == key({**wanted, 'seed': 0})), key=lambda r: r.seed)
    assert tuple(r.seed for r in mine) == tuple(seeds)
    return mine


def taken(records, method, split='test', seeds=SEEDS, **changed):
    "(seeds, problems) of 0 and 1, straight from the file"
    found = [next(e for e in r.results['evaluations'] if e['split'] == split) for r in runs(records, method, seeds, **changed)]
    return np.array([list(map(int, e['items'])) for e in found])


def percent(table): return estimate_text(mean_estimate(table))


# Records

def test_every_run_of_the_study_is_there_once():
    "The reader of old words gives the cells of the design"
    wanted = [json.loads(key(asdict(cell))) for part in study.study_parts().values() for cell in part]
    assert Counter(key(r.config) for r in study.read_study(RECORDS)) == Counter(map(key, wanted)) and len(wanted) == 210


def test_the_axes_are_as_long_as_promised():
    cells = [cell for part in study.study_parts().values() for cell in part if cell.labelled == 1]
    for method in ALPHA:
        mine = [c for c in cells if (c.method, c.alpha) == (method, ALPHA[method])]
        for seed in SEEDS:
            assert len({c.problems for c in mine if c.seed == seed and c.size == 'tiny'}) >= 5
            for arch in ('causal', 'seq2seq'): assert len({c.size for c in mine if (c.seed, c.problems, c.arch) == (seed, 4000, arch)}) >= 3
    assert {c.seed for c in cells} == {*SEEDS, *AGAIN}


def test_every_record_says_how_it_came_about(records):
    for r in records:
        assert re.fullmatch('[0-9a-f]{40}', r.git['commit']) and r.git['dirty'] is False
        assert r.hardware['processor'] and r.hardware['cores'] and r.versions['torch'] and r.versions['transformers']
        assert r.seed == r.config['seed'] and set(r.data) == {'word_problems'}
        assert set(r.seconds) == {'prepare', 'train', 'evaluate'} and min(r.seconds.values()) > 0
        assert not re.search(r'/(work|tmp|root|home)/', r.to_json())
    assert RECORDS.stat().st_size < 600_000


def test_the_numbers_of_a_record_agree_with_its_digits(records):
    for r in records:
        assert [e['split'] for e in r.results['evaluations']] == ['validation', 'test']
        for e in r.results['evaluations']:
            assert set(e['items']) <= set('01') and len(e['items']) == e['n'] == r.config[e['split']] and e['items'].count('1') == e['correct']
            assert Accuracy(e['correct'], e['n']).to_dict().items() <= e.items()
        teacher = Accuracy.from_dict(r.results['teacher'])
        assert teacher.n == r.config['problems'] and teacher.low - 0.02 < r.config['teacher_accuracy'] < teacher.high + 0.02
        assert r.results['rows a step'] == r.config['batch'] * (2 if r.config['method'] == 'step-by-step' else 1)


def test_runs_that_are_compared_had_the_same_problems(records):
    same = {}
    for r in records: same.setdefault((r.seed, r.config['problems']), set()).add((r.data['word_problems'], key(r.results['teacher']), r.results['programs']))
    assert all(len(found) == 1 for found in same.values())
    for r in study.read_study(RECORDS)[:1]: assert study.study_task(study.Cell(**r.config)).fingerprint() == r.data['word_problems']


def test_no_trial_asked_a_test_problem():
    trials = read_records(TRIALS)
    assert len(trials) > 10
    for r in trials: assert r.config['test'] == 0 and {e['split'] for e in r.results['evaluations']} <= {'validation', 'train'}


# Tables

def test_the_data_table_is_the_records(records, shown):
    for n in PROBLEMS:
        gold = [taken(records, method, problems=n) for method in ALPHA]
        found = gold + [taken(records, method, labelled=0.0, problems=n) for method in ('finetuning', 'step-by-step')]
        programs = round(sum(r.results['programs'] for r in runs(records, 'finetuning', problems=n)) / len(SEEDS))
        assert f"{n} {programs} {' '.join(map(percent, found))}" in shown


def test_the_size_table_is_the_records(records, shown):
    for size in [*SIZES, *ENCODER_DECODERS]:
        parameters = {r.results['parameters'] for method in ALPHA for r in runs(records, method, **size)}
        assert len(parameters) == 1
        assert f"{size['size']} {parameters.pop():,} {' '.join(percent(taken(records, method, **size)) for method in ALPHA)}" in shown


def weights(records, split, seeds=SEEDS, **size):
    found = {alpha: taken(records, 'step-by-step', split, seeds, alpha=alpha, **size) for alpha in (0.25, 0.5, 0.75)}
    return found | {1.0: taken(records, 'finetuning', split, seeds, **size)}


def test_the_alpha_table_is_the_records(records, shown):
    validation, test = weights(records, 'validation'), weights(records, 'test')
    for alpha in validation: assert f'{alpha:g} {percent(validation[alpha])} {percent(test[alpha])}' in shown


def test_what_a_student_writes_is_the_records(records, shown):
    for method, rows in zip(ALPHA, (8, 16, 8)):
        words = sum(r.results['words written'][1] for r in runs(records, method)) / len(SEEDS)
        assert f'{method} {rows} {words:.1f}' in shown
        assert 1 <= words < 1.1 or method == 'single-task', 'who does not reason writes a label and no more'


def test_the_chains_of_encoder_decoders_are_the_records(records, shown):
    for size in ENCODER_DECODERS:
        mine = [r.results for r in runs(records, 'single-task', **size)]
        words, loss = sum(r['words written'][1] for r in mine) / len(SEEDS), sum(r['training losses']['rationale_loss'] for r in mine) / len(SEEDS)
        assert f"{size['size']} {words:.1f} {loss:.2f}" in shown


def pairs(records):
    "Every comparison of the notebook: claim, name, first, second"
    def at(method, **changed): return taken(records, method, **changed)
    nano, tiny, mini = SIZES
    for n in PROBLEMS:
        yield '1', f'step-by-step − finetuning, {n:,} problems', at('step-by-step', problems=n), at('finetuning', problems=n)
        if n < 4000:
            yield '3', f'step-by-step on {n:,} − finetuning on 4,000', at('step-by-step', problems=n), at('finetuning')
            yield '4', f'step-by-step on {n:,} − finetuning on 4,000, teacher labels', at('step-by-step', problems=n, labelled=0.0), at('finetuning', labelled=0.0)
        yield '2', f'step-by-step − single-task, {n:,} problems', at('step-by-step', problems=n), at('single-task', problems=n)
        yield '4', f'step-by-step − finetuning, {n:,} problems, teacher labels', at('step-by-step', problems=n, labelled=0.0), at('finetuning', problems=n, labelled=0.0)
    for small, large in ((nano, tiny), (tiny, mini), (nano, mini)):
        yield '5', f"{small['size']} step-by-step − {large['size']} finetuning", at('step-by-step', **small), at('finetuning', **large)
    for size in SIZES: yield '1', f"{size['size']} step-by-step − {size['size']} finetuning", at('step-by-step', **size), at('finetuning', **size)
    for method in ALPHA: yield '5', f'mini {method} − teacher', at(method, **mini), teacher_takes()
    for size in SIZES: yield '2', f"{size['size']} step-by-step − {size['size']} single-task", at('step-by-step', **size), at('single-task', **size)
    for size in ENCODER_DECODERS:
        for claim, other in (('1', 'finetuning'), ('2', 'single-task')):
            yield claim, f"{size['size']} encoder-decoder, step-by-step − {other}", at('step-by-step', **size), at(other, **size)
    for size in SIZES:
        name = size['size']
        yield '3', f'{name} step-by-step on 500 − {name} finetuning on 4,000', at('step-by-step', problems=500, **size), at('finetuning', **size)
        yield '4', f'{name} step-by-step − {name} finetuning, teacher labels', at('step-by-step', labelled=0.0, **size), at('finetuning', labelled=0.0, **size)
        yield '5', f'{name} single-task − teacher, teacher labels', at('single-task', labelled=0.0, **size), teacher_takes()
    yield 'control', 'nano finetuning − mini finetuning', at('finetuning', **nano), at('finetuning', **mini)
    yield '5', 'tiny single-task − teacher', at('single-task'), teacher_takes()
    yield 'control', 'step-by-step − finetuning with 16 problems a step', at('step-by-step'), at('finetuning', batch=16)
    yield 'control', 'finetuning with 16 − with 8 problems a step', at('finetuning', batch=16), at('finetuning')


def teacher_takes(seeds=SEEDS):
    "The oracle on the test problems, by its own rule and not by its text"
    from cotkit.teachers.protocol import OracleTeacher
    problems = study.study_task(study.Cell(problems=1))['test']
    return np.array([[float(OracleTeacher(problems, 0.8, seed).is_right(p.id)) for p in problems] for seed in seeds])


@pytest.fixture(scope='module')
def differences(records): return {name: (claim, paired_difference(first, second)) for claim, name, first, second in pairs(records)}


def test_every_difference_and_its_verdict_follow_from_the_records(differences, shown):
    for name, (claim, difference) in differences.items():
        assert f"{claim} {name} {estimate_text(difference)} {verdict('above', difference)}" in shown


UNDECIDED = 'undecided at this scale'
VERDICTS = [  # number, claim, points, verdict, p after Holm, verdict after Holm
    ('1', 'Step-by-step beats finetuning', '+15.0 [+9.7, +20.3]', 'supported', '0.004', 'supported'),
    ('1', 'The same in an encoder-decoder', '+2.7 [-5.8, +11.1]', UNDECIDED, '0.307', UNDECIDED),
    ('2', 'Step-by-step beats single-task', '-39.7 [-43.9, -35.4]', 'not supported', '< 0.001', 'not supported'),
    ('2', 'The same in an encoder-decoder', '-13.6 [-25.7, -1.5]', 'not supported', '0.182', UNDECIDED),
    ('3', 'On 12.5 % of the data it beats finetuning on all', '-4.3 [-7.9, -0.6]', 'not supported', '0.182', UNDECIDED),
    ('4', 'It beats finetuning without gold labels', '+12.6 [+7.0, +18.2]', 'supported', '0.010', 'supported'),
    ('5', 'A smaller step-by-step student beats a larger finetuned one', '+4.7 [+0.1, +9.2]', 'supported', '0.182', UNDECIDED),
    ('5', 'The same, one size up', '+16.5 [+9.5, +23.5]', 'supported', '0.010', 'supported'),
    ('5', 'A step-by-step student surpasses its teacher', '-36.1 [-43.7, -28.4]', 'not supported', '< 0.001', 'not supported'),
    ('5', 'A single-task student with gold labels surpasses its teacher', '+6.9 [+1.0, +12.8]', 'supported', '0.182', UNDECIDED),
    ('5', 'The same, one size up', '+5.7 [-0.6, +12.0]', UNDECIDED, '0.182', UNDECIDED),
    ('6', 'α = 0.5 is a good default', 'against 0.25: +3.1 [-2.2, +8.3]; against 0.75: +3.9 [-0.4, +8.2]; against 1: +15.0 [+9.7, +20.3]', 'supported', '0.182', UNDECIDED)]


def test_the_table_of_verdicts(shown):
    "Pinned: intervals, verdicts, and what Holm's correction over the page leaves of them"
    from cotkit.app.study import p_text
    claims = study.Results(study.read_study(RECORDS)).claims()
    assert [(c.number, c.text, str(c), c.verdict, p_text(p), after) for c, (p, after) in zip(claims, after_holm(claims))] == VERDICTS
    for c, (number, text, points, said, p, after) in zip(claims, VERDICTS):
        assert f"{number} {text} {points} {said} {p_text(c.p)} {p} {after}" in shown


def test_the_intervals_of_the_claims_are_the_records(records):
    "By the file's own words, without the reader"
    nano, tiny, mini = SIZES
    def at(method, seeds=SEEDS + AGAIN, **changed): return taken(records, method, seeds=seeds, **changed)
    reader, seeds = ENCODER_DECODERS[1], SEEDS + AGAIN
    found = [(at('step-by-step'), at('finetuning')), *((at('step-by-step', SEEDS, **reader), at(other, SEEDS, **reader)) for other in ('finetuning', 'single-task')),
             (at('step-by-step'), at('single-task')), (at('step-by-step', problems=500), at('finetuning')),
             (at('step-by-step', labelled=0.0), at('finetuning', labelled=0.0)), (at('step-by-step', **nano), at('finetuning')), (at('step-by-step'), at('finetuning', **mini)),
             (at('step-by-step', **mini), teacher_takes(seeds)), (at('single-task'), teacher_takes(seeds)), (at('single-task', **mini), teacher_takes(seeds))]
    assert sorted(estimate_text(paired_difference(*both)) for both in found) == sorted(points for _, text, points, *_ in VERDICTS[:-1])


def test_three_seeds_and_the_three_others(shown):
    "Pinned: what the first seeds said of the first claims, and what the new ones say"
    for text, draws in (('Step-by-step beats finetuning', '+17.3 [+2.5, +32.2] +12.7 [+8.4, +17.0] +15.0 [+9.7, +20.3] supported'),
                        ('On 12.5 % of the data it beats finetuning on all', '-1.6 [-5.6, +2.4] -6.9 [-11.1, -2.8] -4.3 [-7.9, -0.6] not supported')):
        assert f'{text} {draws}' in shown


def test_alpha_at_each_size_is_the_records(records, shown):
    for size in SIZES:
        test = weights(records, 'test', **size)
        assert f"{size['size']} {' '.join(estimate_text(paired_difference(test[0.5], test[alpha])) for alpha in test if alpha != 0.5)}" in shown


def test_teacher_labels_at_each_size_are_the_records(records, shown):
    for size in SIZES:
        [parameters] = {r.results['parameters'] for r in runs(records, 'finetuning', **size)}
        assert f"{size['size']} {parameters:,} {' '.join(percent(taken(records, method, labelled=0.0, **size)) for method in ALPHA)}" in shown


def test_the_lines_of_teacher_and_guess(shown):
    task = study.study_task(study.Cell())
    common = Counter(p.answer for p in task['train']).most_common(1)[0][0]
    guess = Accuracy(sum(p.answer == common for p in task['test']), len(task['test']))
    assert f"'teacher': '{mean_estimate(teacher_takes())}', 'guess': '{guess}'" in shown.replace('&#x27;', "'")


# What a run is

def test_a_test_tells_each_program_once_and_none_that_is_trained_on():
    task = study.study_task(study.Cell())
    programs = {split: [p.meta['program'] for p in task[split]] for split in task.splits}
    for split in ('validation', 'test'): assert len(set(programs[split])) == len(programs[split]) == 250
    other = {p.meta['program'] for p in word_problems(4000, 1, steps=(1, 2), largest=10)}
    assert not (set(programs['train']) | other) & set(programs['test']) and not set(programs['validation']) & set(programs['test'])


def test_fewer_problems_are_the_first_of_more_and_the_test_stays():
    one, two = (study.study_task(replace(SMALL, problems=n, seed=seed)) for n, seed in ((30, 2), (300, 2)))
    assert two['train'][:30] == one['train'] and one['test'] == two['test'] == study.study_task(SMALL)['test']
    assert one['train'] != study.study_task(SMALL)['train']


def test_more_test_problems_than_programs_are_refused():
    with pytest.raises(CotkitError, match='programs were found'): study.study_task(replace(SMALL, test=300, gold_steps=(1, 1)))


def test_gold_labels_replace_the_labels_and_nothing_else():
    problems = study.study_task(SMALL)['train']
    rationales = study.teach(problems, SMALL).kept
    assert 0 < sum(r.correct for r in rationales) < len(rationales) == len(problems), 'nothing is filtered, and the teacher errs'
    gold = {p.id: p.answer for p in problems}
    for share in (0.0, 0.25, 1.0):
        found, first = study.labelled(rationales, problems, share), {p.id for p in problems[:round(share * len(problems))]}
        for old, new in zip(rationales, found):
            assert new.text == old.text and new.answer == (gold[new.problem_id] if new.problem_id in first else old.answer)


def test_the_examples_of_each_method():
    problems = study.study_task(SMALL)['train']
    wrong = next(r for r in study.teach(problems, SMALL).kept if not r.correct)
    problem = next(p for p in problems if p.id == wrong.problem_id)
    [gold] = study.labelled([wrong], [problem], 1.0)
    formats = {name: study.method_format(replace(SMALL, **way)) for name, way in study.METHODS.items()}
    assert isinstance(formats['single-task'], ZeroShotCoT) and formats['finetuning'] == StepByStep(1.0, 'teacher')
    assert formats['finetuning'].prompt(problem) == formats['step-by-step'].prompt(problem)
    assert formats['finetuning'].objective_weights['rationale'] == 0
    label, rationale = formats['step-by-step'].examples(problem, [gold])
    assert label.target == problem.answer and rationale.target in wrong.text and 'answer' not in rationale.target
    assert formats['step-by-step'].examples(problem, [wrong])[0].target == wrong.answer != problem.answer
    assert formats['single-task'].examples(problem, [gold])[0].target.endswith(f'The answer is {problem.answer}.')


def test_test_problems_steer_nothing():
    "A run that asks no test problem gives the same validation answers"
    with_test, without = (study.run(replace(SMALL, test=n)).results for n in (6, 0))
    assert with_test['items']['validation'] == without['items']['validation'] and with_test['losses'] == without['losses']
    assert set(with_test['items']) == {'validation', 'test'} and set(without['items']) == {'validation'}


def test_the_command_line_goes_on_and_reads_old_records(tmp_path):
    "One cell of the real study is in the file already, in old words; another is run, with other settings"
    out, old = tmp_path/'runs.jsonl', RECORDS.read_text().splitlines()[0]
    out.write_text(old + '\n')
    assert main(study.STUDY, ['--out', str(out), '--cells', '0']) == 0 and out.read_text() == old + '\n'
    small = ['--settings.size', 'nano', '--settings.problems', '48', '--settings.validation', '4', '--settings.test', '4', '--settings.max-steps', '2', '--settings.batch-size', '2']
    for _ in range(2): assert main(study.STUDY, ['--out', str(out), '--cells', '4', *small]) == 0
    [_, made] = study.read_study(out)
    assert (made.config['size'], made.config['problems']) == ('nano', 6) and len(made.results['items']['test']) == 4


def test_full_size_is_the_paper_s_setting():
    cells = study.study_parts(study.FULL_SIZE)
    assert list(cells) == ['data']
    for c in cells['data']: assert (c.size, c.arch, c.max_steps, c.batch_size, c.learning_rate, c.lr_schedule) == ('google/t5-v1_1-base', 'seq2seq', 10_000, 64, 5e-5, 'linear')
    assert {c.seed for c in cells['data']} == set(SEEDS) and {c.problems for c in cells['data']} == {2500, 5000, 10_000, 20_000, 40_000}


def test_a_t5_checkpoint_takes_the_same_path(tmp_path):
    from tiny_models import sentencepiece_t5
    checkpoint = sentencepiece_t5(tmp_path, study.tokenizer_texts(study.FULL_SIZE))
    few = replace(study.FULL_SIZE, size=str(checkpoint), problems=40, validation=6, test=6, max_steps=3, batch_size=4, bf16=False)
    for way in study.METHODS.values():
        made = study.run(replace(few, **way))
        assert made.config['arch'] == 'seq2seq' and len(made.results['items']['test']) == 6 and made.results['parameters'] < 200_000


def test_help_is_there_without_loading_torch():
    program = "import sys, cotkit.papers.distilling_step_by_step; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip() == 'False'
    out = subprocess.run([sys.executable, '-m', 'cotkit.papers.distilling_step_by_step', '--help'], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert all(option in out for option in ('--out', '--workers', '--cells', '--seeds', '--full-size', '--settings.max-steps'))
