"Zero-shot items: the published filter item for item, loaders of every shape, likelihoods against a plain computation"
import csv
import gzip
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cotkit.app.cli import main
from cotkit.data.answers import is_correct
from cotkit.data.core import CotkitError, Problem, write_jsonl
from cotkit.data.tasks import load_task
from cotkit.data.zero_shot import ZERO_SHOT, Continuation, zero_shot_task
from cotkit.evaluation.evaluate import evaluate
from cotkit.evaluation.simple_items import ContinuationLikelihood, chance_of, item_counts, reference_words, simple_items, strict_words, unknown_words, zero_shot
from cotkit.evaluation.strategies import strategy_from_dict
from cotkit.models.students import make_student
from cotkit.pretraining.vocabulary import Vocabulary, read_vocabulary

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get('COTKIT_DATA') or ROOT.parent/'shared'/'data')
ITEMS, WORDS = SHARED/'zero_shot', SHARED/'vocab'/'aochildes_words.tsv'
real = pytest.mark.skipif(not (ITEMS.is_dir() and WORDS.is_file()), reason='the items are not here')


@pytest.fixture(scope='module')
def student(): return make_student('nano', Continuation(), ['Ann eats two red apples, and Ben sees them.'] * 30)


def pair(good, bad, **meta): return Problem('', '', good, 'choice', tuple(sorted((good, bad))), meta=meta)


# The filters

def test_the_published_filter_by_its_rules():
    assert reference_words('The dog, Rex, DIDN\'T bark: "no"!') == ['the', 'dog', 'bark', 'no']
    assert reference_words('Rex ran') == ['rex', 'ran'] and reference_words('a Rex') == ['a']  # the first word counts, capitals inside do not
    assert reference_words("it 's n't 12 dogs 3rd") == ['it', 'dogs', 'rd'] and reference_words('') == []
    assert reference_words("don't won’t") == ['dont', 'wont'] and strict_words('Don’t Rex-like 12 café') == ['dont', 'rex', 'like', 'café']


def test_words_are_looked_up_as_the_list_has_them():
    words = Vocabulary(frozenset({'TRUE', 'is', 'it'}))
    assert unknown_words(pair('it is true', 'it is'), words) == ['true'] and not simple_items([pair('it is true', 'it')], words)
    with pytest.raises(CotkitError, match='rule'): unknown_words(pair('a', 'b'), words, 'loose')


@real
def test_every_flag_and_count_of_the_real_items_is_reproduced():
    "67,000 pairs and 12,439 items, both filters, item by item; BoolQ has counts only"
    words = read_vocabulary(WORDS)
    flags = {name: [json.loads(line) for line in gzip.open(ITEMS/f'{name}.jsonl.gz', 'rt', encoding='utf-8')] for name in ('blimp_all', 'nlu_items')}
    tasks = {'blimp': [p for part in zero_shot_task('blimp', ITEMS/'blimp_all.jsonl.gz').splits.values() for p in part]}
    assert [not unknown_words(p, words) for p in tasks['blimp']] == [row['in_vocab'] for row in flags['blimp_all']]
    for name in [name for name in ZERO_SHOT if name not in ('blimp', 'boolq', 'qqp', 'mnli')]:
        for split, problems in zero_shot_task(name, ITEMS/'nlu_items.jsonl.gz').splits.items():
            key = f'{name}_{"val" if split == "validation" else split}'
            rows = [row for row in flags['nlu_items'] if row['task'] == key]
            tasks[key] = problems
            assert [not unknown_words(p, words) for p in problems] == [row['in_vocab'] for row in rows]
            assert [not unknown_words(p, words, 'strict') for p in problems] == [row['in_vocab_strict'] for row in rows]
            assert all(p.answer in p.choices for p in problems)
    with open(ITEMS/'counts.csv', encoding='utf-8') as f:
        known = {r['subset']: (int(r['items']), int(r['in_vocab']), int(r['in_vocab_strict'])) for r in csv.DictReader(f) if 'boolq' not in r['subset']}
    found = {r['subset']: (r['items'], r['reference'], r['strict']) for r in item_counts(tasks, words)}
    assert found == known and len(found) == 67 + 13


@real
def test_the_right_choice_is_right_and_no_other():
    for name, file in (('blimp', 'blimp_all'), ('piqa', 'nlu_items'), ('winogrande', 'nlu_items'), ('copa', 'nlu_items')):
        for p in [p for part in zero_shot_task(name, ITEMS/f'{file}.jsonl.gz').splits.values() for p in part][::7]:
            if len(set(p.choices)) == 1: continue  # seven pairs of BLiMP are twice the same sentence
            right = [is_correct(p, Continuation().parse(choice, p)) for choice in p.choices]
            assert sum(right) == 1 and p.choices[right.index(True)] == p.answer, p


# Loaders

HUB_ROWS = {
    'copa': ({'premise': 'Ann ate.', 'question': 'effect', 'choice1': 'She was full.', 'choice2': 'It rained.', 'label': 0}, 'Ann ate so', 'she was full.'),
    'sst2': ({'sentence': 'a fine apple', 'label': 1}, 'a fine apple\n', 'positive'),
    'mrpc': ({'sentence1': 'A b.', 'sentence2': 'B a.', 'label': 1}, 'Sentence 1: A b.', 'yes'),
    'qqp': ({'question1': 'Why?', 'question2': 'How?', 'label': 0}, 'Question 1: Why?', 'no'),
    'rte': ({'sentence1': 'A b.', 'sentence2': 'B a.', 'label': 1}, 'A b.', 'False'),
    'mnli': ({'premise': 'A b.', 'hypothesis': 'B a.', 'label': 2}, 'A b.', 'False'),
    'cb': ({'premise': 'A b.', 'hypothesis': 'B a', 'label': 2}, 'A b.', 'Neither'),
    'boolq': ({'passage': 'A b.', 'question': 'is a b', 'label': True}, 'A b.', 'yes'),
    'piqa': ({'goal': 'eat', 'sol1': 'bite it', 'sol2': 'look at it', 'label': 0}, 'Question: eat', 'bite it'),
    'arc_easy': ({'question': 'What is red?', 'choices': {'text': ['apple', 'sky', 'snow'], 'label': ['1', '2', '3']}, 'answerKey': '1'}, 'Question: What', 'apple'),
    'sciq': ({'question': 'What is red?', 'distractor1': 'sky', 'distractor2': 'snow', 'distractor3': 'sea', 'correct_answer': 'apple'}, 'Question: What', 'apple'),
    'openbookqa': ({'question_stem': 'Apples are', 'choices': {'text': ['red', 'blue'], 'label': ['A', 'B']}, 'answerKey': 'A'}, 'Apples are', 'red'),
    'csqa': ({'question': 'What is red?', 'choices': {'text': ['sky', 'apple'], 'label': ['A', 'B']}, 'answerKey': 'B'}, 'Question: What', 'apple'),
    'siqa': ({'context': 'Ann ate.', 'question': 'Why?', 'answerA': 'bored', 'answerB': 'hungry', 'answerC': 'sad', 'label': '2'}, 'Ann ate.', 'hungry'),
    'winogrande': ({'sentence': 'Ann fed Ben because _ was hungry.', 'option1': 'Ann', 'option2': 'Ben', 'answer': '2'}, '', 'Ann fed Ben because Ben was hungry.'),
    'blimp': ({'sentence_good': 'Ann eats.', 'sentence_bad': 'Ann eat.', 'UID': 'agreement'}, '', 'Ann eats.'),
}


@pytest.mark.parametrize('name', ZERO_SHOT)
def test_a_local_copy_with_the_columns_of_the_hub(name, tmp_path):
    row, begins, answer = HUB_ROWS[name]
    write_jsonl(tmp_path/'validation.jsonl', [row])
    for task in (zero_shot_task(name, tmp_path), load_task(name, path=tmp_path)):
        [problem] = task['validation']
        assert problem.question.startswith(begins) and problem.answer == answer and answer in problem.choices and problem.kind == 'choice'
        assert 'Answer' not in ' '.join(problem.meta['fields']) and problem.choices == tuple(dict.fromkeys(problem.choices))


def test_rows_without_an_answer_are_left_out_and_wrong_ones_named(tmp_path):
    rows = [{'sentence': 'one', 'label': 1}, {'sentence': 'two', 'label': -1}, {'sentence': 'three', 'label': 0}]
    write_jsonl(tmp_path/'test.jsonl', rows)
    assert [p.id for p in zero_shot_task('sst2', tmp_path)['test']] == ['sst2-test-1', 'sst2-test-3']
    for bad, said in (({'sentence': 'x', 'label': 7}, 'test.jsonl:2: field "label": is \'7\''), ({'text': 'x', 'label': 1}, 'test.jsonl:2: field "sentence": has no'), ({'sentence': 'x'}, 'test.jsonl:2: field "label": has no')):
        write_jsonl(tmp_path/'test.jsonl', [rows[0], bad])
        with pytest.raises(CotkitError) as e: zero_shot_task('sst2', tmp_path)
        assert said in str(e.value)
    with pytest.raises(CotkitError, match='One of'): zero_shot_task('apples')
    with pytest.raises(CotkitError, match='no such file'): zero_shot_task('sst2', tmp_path/'none')


# Scores

def by_hand(student, start, text):
    "Log-probability of a text after a beginning, token by token"
    tokenizer, model = student.tokenizer, student.model
    before = tokenizer(start).input_ids if start else [tokenizer.bos_token_id]
    ids = tokenizer(f' {text}', add_special_tokens=False).input_ids
    with torch.no_grad(): logits = model(torch.tensor([before + ids])).logits[0].log_softmax(-1)
    return sum(float(logits[len(before) + i - 1, token]) for i, token in enumerate(ids)), len(ids)


def test_likelihoods_are_those_of_a_plain_computation(student):
    problems = [pair('Ann eats apples.', 'Ann eat apples.'), Problem('', 'Ann eats', 'two red apples', 'choice', ('two red apples', 'them'))]
    for how in ('sum', 'token', 'byte'):
        for problem, trace in zip(problems, ContinuationLikelihood(student, normalise=how, batch_size=2).solve(problems)):
            for choice, value in trace.choice_logprobs.items():
                total, tokens = by_hand(student, problem.question, choice)
                assert value == pytest.approx(total / {'sum': 1, 'token': tokens, 'byte': len(choice.encode())}[how], abs=1e-4)


def test_an_encoder_decoder_is_scored_too():
    from cotkit.models.config import StudentConfig
    student = make_student(StudentConfig('nano', arch='seq2seq'), Continuation(), ['Ann eats two red apples, and Ben sees them.'] * 30)
    [trace] = ContinuationLikelihood(student).solve([Problem('', 'Ann eats', 'apples', 'choice', ('apples', 'them'))])
    for choice, value in trace.choice_logprobs.items():
        with torch.no_grad(): loss = student.model(input_ids=torch.tensor([student.tokenizer('Ann eats').input_ids]), labels=torch.tensor([student.tokenizer(choice, add_special_tokens=False).input_ids])).loss
        assert value == pytest.approx(-float(loss)*len(student.tokenizer(choice, add_special_tokens=False).input_ids), abs=1e-4)


def test_pairs_that_are_no_pairs_are_not_scored(student):
    same = Problem('same', '', 'Ann eats.', 'choice', ('Ann eats.', 'Ann eats.'))
    suite = zero_shot(student, {'pairs': [same, pair('Ann eats.', 'Ann eat.')], 'none': [same]})
    assert {(o.task, o.n) for o in suite.scores} == {('pairs', 1), ('none', 0)}


def test_one_pass_gives_what_three_give(student):
    rng = np.random.default_rng(0)
    words = ['Ann', 'eats', 'two', 'red', 'apples', 'Ben', 'sees', 'them']
    problems = [Problem(f'{i}', '', good, 'choice', (bad, good)) for i in range(40) for good, bad in [[' '.join(rng.choice(words, 4)) + f' {k}' for k in 'ab']]]
    suite = zero_shot(student, {'pairs': problems}, 'nano')
    for how in ('sum', 'token', 'byte'):
        alone = evaluate(ContinuationLikelihood(student, normalise=how), problems)
        assert [p.output for p in suite.evaluations['pairs'][how].predictions] == [p.output for p in alone.predictions]
        again = strategy_from_dict(suite.evaluations['pairs'][how].strategy, student)
        assert isinstance(again, ContinuationLikelihood) and again.normalise == how


def test_what_is_left_of_rte_is_useless_and_not_averaged_in(student):
    many = [pair(f'Ann eats {i} apples.', f'Ann eat {i} apples.') for i in range(40)]
    few = [Problem(f'{i}', 'Ann eats.', 'True', 'choice', ('True', 'False')) for i in range(14)]
    suite = zero_shot(student, {'pairs': many, 'rte': few, 'empty': []})
    found = {(o.task, o.useful) for o in suite.scores}
    assert found == {('pairs', True), ('rte', False), ('empty', False)}
    [pairs] = [o for o in suite.scores if (o.task, o.normalise) == ('pairs', 'sum')]
    assert suite.mean()['tasks'] == 1 and suite.mean()['accuracy'] == pairs.accuracy
    assert (suite.mean()['low'], suite.mean()['high']) == pytest.approx((pairs.low, pairs.high))
    assert any('useless' in str(o) for o in suite.scores) and zero_shot(student, {'rte': few}).mean()['tasks'] == 0


def test_chance_and_the_most_frequent_label():
    items = [Problem(f'{i}', 'q', 'yes' if i < 7 else 'no', 'choice', ('no', 'yes')) for i in range(10)]
    assert chance_of(items) == (0.5, 0.7)
    mixed = [Problem('a', 'q', 'x', 'choice', ('x', 'y')), Problem('b', 'q', 'x', 'choice', ('x', 'y', 'z', 'w'))]
    assert chance_of(mixed) == (0.375, 0.0)


def test_on_the_command_line(student, tmp_path, capsys):
    student.save(tmp_path/'nano')
    (tmp_path/'blimp').mkdir()
    write_jsonl(tmp_path/'blimp'/'test.jsonl', [{'sentence_good': f'Ann eats {i} apples.', 'sentence_bad': f'Ann eat {i} apples.', 'UID': 'agreement'} for i in range(12)])
    line = ['evaluate', '--task', 'blimp', '--path', str(tmp_path/'blimp'), '--student', str(tmp_path/'nano'), '--strategy', 'continuation', '--json']
    assert main(line) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])['n'] == 12
