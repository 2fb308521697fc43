"Decompositions: bad input of every kind, what is written is read again, the layout that lets a cache be used again, and the real data"
import csv
import gzip
import json
import os
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from cotkit.data.core import CotkitError, Problem, Rationale, Step
from cotkit.data.decomposition import (
    DECOMPOSITION_FAULTS, MAX_STEPS, DecompositionError, Equation, check_references, check_steps, check_steps_form,
    decomposition_fault, equations, gold_steps_of, parse_steps, references, resolve_references, steps_text)
from cotkit.data.formats import FORMATS, demonstrations, examples_from, format_from_dict, gold_rationale
from cotkit.data.socratic_formats import (
    DONE, Decomposer, FewShotSocratic, QuestionsForSteps, Solver, Unified, guidance_hint, is_done, read_question,
    read_questions, read_solution)
from cotkit.data.tasks import load_task
from cotkit.data.word_problems import word_problems
from cotkit.evaluation.evaluate import evaluate
from cotkit.evaluation.strategies import SingleTurn
from cotkit.teachers.collect import RequestLimits, collect
from cotkit.teachers.curate import curate
from cotkit.teachers.protocol import ReplayTeacher

DATA = Path(os.environ.get('COTKIT_DATA') or Path(__file__).resolve().parents[2]/'shared'/'data')
real = pytest.mark.skipif(not (DATA/'socratic').is_dir(), reason='the shared data are not here')
ANN = Problem(
    'ann', 'Ann has 3 apples. She buys 4 bags with 2 apples each. How many apples does Ann have now?', '11',
    gold_steps=('The bags hold 4 * 2 = 8 apples.', 'Ann has 3 + 8 = 11 apples.'),
    subquestions=('How many apples are in the bags?', 'How many apples does Ann have now?'))
GOLD = gold_rationale(ANN)


# Bad decompositions

FIFTY = '\n'.join(f'What is {i} + 1? ** It is {i + 1}.' for i in range(50))
BAD = {
    '': 'empty', ' \n\n': 'empty', 'The answer is 11.': 'empty', '#### 11': 'empty',
    'Ann has 11 apples.': 'no separator', 'How many? ** 8.\nAnn has 11 apples.': 'no separator',
    'How many? **': 'no solution', 'How many? ** \nHow many now? ** 11': 'no solution',
    '** There are 8.': 'no question', '- ** There are 8.': 'no question',
    FIFTY: 'too many steps', 'How many? ** 8.\n' * 2: 'repeated step', 'How many? ** 8.\nhow  MANY? ** 8.': 'repeated step',
    'Is #2 more? ** Yes.\nWhat is it? ** 8.': 'reference to a later step', 'Is #1 more? ** Yes.': 'reference to a later step',
    'What is it? ** 8.\nIs #3 more? ** Yes.': 'reference to an absent step', 'Is #0 more? ** No.': 'reference to an absent step'}


@pytest.mark.parametrize('text', BAD, ids=[f'{i}-{reason}' for i, reason in enumerate(BAD.values())])
def test_every_bad_decomposition_has_one_reason(text):
    assert decomposition_fault(text) == BAD[text]
    with pytest.raises(DecompositionError) as caught: parse_steps(text)
    assert caught.value.reason == BAD[text] and isinstance(caught.value, CotkitError)
    assert Unified().steps(text, ANN) == ()


def test_all_reasons_are_known_and_all_occur(): assert set(BAD.values()) == set(DECOMPOSITION_FAULTS)


def test_the_error_names_the_step_and_what_stands_there():
    with pytest.raises(DecompositionError, match=r"no separator in step 2: 'Ann has 11 apples\.'"):
        parse_steps('How many? ** 8.\nAnn has 11 apples.')


def test_the_limit_of_steps_can_be_raised():
    assert len(parse_steps(FIFTY, max_steps=50)) == 50
    for n in (MAX_STEPS, MAX_STEPS + 1):
        assert decomposition_fault('\n'.join(FIFTY.split('\n')[:n])) == ('too many steps' if n > MAX_STEPS else '')


def test_a_question_may_occur_twice_if_its_solution_does_not():
    assert len(parse_steps('How much in total? ** 8 + 3 = 11.\nHow much in total? ** 11 * 2 = 22.')) == 2


def test_a_number_sign_of_the_problem_itself_is_no_reference():
    text = 'How many people think horse #7 will win? ** 3.'
    assert decomposition_fault(text) == 'reference to an absent step'
    assert decomposition_fault(text, 'Nine people bet on horse #7. How many think it will win?') == ''


# Reading and writing

WORDS = st.lists(st.sampled_from('Ann has 3 apples 4 * 2 = 8 bags, in all $5 each ('.split()), min_size=1, max_size=8).map(' '.join)
QUESTIONS = st.tuples(st.sampled_from(('How many', 'What', 'Is it that')), WORDS).map(lambda o: f'{o[0]} {o[1]}?')


@given(st.lists(st.tuples(QUESTIONS, WORDS), min_size=1, max_size=MAX_STEPS, unique=True), st.sampled_from(['', '11', '-3.5']))
def test_what_is_written_is_read_again(pairs, answer):
    steps = tuple(Step(q, s + '.') for q, s in pairs)
    assert parse_steps(steps_text(steps, answer)) == steps


@pytest.mark.parametrize('text', [
    'Here is how:\n1. How many? ** 8.\n2. How many now? ** 11.\nThe answer is 11.',
    '- How many? ** 8.\n\n- How many now? ** 11.\n\n#### 11',
    '**How many?** 8.\n**How many now?** 11. So the answer is 11.',
    'Step 1: How many? ** 8.\nStep 2: How many now? ** 11. The answer is 11.',
    '• How many? **8.\n• How many now? **11.\nTherefore, the final answer is 11.\n\nQ: How many pears?\nHow? ** 3.'])
def test_what_teachers_make_of_the_layout_is_let_pass(text):
    assert parse_steps(text) == (Step('How many?', '8.'), Step('How many now?', '11.'))


@given(st.text(alphabet='Ab1#*- \n:.?', max_size=60))
def test_any_text_is_steps_or_a_known_reason(text):
    fault = decomposition_fault(text)
    if fault: assert fault in DECOMPOSITION_FAULTS
    else: assert all(step.question and step.solution for step in parse_steps(text))


# References

def test_references_are_put_in_and_nest():
    questions = ('return cars', 'return #1 from 1970', 'return makers of #2')
    assert resolve_references(questions) == ('return cars', 'return (return cars) from 1970', 'return makers of (return (return cars) from 1970)')
    assert resolve_references(questions, ['the 406 cars', '12 of them'])[1:] == ('return the 406 cars from 1970', 'return makers of 12 of them')
    assert references('Is #2 more than #10?') == (2, 10) and references('Did#1 or #2s?') == (1, 2) and references('Is ##2 it?') == ()


@given(st.lists(st.lists(st.integers(0, 9), max_size=3), min_size=1, max_size=8))
def test_references_resolve_if_and_only_if_all_point_back(targets):
    questions = [f'What of {" and ".join(f"#{o}" for o in row)}?' for row in targets]
    if all(1 <= o <= i for i, row in enumerate(targets) for o in row):
        assert not any('#' in o for o in resolve_references(questions))
    else:
        with pytest.raises(DecompositionError, match='reference to'): check_references(questions)


# Arithmetic of steps

@pytest.mark.parametrize('text, left, right', [
    ('Ann has 3 + 8 = 11 apples.', '3 + 8', '11'), ('She makes 9 * 2 = $18 a day', '9 * 2', '$18'), ('2/2=1 bolt', '2/2', '1'),
    ('That is $80,000+50,000=$130,000.', '$80,000+50,000', '$130,000'), ('It is (2 + 3) x 4 = 20', '(2 + 3) x 4', '20'),
    ('It is 20%*50 = 10.', '20%*50', '10'), ('It takes 3 / 2 = 1 1/2 hours', '3 / 2', '1 1/2'), ('-48 + 21 + (-3) = -30', '-48 + 21 + (-3)', '-30'),
    ('1/3 = .33', '1/3', '.33'), ('2/3 = 0.67', '2/3', '0.67'), ('200 / 3 = 67 of them', '200 / 3', '67'), ('3/4 = 75%', '3/4', '75%')])
def test_equations_that_hold(text, left, right):
    assert equations(text) == (Equation(left, right),) and equations(text)[0].holds


@pytest.mark.parametrize('text', ['3 + 8 = 12', '2.5 * 2 = 5.1', '7 - 7 = 1', '1/3 = .35', '10 / 4 = 4', '3/4 = 74%'])
def test_equations_that_do_not_hold(text): assert [o.holds for o in equations(text)] == [False]


@pytest.mark.parametrize('text', ['12 slices * 1/3 = 4 slices', '3x + 4 = 28', 'x = 8', 'X*4 + 240 = 1920', 'She has $350 000 x 5/100 = $17500.',
                                  '3 1/2 - 2 = 1 1/2', 'Yuri scored 1/2 (68) + 10 = 44', 'Ann has 11 apples.', '= 3', '3 + = 3'])
def test_arithmetic_with_words_or_unknowns_is_passed_over(text): assert equations(text) == ()


@given(st.integers(-99, 99), st.integers(1, 99), st.sampled_from('+-*'), st.integers(-2, 2))
def test_exact_results_only(a, b, sign, off):
    right = {'+': a + b, '-': a - b, '*': a * b}[sign] + off
    [found] = equations(f'It is {a} {sign} {b} = {right}.')
    assert found.holds == (off == 0)


@given(st.integers(1, 999), st.integers(1, 99), st.integers(0, 3))
def test_rounded_results_hold(a, b, digits):
    text = f'{a} / {b} = {float(round(Fraction(a, b), digits)):.{digits}f}'
    assert all(o.holds for o in equations(text)) and equations(text)


def test_faults_are_named():
    wrong = [Step('q?', 'The bags hold 4 * 2 = 9 apples.'), Step('now?', 'Ann has 3 + 9 = 12 apples.')]
    assert check_steps(ANN, wrong, '12') == ('step 1: 4 * 2 is not 9', 'answer: 12 is not 11')
    assert check_steps(ANN, GOLD.steps, '11') == check_steps(replace(ANN, answer=''), GOLD.steps, '3') == ()


# Formats

PROBLEMS = word_problems(40, 3, (1, 6), 20)


@pytest.mark.parametrize('problem', PROBLEMS, ids=lambda p: p.id)
def test_every_prompt_begins_with_the_prompt_before_and_what_was_written_then(problem):
    asked, solved = (f.examples(problem, [gold_rationale(problem)]) for f in (Decomposer(), Solver()))
    [whole] = Unified().examples(problem, [gold_rationale(problem)])
    text = asked[0].input
    for question, solution in zip(asked, solved):
        assert question.input == text
        assert solution.input == (text := f'{text} {question.target} **')
        text = f'{text} {solution.target}\n-'
    assert asked[-1].target == DONE and asked[-1].input == text and len(asked) == len(solved) + 1
    assert f'{whole.input} {whole.target}\n-' == text and whole.input == asked[0].input
    assert solved[-1].target.endswith(f'The answer is {problem.answer}.') and not any(e.input[-1].isspace() for e in (*asked, *solved))
    assert [e.objective for e in (asked[0], solved[0], whole)] == ['question', 'solution', 'dialogue']


@pytest.mark.parametrize('guidance', ('none', 'count', 'equations'))
@pytest.mark.parametrize('order', ('first', 'alternating'))
@pytest.mark.parametrize('problem', PROBLEMS[:12], ids=lambda p: p.id)
def test_students_read_what_they_are_taught(problem, order, guidance):
    gold = gold_rationale(problem)
    [example] = Unified(guidance, order).examples(problem, [gold])
    assert Unified(guidance, order).steps(example.target, problem) == gold.steps
    assert Unified(guidance, order).parse(example.target, problem).value == problem.answer
    first = Decomposer(guidance, 'first').examples(problem, [gold])[0]
    assert read_questions(first.target) == problem.subquestions and first.input == example.input
    assert guidance_hint(problem, guidance) in example.input
    assert [read_question(e.target) for e in Decomposer(guidance).examples(problem, [gold])] == [*problem.subquestions, None]


def test_guidance_says_what_it_should():
    assert guidance_hint(ANN, 'count') == 'Steps: 2' and guidance_hint(ANN, 'equations') == 'Equations: 4 * 2; 3 + 8'
    with pytest.raises(CotkitError, match='no gold steps'): Decomposer('count').prompt(replace(ANN, gold_steps=()))
    for wrong in ({'guidance': 'some'}, {'order': 'last'}):
        with pytest.raises(CotkitError, match='One of'): Unified(**wrong)


@pytest.mark.parametrize('text, question', [
    ('How many?', 'How many?'), (' 1. How many? ** 8', 'How many?'), ('- How many?\n- How?', 'How many?'), ('Done.', None), ('done', None), ('- Done!', None)])
def test_a_turn_of_the_decomposer(text, question): assert read_question(text) == question


@pytest.mark.parametrize('read, text, reason', [
    (read_question, '', 'no question'), (read_question, '** 8', 'no question'), (read_question, '12', 'no question'), (read_question, '\n\n', 'no question'),
    (read_questions, '', 'empty'), (read_questions, 'Done.', 'empty'), (read_questions, 'How?\n' * 50, 'too many steps'),
    (read_solution, '', 'no solution'), (read_solution, ' ** ', 'no solution')])
def test_a_malformed_turn_has_a_reason(read, text, reason):
    with pytest.raises(DecompositionError) as caught: read(text)
    assert caught.value.reason == reason and reason in DECOMPOSITION_FAULTS


def test_a_decomposer_learns_without_solutions_and_a_solver_does_not():
    bare = replace(ANN, gold_steps=())
    assert [e.target for e in Decomposer(order='first').examples(bare)] == ['\n- '.join(ANN.subquestions)]
    assert Decomposer().examples(bare) == Solver().examples(bare) == Unified().examples(bare, [Rationale('ann', 'No steps.')]) == []
    with pytest.raises(CotkitError, match='2 sub-questions and 0 steps'): gold_steps_of(bare)


@pytest.mark.parametrize('format', [Decomposer('count', 'first'), Solver(), Unified('equations'), FewShotSocratic(demonstrations([ANN])), QuestionsForSteps()])
def test_formats_are_saved_and_loaded(format):
    assert format_from_dict(json.loads(json.dumps(format.to_dict()))) == format and format.name in FORMATS


def test_a_demonstration_needs_steps():
    bare = demonstrations([replace(ANN, subquestions=())])
    with pytest.raises(CotkitError, match='no sub-questions to show'): FewShotSocratic(bare)
    assert QuestionsForSteps(bare) == QuestionsForSteps()
    assert QuestionsForSteps(demonstrations([ANN])).prompt(PROBLEMS[0]).startswith(f'{QuestionsForSteps().prompt(ANN)}\n1. {ANN.subquestions[0]}')


def test_a_prompt_shows_decompositions_and_never_the_problem_itself():
    other = replace(ANN, id='ben', question='Ben has 9 pears. How many?')
    format = FewShotSocratic(demonstrations([ANN]))
    assert format.prompt(other) == f'Q: {ANN.question}\nA: {steps_text(GOLD.steps, "11")}\n\nQ: {other.question}\nA:'
    assert format.prompt(ANN) == f'Q: {ANN.question}\nA:'


def test_curation_fills_the_steps_and_drops_what_has_none():
    format = FewShotSocratic(demonstrations(PROBLEMS[:1]))
    texts = [steps_text(GOLD.steps, '11'), 'Ann has 3 + 8 = 11 apples. The answer is 11.',
             steps_text(GOLD.steps, '11').replace('= 8', '= 9') , steps_text(GOLD.steps, '12')]
    found = curate([Rationale('ann', t, sample=i) for i, t in enumerate(texts)], [ANN], format, filters=['undecomposed'])
    assert [r.steps for r in found.kept] == [GOLD.steps] and found.by_reason() == {'wrong': 1, 'undecomposed': 1, 'wrong step': 1}
    [example] = Unified().examples(ANN, found.kept)
    assert example == Unified().examples(ANN, [GOLD])[0]


def test_questions_for_steps_are_put_to_the_steps():
    format = QuestionsForSteps()
    said = '1. How many apples are in the bags?\n2. How many apples does Ann have now?'
    found = curate([Rationale('ann', said), Rationale('ann', 'How many?', sample=1)], [ANN], format, filters=['undecomposed'])
    assert [r.steps for r in found.kept] == [GOLD.steps] and found.by_reason() == {'unparsed': 1}
    assert Unified().examples(ANN, found.kept) == Unified().examples(ANN, [GOLD])
    with pytest.raises(CotkitError, match='no gold steps'): format.prompt(replace(ANN, gold_steps=()))


def test_a_teacher_is_prompted_collected_from_and_distilled(tmp_path):
    "The same format asks any teacher in place of a chain of thought, reads its steps, and teaches them"
    train, shown = PROBLEMS[4:24], FewShotSocratic(demonstrations(PROBLEMS[:2]))
    said = {p.id: steps_text(gold_steps_of(p), p.answer) for p in train} | {train[0].id: 'It is 3. The answer is 3.', train[1].id: FIFTY}
    teacher = ReplayTeacher(said)
    found = evaluate(SingleTurn(teacher, shown, store=tmp_path/'s.db'), train)
    assert [o.correct for o in found.predictions[2:]] == [True] * 18 and not found.predictions[1].correct
    collected = collect(train, shown, teacher, tmp_path/'s.db', limits=RequestLimits(progress=False))
    assert collected.reused == 20 and collected.sent == 0
    kept = curate(collected.rationales, train, shown, filters=['undecomposed']).kept
    assert [(r.problem_id, r.steps) for r in kept] == [(p.id, gold_steps_of(p)) for p in train[2:]]
    for format in (Decomposer(), Decomposer(order='first'), Solver(), Unified()):
        assert examples_from(format, train, kept) == examples_from(format, train[2:], gold=True)
    stored = [Rationale.from_dict(json.loads(json.dumps(r.to_dict()))) for r in kept]
    assert stored == kept


def test_synthetic_problems_have_gold_decompositions_in_and_out_of_distribution():
    task = load_task('word_problems', train=200, validation=20, test=50, seed=1)
    assert {len(gold_steps_of(p)) for p in task['train']} == {2, 3, 4} and {len(gold_steps_of(p)) for p in task['longer']} == {5, 6}
    for p in (*task['train'], *task['longer']):
        check_steps_form(gold_steps_of(p), p.question)
        assert check_steps(p, gold_steps_of(p), p.answer) == () and all(equations(s) for s in p.gold_steps)


# Real data

def lines(name):
    with gzip.open(DATA/'socratic'/name, 'rt', encoding='utf-8') as file: return [json.loads(line) for line in file]


@real
def test_gsm8k_socratic_is_gsm8k_with_questions():
    rows, plain = lines('gsm8k_test_socratic.jsonl.gz'), load_task('gsm8k', DATA/'gsm8k')['test']
    whole = [json.loads(line) for line in (DATA/'gsm8k'/'test.jsonl').open(encoding='utf-8')]
    assert [row['question'] for row in rows] == [row['question'] for row in whole]
    stripped = ['\n'.join(re.sub(r'^.*? \*\* ', '', line) for line in row['answer'].split('\n')) for row in rows]
    assert sum(a == b['answer'] for a, b in zip(stripped, whole)) == 1319
    problems = load_task('gsm8k_socratic', DATA/'socratic')['test']
    assert [(p.question, p.answer) for p in problems] == [(p.question, p.answer) for p in plain]
    assert round(sum(len(p.subquestions) for p in problems) / len(problems), 3) == 3.655
    assert all(len(gold_steps_of(p)) == len(p.subquestions) for p in problems)


@real
def test_gsm8k_socratic_is_read_and_written_and_calculates():
    problems = load_task('gsm8k_socratic', DATA/'socratic')['test']
    faults = [decomposition_fault(steps_text(gold_steps_of(p), p.answer), p.question) for p in problems]
    assert {o: faults.count(o) for o in set(faults)} == {'': 1317, 'no solution': 2}  # two lines of the file end in `**`
    sound = [p for p, fault in zip(problems, faults) if not fault]
    assert all(parse_steps(steps_text(gold_steps_of(p), p.answer), p.question) == gold_steps_of(p) for p in sound)
    said = [o for p in problems for step in p.gold_steps for o in equations(step)]
    assert len(said) > 3600 and sum(not o.holds for o in said) == 3   # $32 - $20 = $300, 364 / 4 = 273, $3/2 = $1.50+$3.00
    assert sum(len({q.casefold() for q in p.subquestions}) < len(p.subquestions) for p in problems) == 237


@real
def test_strategyqa_refers_backwards_only():
    task = load_task('strategyqa', DATA/'strategyqa')
    problems = [p for split in task.splits for p in task[split]]
    assert all(p.subquestions and p.gold_steps for p in problems) and len(problems) == 2289
    for p in problems: check_references(p.subquestions, p.question)
    assert not any(re.search(r'#\d', o) for p in problems for o in resolve_references(p.subquestions, (), p.question))
    assert sum(bool(references(q)) for p in problems for q in p.subquestions) > 2000
    assert Decomposer(order='first').examples(task['train'][0])[0].target.count('\n- ') == 2


@real
def test_a_real_decomposer_asks_less_than_the_people_did():
    rows = lines('strategyqa_bart_decomp_dev.jsonl.gz')
    written, gold = ([len(row[name]) for row in rows] for name in ('decomposition', 'gold_decomposition'))
    assert len(rows) == 229 and round(sum(written) / 229, 3) == 2.009 and round(sum(gold) / 229, 3) == 2.943
    assert sum(a == b for a, b in zip(written, gold)) == 61


@real
def test_break_is_read_from_its_zipped_table():
    problems = load_task('break', DATA/'socratic'/'break_qdmr_dev.csv.gz')['validation']
    with gzip.open(DATA/'socratic'/'break_qdmr_dev.csv.gz', 'rt', encoding='utf-8') as file: rows = list(csv.DictReader(file))
    assert [p.id for p in problems] == [row['question_id'] for row in rows] and len(problems) == 7760

    def bad(p):
        try: check_references(p.subquestions, p.question)
        except DecompositionError as e: return e.reason
    assert [o for o in map(bad, problems) if o] == ['reference to a later step'] * 2
    assert all(p.answer == '' and p.subquestions for p in problems)


@real
@pytest.mark.parametrize('name, n, same', [('asdiv_a', 1217, 1216), ('mawps', 1920, 1908)])
def test_equations_become_steps_that_lead_to_the_answer(name, n, same):
    [problems] = load_task(name, DATA/'socratic'/f'{name}.jsonl.gz').splits.values()
    assert len(problems) == n and not any(re.search(r'number\d', p.question) for p in problems)
    assert sum(bool(p.gold_steps) and p.gold_steps[-1].rpartition(' = ')[2] == p.answer for p in problems) == same


def test_bad_rows_of_equations_are_named(tmp_path):
    row = {'question': 'number0 and number1 apples?', 'numbers': '7 2', 'equation': '+ number0 number1', 'answer': '9.0'}
    path = tmp_path/'own.jsonl'
    for change, field in (({'equation': '+ number0 number5'}, 'equation'), ({'equation': '/ number0 - number1 number1'}, 'equation'),
                          ({'numbers': '7 two'}, 'numbers'), ({'equation': '+ number0'}, 'equation')):
        path.write_text(json.dumps(row | change) + '\n')
        with pytest.raises(CotkitError, match=f'own.jsonl:1: field "{field}"'): load_task('mawps', path)
    with pytest.raises(CotkitError, match='local copy'): load_task('asdiv_a')
