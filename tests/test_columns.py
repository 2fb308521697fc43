"How rows of one's own are understood: columns, kinds, chats, options, indices, worked answers"
import csv
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotkit.data.columns import Columns, understand, worked_answer
from cotkit.data.core import CotkitError
from cotkit.data.files import SourceRow
from cotkit.data.tasks import DataConfig, Splitting, Task, load_data


def write(path, rows):
    if path.suffix in ('.csv', '.tsv'):
        with path.open('w', newline='', encoding='utf-8') as f:
            writer = csv.DictWriter(f, list(rows[0]), delimiter=',' if path.suffix == '.csv' else '\t')
            writer.writeheader()
            writer.writerows(rows)
    else: path.write_text('\n'.join(map(json.dumps, rows)), encoding='utf-8')
    return path


def first(rows, tmp_path, name='own.jsonl', **options): return Task.from_jsonl(write(tmp_path/name, rows), splitting=Splitting(0), **options)['train'][0]


QA = {'question': 'q?', 'answer': '11'}


@pytest.mark.parametrize('row, question, answer', [
    ({'problem': 'q?', 'gold': '11'}, 'problem', 'gold'), ({'Question': 'q?', 'Answer': '11'}, 'Question', 'Answer'), ({'prompt': 'q?', 'completion': '11'}, 'prompt', 'completion'),
    ({'query': 'q?', 'target': '11'}, 'query', 'target'), ({'input': 'q?', 'output': '11'}, 'input', 'output')])
def test_columns_go_by_other_names_too(row, question, answer, tmp_path):
    task = Task.from_jsonl(write(tmp_path/'own.jsonl', [{**row, 'source': 's'}]))
    [problem] = task['train']
    assert (problem.question, problem.answer, problem.kind, problem.meta) == ('q?', '11', 'number', {'source': 's'})
    assert (task.understood.columns.question, task.understood.columns.answer, task.understood.ignored) == (question, answer, ('source',))
    assert f'{question} (as question)' in str(task.understood) and 'not used: source' in str(task.understood)


def test_a_name_that_was_given_is_not_replaced(tmp_path):
    path = write(tmp_path/'own.jsonl', [{**QA, 'gold': '12'}])
    assert Task.from_jsonl(path)['train'][0].answer == '11' and Task.from_jsonl(path, columns=Columns(answer='gold'))['train'][0].answer == '12'
    with pytest.raises(CotkitError, match='question, answer, gold'): Task.from_jsonl(path, columns=Columns(answer='result'))


@pytest.mark.parametrize('answers, kind, words', [
    (('11', 'about 5', '7'), 'text', "number, but own.jsonl:2 has 'about 5'"), (('yes', 'no', 'perhaps'), 'text', "label (yes, no), but own.jsonl:3 has 'perhaps'"),
    (('1', '2', '3', 'x', 'y'), 'text', 'as do 1 more lines'), (('11', '12'), 'number', ''), (('Paris', 'Rome', '3'), 'text', '')])
def test_the_line_that_prevents_a_better_kind_is_named(answers, kind, words, tmp_path):
    how = Task.from_jsonl(write(tmp_path/'own.jsonl', [{'question': f'q{i}', 'answer': o} for i, o in enumerate(answers)])).understood
    assert how.kind == kind and words in str(how) and bool(words) == bool(how.prevented)


@pytest.mark.parametrize('text, answer, steps, questions', [
    ('3 + 8 = <<3+8=11>>11\n#### 1,100', '1,100', ('3 + 8 = 11',), ()), ('How many? ** 3 + 8 = 11\n#### 11', '11', ('3 + 8 = 11',), ('How many?',)),
    ('3 + 8 = 11. The answer is 11.', '11', ('3 + 8 = 11.',), ()), ('We add to get $\\boxed{11}$.', '11', ('We add to get $\\boxed{11}$.',), ()), ('#### 7', '7', (), ())])
def test_worked_answers(text, answer, steps, questions):
    assert worked_answer(text) == (answer, steps, questions)


@pytest.mark.parametrize('text', ['11', 'Paris', 'The answer is blowing in the wind', '\\boxed{11}', '3 + 8 = 11', ''])
def test_an_answer_alone_is_not_worked(text): assert worked_answer(text) is None


@given(st.lists(st.text(st.characters(categories=('L', 'N', 'Zs'))).filter(str.strip), min_size=1, max_size=4), st.integers(0, 10**9))
def test_gsm8k_lines_are_understood_in_any_file(steps, answer):
    [split] = Task.from_list([{'question': 'q', 'answer': '\n'.join(steps) + f'\n#### {answer:,}'}], splitting=Splitting(0)).splits.values()
    assert split[0].answer == str(answer) and split[0].kind == 'number' and [o.strip() for o in split[0].gold_steps] == [o.strip() for o in steps]


def test_chats(tmp_path):
    turns = [{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': 'Ann has 3 and buys 8?'}, {'role': 'assistant', 'content': '3 + 8 = 11.\nThe answer is 11.'}]
    problem = first([{'messages': turns, 'id': 'c-1'}], tmp_path)
    assert (problem.id, problem.question, problem.answer, problem.gold_steps, problem.kind) == ('c-1', turns[1]['content'], '11', ('3 + 8 = 11.',), 'number')
    shared = [{'from': 'human', 'value': 'q?'}, {'from': 'gpt', 'value': 'Paris'}]
    assert first([{'conversations': shared}], tmp_path).answer == 'Paris'
    longer = first([{'messages': [*turns, {'role': 'user', 'content': 'And Ben?'}, {'role': 'assistant', 'content': '5'}]}], tmp_path)
    assert longer.answer == '5' and longer.question.startswith('Ann has 3') and longer.question.endswith('And Ben?')
    assert first([{'messages': turns[:2]}], tmp_path, columns=Columns(answer=None)).answer == ''
    with pytest.raises(CotkitError, match='unlabelled'): first([{'messages': turns[:2]}], tmp_path)
    assert first([{'instruction': 'Add.', 'input': '3 and 8', 'output': '11'}], tmp_path).question == 'Add.\n3 and 8'


@pytest.mark.parametrize('name', ['own.jsonl', 'own.csv', 'own.tsv'])
@pytest.mark.parametrize('columns', [('A', 'B', 'C'), ('option_a', 'option_b', 'option_c'), ('choice1', 'choice2', 'choice3'), ('ending0', 'ending1', 'ending2'), ('Option A', 'Option B', 'Option C')])
@pytest.mark.parametrize('answer', ['B', 'b', 'zoo'])
def test_options_in_columns_of_their_own(name, columns, answer, tmp_path):
    problem = first([{'question': 'q', **dict(zip(columns, ('park', 'zoo', 'mall'))), 'answer': answer}], tmp_path, name)
    assert (problem.kind, problem.choices, problem.answer, problem.meta) == ('choice', ('park', 'zoo', 'mall'), 'zoo', {})


@pytest.mark.parametrize('answers, golds', [((0, 2), ('park', 'mall')), ((1, 3), ('park', 'mall')), (('1', '3'), ('park', 'mall')), (('0', '1'), ('park', 'zoo'))])
def test_indices_begin_with_0_or_1(answers, golds, tmp_path):
    rows = [{'question': f'q{i}', 'choice1': 'park', 'choice2': 'zoo', 'choice3': 'mall', 'label': o} for i, o in enumerate(answers)]
    for name in ('own.jsonl', 'own.csv'):
        assert tuple(o.answer for o in Task.from_jsonl(write(tmp_path/name, rows))['train']) == golds


@pytest.mark.parametrize('rows', [[{'question': 'q', 'choices': ['park', 'zoo'], 'answer': 2}], [{'question': 'q', 'choices': ['park', 'zoo'], 'answer': o} for o in (1, 3)]])
def test_an_index_beyond_the_choices_is_an_error(rows, tmp_path):
    with pytest.raises(CotkitError, match='field "answer"'): first(rows, tmp_path)


@given(st.permutations(['question', 'answer', 'A', 'B', 'C', 'note', 'id']), st.integers(0, 2))
@settings(max_examples=40)
def test_the_order_of_columns_does_not_matter(names, right):
    values = {'question': 'q', 'answer': 'ABC'[right], 'A': 'park', 'B': 'zoo', 'C': 'mall', 'note': 'n', 'id': 'i'}
    how = understand({'train': [SourceRow({o: values[o] for o in names}, 'f', 1)]})
    assert how.options == ('A', 'B', 'C') and how.kind == 'choice' and how.ignored == ('note',)


def test_lists_frames_and_data_sets():
    import datasets
    import pandas as pd
    rows = [{'question': f'q{i}', 'answer': i} for i in range(12)]
    made = [Task.from_list(rows), Task.from_pandas(pd.DataFrame(rows)), Task.from_dataset(datasets.Dataset.from_list(rows))]
    assert {tuple((o.question, o.answer) for o in task['train+validation']) for task in made} == {tuple((o.question, o.answer) for o in made[0]['train+validation'])}
    both = datasets.DatasetDict({'train': datasets.Dataset.from_list(rows), 'test': datasets.Dataset.from_list([QA])})
    assert {split: len(o) for split, o in Task.from_dataset(both).splits.items()} == {'train': 10, 'validation': 2, 'test': 1}
    with pytest.raises(CotkitError, match=r'\(a list\):2: field "answer": is nan'): Task.from_list([QA, {**QA, 'answer': float('nan')}])


def test_arrow_files(tmp_path):
    import datasets
    saved = datasets.Dataset.from_list([QA])
    saved.save_to_disk(str(tmp_path/'saved'))
    [stream] = (tmp_path/'saved').glob('*.arrow')
    saved.to_pandas().to_feather(tmp_path/'own.feather')
    for path in (stream, tmp_path/'own.feather'): assert Task.from_jsonl(path)['train'][0].answer == '11'
    (tmp_path/'bad.arrow').write_bytes(b'no table')
    with pytest.raises(CotkitError, match='is no Arrow file'): Task.from_jsonl(tmp_path/'bad.arrow')


def test_any_data_set_of_the_hub_by_its_name(monkeypatch):
    import datasets
    asked = []
    made = datasets.DatasetDict({'train': datasets.Dataset.from_list([{'problem': 'q', 'solution': 'So $\\boxed{11}$.', 'level': 1}])})
    monkeypatch.setattr(datasets, 'load_dataset', lambda name, config=None, **options: asked.append((name, config)) or made)
    task, problems = load_data(DataConfig('someone/competition_maths', hub_config='hard'))
    assert asked == [('someone/competition_maths', 'hard')] and problems[0].answer == '11' and task.name == 'competition_maths'
    assert not DataConfig('no/such.jsonl').is_on_hub and not DataConfig('gsm8k').is_own
