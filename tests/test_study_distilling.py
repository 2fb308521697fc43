"The study of Distilling step-by-step: its records are whole, every table and verdict follows from them, and a run is what it says"
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from cotkit.data.answers import Accuracy
from cotkit.data.core import CotkitError
from cotkit.evaluation.evaluate import Evaluation, Prediction, compare_seeds, summarise
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
SMALL = {**study.SETTING, 'size': 'nano', 'problems': 30, 'validation': 5, 'test': 6, 'max_steps': 3, 'batch': 4, 'seed': 0}
ENCODER_DECODERS = [{'size': size, 'arch': 'seq2seq', 'learning_rate': 1e-3} for size in ('nano', 'tiny', 'mini')]
ALPHA = {'finetuning': 1.0, 'step-by-step': 0.5, 'single-task': None}


def key(config): return json.dumps(config, sort_keys=True)


@pytest.fixture(scope='module')
def records(): return read_records(RECORDS)


@pytest.fixture(scope='module')
def shown(): return shown_text(NOTEBOOK)


def runs(records, method, seeds=SEEDS, **changed):
    wanted = {**study.SETTING, 'method': method, 'alpha': ALPHA[method], **changed}
    mine = sorted((r for r in records if r.seed in seeds and key({**r.config, 'seed': 0}) == key({**wanted, 'seed': 0})), key=lambda r: r.seed)
    assert tuple(r.seed for r in mine) == tuple(seeds)
    return mine


def taken(records, method, split='test', seeds=SEEDS, **changed):
    found = [next(e for e in r.results['evaluations'] if e['split'] == split) for r in runs(records, method, seeds, **changed)]
    return [Evaluation(method, split, [Prediction(str(i), '', scores={'exact_match': float(digit)}) for i, digit in enumerate(e['items'])], e['seed']) for e in found]


def percent(s): return ('{:+.1f} [{:+.1f}, {:+.1f}]' if s.difference else '{:.1f} [{:.1f}, {:.1f}]').format(100 * s.value, 100 * s.low, 100 * s.high)


def verdict(s): return 'supported' if s.low > 0 else 'not supported' if s.high < 0 else 'undecided at this scale'


# Records

def test_every_run_of_the_study_is_there_once(records):
    assert Counter(key(r.config) for r in records) == Counter(map(key, study.CONFIGS))


def test_the_axes_are_as_long_as_promised():
    gold = [c for c in study.CONFIGS if c['labelled'] == 1]
    for method in ALPHA:
        mine = [c for c in gold if (c['method'], c['alpha']) == (method, ALPHA[method])]
        for seed in SEEDS:
            assert len({c['problems'] for c in mine if c['seed'] == seed and c['size'] == 'tiny'}) >= 5
            for arch in ('causal', 'seq2seq'): assert len({c['size'] for c in mine if c['seed'] == seed and c['problems'] == 4000 and c['arch'] == arch}) >= 3
    assert {c['seed'] for c in study.CONFIGS} == {*SEEDS, *AGAIN}


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
    for r in records[:1]: assert study.study_task(r.config).fingerprint() == r.data['word_problems']


def test_no_trial_asked_a_test_problem():
    trials = read_records(TRIALS)
    assert len(trials) > 10
    for r in trials: assert r.config['test'] == 0 and {e['split'] for e in r.results['evaluations']} <= {'validation', 'train'}


# Tables

def test_the_data_table_is_the_records(records, shown):
    for n in PROBLEMS:
        gold = [summarise(taken(records, method, problems=n)) for method in ALPHA]
        found = gold + [summarise(taken(records, method, labelled=0.0, problems=n)) for method in ('finetuning', 'step-by-step')]
        programs = round(sum(r.results['programs'] for r in runs(records, 'finetuning', problems=n)) / len(SEEDS))
        assert f"{n} {programs} {' '.join(map(percent, found))}" in shown


def test_the_size_table_is_the_records(records, shown):
    for size in [*study.SIZES, *ENCODER_DECODERS]:
        parameters = {r.results['parameters'] for method in ALPHA for r in runs(records, method, **size)}
        assert len(parameters) == 1
        assert f"{size['size']} {parameters.pop():,} {' '.join(percent(summarise(taken(records, method, **size))) for method in ALPHA)}" in shown


def weights(records, split, seeds=SEEDS, **size):
    found = {alpha: taken(records, 'step-by-step', split, seeds, alpha=alpha, **size) for alpha in (0.25, 0.5, 0.75)}
    return found | {1.0: taken(records, 'finetuning', split, seeds, **size)}


def test_the_alpha_table_is_the_records(records, shown):
    validation, test = weights(records, 'validation'), weights(records, 'test')
    for alpha in validation: assert f'{alpha:g} {percent(summarise(validation[alpha]))} {percent(summarise(test[alpha]))}' in shown


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
    nano, tiny, mini = study.SIZES
    for n in PROBLEMS:
        yield '1', f'step-by-step − finetuning, {n:,} problems', at('step-by-step', problems=n), at('finetuning', problems=n)
        if n < 4000:
            yield '3', f'step-by-step on {n:,} − finetuning on 4,000', at('step-by-step', problems=n), at('finetuning')
            yield '4', f'step-by-step on {n:,} − finetuning on 4,000, teacher labels', at('step-by-step', problems=n, labelled=0.0), at('finetuning', labelled=0.0)
        yield '2', f'step-by-step − single-task, {n:,} problems', at('step-by-step', problems=n), at('single-task', problems=n)
        yield '4', f'step-by-step − finetuning, {n:,} problems, teacher labels', at('step-by-step', problems=n, labelled=0.0), at('finetuning', problems=n, labelled=0.0)
    for small, large in ((nano, tiny), (tiny, mini), (nano, mini)):
        yield '5', f"{small['size']} step-by-step − {large['size']} finetuning", at('step-by-step', **small), at('finetuning', **large)
    for size in study.SIZES: yield '1', f"{size['size']} step-by-step − {size['size']} finetuning", at('step-by-step', **size), at('finetuning', **size)
    for method in ALPHA: yield '5', f'mini {method} − teacher', at(method, **mini), teacher_takes()
    for size in study.SIZES: yield '2', f"{size['size']} step-by-step − {size['size']} single-task", at('step-by-step', **size), at('single-task', **size)
    for size in ENCODER_DECODERS:
        for claim, other in (('1', 'finetuning'), ('2', 'single-task')):
            yield claim, f"{size['size']} encoder-decoder, step-by-step − {other}", at('step-by-step', **size), at(other, **size)
    for size in study.SIZES:
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
    problems = study.study_task({**study.SETTING, 'problems': 1, 'seed': 0})['test']
    return [Evaluation('teacher', 'test', [Prediction(str(i), '', scores={'exact_match': float(OracleTeacher(problems, 0.8, seed).is_right(p.id))}) for i, p in enumerate(problems)], seed) for seed in seeds]


@pytest.fixture(scope='module')
def differences(records): return {name: (claim, compare_seeds(first, second)) for claim, name, first, second in pairs(records)}


def test_every_difference_and_its_verdict_follow_from_the_records(differences, shown):
    for name, (claim, difference) in differences.items():
        assert f'{claim} {name} {percent(difference)} {verdict(difference)}' in shown


def test_the_verdicts_are_those_of_the_comparisons(records, shown):
    table, draws = shown[shown.index('claim seeds 0 to 2'):], (SEEDS, AGAIN, SEEDS + AGAIN)
    nano, tiny, mini = study.SIZES
    reader = ENCODER_DECODERS[1]
    def at(method, **changed): return lambda seeds: taken(records, method, seeds=seeds, **changed)
    for text, first, second in (('Step-by-step beats finetuning', at('step-by-step'), at('finetuning')),
                                ('The same in an encoder-decoder', at('step-by-step', **reader), at('finetuning', **reader)),
                                ('Step-by-step beats single-task', at('step-by-step'), at('single-task')),
                                ('The same in an encoder-decoder', at('step-by-step', **reader), at('single-task', **reader)),
                                ('On 12.5 % of the data it beats finetuning on all', at('step-by-step', problems=500), at('finetuning')),
                                ('It beats finetuning without gold labels', at('step-by-step', labelled=0.0), at('finetuning', labelled=0.0)),
                                ('A smaller step-by-step student beats a larger finetuned one', at('step-by-step', **nano), at('finetuning')),
                                ('The same, one size up', at('step-by-step'), at('finetuning', **mini)),
                                ('A step-by-step student surpasses its teacher', at('step-by-step', **mini), teacher_takes),
                                ('A single-task student with gold labels surpasses its teacher', at('single-task'), teacher_takes), ('The same, one size up', at('single-task', **mini), teacher_takes)):
        found = [compare_seeds(first(seeds), second(seeds)) for seeds in draws if not (text.endswith('encoder-decoder') and seeds != SEEDS)]
        shown_again = found if len(found) > 1 else found * 2  # three seeds are all there are of encoder-decoders
        assert f"{text} {' '.join(map(percent, shown_again))} {verdict(found[-1])}" in table


def test_alpha_at_each_size_is_the_records(records, shown):
    for size in study.SIZES:
        test = weights(records, 'test', **size)
        assert f"{size['size']} {' '.join(percent(compare_seeds(test[0.5], test[alpha])) for alpha in test if alpha != 0.5)}" in shown


def test_teacher_labels_at_each_size_are_the_records(records, shown):
    for size in study.SIZES:
        [parameters] = {r.results['parameters'] for r in runs(records, 'finetuning', **size)}
        assert f"{size['size']} {parameters:,} {' '.join(percent(summarise(taken(records, method, labelled=0.0, **size))) for method in ALPHA)}" in shown


def test_the_verdict_on_alpha_is_that_of_the_comparisons(records, shown):
    closest = []
    for seeds in (SEEDS, AGAIN, SEEDS + AGAIN):
        test = weights(records, 'test', seeds)
        rivals = {alpha: compare_seeds(test[0.5], test[alpha]) for alpha in test if alpha != 0.5}
        nearest = min(rivals, key=lambda alpha: rivals[alpha].value)
        closest.append(f'{percent(rivals[nearest])} against {nearest:g}')
    good = 'supported' if all(d.low > -0.03 for d in rivals.values()) else 'not supported' if any(d.high < 0 for d in rivals.values()) else 'undecided at this scale'
    assert f"α = 0.5 is a good default {' '.join(closest)} {good}" in shown


def test_the_lines_of_teacher_and_guess(shown):
    task = study.study_task({**study.SETTING, 'seed': 0})
    common = Counter(p.answer for p in task['train']).most_common(1)[0][0]
    guess = Accuracy(sum(p.answer == common for p in task['test']), len(task['test']))
    assert f"'teacher': '{summarise(teacher_takes())}', 'guess': '{guess}'" in shown.replace('&#x27;', "'")


# What a run is

def test_a_test_tells_each_program_once_and_none_that_is_trained_on():
    task = study.study_task({**study.SETTING, 'seed': 0})
    programs = {split: [p.meta['program'] for p in task[split]] for split in task.splits}
    for split in ('validation', 'test'): assert len(set(programs[split])) == len(programs[split]) == study.SETTING[split]
    other = {p.meta['program'] for p in word_problems(4000, 1, steps=(1, 2), largest=10)}
    assert not (set(programs['train']) | other) & set(programs['test']) and not set(programs['validation']) & set(programs['test'])


def test_fewer_problems_are_the_first_of_more_and_the_test_stays():
    one, two = (study.study_task({**SMALL, 'problems': n, 'seed': seed}) for n, seed in ((30, 2), (300, 2)))
    assert two['train'][:30] == one['train'] and one['test'] == two['test'] == study.study_task(SMALL)['test']
    assert one['train'] != study.study_task(SMALL)['train']


def test_more_test_problems_than_programs_are_refused():
    with pytest.raises(CotkitError, match='programs were found'): study.study_task({**SMALL, 'test': 300, 'steps': (1, 1)})


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
    formats = {m['method']: study.method_format(m) for m in study.METHODS}
    assert isinstance(formats['single-task'], ZeroShotCoT) and formats['finetuning'] == StepByStep(1.0, 'teacher')
    assert formats['finetuning'].prompt(problem) == formats['step-by-step'].prompt(problem)
    assert formats['finetuning'].objective_weights['rationale'] == 0
    label, rationale = formats['step-by-step'].examples(problem, [gold])
    assert label.target == problem.answer and rationale.target in wrong.text and 'answer' not in rationale.target
    assert formats['step-by-step'].examples(problem, [wrong])[0].target == wrong.answer != problem.answer
    assert formats['single-task'].examples(problem, [gold])[0].target.endswith(f'The answer is {problem.answer}.')


def test_test_problems_steer_nothing():
    "A run that asks no test problem gives the same validation answers"
    with_test, without = (study.run({**SMALL, **study.METHODS[1], 'test': n}) for n in (6, 0))
    assert with_test.results['evaluations'][:1] == without.results['evaluations'] and with_test.results['training losses'] == without.results['training losses']


def test_the_command_line_resumes(tmp_path, monkeypatch):
    made, real = [], study.run
    monkeypatch.setattr(study, 'PARTS', {'data': [{**SMALL, **m, 'seed': seed} for seed in (0, 1) for m in study.METHODS[:1]]})
    monkeypatch.setattr(study, 'run', lambda config: made.append(config) or real(config))
    for arguments, expected in ((['--seeds', '1'], 1), (['--part', 'data'], 2), ([], 2)):
        assert study.main(['--records', str(tmp_path/'runs.jsonl'), *arguments]) == 0
        assert len(made) == len(read_records(tmp_path/'runs.jsonl')) == expected
    def interrupted(config): raise KeyboardInterrupt
    monkeypatch.setattr(study, 'run', interrupted)
    assert study.main(['--records', str(tmp_path/'other.jsonl')]) == 130
    with pytest.raises(SystemExit): study.main(['--records', str(tmp_path/'runs.jsonl'), '--part', 'nothing'])


def test_full_size_is_the_paper_s_setting():
    for c in study.FULL_SIZE_CONFIGS: assert (c['size'], c['max_steps'], c['batch'], c['learning_rate'], c['arguments']['lr_scheduler_type']) == ('google/t5-v1_1-base', 10_000, 64, 5e-5, 'linear')
    assert {c['seed'] for c in study.FULL_SIZE_CONFIGS} == set(SEEDS) and len({c['problems'] for c in study.FULL_SIZE_CONFIGS}) == 5


def test_help_is_there_without_loading_torch():
    program = "import sys, cotkit.papers.distilling_step_by_step; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip() == 'False'
    out = subprocess.run([sys.executable, '-m', 'cotkit.papers.distilling_step_by_step', '--help'], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert all(option in out for option in ('--records', '--workers', '--part', '--seeds', '--full-size'))
