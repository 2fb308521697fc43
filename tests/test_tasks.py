"Tasks: every schema in every file format, bad rows, and the real data sets where they are"
import dataclasses, gzip, json, os, subprocess, sys
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from cotkit.data import files, tasks
from cotkit.data.answers import Accuracy, is_correct
from cotkit.data.core import CotkitError, Problem, Rationale, from_dataset
from cotkit.data.formats import ZeroShotCoT
from cotkit.data.reading import published_correct, read_answer
from cotkit.teachers.curate import curate
from cotkit.data.tasks import NLI_LABELS, Columns, DataConfig, Splitting, Task, hash_split, load_data, load_task, register_task, task_names

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT/'nbs'/'samples'
DATA = ROOT.parent/'shared'/'data'
real = pytest.mark.skipif(not DATA.is_dir(), reason='no ../shared/data')

# task, folder, options, sizes of its splits
SCHEMAS = [
    ('gsm8k', 'tasks_gsm8k', {}, {'train': 2, 'test': 1}), ('gsm8k', 'tasks_gsm8k_socratic', {'config': 'socratic'}, {'train': 2, 'test': 1}),
    ('svamp', 'tasks_svamp', {}, {'train': 2, 'test': 1}), ('svamp', 'tasks_svamp', {'target': 'number'}, {'train': 2, 'test': 1}),
    ('svamp', 'tasks_svamp_recorded', {}, {'train': 2, 'test': 1}), ('svamp', 'tasks_svamp_recorded', {'target': 'number'}, {'train': 2, 'test': 1}),
    ('commonsense_qa', 'tasks_commonsense_qa', {}, {'train': 2, 'test': 1}), ('strategyqa', 'tasks_strategyqa', {}, {'train': 2, 'test': 1}),
    ('anli', 'tasks_anli', {}, {'train': 1, 'validation': 1, 'test': 1}), ('anli', 'tasks_anli', {'rounds': (1, 2)}, {'train': 1, 'validation': 1, 'test': 2}),
    ('anli', 'tasks_anli', {'rounds': 2}, {'test': 1}),
    ('esnli', 'tasks_esnli', {}, {'train': 1, 'validation': 1, 'test': 1}), ('multiarith', 'tasks_multiarith', {}, {'train': 1, 'test': 1}), ('asdiv', 'tasks_asdiv', {}, {'test': 2})]


def rows_of(folder): return {path.stem: [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()] for path in sorted((SAMPLES/folder).glob('*.jsonl'))}


def as_json(folder, rows):
    for split, part in rows.items(): (folder/f'{split}.json').write_text(json.dumps(part, indent=1), encoding='utf-8')


def as_json_lines(folder, rows):
    for split, part in rows.items(): (folder/f'{split}.json').write_text('\n'.join(json.dumps(row) for row in part), encoding='utf-8-sig')


def as_gzip(folder, rows):
    for split, part in rows.items(): (folder/f'{split}.jsonl.gz').write_bytes(gzip.compress('\n'.join(json.dumps(row) for row in part).encode()))


def as_parquet(folder, rows):
    from datasets import Dataset
    (folder/'data').mkdir()
    for split, part in rows.items():
        for number, row in enumerate(part): Dataset.from_list([row]).to_parquet(folder/'data'/f'{split}-{number:05d}-of-{len(part):05d}.parquet')


def as_saved(folder, rows):
    from datasets import Dataset, DatasetDict
    DatasetDict({split: Dataset.from_list(part) for split, part in rows.items()}).save_to_disk(folder)


@pytest.mark.parametrize('write', [as_json, as_json_lines, as_gzip, as_parquet, as_saved])
@pytest.mark.parametrize('name, folder, options, sizes', SCHEMAS, ids=lambda o: str(o)[:40])
def test_every_schema_in_every_format(write, name, folder, options, sizes, tmp_path):
    task = load_task(name, SAMPLES/folder, **options)
    assert {split: len(problems) for split, problems in task.splits.items()} == sizes
    write(tmp_path, rows_of(folder))
    copy = load_task(name, tmp_path, **options)
    assert copy.splits == task.splits and copy.fingerprint() == task.fingerprint()
    assert all(is_correct(problem, problem.answer) for split in sizes for problem in task[split])


def test_the_loader_of_the_hub_reads_a_repository(tmp_path, monkeypatch):
    import datasets
    monkeypatch.setattr(datasets.config, 'HF_DATASETS_CACHE', tmp_path/'cache')
    repository = tmp_path/'repository'
    repository.mkdir()
    as_parquet(repository, rows_of('tasks_gsm8k'))
    rows = {split: [at.values for at in part] for split, part in files._hub_rows(str(repository), None).items()}
    assert rows == rows_of('tasks_gsm8k')


def test_a_hub_data_set_with_a_script_is_taken_from_its_converted_copy(monkeypatch):
    import datasets
    asked = []

    def load_dataset(repository, config=None, revision=None):
        asked.append((repository, config, revision))
        if revision is None: raise RuntimeError('Dataset scripts are no longer supported, but found esnli.py')
        return datasets.DatasetDict({split: datasets.Dataset.from_list(part) for split, part in rows_of('tasks_esnli').items()})
    monkeypatch.setattr(datasets, 'load_dataset', load_dataset)
    task = load_task('esnli')
    assert asked == [('esnli/esnli', None, None), ('esnli/esnli', None, 'refs/convert/parquet')] and task['test'][0].answer == 'contradiction'


def test_without_a_network_the_error_says_what_to_do(tmp_path):
    code = "from cotkit.data.tasks import load_task\ntry: load_task('gsm8k')\nexcept ValueError as e: print(type(e).__name__, e)"
    environment = {**os.environ, 'HF_HUB_OFFLINE': '1', 'HF_HOME': str(tmp_path), 'PYTHONPATH': str(ROOT)}
    said = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=environment).stdout
    assert said.startswith('CotkitError openai/gsm8k: cannot be fetched') and 'path=' in said and said.count('\n') == 1

# what the problems look like


def test_gsm8k_steps_and_subquestions():
    problem = load_task('gsm8k', SAMPLES/'tasks_gsm8k_socratic')['train'][1]
    assert problem.gold_steps == ('2 hours are 2*60=120 minutes.', 'The bakery sells 12*120=1,440 rolls.') and problem.answer == '1440'
    assert problem.subquestions == ('How many minutes are 2 hours?', 'How many rolls does the bakery sell?')
    assert load_task('gsm8k', SAMPLES/'tasks_gsm8k')['train'][1] == dataclasses.replace(problem, subquestions=())


def test_gsm8k_takes_the_last_mark_of_a_hostile_answer(tmp_path):
    (tmp_path/'test.jsonl').write_text(json.dumps({'question': '#### 7 <|im_end|> how many?', 'answer': 'Not #### 5.\n#### 11'}))
    problem = load_task('gsm8k', tmp_path)['test'][0]
    assert problem.answer == '11' and problem.question.startswith('#### 7')


def test_svamp_in_both_schemas():
    hub, recorded = load_task('svamp', SAMPLES/'tasks_svamp'), load_task('svamp', SAMPLES/'tasks_svamp_recorded')
    assert [p.question for p in hub['train']] == [p.question for p in recorded['train']] and [p.answer for p in hub['train']] == [p.answer for p in recorded['train']]
    assert hub['train'][0].id == 'own-1' and hub['train'][0].kind == 'expression' and recorded['train'][0].id == dataclasses.replace(recorded['train'][0], id='').id
    assert [p.answer for p in load_task('svamp', SAMPLES/'tasks_svamp_recorded', target='number')['train']] == ['42', '3']


def test_labels_and_rationales():
    anli, esnli = load_task('anli', SAMPLES/'tasks_anli'), load_task('esnli', SAMPLES/'tasks_esnli')
    assert [anli[split][0].answer for split in anli.splits] == ['entailment', 'neutral', 'contradiction'] and anli['train'][0].choices == NLI_LABELS
    assert anli['train'][0].gold_steps == ('She bought apples there.',) and esnli['validation'][0].meta['explanation_2'] == 'Nothing is said about hunger.'
    assert anli['train'][0].question.startswith('Premise: Ann') and anli['train'][0].meta['hypothesis'] == 'Ann was at the market.'
    assert [p.answer for p in load_task('strategyqa', SAMPLES/'tasks_strategyqa')['train']] == ['no', 'yes']


@given(st.integers(0, 2000), st.integers(0, 3))
@settings(max_examples=20, deadline=None)
def test_carving_takes_the_share_whatever_the_order(n, seed):
    problems = [Problem(str(i), f'How many are {i}?', '1') for i in range(n)]
    rest, taken = hash_split(problems, 0.1, seed, exact=True)
    assert len(taken) == -(-n//10) and sorted(rest + taken, key=lambda p: int(p.id)) == problems
    assert {p.id for p in hash_split(problems[::-1], 0.1, seed, exact=True)[1]} == {p.id for p in taken}


def test_published_rows_without_ids_are_drawn_by_number_and_own_files_by_question(tmp_path):
    rows = [dict(input=f'Ann has {i} apples and buys {i}. How many are there?', label=f'( {i}.0 + {i}.0 )') for i in range(1, 31)]
    folder = write_rows(tmp_path/'svamp', {'train': rows, 'test': rows[:0]})
    by_id = load_task('svamp', folder, numbered=True)
    published = load_task('svamp', folder)
    own = [dict(question=row['input'], answer=str(i)) for i, row in enumerate(rows)]
    def drawn(rows): return {p.question for p in Task.from_jsonl(write_rows(tmp_path/str(len(rows)), {'train': rows})/'train.jsonl')['validation']}
    assert [p.question for p in published['validation']] == [p.question for p in by_id['validation']] and len(by_id['validation']) == 3
    assert not published['validation'][0].id.startswith('svamp') and by_id['validation'][0].id.startswith('svamp-train-')
    assert drawn(own) == drawn(own[::-1]), 'own files do not depend on the order of their rows'
    assert {p.question for p in load_task('svamp', write_rows(tmp_path/'turned', {'train': rows[::-1]}))['validation']} != {p.question for p in published['validation']}


def test_a_task_shows_escapes_and_joins():
    task = Task('x<y', {'train': [Problem('1', '<script>', '1')], 'validation': [Problem('2', 'q', '2')]})
    assert '<script>' not in task._repr_html_() and 'x&lt;y' in task._repr_html_()
    assert [p.id for p in task['train+validation']] == ['1', '2']
    changed = Task('x<y', {**task.splits, 'validation': [Problem('2', 'q', '3')]})
    assert changed.fingerprint() != task.fingerprint() == Task('another', task.splits).fingerprint() and len(task.fingerprint()) == 16
    assert from_dataset(task.dataset('train'), Problem) == task['train']

# the registry


def test_registry_passes_what_a_loader_takes():
    @register_task('tasks-test')
    def load(size: int = 1, seed: int = 0) -> Task: return Task('t', {'train': [Problem(f'{seed}-{i}', 'q', '1') for i in range(size)]})
    try:
        assert 'tasks-test' in task_names() and [p.id for p in load_task('tasks-test', seed=4, size=2)['train']] == ['4-0', '4-1']
        with pytest.raises(CotkitError, match='has no option .path.'): load_task('tasks-test', path='x')
    finally: del tasks.TASKS._known['tasks-test']


def test_every_task_of_the_package_is_known_without_importing_its_module():
    code = 'import sys; from cotkit.data.tasks import load_task; print(len(load_task("generic", train=16, validation=8, test=8)["train"]), "pandas" in sys.modules, "torch" in sys.modules)'
    said = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env={**os.environ, 'PYTHONPATH': str(ROOT)}, check=True).stdout
    assert said.split() == ['16', 'False', 'False']


@pytest.mark.parametrize('call, words', [
    (lambda: load_task('gsm8'), ['gsm8k', 'Did you mean']), (lambda: load_task('nothing like it'), ['One of:', 'svamp', 'import']), (lambda: load_task('svamp', SAMPLES/'tasks_svamp', color=1), ['color', 'target']),
    (lambda: load_task('svamp', SAMPLES/'tasks_svamp', target='word'), ['target', 'equation']), (lambda: load_task('svamp', SAMPLES/'nowhere'), ['no such file', 'nowhere']),
    (lambda: load_task('svamp', SAMPLES/'tasks_svamp')['dev'], ["'dev'", 'train (2)']),
    (lambda: load_task('svamp', SAMPLES/'tasks_svamp').recorded('train', 'palm_540b'), ['palm_540b', 'Type']), (lambda: load_task('svamp', SAMPLES/'tasks_multiarith'), ['test.jsonl:1', 'is missing']),
    (lambda: Task.from_jsonl({}), ['no files'])])
def test_wrong_calls_say_what_is_right(call, words):
    with pytest.raises(CotkitError) as caught: call()
    assert all(word in str(caught.value) for word in words) and '\n' not in str(caught.value)

def test_a_folder_above_is_answered_with_the_folders_in_it(tmp_path):
    write_rows(tmp_path/'svamp', {'test': rows_of('tasks_svamp')['test']})
    with pytest.raises(CotkitError, match='Name one of its folders: svamp'): load_task('svamp', tmp_path)
    (tmp_path/'empty').mkdir()
    with pytest.raises(CotkitError, match='one file per split'): load_task('svamp', tmp_path/'empty')

# your own data

FINE = '{"question": "How many?", "answer": "11"}'
FINE_CHOICE = '{"question": "Where?", "answer": "zoo", "choices": ["park", "zoo"]}'


@pytest.mark.parametrize('line, field, words', [
    ('{"question": "How ma', None, 'not valid JSON'), ('{"question": "How many?"}', 'answer', 'is missing'), ('{"question": null, "answer": 1}', 'question', 'is missing'),
    ('{"question": " ", "answer": 1}', 'question', 'is empty'), ('{"question": ["a"], "answer": 1}', 'question', 'is a list'), ('[1]', None, 'a list, not an object'),
    ('{"question": "q", "answer": "1", "choices": ["2", "3"]}', 'answer', 'One of: 2, 3'), ('{"question": "q", "answer": "1", "choices": ["1"]}', 'choices', 'at least two'),
    ('{"question": "\\ud800", "answer": "1"}', 'question', 'surrogate'), ('{"question": "q", "answer": "1", "note": ["\\udfff"]}', 'note', 'surrogate'), ('{"question": "q", "answer": {}}', 'answer', 'is a dict'),
    ('{"id": "%s", "question": "q", "answer": "1"}' % Problem('', **json.loads(FINE)).id, 'id', 'line 1')])
def test_a_bad_line_is_named(line, field, words, tmp_path):
    path = tmp_path/'fine.jsonl'
    path.write_text(f'{FINE if "choices" not in line else FINE_CHOICE}\n\n{line}\n')
    with pytest.raises(CotkitError) as caught: Task.from_jsonl(path, **({} if 'choices' in line else {'kind': 'text'}))
    assert (caught.value.line, caught.value.field) == (3, field) and words in str(caught.value) and str(caught.value.file) == str(path)


@pytest.mark.parametrize('content, words', [(b'\xff\xfe{}', 'UTF-8'), (b'', 'has no rows'), (b'\n\n', 'has no rows')])
def test_a_bad_file_is_named(content, words, tmp_path):
    path = tmp_path/'train.jsonl'
    path.write_bytes(content)
    with pytest.raises(CotkitError, match=words) as caught: Task.from_jsonl(path)
    assert str(caught.value.file) == str(path)


@pytest.mark.parametrize('name, content', [('train.jsonl.gz', b'\x1f\x8b\x08\x00broken'), ('train.json.gz', gzip.compress(b'[{}]'*1000, mtime=0)[:-20]), ('train.parquet', b'PAR1 not'), ('train.json', b'[{"question": 1}'), ('train.json', b'[1]'),
                                           ('train.json', b'['*100_000), ('train.txt', b'x'), ('train.json', '["\ud800"]'.encode('utf-16', 'surrogatepass'))])
def test_broken_files_are_errors_for_people(name, content, tmp_path):
    path = tmp_path/name
    path.write_bytes(content)
    with pytest.raises(CotkitError) as caught: Task.from_jsonl(path)
    assert name in str(caught.value) and '\n' not in str(caught.value)


def test_two_files_for_one_split_are_refused(tmp_path):
    for name in ('train.jsonl', 'train.json'): (tmp_path/name).write_text(FINE)
    with pytest.raises(CotkitError, match='the same split'): Task.from_jsonl(tmp_path)


def test_empty_split_of_several_is_named(tmp_path):
    (tmp_path/'train.jsonl').write_text(FINE)
    (tmp_path/'test.jsonl').write_text('')
    with pytest.raises(CotkitError, match='has no rows'): Task.from_jsonl({'train': tmp_path/'train.jsonl', 'test': tmp_path/'test.jsonl'})
    task = load_task('multiarith', write_rows(tmp_path/'m', {'train': rows_of('tasks_multiarith')['train'], 'test': []}))
    with pytest.raises(CotkitError, match='is empty.*train .1.'): task['test']


def write_rows(folder, splits):
    folder.mkdir(exist_ok=True)
    for split, rows in splits.items(): (folder/f'{split}.jsonl').write_text('\n'.join(json.dumps(row) for row in rows))
    return folder


def test_repeated_rows_and_ids(tmp_path):
    row, other = dict(question='q', final_ans='1', id='a'), dict(question='q', final_ans='2', id='a')
    assert len(load_task('multiarith', write_rows(tmp_path/'same', {'test': [row, row]}))['test']) == 1
    for name, splits in (('within', {'test': [row, other]}), ('across', {'train': [row], 'test': [row]})):
        with pytest.raises(CotkitError, match='already the id of line 1') as caught: load_task('multiarith', write_rows(tmp_path/name, splits))
        assert caught.value.field == 'id' and caught.value.line in (1, 2)


def test_rows_without_gold_answers(tmp_path):
    rows = rows_of('tasks_commonsense_qa')
    with pytest.raises(CotkitError, match='no gold answer') as caught: load_task('cqa', write_rows(tmp_path/'mixed', {'test': rows['train'] + rows['test']}))
    assert caught.value.line == 3
    bad = {**rows['train'][0], 'answerKey': 'F'}
    with pytest.raises(CotkitError, match='One of: A, B') as caught: load_task('cqa', write_rows(tmp_path/'letter', {'test': [bad]}))
    assert caught.value.field == 'answerKey'
    with pytest.raises(CotkitError, match='no gold label'): load_task('esnli', write_rows(tmp_path/'nli', {'test': [{**rows_of('tasks_esnli')['test'][0], 'label': -1}]}))


@pytest.mark.parametrize('answers, kind, choices', [
    (['11', '1,440', '$3.50'], 'number', ()), (['( 84 / 2 )', '3'], 'expression', ()), (['yes', 'No'], 'label', ('yes', 'no')), ([True, False], 'label', ('yes', 'no')), ([1, 2.5], 'number', ()),
    (['neutral', 'entailment'], 'label', NLI_LABELS), (['a b c', '1'], 'text', ()), (['true', 'false'], 'label', ('true', 'false'))])
def test_the_kind_is_inferred(answers, kind, choices, tmp_path):
    path = tmp_path/'own.jsonl'
    path.write_text('\n'.join(json.dumps({'question': f'q{i}', 'answer': answer}) for i, answer in enumerate(answers)))
    task = Task.from_jsonl(path)
    assert task.kind == kind and {p.kind for p in task['train']} == {kind} and {p.choices for p in task['train']} == {choices} and task.name == 'own'
    assert all(is_correct(p, p.answer) for p in task['train'])


def test_own_columns_choices_and_labels(tmp_path):
    path = tmp_path/'own.jsonl'
    path.write_text(json.dumps({'frage': 'q', 'antwort': 'B', 'optionen': ['park', 'zoo'], 'weg': 'one\ntwo', 'nr': 7, 'note': 'n'}))
    problem = Task.from_jsonl(path, 'mine', Columns('frage', 'antwort', 'optionen', gold_steps='weg', id='nr'))['train'][0]
    assert problem == Problem('7', 'q', 'zoo', 'choice', ('park', 'zoo'), ('one', 'two'), meta={'note': 'n'})
    path.write_text('\n'.join(json.dumps({'question': 'q', 'answer': a}) for a in ('good', 'bad', 'good')))
    assert Task.from_jsonl(path, kind='label')['train'][0].choices == ('bad', 'good') == Task.from_jsonl(path, labels=['bad', 'good'])['train'][0].choices
    assert Task.from_jsonl(path)['train'][0].kind == 'text'
    with pytest.raises(CotkitError, match='choices'): Task.from_jsonl(path, kind='choice')
    with pytest.raises(CotkitError, match='no number that can be read'): Task.from_jsonl(path, kind='number')
    with pytest.raises(CotkitError, match='One of: number'): Task.from_jsonl(path, kind='colour')


def test_own_splits(tmp_path):
    rows = [{'question': f'q{i}', 'answer': i} for i in range(40)]
    folder = write_rows(tmp_path/'mine', {'train': rows, 'test': rows[:2], 'harder': rows[:3]})
    task = Task.from_jsonl(folder)
    assert {s: len(p) for s, p in task.splits.items()} == {'train': 36, 'validation': 4, 'test': 2, 'harder': 3}
    assert list(Task.from_jsonl(folder, splitting=Splitting(0)).splits) == ['train', 'test', 'harder']
    assert list(Task.from_jsonl({'train': folder/'train.jsonl', 'dev': folder/'test.jsonl'}).splits) == ['train', 'validation']
    assert list(Task.from_jsonl(folder/'test.jsonl').splits) == ['test'] and Task.from_jsonl(folder/'harder.jsonl').splits.keys() == {'train'}
    assert Task.from_jsonl(folder, splitting=Splitting(data_seed=1)).splits['validation'] != task['validation'] == Task.from_jsonl(folder)['validation']


texts = st.text(st.characters(exclude_categories=('Cs',)), min_size=1, max_size=30).filter(lambda text: text == text.strip() and text)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(texts, st.integers(), st.lists(texts.filter(lambda t: '\n' not in t), max_size=3)), min_size=1, max_size=8))
def test_own_problems_survive_the_file(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp('own')/'own.jsonl'
    path.write_text('\n'.join(json.dumps({'question': q, 'answer': a, 'steps': s}, ensure_ascii=i % 2 == 0) for i, (q, a, s) in enumerate(rows)), encoding='utf-8')
    task = Task.from_jsonl(path, splitting=Splitting(0))
    assert [(p.question, p.answer, list(p.gold_steps)) for p in task['train']] == [(q, str(a), s) for q, a, s in rows]
    assert len({p.id for p in task['train']}) == len(rows)


def test_problems_without_answers(tmp_path):
    "answer=None: neither answers nor gold steps are read, choices are; the columns stay in meta"
    path = tmp_path/'own.jsonl'
    path.write_text('\n'.join(json.dumps({'question': f'q{i}', 'answer': 'A', 'choices': ['zoo', 'park'], 'steps': ['s'], 'subquestions': ['?']}) for i in range(20)))
    task = Task.from_jsonl(path, columns=Columns(answer=None))
    assert task.kind == 'choice' and {split: len(o) for split, o in task.splits.items()} == {'train': 18, 'validation': 2}
    assert all(p.answer == '' and p.choices == ('zoo', 'park') and p.gold_steps == p.subquestions == () and p.meta['answer'] == 'A' for p in task['train+validation'])
    assert Task.from_jsonl(path)['train'][0].answer == 'zoo'
    path.write_text(json.dumps({'question': 'q', 'choices': 7}))
    assert Task.from_jsonl(path, columns=Columns(answer=None, choices='options'))['train'][0].kind == 'number'
    assert Task.from_jsonl(path, columns=Columns(answer=None, choices='options'), kind='text')['train'][0].kind == 'text'
    labelled = Task.from_jsonl(path, columns=Columns(answer=None), labels=['good', 'bad'])['train'][0]
    assert (labelled.kind, labelled.choices, labelled.answer) == ('label', ('good', 'bad'), '')


@pytest.mark.parametrize('lines, options, line, words', [
    (['{"question": "q"}', '{"question": " "}'], {}, 2, 'is empty'), (['{"ask": "q"}'], {}, 1, 'is missing'),
    (['{"question": "q"}'], {'kind': 'choice'}, 1, 'Give the choices'), (['{"question": "q"}'], {'kind': 'colour'}, 1, 'One of: number'),
    (['{"question": "q"}'], {'answer': 'answer'}, None, '--unlabelled'), (['{"question": "q", "answer": ""}'], {'answer': 'answer'}, 1, 'is empty')])
def test_what_is_wrong_with_a_file_without_answers(tmp_path, lines, options, line, words):
    options, answer = dict(options), options.get('answer')
    options.pop('answer', None)
    path = tmp_path/'own.jsonl'
    path.write_text('\n'.join(lines))
    with pytest.raises(CotkitError, match=words) as caught: Task.from_jsonl(path, columns=Columns(answer=answer), **options)
    assert caught.value.line == line

# the real data sets


@lru_cache
def real_task(name): return load_task(name, DATA/name)


@real
@pytest.mark.parametrize('name, sizes', [
    ('gsm8k', {'train': 6725, 'validation': 748, 'test': 1319}), ('svamp', {'train': 720, 'validation': 80, 'test': 200}),
    ('cqa', {'train': 8766, 'validation': 975, 'test': 1221}), ('strategyqa', {'train': 1374, 'validation': 228, 'test': 687})])
def test_real_data_is_read_whole(name, sizes):
    task = real_task(name)
    assert {split: len(problems) for split, problems in task.splits.items()} == sizes
    assert not [problem.id for split in sizes for problem in task[split] if not is_correct(problem, problem.answer)]
    assert name not in ('gsm8k', 'strategyqa') or all(problem.gold_steps and '<<' not in ''.join(problem.gold_steps) for problem in task['train'])


@real
@pytest.mark.parametrize('name, split, ours, published', [
    ('svamp', 'train+validation', 74.375, 73.5), ('svamp', 'train', 74.03, None), ('svamp', 'test', 77.5, 74.0),
    ('cqa', 'train+validation', 75.39, 74.26), ('cqa', 'train', 75.23, None), ('cqa', 'test', 78.54, 77.23)])
def test_the_recorded_teacher_is_as_good_as_it_is(name, split, ours, published):
    task = real_task(name)
    outputs, problems = task.recorded(split, 'palm_540b'), task[split]
    right = Accuracy(sum(is_correct(p, read_answer(outputs[p.id], p.kind, p.choices)) for p in problems), len(problems))
    assert abs(100*right.value - ours) < 0.006
    if published: assert abs(100*sum(published_correct(p, outputs[p.id]) for p in problems)/len(problems) - published) < 0.01


@pytest.mark.parametrize('row', [{'ask': ' ', 'result': '2'}, {'ask': '1 + 1?', 'result': ''}])
def test_an_empty_field_is_named_as_its_owner_calls_it(tmp_path, row):
    path = tmp_path/'own.jsonl'
    path.write_text('{"ask": "2 + 2?", "result": "4"}\n' + json.dumps(row) + '\n')
    with pytest.raises(CotkitError, match=r'own\.jsonl:2: field "(ask|result)": is empty'):
        Task.from_jsonl(path, columns=Columns('ask', 'result'))


def one_file(path, n):
    path.write_text(''.join(json.dumps({'id': f'row {i}', 'question': f'1 + {i}?', 'answer': i + 1}) + '\n' for i in range(n)))
    return path


def test_one_file_gives_a_test_split_that_stays_as_it_is(tmp_path):
    "Membership follows from id and seed: rows added, or in another order, change no earlier row; train, validation and test are apart"
    task = Task.from_jsonl(one_file(tmp_path/'mine.jsonl', 400), splitting=Splitting(test_size=0.2))
    ids = {split: {p.id for p in task[split]} for split in task.splits}
    assert list(ids) == ['train', 'validation', 'test'] and sum(map(len, ids.values())) == len(set.union(*ids.values())) == 400
    assert 55 <= len(ids['test']) <= 105
    longer = {p.id for p in Task.from_jsonl(one_file(tmp_path/'mine.jsonl', 900), splitting=Splitting(test_size=0.2))['test']}
    assert {id for id in longer if int(id[4:]) < 400} == ids['test']
    lines = (tmp_path/'mine.jsonl').read_text().splitlines(keepends=True)
    (tmp_path/'mine.jsonl').write_text(''.join(lines[::-1]))
    assert {p.id for p in Task.from_jsonl(tmp_path/'mine.jsonl', splitting=Splitting(test_size=0.2))['test']} == longer
    assert {p.id for p in Task.from_jsonl(tmp_path/'mine.jsonl', splitting=Splitting(test_size=0.2, data_seed=1))['test']} != longer
    wider = {p.id for p in Task.from_jsonl(tmp_path/'mine.jsonl', splitting=Splitting(test_size=0.3))['test']}
    assert longer < wider, 'a larger share takes more, and none back'


def test_a_test_share_touches_no_test_file(tmp_path):
    one_file(tmp_path/'train.jsonl', 30)
    (tmp_path/'test.jsonl').write_text('{"id": "t", "question": "1 + 1?", "answer": 2}\n')
    task = Task.from_jsonl(tmp_path, splitting=Splitting(test_size=0.5))
    assert [p.id for p in task['test']] == ['t'] and len(task['train+validation']) == 30
    plain = Task.from_jsonl(tmp_path/'train.jsonl')
    assert list(plain.splits) == ['train', 'validation']
    with pytest.raises(CotkitError, match=r'no split .test.*test_size=0\.1.*--test-size'): plain['test']
    for bad in ({'test_size': 1}, {'test_size': -0.1}, {'validation_size': 2}):
        with pytest.raises(CotkitError, match='A share from 0'): Splitting(**bad)

# ids


def write_lines(path, rows):
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return path


def test_a_deleted_line_moves_no_rationale_to_another_question(tmp_path):
    "Collected, a line deleted, curated: every rationale is still about its question, in a file without ids"
    rows = [{'question': f'Ann has {i} apples and buys {i}. How many?', 'answer': 2*i, 'steps': [f'Ann has {i} + {i} = {2*i} apples.']} for i in range(1, 25)]
    before = Task.from_jsonl(write_lines(tmp_path/'mine.jsonl', rows))
    rationales = [Rationale(p.id, f'{p.gold_steps[0]} The answer is {p.answer}.') for p in before['train+validation']]
    after = Task.from_jsonl(write_lines(tmp_path/'mine.jsonl', rows[:3] + rows[4:]))
    problems = after['train+validation']
    curated = curate(rationales, problems, ZeroShotCoT(), keep='correct')
    assert sorted(r.problem_id for r in curated.kept) == sorted(p.id for p in problems) and len(problems) == 23
    by_id = {p.id: p for p in problems}
    assert all(by_id[r.problem_id].gold_steps[0] in r.text for r in curated.kept)
    assert {p.id for p in after['validation']} - {p.id for p in before['validation']} <= {p.id for p in before['train']}


def test_ids_that_are_numbers_or_missing(tmp_path):
    rows = [{'id': i, 'question': f'q{i}', 'answer': i} for i in range(3)]
    assert [p.id for p in Task.from_jsonl(write_lines(tmp_path/'a.jsonl', rows))['train']] == ['0', '1', '2']
    mixed = [{'id': None, 'question': 'q0', 'answer': 0}, {'id': '', 'question': 'q1', 'answer': 1}, {'id': 0.0, 'question': 'q2', 'answer': 2}]
    assert [p.id for p in Task.from_jsonl(write_lines(tmp_path/'b.jsonl', mixed))['train']] == [Problem('', 'q0', '').id, Problem('', 'q1', '').id, '0']
    qid = [{'qid': 0, 'question': 'Is it?', 'answer': True}]
    assert load_task('strategyqa', write_rows(tmp_path/'s', {'test': qid}))['test'][0].id == '0'


def test_a_question_without_id_that_is_repeated_has_a_number_behind_its_id(tmp_path):
    same, shouted = {'question': 'How many?', 'answer': 1}, {'question': 'HOW MANY', 'answer': 2}
    folder = write_rows(tmp_path/'mine', {'train': [same, same, shouted], 'test': [same]})
    task, id = Task.from_jsonl(folder), Problem('', 'How many?', '').id
    assert sorted(p.id for p in task['train+test']) == [id, f'{id}-2', f'{id}-3', f'{id}-4']


def test_a_question_is_never_on_both_sides_of_a_split():
    problems = [Problem(f'{i}-{again}', f'How many are {i}{end}', '1') for i in range(200) for again, end in enumerate(('?', '', ' ?!'))]
    for exact in (False, True):
        rest, taken = hash_split(problems, 0.3, exact=exact)
        assert len(taken) % 3 == 0 and not {p.id.split('-')[0] for p in rest} & {p.id.split('-')[0] for p in taken}

# values


@pytest.mark.parametrize('value', ['NaN', 'Infinity', '-Infinity'])
def test_an_answer_that_is_no_number_is_named_with_its_line(value, tmp_path):
    path = tmp_path/'own.jsonl'
    path.write_text('{"question": "a", "answer": 1}\n{"question": "b", "answer": %s}\n' % value)
    with pytest.raises(CotkitError, match=r'own\.jsonl:2: field "answer": is -?(nan|inf)'): Task.from_jsonl(path)
    path.write_text('{"question": "a", "answer": 1, "note": NaN, "steps": NaN, "id": NaN}\n')
    problem = Task.from_jsonl(path)['train'][0]
    assert problem.answer == '1' and problem.meta == {} and problem.gold_steps == () and problem.id != 'nan'


def test_numbers_of_arrow_columns_are_those_that_were_written(tmp_path):
    "float32 and float16 with the shortest digits that are the same number, decimals with all of theirs"
    import pyarrow as pa
    from datasets import Dataset
    from decimal import Decimal
    from pyarrow import parquet
    single = [5.3, 0.1, -2.5, 16777216.0, 1e-7]
    columns = {'question': pa.array([f'q{i}' for i in range(5)]), 'answer': pa.array(single, pa.float32()),
               'half': pa.array([0.1]*5, pa.float16()), 'many': pa.array([[0.1, 5.3]]*5, pa.list_(pa.float32())), 'one': pa.array([{'x': 0.7}]*5, pa.struct([('x', pa.float32())]))}
    parquet.write_table(pa.table(columns), tmp_path/'single.parquet')
    problems = Task.from_jsonl(tmp_path/'single.parquet')['train']
    assert [p.answer for p in problems] == ['5.3', '0.1', '-2.5', '16777216', '1e-07']
    assert problems[0].meta == {'half': 0.1, 'many': [0.1, 5.3], 'one': {'x': 0.7}} and is_correct(problems[0], '5.3')
    decimals = pa.array([Decimal('1.50'), Decimal('100.00')], pa.decimal128(10, 2))
    parquet.write_table(pa.table({'question': ['a', 'b'], 'answer': decimals}), tmp_path/'decimal.parquet')
    assert [p.answer for p in Task.from_jsonl(tmp_path/'decimal.parquet')['train']] == ['1.50', '100.00']
    Dataset(pa.table({name: columns[name] for name in ('question', 'answer')})).save_to_disk(tmp_path/'saved')
    assert [p.answer for p in Task.from_jsonl(tmp_path/'saved')['train']] == [p.answer for p in problems]


@pytest.mark.parametrize('choices, answer, gold', [
    (['Paris', 'Rome', 'Oslo', 'Bern'], 2, 'Oslo'), (['Paris', 'Rome'], 0, 'Paris'), (['Paris', 'Rome'], 1.0, 'Rome'), (['Paris', 'Rome'], 'b', 'Rome'), (['Paris', 'Rome'], 'Rome', 'Rome'),
    (['0', '1', '2'], 2, '2'), (['7', '8'], 8, '8'), (['1', '2', '3', '4'], '3', '3'), (['1', '2', '3', '4'], 'C', '3'),
    (['1', '2', '3', '4'], 3, None), (['1', '2', '3', '4'], 1, None), (['Paris', 'Rome'], 2, None), (['Paris', 'Rome'], '1', None), (['Paris', 'Rome'], -1, None)])
def test_an_integer_among_choices_is_an_index_or_refused(choices, answer, gold, tmp_path):
    path = write_lines(tmp_path/'own.jsonl', [{'question': 'capital?', 'choices': choices, 'answer': answer}])
    if gold: assert Task.from_jsonl(path)['train'][0].answer == gold
    else:
        with pytest.raises(CotkitError, match=r'own\.jsonl:1: field "answer"'): Task.from_jsonl(path)


def test_labels_may_be_indices_of_those_that_are_named(tmp_path):
    path = write_lines(tmp_path/'own.jsonl', [{'question': f'q{i}', 'answer': i % 2} for i in range(4)])
    assert [p.answer for p in Task.from_jsonl(path, labels=['bad', 'good'])['train']] == ['bad', 'good'] * 2
    assert [p.answer for p in Task.from_jsonl(path, kind='label')['train']] == ['0', '1'] * 2

# settings


def test_data_settings_name_a_task_and_its_problems(tmp_path):
    path = one_file(tmp_path/'mine.jsonl', 40)
    task, problems = load_data(DataConfig(str(path), split='train+test', limit=5, test_size=0.2, data_seed=1))
    assert list(task.splits) == ['train', 'validation', 'test'] and problems == task['train'][:5]
    blank, problems = load_data(DataConfig(str(path), unlabelled=True, kind='text'))
    assert {p.answer for p in problems} == {''} and blank.kind == 'text'
    _, problems = load_data(DataConfig('svamp', path=str(SAMPLES/'tasks_svamp'), split='test'))
    assert len(problems) == 1 and problems[0].kind == 'expression'
    for option in ({'unlabelled': True}, {'test_size': 0.1}, {'kind': 'text'}):
        with pytest.raises(CotkitError, match='for a file of your own'): load_data(DataConfig('svamp', **option))
    with pytest.raises(CotkitError, match='Did you mean'): load_data(DataConfig('svampp'))
    with pytest.raises(CotkitError, match='no such file'): load_data(DataConfig(str(tmp_path/'nowhere.jsonl')))

# files as people have them


def test_csv_and_other_endings(tmp_path):
    cells = 'question,answer,note\r\n"How many, in all?",11,\r\n"Two\nlines ""here""",3,"a, b"\r\n'
    (tmp_path/'own.csv').write_bytes(b'\xef\xbb\xbf' + cells.encode())
    first, second = Task.from_jsonl(tmp_path/'own.csv')['train']
    assert (first.question, first.answer, first.meta) == ('How many, in all?', '11', {}) and second.question == 'Two\nlines "here"' and second.meta == {'note': 'a, b'}
    (tmp_path/'own.TSV').write_text('question\tanswer\nHow many, in all?\t11\n')
    assert Task.from_jsonl(tmp_path/'own.TSV')['train'] == [first]
    for name in ('own.ndjson', 'own.JSONL'):
        write_lines(tmp_path/name, [{'question': 'How many, in all?', 'answer': 11}])
        assert Task.from_jsonl(tmp_path/name)['train'] == [first]


@pytest.mark.parametrize('cells, line, words', [
    ('question,answer\na,1\nb\n', 3, 'has 1 cells, and there are 2 columns'), ('question,answer\n"a\nb",1\nc,1,2\n', 4, 'has 3 cells'), ('question,answer\na,1\nb,\n', 3, '"answer": is missing'),
    ('question,answer\na,1\n"b,2\n', 3, 'is no CSV')])
def test_a_bad_row_of_a_csv_is_named(cells, line, words, tmp_path):
    (tmp_path/'own.csv').write_text(cells)
    with pytest.raises(CotkitError, match=words) as caught: Task.from_jsonl(tmp_path/'own.csv')
    assert caught.value.line == line


@pytest.mark.parametrize('choices', [{'A': 'flu', 'B': 'cold', 'C': None}, ['flu', 'cold'], {'label': ['A', 'B'], 'text': ['flu', 'cold']}, [{'label': 'A', 'text': 'flu'}, {'label': 'B', 'text': 'cold'}]])
def test_choices_in_the_shapes_that_data_sets_have(choices, tmp_path):
    path = write_lines(tmp_path/'own.jsonl', [{'question': 'q', 'options': choices, 'answer': 'B'}])
    problem = Task.from_jsonl(path, columns=Columns(choices='options'))['train'][0]
    assert (problem.answer, problem.choices, problem.meta) == ('cold', ('flu', 'cold'), {})


def test_commonsense_qa_as_its_authors_released_it(tmp_path):
    stem = {'stem': 'Where is a zoo?', 'question_concept': 'zoo', 'choices': [{'label': 'A', 'text': 'city'}, {'label': 'B', 'text': 'sea'}]}
    folder = write_rows(tmp_path/'csqa', {'train_rand_split': [{'answerKey': 'B', 'id': 'x', 'question': stem}], 'dev_rand_split': [{'answerKey': 'A', 'id': 'y', 'question': stem}],
                                          'test_rand_split_no_answers': [{'id': 'z', 'question': stem}]})
    task = load_task('commonsense_qa', folder)
    assert task.splits == {'train': [Problem('x', 'Where is a zoo?', 'sea', 'choice', ('city', 'sea'))], 'test': [Problem('y', 'Where is a zoo?', 'city', 'choice', ('city', 'sea'))]}
    with pytest.raises(CotkitError, match='"choices": is missing'): load_task('cqa', write_rows(tmp_path/'flat', {'train': [{'question': 'q', 'answer': 'a'}]}))


def test_anli_as_its_authors_released_it(tmp_path):
    row = {'context': 'A man.', 'hypothesis': 'A person.', 'reason': 'r'}
    for number, label in enumerate('enc', 1):
        (tmp_path/f'R{number}').mkdir()
        write_rows(tmp_path/f'R{number}', {split: [{**row, 'uid': f'{number}{split}', 'label': label}] for split in ('train', 'dev', 'test')})
    one, all_rounds = load_task('anli', tmp_path), load_task('anli', tmp_path, rounds=(1, 2, 3))
    assert one['train'] == [Problem('1train', 'Premise: A man.\nHypothesis: A person.', 'entailment', 'label', NLI_LABELS, ('r',), meta={'context': 'A man.', 'hypothesis': 'A person.'})]
    assert [p.answer for p in all_rounds['validation']] == list(NLI_LABELS) and load_task('anli', tmp_path/'R2')['test'][0].answer == 'neutral'


def test_gsm8k_as_its_authors_released_it(tmp_path):
    plain, socratic = {'question': 'q?', 'answer': 'One.\n#### 1'}, {'question': 'q?', 'answer': 'How? ** One.\n#### 1'}
    folder = write_rows(tmp_path/'data', {'train': [plain], 'test': [plain], 'train_socratic': [socratic], 'test_socratic': [socratic], 'example_model_solutions': [{'question': 'q?', '6B': 's'}]})
    assert [load_task('gsm8k', folder, config=config)['test'][0].subquestions for config in ('main', 'socratic')] == [(), ('How?',)]
    with pytest.raises(CotkitError, match='test_socratic is a second file for the split test'): Task.from_jsonl({'': write_rows(tmp_path/'own', {'test': [plain], 'test_socratic': [socratic]})})


@pytest.mark.parametrize('label, gold', [('( 352.0 / 5.0 )', '70.4'), ('( 84.0 / 2.0 )', '42'), ('( 1.0 / 3.0 )', '1/3')])
def test_a_computed_gold_number_is_written_as_a_person_writes_it(label, gold, tmp_path):
    row = {'input': 'How much?', 'label': label}
    assert load_task('svamp', write_rows(tmp_path/'s', {'test': [row]}), target='number')['test'][0].answer == gold
    with pytest.raises(CotkitError, match='is empty'): load_task('svamp', write_rows(tmp_path/'s', {'test': [{**row, 'label': 'perhaps'}]}), target='number')


@pytest.mark.parametrize('name, start, end', [('own.jsonl', '', ''), ('own.json', '[', ']')])
def test_a_number_of_thousands_of_digits_is_an_error_for_people(name, start, end, tmp_path):
    (tmp_path/name).write_text(start + '{"question": "a", "answer": %s}' % ('1'*5000) + end)
    with pytest.raises(CotkitError, match='not valid JSON'): Task.from_jsonl(tmp_path/name)
