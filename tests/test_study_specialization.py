"The study of model specialization: its records are whole, every table and verdict follows from them, and a run is what it says"
import json
import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from cotkit.data.answers import Accuracy
from cotkit.evaluation.evaluate import Evaluation, contrast, select_checkpoint, summarise
from cotkit.evaluation.statistics import t_quantile
from cotkit.papers import model_specialization as study
from cotkit.data.records import read_records
from shown import shown_text

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT/'nbs'/'papers'/'model_specialization.ipynb'
RECORDS = ROOT/'nbs'/'papers'/'records'/'model_specialization.jsonl'
KINDS = ('longer', 'unseen_phrasing', 'distractors')
SIZES = ('nano', 'tiny', 'mini')
GENERIC = 'generic zero-shot-cot'
HURRIED = {**study.SETTINGS, 'steps': [1, 1], 'longer': [2, 2], 'problems': 24, 'validation': 4, 'test': 4, 'final test': 6, 'out of distribution': [2, 2], 'generic': 16,
           'generic test': 4, 'longest': 28, 'raw updates': 2, 'instruction updates': 2, 'updates': 4, 'checkpoints': 1,
           'teacher': {**study.SETTINGS['teacher'], 'shape': [1, 32, 2], 'problems': 24, 'updates': 80, 'rate': 1e-2, 'temperature': 0.2}}


@pytest.fixture(scope='module')
def records(): return read_records(RECORDS)


@pytest.fixture(scope='module')
def students(records): return [r for r in records if r.config['run'] == 'student']


@pytest.fixture(scope='module')
def shown(): return shown_text(NOTEBOOK)


def cell(students, **choice):
    return sorted((r for r in students if all(r.config[k] == v for k, v in {**study.SHARED, **choice}.items())), key=lambda r: r.seed)


def steps(students): return [int(step) for step in students[0].results['curve']]


def look(runs, step, *splits):
    return [Evaluation.from_summary({'name': '', 'split': '', 'items': ''.join(r.results['curve'][str(step)][split] for split in splits), 'seed': r.seed}) for r in runs]


def end(runs, form='zero-shot-cot'): return [Evaluation.from_summary({'name': '', 'split': '', 'items': r.results['final'][form], 'seed': r.seed}) for r in runs]


def less(first, second): return contrast([(1, first), (-1, second)])


def points(s): return ('{:+.1f} [{:+.1f}, {:+.1f}]' if s.difference else '{:.1f} [{:.1f}, {:.1f}]').format(100 * s.value, 100 * s.low, 100 * s.high)


def verdict(*found):
    return 'not supported' if any(s.high < 0 for s in found) else 'supported' if all(s.low > 0 for s in found) else 'undecided at this scale'


# Records

def test_the_records_are_whole(records, students):
    "One setting and one commit without changes; every run of the design once"
    assert len({json.dumps({**r.config['settings'], 'rate': 0}, sort_keys=True) for r in records}) == 1
    assert {r.git['dirty'] for r in records} == {False} and len({r.git['commit'] for r in records}) == 1
    assert len({json.dumps(r.data, sort_keys=True) for r in records}) == 1 and set(records[0].data) == {'word_problems', 'generic'}
    wanted = [json.dumps(c, sort_keys=True) for c in study.configs((0, 1, 2), records[0].config['settings'])]
    made = [json.dumps(r.config, sort_keys=True) for r in records]
    assert sorted(made) == sorted(wanted) and [r.config['run'] for r in records].count('teacher') == 1
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
        before, after, generic_before, generic_after = (summarise(look(runs, step, split)) for split in ('test', GENERIC) for step in (0, steps(runs)[-1]))
        gain, loss, early = changes(runs)
        assert ' '.join(map(points, (before, after, gain, generic_before, generic_after, loss, early))) in shown


def on_the_way(first, second):
    later = steps(first)[1:]
    return contrast([(sign / len(later), look(runs, step, 'test')) for runs, sign in ((first, 1), (second, -1)) for step in later])


@pytest.mark.parametrize('other', [{'start': 'raw'}, {'matching': 'sample'}])
def test_comparisons_at_each_size_are_the_records(students, shown, other):
    for size in SIZES:
        first, second = zip(*zip(cell(students, size=size), cell(students, size=size, **other)))
        found = (summarise(end(cell(students, size=size))), summarise(end(cell(students, size=size, **other))), less(end(first), end(second)), on_the_way(first, second))
        assert f'{size} ' + ' '.join(map(points, found)) in shown


def test_the_table_of_mixtures_is_the_records(students, shown):
    for name, size in [(name, 'tiny') for name in study.MIXTURES] + [(name, size) for name in ('zero-shot', 'in-context') for size in ('nano', 'mini')]:
        forms = (summarise(end(cell(students, size=size, mixture=name), form)) for form in ('zero-shot-cot', 'few-shot-cot', 'answer-only'))
        assert f'{size} {name} ' + ' '.join(map(points, forms)) in shown


def test_a_guess_is_the_commonest_answer_of_training(shown):
    settings = study.SETTINGS
    train, test = (study._word_problems(settings, split, settings[n]) for split, n in (('train', 'problems'), ('test', 'final test')))
    [(common, _)] = Counter(p.answer for p in train).most_common(1)
    assert f'word problems {Accuracy(sum(p.answer == common for p in test), len(test))}' in shown and 'right in 5.3 %' in NOTEBOOK.read_text()


SPLITS = {'in distribution': ('validation',), 'out of distribution': tuple(f'{kind} validation' for kind in KINDS)}
TESTS = {'in distribution': ('test',), 'out of distribution': tuple(f'{kind} test' for kind in KINDS)}


def select(r, by, target):
    "By the library's own mean over splits, where the notebook joins digits"
    curve = {step: {split: look([r], step, split)[0] for split in r.results['curve'][str(step)]} for step in steps([r])[1:]}
    return select_checkpoint(curve, SPLITS[by], TESTS[target])


def test_the_selection_table_is_the_records(students, shown):
    for by in SPLITS:
        for target in TESTS:
            made = [select(r, by, target) for r in students]
            best = sum(abs(c.regret) < 1e-12 for c in made)
            assert f'{by} {target} {100 * np.mean([c.test for c in made]):.1f} {100 * np.mean([c.regret for c in made]):.1f} {best} of {len(made)} runs' in shown


def ends(first, second): return less(end(first), end(second))


def test_verdicts_follow_from_intervals(students, shown):
    changed = {size: changes(cell(students, size=size)) for size in SIZES}
    growth = [less(end(cell(students, size=large)), end(cell(students, size=small))) for small, large in zip(SIZES, SIZES[1:])]
    for claim, compare, other in (('2. An instructed start ends above a raw one', ends, {'start': 'raw'}), ('3. Distribution matching converges faster', on_the_way, {'matching': 'sample'}),
                                  ('3. Distribution matching ends better', ends, {'matching': 'sample'})):
        found = {size: compare(cell(students, size=size), cell(students, size=size, **other)) for size in SIZES}
        assert f"{claim} {'; '.join(f'{size} {points(s)}' for size, s in found.items())} {verdict(*found.values())}" in shown
    at_size = {size: (cell(students, size=size), cell(students, size=size, mixture='in-context')) for size in SIZES}
    for claim, compare in (('4. In-context data keeps zero-shot prompts', lambda own, few: contrast([(1, end(few)), (-0.5, end(few, 'few-shot-cot'))])),
                           ('4. Zero-shot data does not keep in-context prompts', lambda own, few: contrast([(0.5, end(own)), (-1, end(own, 'few-shot-cot'))]))):
        found = {size: compare(*both) for size, both in at_size.items()}
        assert f"{claim} {'; '.join(f'{size} {points(s)}' for size, s in found.items())} {verdict(*found.values())}" in shown
    for i, claim in enumerate(('Specialization lifts the target at every size', 'Generic chain of thought falls at every size', 'More than half of it before the first checkpoint')):
        found = {size: three[i] for size, three in changed.items()}
        assert f"1. {claim} {'; '.join(f'{size} {points(s)}' for size, s in found.items())} {verdict(*found.values())}" in shown
    assert f"6. Accuracy grows with size {'; '.join(map(points, growth))} {verdict(*growth)}" in shown


def test_the_two_choices_of_a_checkpoint(students, shown):
    "Cells are the sample: a run's steps and accuracies by either validation, apart, as means of each cell"
    cells = {}
    for r in students:
        by_out, by_in = (select(r, by, 'out of distribution') for by in ('out of distribution', 'in distribution'))
        cells.setdefault(tuple(r.config[k] for k in study.SHARED), []).append((by_out.step - by_in.step, 100 * (by_out.test - by_in.test)))
    assert len(cells) == 14 and {len(o) for o in cells.values()} == {3}
    for column, digits, claim in ((0, 0, '5. The best checkpoint out of distribution is another'), (1, 1, '5. Choosing out of distribution is better there')):
        values = np.array([np.mean([o[column] for o in mine]) for mine in cells.values()])
        half = t_quantile(len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
        low, high = values.mean() - half, values.mean() + half
        clear = low > 0 or high < 0
        said = 'undecided at this scale' if not clear else 'supported' if low > 0 or column == 0 else 'not supported'
        assert f"{claim} {values.mean():+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]{' steps' if column == 0 else ''} {said}" in shown


def test_the_straight_line(students, shown):
    nano, tiny, mini = (cell(students, size=size) for size in SIZES)
    x = [math.log2(runs[0].results['parameters']) for runs in (nano, tiny, mini)]
    slope = (x[1] - x[0]) / (x[2] - x[0])
    bend = contrast([(1, end(tiny)), (slope - 1, end(nano)), (-slope, end(mini))])
    said = 'not supported' if bend.low > 0.1 or bend.high < -0.1 else 'supported' if -0.1 < bend.low and bend.high < 0.1 else 'undecided at this scale'
    assert f'6. It is a straight line over log size, within 10 points (as many as all of the growth) {points(bend)} {said}' in shown


# The problems and the design

def test_no_problem_is_learned_and_measured():
    settings = study.SETTINGS
    sets = study._sets(settings)
    train = study._word_problems(settings, 'train', settings['problems'])
    programs = {p.meta['program'] for p in train}
    final = study._word_problems(settings, 'test', settings['final test'])
    assert final[:settings['test']] == sets['test']
    for name, problems in {**sets, 'final': final}.items():
        mine = [p.meta['program'] for p in problems]
        assert len(set(mine)) == len(mine) and not programs & set(mine), name
    validation, test = ({p.meta['program'] for name, problems in sets.items() if name.endswith(end) for p in problems} for end in ('validation', 'test'))
    assert not validation & test
    generic = [{p.question for p in study._generic(settings, split, settings['generic'])} for split in ('train', 'validation', 'test')]
    assert all(generic) and not generic[0] & generic[1] and not generic[0] & generic[2] and not generic[1] & generic[2]


def test_every_cell_differs_from_the_shared_one_in_few_choices():
    configs = study.configs((0, 1, 2))
    students = [c for c in configs if c['run'] == 'student']
    assert len({json.dumps(c, sort_keys=True) for c in configs}) == len(configs) == 43 and configs[0]['run'] == 'teacher'
    changed = [{k for k in study.SHARED if c[k] != study.SHARED[k]} for c in students]
    assert all(len(o) <= 1 for o in changed[:24]) and all('size' in o and len(o) == 2 for o in changed[24:])
    assert [c['seed'] for c in students[:24]] == [0] * 8 + [1] * 8 + [2] * 8


def test_running_text_has_no_prompt():
    [problem] = study._generic(study.SETTINGS, 'train', 1)
    [example] = study.RunningText().examples(problem)
    assert example.target.endswith(problem.answer) and f'{example.input} {example.target}'.startswith(problem.question)
    assert not re.search(r'Q:|A:|step by step|The answer is', f'{example.input} {example.target}')


# Runs

def config(**choice): return {'run': 'student', **study.SHARED, 'size': 'nano', 'seed': 0, 'settings': HURRIED, **choice}


@pytest.fixture(scope='module')
def cache(tmp_path_factory): return tmp_path_factory.mktemp('cache')


def test_a_run_repeats_itself_and_keeps_what_it_made(cache):
    first, again = (study.run(config(mixture='all four'), cache) for _ in range(2))
    assert first.results == again.results and first.data == again.data
    kept = sorted(o.name.rsplit('-', 1)[0] for o in cache.iterdir() if o.is_dir())
    assert kept == ['instructed-nano', 'raw-nano', 'teacher']
    assert not re.search(re.escape(str(cache)), first.to_json())


def test_what_a_start_depends_on_is_in_its_name(cache):
    study.start('nano', 'raw', HURRIED, cache)
    before = set(cache.glob('raw-nano-*'))
    study.start('nano', 'raw', {**HURRIED, 'updates': 99}, cache)
    assert set(cache.glob('raw-nano-*')) == before
    study.start('nano', 'raw', {**HURRIED, 'raw updates': 1}, cache)
    assert len(set(cache.glob('raw-nano-*')) - before) == 1


def test_tokenizers_differ(cache):
    student, master = study.start('nano', 'raw', HURRIED, cache), study.teacher(HURRIED, cache)
    text = 'Ann has 9 + 11 = 20 apples.'
    assert student.tokenizer.decode(student.tokenizer(text).input_ids) == master.tokenizer.decode(master.tokenizer(text).input_ids) == text
    assert len(student.tokenizer(text).input_ids) != len(master.tokenizer(text).input_ids)


# Checkpoints of the architectures of google/flan-t5-* and gpt2*

def t5_folder(folder):
    sentencepiece = pytest.importorskip('sentencepiece')
    from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer
    texts = [text for p in study.word_problems(300, steps=(1, 2), largest=20) for text in (p.question, *p.gold_steps, 'The answer is 4.')]
    (folder/'text.txt').write_text('\n'.join(texts), encoding='utf-8')
    sentencepiece.SentencePieceTrainer.train(input=str(folder/'text.txt'), model_prefix=str(folder/'spiece'), vocab_size=200, hard_vocab_limit=False, minloglevel=2,
                                             pad_id=0, eos_id=1, unk_id=2, bos_id=-1, pad_piece='<pad>', eos_piece='</s>')
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder/'spiece.model'))
    T5Tokenizer(vocab=[(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(len(pieces))], extra_ids=0).save_pretrained(folder/'model')
    T5ForConditionalGeneration(T5Config(vocab_size=256, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, feed_forward_proj='gated-gelu', tie_word_embeddings=False,
                                        decoder_start_token_id=0)).save_pretrained(folder/'model')
    return folder/'model'


def gpt2_folder(folder):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
    pairs = Tokenizer(models.BPE())
    pairs.pre_tokenizer, pairs.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    texts = [f'{p.question} {" ".join(p.gold_steps)}' for p in study.word_problems(300, steps=(1, 2), largest=20)]
    pairs.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=400, special_tokens=['<|endoftext|>'], show_progress=False, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    PreTrainedTokenizerFast(tokenizer_object=pairs, eos_token='<|endoftext|>', bos_token='<|endoftext|>').save_pretrained(folder/'model')
    GPT2LMHeadModel(GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=2, n_positions=512, bos_token_id=0, eos_token_id=0)).save_pretrained(folder/'model')
    return folder/'model'


@pytest.mark.parametrize('made', [t5_folder, gpt2_folder])
def test_a_checkpoint_takes_the_same_path_from_the_command_line(made, cache, tmp_path, monkeypatch):
    checkpoint, records = made(tmp_path), tmp_path/'records.jsonl'
    wanted = study.checkpoint_configs(str(checkpoint), [0], HURRIED)
    assert [(c['mixture'], c['matching']) for c in wanted] == [(m, o) for m in study.MIXTURES for o in ('distribution', 'sample')]
    monkeypatch.setattr(study, 'MIXTURES', {'all four': study.MIXTURES['all four']})
    arguments = ['--records', str(records), '--cache', str(cache), '--seeds', '0', '--checkpoint', str(checkpoint), '--settings', json.dumps(HURRIED)]
    for _ in range(2): assert study.main(arguments) == 0
    found = read_records(records)
    assert [r.config['matching'] for r in found] == ['distribution', 'sample'], 'the second call had nothing to do'
    assert all(set(r.results['final']) == {'zero-shot-cot', 'answer-only', 'few-shot-cot'} and 0 < r.results['coverage'] < 1 for r in found)
