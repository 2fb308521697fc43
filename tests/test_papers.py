"The studies: every table and figure from the saved records alone, the records whole, the teacher measured again where its outputs are, and the way to full size"
import json
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from cotkit.data.answers import Accuracy
from cotkit.app.cli import main
from cotkit.data.core import Rationale, read_jsonl
from cotkit.evaluation.statistics import mean_estimate, paired_difference
from cotkit.data.records import read_records
from shown import shown_text

ROOT = Path(__file__).resolve().parent.parent
PAPERS = ROOT/'nbs'/'papers'
NOTEBOOK = PAPERS/'recorded_teacher.ipynb'
RECORDS = PAPERS/'records'/'recorded_teacher.jsonl'
SAMPLES = ROOT/'nbs'/'samples'
DATA = Path(os.environ.get('COTKIT_DATA') or ROOT.parent/'shared'/'data')
FOLDERS = {'svamp': DATA/'svamp', 'commonsense_qa': DATA/'cqa'}
real = pytest.mark.skipif(not all(folder.is_dir() for folder in FOLDERS.values()), reason='the recorded teacher outputs are not here')
METHODS = ('label-only', 'step-by-step')


@pytest.fixture(scope='module')
def records(): return read_records(RECORDS)


@pytest.fixture(scope='module')
def teacher(records): return {(r.config['task'], r.config['split']): r for r in records if r.config['part'] == 'teacher'}


@pytest.fixture(scope='module')
def students(records): return [r for r in records if r.config['part'] == 'student']


@pytest.fixture(scope='module')
def shown(): return shown_text(NOTEBOOK, prose=True)


def marks(students, task, method, split):
    runs = sorted((r for r in students if (r.config['task'], r.config['method']) == (task, method)), key=lambda r: r.seed)
    return np.array([list(map(int, r.results['correct'][split])) for r in runs])


def tasks(students): return sorted({r.config['task'] for r in students})


# Records

@pytest.mark.parametrize('path', sorted((PAPERS/'records').glob('*.jsonl')), ids=lambda path: path.name)
def test_every_record_says_how_it_came_about(path):
    for r in read_records(path):
        assert r.versions['torch'] and r.versions['transformers'] and r.hardware['cores'] and r.data and r.results
        assert re.fullmatch('[0-9a-f]{40}', r.git['commit']) and all(seconds > 0 for seconds in r.seconds.values()) and r.seconds
        assert not re.search(r'/(work|tmp|root|home)/', r.to_json())


def test_the_teacher_records_are_whole(teacher):
    assert set(teacher) == {(task, split) for task in FOLDERS for split in ('train', 'train+validation', 'test')}
    for r in teacher.values():
        ours, published = (Accuracy.from_dict(r.results[name]) for name in ('cotkit', 'published'))
        assert r.results['cotkit'] == ours.to_dict() and r.results['published'] == published.to_dict()
        right = Counter(o['right'] for o in r.results['differ'])
        assert ours.correct - published.correct == right['cotkit'] - right['published']


def test_nothing_of_the_data_is_stored_but_ids_and_spans(records):
    for r in records:
        for item in r.results.get('differ', ()):
            assert set(item) == {'id', 'published', 'cotkit', 'right', 'why'}
            assert all(len((item[name] or '').split()) <= 9 and len(item[name] or '') <= 40 for name in ('published', 'cotkit'))
    assert RECORDS.stat().st_size < 200_000


def test_the_student_records_are_whole(students):
    assert 'svamp' in tasks(students)
    for task in tasks(students):
        mine = [r for r in students if r.config['task'] == task]
        assert sorted((r.config['method'], r.seed) for r in mine) == [(method, seed) for method in METHODS for seed in (0, 1, 2)]
        same = ('start', 'arch', 'parameters', 'vocabulary', 'steps', 'inputs a step', 'learning rate', 'problems', 'rationales')
        assert len({tuple(r.config[name] for name in same) for r in mine}) == 1, 'the methods differ in more than their method'
        assert {r.config['arch'] for r in mine} == {'seq2seq'}
    for r in students:
        for e in r.results['evaluations']:
            digits = r.results['correct'][e['split']]
            assert set(digits) <= set('01') and (len(digits), digits.count('1')) == (e['n'], e['correct'])
            assert Accuracy(e['correct'], e['n']).to_dict().items() <= e.items()
    sizes = {r.config['task']: tuple(len(r.results['correct'][split]) for split in ('validation', 'test')) for r in students}
    assert sizes['svamp'] == (80, 200) and sizes.get('commonsense_qa', (200, 1221)) == (200, 1221)


# Tables

def test_the_teacher_table_is_the_records(teacher, shown):
    "And the re-implemented parser gives what the released one gave"
    printed = {('svamp', 'train+validation'): 73.5, ('svamp', 'test'): 74.0, ('commonsense_qa', 'train+validation'): 74.26, ('commonsense_qa', 'test'): 77.23}
    for key, figure in printed.items():
        ours, published = (Accuracy.from_dict(teacher[key].results[name]) for name in ('cotkit', 'published'))
        assert abs(100 * published.value - figure) < 0.05
        assert f'{published} {ours} {100 * (ours.value - published.value):+.1f}' in shown


def test_the_tables_of_items_are_the_records(teacher, shown):
    for split in ('train+validation', 'test'):
        for o in teacher['svamp', split].results['differ']:
            assert ' '.join(f"{o['id']} {o['published'] or 'nothing'} {o['cotkit'] or 'nothing'} {o['right']} {o['why']}".split()) in shown
        for o in teacher['commonsense_qa', split].results['differ']:
            if o['why'] == 'letter': assert f"{o['id']} {o['published']} {o['cotkit']}" in shown
            else: assert o['published'] in shown
    counts = {split: Counter(o['why'] for o in teacher['commonsense_qa', split].results['differ']) for split in ('train+validation', 'test')}
    for why in ('case', 'letter'): assert f"{why} {counts['test'][why]} {counts['train+validation'][why]}" in shown


def test_the_student_table_is_the_records(students, shown):
    for task in tasks(students):
        for split in ('train', 'validation', 'test'):
            label, step = (marks(students, task, method, split) for method in METHODS)
            assert f"{mean_estimate(label)} {mean_estimate(step)} {paired_difference(step, label)}" in shown


VERDICTS = (  # pinned: claim, points, verdict, p, p after Holm
    'The released parser misses right answers, SVAMP +1.4 points [+0.5, +2.3], n = 1,000 supported 0.003 0.008',
    'The released parser misses right answers, CommonsenseQA +1.1 points [+0.9, +1.4], n = 10,962 supported < 0.001 < 0.001',
    'Step-by-step beats label-only, SVAMP +0.8 points [-2.5, +4.1], n = 200, 3 seeds undecided at this scale 0.620 0.791',
    'Step-by-step beats label-only, CommonsenseQA +6.9 points [-20.3, +34.1], n = 1,221, 3 seeds undecided at this scale 0.395 0.791')


def test_the_table_of_verdicts(shown):
    for row in VERDICTS: assert row in shown


# The teacher, measured again from its recorded outputs

EXPECTED = [('svamp', 'train+validation', 74.3), ('svamp', 'train', 74.3), ('svamp', 'test', 77.5),
            ('commonsense_qa', 'train+validation', 75.3), ('commonsense_qa', 'train', 75.3), ('commonsense_qa', 'test', 78.2)]


@real
@pytest.mark.parametrize('task, split, expected', EXPECTED)
def test_teacher_accuracy_from_the_command_line(task, split, expected, teacher, capsys):
    assert main(['curate', '--task', task, '--path', str(FOLDERS[task]), '--split', split, '--replay', 'palm_540b', '--json']) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert abs(100 * found['accuracy'] - expected) <= 0.5
    record = teacher[task, split].results
    assert (found['correct'], found['rationales']) == (record['cotkit']['correct'], record['cotkit']['n'])
    assert found['rationales'] - found['parsed'] == record['unreadable']


@real
def test_nothing_longer_than_a_span_of_the_data_is_in_the_checkout():
    "No question and no teacher output of the data stands in the notebook, the records or the samples"
    committed = '\n'.join(path.read_text(encoding='utf-8') for path in (NOTEBOOK, *(PAPERS/'records').glob('*.jsonl'), *SAMPLES.glob('recorded_*/*.jsonl')))
    for folder in FOLDERS.values():
        for file in ('train.jsonl', 'test.jsonl'):
            for row in read_jsonl(folder/file):
                question = (row.get('input') or row['question']).split('\n')[0].strip()
                assert json.dumps(question)[1:-1] not in committed or len(question.split()) < 4, row.get('id')
                assert json.dumps(row['palm_540b'][:60])[1:-1] not in committed


# Invented recordings in the same form

@pytest.mark.parametrize('folder, task, split, correct, n', [('recorded_svamp', 'svamp', 'train+validation', 8, 12), ('recorded_cqa', 'commonsense_qa', 'train', 4, 5)])
def test_the_sample_recordings_run_through_the_command_line(folder, task, split, correct, n, tmp_path, capsys):
    arguments = ['curate', '--task', task, '--path', str(SAMPLES/folder), '--split', split, '--replay', 'palm_540b', '--out', str(tmp_path/'kept.jsonl'), '--json']
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found['correct'], found['rationales'], found['kept']) == (correct, n, correct)
    assert not any('Q:' in row['text'] for row in read_jsonl(tmp_path/'kept.jsonl')), 'the run-on was cut'


# A checkpoint of the architecture of google/t5-v1_1-base: gated GELU, untied output, SentencePiece

@pytest.fixture(scope='module')
def t5_folder(tmp_path_factory):
    sentencepiece = pytest.importorskip('sentencepiece')
    import torch
    from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer
    folder = tmp_path_factory.mktemp('t5')
    rows = [row for name in ('train', 'test') for row in read_jsonl(SAMPLES/'recorded_svamp'/f'{name}.jsonl')]
    (folder/'text.txt').write_text('\n'.join(f"predict: {row['input']}\n{row['label']}\n{row['palm_540b']}" for row in rows * 10), encoding='utf-8')
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder/'text.txt'), model_prefix=str(folder/'spiece'), vocab_size=160, hard_vocab_limit=False, minloglevel=2,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, pad_piece='<pad>', eos_piece='</s>')
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder/'spiece.model'))
    T5Tokenizer(vocab=[(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(len(pieces))], extra_ids=0).save_pretrained(folder/'model')
    torch.manual_seed(0)
    T5ForConditionalGeneration(T5Config(vocab_size=256, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, feed_forward_proj='gated-gelu',
                                        tie_word_embeddings=False, decoder_start_token_id=0)).save_pretrained(folder/'model')
    return folder/'model'


def test_a_t5_checkpoint_is_distilled_and_evaluated(t5_folder, tmp_path):
    import torch
    from cotkit.teachers.curate import curate
    from cotkit.training.distill import distill
    from cotkit.training.checkpoints import read_history
    from cotkit.training.trainer import TrainingSet
    from train_settings import settings
    from cotkit.evaluation.evaluate import evaluate
    from cotkit.evaluation.strategies import SingleTurn
    from cotkit.models.generate import DecodingParams
    from cotkit.data.formats import StepByStep, ZeroShotCoT
    from cotkit.models.students import Student, make_student
    from cotkit.data.tasks import load_task
    task = load_task('svamp', path=SAMPLES/'recorded_svamp')
    texts = task.recorded('train', 'palm_540b')
    kept = curate([Rationale(i, text) for i, text in texts.items()], task['train'], ZeroShotCoT()).kept
    student = make_student(t5_folder, StepByStep())
    assert student.arch == 'seq2seq' and type(student.model).__name__ == 'T5ForConditionalGeneration' and student.model.config.is_gated_act
    before = {name: p.clone() for name, p in student.model.named_parameters()}
    distill(student, TrainingSet(task['train'], kept, task['validation']), output_dir=tmp_path/'run', config=settings(max_steps=3, batch_size=4))
    assert any(not torch.equal(p, before[name]) for name, p in student.model.named_parameters())
    history = read_history(tmp_path/'run')
    assert history[-1]['step'] == 3 and all(row['loss'] == row['loss'] for row in history if 'loss' in row)
    short = DecodingParams(8)
    evaluation = evaluate(SingleTurn(student, decoding=short), task['test'])
    assert len(evaluation.predictions) == len(task['test']) == 3
    again = evaluate(SingleTurn(Student.load(tmp_path/'run'/'student'), decoding=short), task['test'])
    assert [p.output for p in again.predictions] == [p.output for p in evaluation.predictions]


def test_the_same_checkpoint_from_the_command_line(t5_folder, tmp_path, capsys):
    sample = ['--task', 'svamp', '--path', str(SAMPLES/'recorded_svamp')]
    assert main(['curate', *sample, '--replay', 'palm_540b', '--out', str(tmp_path/'kept.jsonl')]) == 0
    for alpha in ('0.5', '1'):
        assert main(['distill', *sample, '--rationales', str(tmp_path/'kept.jsonl'), '--format', 'step-by-step', '--alpha', alpha, '--student', str(t5_folder),
                     '--max-steps', '3', '--batch-size', '4', '--learning-rate', '5e-5', '--out', str(tmp_path/alpha)]) == 0
    assert main(['evaluate', *sample, '--student', str(tmp_path/'1'/'student'), '--max-new-tokens', '8', '--out', str(tmp_path/'one.json')]) == 0
    capsys.readouterr()
    assert main(['evaluate', *sample, '--student', str(tmp_path/'0.5'/'student'), '--max-new-tokens', '8', '--against', str(tmp_path/'one.json'), '--json']) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found['n'] == 3 and found['against']['n'] == 3
