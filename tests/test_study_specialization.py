"The study of model specialization: its records are whole, every table and verdict follows from them, and a run is what it says"
import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from cotkit.app.study import after_holm, estimate_text as points, guess_accuracy, main, p_text
from cotkit.data.records import read_records
from cotkit.data.word_problems import word_problems
from cotkit.evaluation.statistics import contrast, mean_estimate
from cotkit.papers import model_specialization as study, specialization_runs as runs_of
from cotkit.papers.specialization_runs import Cell, Settings, TeacherSettings
from shown import shown_text

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT/'nbs'/'papers'/'model_specialization.ipynb'
RECORDS = ROOT/'nbs'/'papers'/'records'/'model_specialization.jsonl'
KINDS = ('longer', 'unseen_phrasing', 'distractors')
SIZES = ('nano', 'tiny', 'mini')
GENERIC = 'generic zero-shot-cot'
SHARED = {'size': 'tiny', 'start': 'instructed', 'matching': 'distribution', 'mixture': 'zero-shot'}
HURRIED = Settings(gold_steps=(1, 1), longer_steps=(2, 2), problems=24, validation=4, test=4, final_test=6, ood_validation=2, ood_test=2, generic=16, generic_test=4, max_new_tokens=28,
                   raw_steps=2, instruction_steps=2, max_steps=4, checkpoints=1,
                   teacher=TeacherSettings(shape=(1, 32, 2), problems=24, max_steps=80, learning_rate=1e-2, temperature=0.2))


@pytest.fixture(scope='module')
def records(): return read_records(RECORDS)


@pytest.fixture(scope='module')
def students(records): return [r for r in records if r.config['run'] == 'student']


@pytest.fixture(scope='module')
def shown(): return shown_text(NOTEBOOK)


def cell(students, **choice):
    return sorted((r for r in students if all(r.config[k] == v for k, v in {**SHARED, **choice}.items())), key=lambda r: r.seed)


def steps(students): return [int(step) for step in students[0].results['curve']]


def table(rows): return np.array([list(map(int, row)) for row in rows])


def look(runs, step, *splits): return table(''.join(r.results['curve'][str(step)][split] for split in splits) for r in runs)


def end(runs, form='zero-shot-cot'): return table(r.results['final'][form] for r in runs)


def less(first, second): return contrast([(1, first), (-1, second)])


# Records

def test_the_records_are_whole(records, students):
    "One setting and one commit without changes; every run of the design once"
    assert len({json.dumps({**r.config['settings'], 'rate': 0}, sort_keys=True) for r in records}) == 1
    assert {r.git['dirty'] for r in records} == {False} and len({r.git['commit'] for r in records}) == 1
    assert len({json.dumps(r.data, sort_keys=True) for r in records}) == 1 and set(records[0].data) == {'word_problems', 'generic'}
    wanted = [json.dumps(asdict(c), sort_keys=True) for part in study.study_parts().values() for c in part]
    made = [json.dumps(r.config, sort_keys=True) for r in study.read_study(RECORDS)]
    assert sorted(made) == sorted(wanted) and [r.config['run'] for r in records].count('teacher') == 1, 'the reader of old words gives the cells of the design'
    assert RECORDS.stat().st_size < 500_000


def test_a_digit_for_every_problem(students):
    for r in students:
        settings = r.config['settings']
        few, many = settings['out of distribution']
        sizes = {'validation': settings['validation'], 'test': settings['test'], **{f'{kind} validation': few for kind in KINDS}, **{f'{kind} test': many for kind in KINDS},
                 'generic answer-only': settings['generic test'], GENERIC: settings['generic test']}
        every = settings['updates'] // settings['checkpoints']
        assert list(r.results['curve']) == [str(i * every) for i in range(settings['checkpoints'] + 1)]
        for looked in r.results['curve'].values():
            assert {split: len(digits) for split, digits in looked.items()} == sizes and set(''.join(looked.values())) <= set('01')
        assert {form: len(digits) for form, digits in r.results['final'].items()} == dict.fromkeys(('zero-shot-cot', 'answer-only', 'few-shot-cot'), settings['final test'])
        if r.config['mixture'] != 'in-context':
            last = r.results['curve'][str(settings['updates'])]['test']
            assert r.results['final']['zero-shot-cot'].startswith(last), 'the first of the final problems are those of the curve'


def test_runs_that_begin_alike_begin_alike(students):
    "One start of each size and kind: before specialization all seeds answer the same"
    for size in SIZES:
        for kind in ('instructed', 'raw'):
            mine = [r for r in students if (r.config['size'], r.config['start']) == (size, kind) and r.config['mixture'] != 'in-context']
            assert len({json.dumps(r.results['curve']['0'], sort_keys=True) for r in mine}) <= 1


# Tables

def test_the_teacher_is_the_records(records, shown):
    [found] = [r.results for r in records if r.config['run'] == 'teacher']
    assert found['accuracy'] == found['correct'] / found['rationales'] and 0.75 < found['accuracy'] < 0.95
    assert f"correct (%) {100 * found['accuracy']:.1f}" in shown and f"taught {found['kept']}" in shown
    assert sum(found['dropped'].values()) + found['kept'] == found['rationales']


def changes(runs):
    first, early, last = (look(runs, step, GENERIC) for step in (steps(runs)[0], steps(runs)[1], steps(runs)[-1]))
    return (less(look(runs, steps(runs)[-1], 'test'), look(runs, 0, 'test')), less(first, last), contrast([(1, first), (1, last), (-2, early)]))


def test_gains_and_losses_are_the_records(students, shown):
    for size in SIZES:
        runs = cell(students, size=size)
        before, after, generic_before, generic_after = (mean_estimate(look(runs, step, split)) for split in ('test', GENERIC) for step in (0, steps(runs)[-1]))
        gain, loss, early = changes(runs)
        assert ' '.join(map(points, (before, after, gain, generic_before, generic_after, loss, early))) in shown


def on_the_way(first, second):
    later = steps(first)[1:]
    return contrast([(sign / len(later), look(runs, step, 'test')) for runs, sign in ((first, 1), (second, -1)) for step in later])


@pytest.mark.parametrize('other', [{'start': 'raw'}, {'matching': 'sample'}])
def test_comparisons_at_each_size_are_the_records(students, shown, other):
    for size in SIZES:
        first, second = cell(students, size=size), cell(students, size=size, **other)
        found = (mean_estimate(end(first)), mean_estimate(end(second)), less(end(first), end(second)), on_the_way(first, second))
        assert f'{size} ' + ' '.join(map(points, found)) in shown


def test_the_table_of_mixtures_is_the_records(students, shown):
    for name, size in [(name, 'tiny') for name in study.MIXTURES] + [(name, size) for name in ('zero-shot', 'in-context') for size in ('nano', 'mini')]:
        forms = (mean_estimate(end(cell(students, size=size, mixture=name), form)) for form in ('zero-shot-cot', 'few-shot-cot', 'answer-only'))
        assert f'{size} {name} ' + ' '.join(map(points, forms)) in shown


def test_a_guess_is_the_commonest_answer_of_training(shown):
    settings = Settings()
    train, test = (runs_of.told_problems(settings, split, n) for split, n in (('train', settings.problems), ('test', settings.final_test)))
    assert f'word problems {guess_accuracy(train, test)}' in shown and 'right in 5.3 %' in NOTEBOOK.read_text()


SELECTION = [  # selected on, reported on, test accuracy, mean regret, best checkpoint chosen, mean step
    'in distribution in distribution 26.7 1.9 19 of 42 runs 1062',
    'in distribution out of distribution 11.2 1.6 15 of 42 runs 1062',
    'out of distribution in distribution 22.6 6.1 13 of 42 runs 824',
    'out of distribution out of distribution 10.1 2.6 14 of 42 runs 824']


def test_the_selection_table(shown):
    "Pinned"
    for row in SELECTION: assert row in shown


UNDECIDED = 'undecided at this scale'
VERDICTS = [  # number, claim, points, verdict, p after Holm, verdict after Holm
    ('1', 'Specialization lifts the target at every size', 'nano +20.6 [+15.5, +25.6]; tiny +32.2 [+22.2, +42.3]; mini +37.2 [+30.1, +44.4]', 'supported', '0.001', 'supported'),
    ('1', 'Generic chain of thought falls at every size', 'nano +45.3 [+34.9, +55.7]; tiny +56.0 [+46.1, +65.9]; mini +67.3 [+58.0, +76.6]', 'supported', '< 0.001', 'supported'),
    ('1', 'More than half of it before the first checkpoint', 'nano +42.0 [+26.5, +57.5]; tiny +56.7 [+46.6, +66.8]; mini +62.0 [+47.8, +76.2]', 'supported', '0.002', 'supported'),
    ('2', 'An instructed start ends above a raw one', 'nano -3.1 [-6.4, +0.1]; tiny -8.2 [-20.2, +3.8]; mini -15.6 [-19.7, -11.4]', 'not supported', '< 0.001', 'not supported'),
    ('3', 'Distribution matching converges faster', 'nano +2.7 [+0.8, +4.6]; tiny -0.2 [-8.5, +8.0]; mini +1.2 [-5.7, +8.0]', UNDECIDED, '1.000', UNDECIDED),
    ('3', 'Distribution matching ends better', 'nano +1.2 [-1.5, +4.0]; tiny -2.4 [-11.0, +6.2]; mini +0.6 [-2.6, +3.7]', UNDECIDED, '1.000', UNDECIDED),
    ('4', 'In-context data keeps zero-shot prompts', 'nano +0.2 [-1.7, +2.0]; tiny -1.1 [-5.5, +3.4]; mini -5.9 [-8.2, -3.6]', 'not supported', '< 0.001', 'not supported'),
    ('4', 'Zero-shot data does not keep in-context prompts', 'nano +1.6 [-0.6, +3.8]; tiny +2.9 [-3.0, +8.9]; mini +6.1 [+3.8, +8.4]', UNDECIDED, '0.665', UNDECIDED),
    ('5', 'The best checkpoint out of distribution is another', '-238 [-356, -120] steps', 'supported', '0.005', 'supported'),
    ('5', 'Choosing out of distribution is better there', '-1.0 [-2.3, +0.3]', UNDECIDED, '0.449', UNDECIDED),
    ('6', 'Accuracy grows with size', 'nano to tiny +6.9 [+0.8, +13.0]; tiny to mini +3.2 [+0.3, +6.1]', 'supported', '0.174', UNDECIDED),
    ('6', 'It is a straight line over log size, within 10 points (as many as all of the growth)', '+1.8 [-0.9, +4.6]', 'supported', '< 0.001', 'supported')]


def test_the_table_of_verdicts(shown):
    "Pinned: intervals, verdicts, and what Holm's correction over the page leaves of them"
    claims = study.claims(study.Results(study.read_study(RECORDS)))
    assert [(c.number, c.text, str(c), c.verdict, p_text(p), after) for c, (p, after) in zip(claims, after_holm(claims))] == VERDICTS
    for c, (number, text, found, said, p, after) in zip(claims, VERDICTS):
        assert f"{number} {text} {found} {said} {p_text(c.p)} {p} {after}" in shown


def test_the_intervals_of_the_claims_are_the_records(students):
    "By the file's own words, without the reader"
    shown = {text: found for _, text, found, *_ in VERDICTS}
    def several(compare): return '; '.join(f'{size} {points(compare(size))}' for size in SIZES)
    def both(size, **other): return cell(students, size=size), cell(students, size=size, **other)
    def ends(first, second): return less(end(first), end(second))
    for i, text in enumerate(text for _, text, *_ in VERDICTS[:3]): assert shown[text] == several(lambda size: changes(cell(students, size=size))[i])
    assert shown['An instructed start ends above a raw one'] == several(lambda size: ends(*both(size, start='raw')))
    assert shown['Distribution matching converges faster'] == several(lambda size: on_the_way(*both(size, matching='sample')))
    assert shown['Distribution matching ends better'] == several(lambda size: ends(*both(size, matching='sample')))
    few = {size: cell(students, size=size, mixture='in-context') for size in SIZES}
    assert shown['In-context data keeps zero-shot prompts'] == several(lambda size: contrast([(1, end(few[size])), (-0.5, end(few[size], 'few-shot-cot'))]))


# The problems and the design

def test_no_problem_is_learned_and_measured():
    settings = Settings()
    sets = runs_of.problem_sets(settings)
    train = runs_of.told_problems(settings, 'train', settings.problems)
    programs = {p.meta['program'] for p in train}
    final = runs_of.told_problems(settings, 'test', settings.final_test)
    assert final[:settings.test] == sets['test']
    for name, problems in {**sets, 'final': final}.items():
        mine = [p.meta['program'] for p in problems]
        assert len(set(mine)) == len(mine) and not programs & set(mine), name
    validation, test = ({p.meta['program'] for name, problems in sets.items() if name.endswith(end) for p in problems} for end in ('validation', 'test'))
    assert not validation & test
    generic = [{p.question for p in runs_of.generic_problems(settings, split, settings.generic)} for split in ('train', 'validation', 'test')]
    assert all(generic) and not generic[0] & generic[1] and not generic[0] & generic[2] and not generic[1] & generic[2]


def test_every_cell_differs_from_the_shared_one_in_few_choices():
    cells = [c for part in study.study_parts().values() for c in part]
    students = [c for c in cells if c.run == 'student']
    assert len(set(cells)) == len(cells) == 43 and cells[0].run == 'teacher'
    changed = [{k for k in SHARED if getattr(c, k) != SHARED[k]} for c in students]
    assert all(len(o) <= 1 for o in changed[:24]) and all('size' in o and len(o) == 2 for o in changed[24:])
    assert [c.seed for c in students[:24]] == [0] * 8 + [1] * 8 + [2] * 8


def test_running_text_has_no_prompt():
    [problem] = runs_of.generic_problems(Settings(), 'train', 1)
    example = runs_of.running_text(problem)
    assert example.target.endswith(problem.answer) and f'{example.input} {example.target}'.startswith(problem.question)
    assert not re.search(r'Q:|A:|step by step|The answer is', f'{example.input} {example.target}')


# Runs

@pytest.fixture(scope='module')
def cache(tmp_path_factory): return tmp_path_factory.mktemp('cache')


def test_a_run_repeats_itself_and_keeps_what_it_made(cache):
    nano = Cell('nano', mixture='all four', settings=HURRIED)
    first, again = (study.run(nano, cache) for _ in range(2))
    assert first.results == again.results and first.data == again.data
    kept = sorted(o.name.rsplit('-', 1)[0] for o in cache.iterdir() if o.is_dir())
    assert kept == ['instructed-nano', 'raw-nano', 'teacher']
    assert not re.search(re.escape(str(cache)), first.to_json())


def test_what_a_start_depends_on_is_in_its_name(cache):
    runs_of.start('nano', 'raw', HURRIED, cache)
    before = set(cache.glob('raw-nano-*'))
    runs_of.start('nano', 'raw', replace(HURRIED, max_steps=99), cache)
    assert set(cache.glob('raw-nano-*')) == before
    runs_of.start('nano', 'raw', replace(HURRIED, raw_steps=1), cache)
    assert len(set(cache.glob('raw-nano-*')) - before) == 1


def test_tokenizers_differ(cache):
    student, teacher = runs_of.start('nano', 'raw', HURRIED, cache), runs_of.teacher(HURRIED, cache)
    text = 'Ann has 9 + 11 = 20 apples.'
    assert student.tokenizer.decode(student.tokenizer(text).input_ids) == teacher.tokenizer.decode(teacher.tokenizer(text).input_ids) == text
    assert len(student.tokenizer(text).input_ids) != len(teacher.tokenizer(text).input_ids)


# Checkpoints of the architectures of google/flan-t5-* and gpt2*

def t5_folder(folder):
    from tiny_models import sentencepiece_t5
    return sentencepiece_t5(folder, [text for p in word_problems(300, steps=(1, 2), largest=20) for text in (p.question, *p.gold_steps, 'The answer is 4.')])


def gpt2_folder(folder):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
    pairs = Tokenizer(models.BPE())
    pairs.pre_tokenizer, pairs.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    texts = [f'{p.question} {" ".join(p.gold_steps)}' for p in word_problems(300, steps=(1, 2), largest=20)]
    pairs.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=400, special_tokens=['<|endoftext|>'], show_progress=False, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    PreTrainedTokenizerFast(tokenizer_object=pairs, eos_token='<|endoftext|>', bos_token='<|endoftext|>').save_pretrained(folder/'model')
    GPT2LMHeadModel(GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=2, n_positions=512, bos_token_id=0, eos_token_id=0)).save_pretrained(folder/'model')
    return folder/'model'


@pytest.mark.parametrize('made', [t5_folder, gpt2_folder])
def test_a_checkpoint_takes_the_same_path_from_the_command_line(made, cache, tmp_path):
    checkpoint, out = str(made(tmp_path)), tmp_path/'records.jsonl'
    cells = study.study_parts(replace(HURRIED, starts=(checkpoint,)))[checkpoint]
    assert [(c.mixture, c.matching) for c in cells[:8]] == [(m, o) for m in study.MIXTURES for o in ('distribution', 'sample')]
    small = replace(study.STUDY, settings=replace(HURRIED, starts=(checkpoint,)))
    for _ in range(2): assert main(small, ['--out', str(out), '--cache', str(cache), '--cells', '1:3']) == 0
    found = read_records(out)
    assert [r.config['matching'] for r in found] == ['distribution', 'sample'], 'the second call had nothing to do'
    assert all(set(r.results['final']) == {'zero-shot-cot', 'answer-only', 'few-shot-cot'} and 0 < r.results['coverage'] < 1 for r in found)


def test_help_names_the_settings(capsys):
    with pytest.raises(SystemExit): main(study.STUDY, ['--help'])
    text = capsys.readouterr().out
    assert all(option in text for option in ('--out', '--cells', '--settings.final-test', '--settings.teacher.top-k', '--settings.starts'))
