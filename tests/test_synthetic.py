"Synthetic tasks: every story means what its answer says, splits never meet, and a seed is a promise"
import hashlib, re
from collections import Counter
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given, settings, strategies as st

from cotkit.data import word_problems as synthetic
from cotkit.data.answers import is_correct
from cotkit.data.core import CotkitError, Problem, from_dataset, to_dataset
from cotkit.data.abilities import ABILITIES, ability_problems, generic_suite, generic_task
from cotkit.data.addition import addition_problems, addition_task, scratchpad, scratchpad_examples
from cotkit.data.mistakes import rephrase_steps, wrong_rationale
from cotkit.data.word_problems import OUT_OF_DISTRIBUTION, SPLITS, Wording, distinct_problems, word_problem_task, word_problems
from cotkit.data.tasks import load_task, task_names

EQUATION = re.compile(r'(\d+) ([-+*/]) (\d+) = (\d+)')


def holds(left, sign, right, result):
    left, right, result = map(Fraction, (left, right, result))
    return result == {'+': left + right, '-': left - right, '*': left * right, '/': left / right if right else None}[sign]


difficulties = st.fixed_dictionaries(dict(
    n=st.integers(1, 15), seed=st.integers(0, 10**9), steps=st.tuples(st.integers(1, 4), st.integers(0, 5)).map(lambda o: (o[0], o[0] + o[1])),
    largest=st.integers(20, 200), split=st.sampled_from(SPLITS), wording=st.builds(Wording, st.sampled_from(('plain', 'unseen')), st.integers(0, 3))))


# A reader that knows English and nothing of the generator: what each sentence does to the quantity `q`.
# The last quantity named by a pattern is the new one; a pattern may hold both the plain and the unseen wording.
READER = [
    (r'\w+ has (\d+) \w+\.', lambda q, k: k),
    (r'At first \w+ owns (\d+) \w+\.', lambda q, k: k),
    (r'(\d+) \w+ belong to \w+\.', lambda q, k: k),
    (r'\w+ has (\d+) \w+ at home and (\d+) at school\.', lambda q, a, b: a + b),
    (r'\w+ has (\d+) big \w+ and (\d+) small \w+\.', lambda q, a, b: a + b),
    (r'(\d+) big and (\d+) small \w+ belong to \w+\.', lambda q, a, b: a + b),
    (r'At first \w+ owns (\d+) \w+ at home, and (\d+) more at school\.', lambda q, a, b: a + b),
    (r'\w+ has (\d+) \w+ with (\d+) \w+ each\.', lambda q, a, b: a * b),
    (r'At first \w+ owns (\d+) \w+, and (\d+) \w+ are in every one\.', lambda q, a, b: a * b),
    (r'S?[Hh]e (?:finds|buys) (\d+) more \w+\.', lambda q, k: q + k),
    (r'S?[Hh]e gets (\d+) \w+ from \w+\.', lambda q, k: q + k),
    (r'Then another (\d+) \w+ come to \w+\.', lambda q, k: q + k),
    (r'\w+ brings (?:her|him) (\d+) \w+\.', lambda q, k: q + k),
    (r'S?[Hh]e gives (\d+) \w+ to [A-Z]\w+\.', lambda q, k: q - k),
    (r'S?[Hh]e (?:loses|sells) (\d+) \w+\.', lambda q, k: q - k),
    (r'Then (\d+) \w+ go missing\.', lambda q, k: q - k),
    (r'\w+ takes (\d+) \w+ from (?:her|him)\.', lambda q, k: q - k),
    (r'S?[Hh]e collects more until s?he has (\d+) times as many\.', lambda q, m: q * m),
    (r'Then the number of \w+ \w+ grows (\d+) times as large\.', lambda q, m: q * m),
    (r'S?[Hh]e makes (\d+) equal groups of \w+ \w+ and keeps one group\.', lambda q, m: Fraction(q, m)),
    (r'All \w+ are split equally among (\d+) people, and \w+ is one of them\.', lambda q, m: Fraction(q, m)),
    (r'S?[Hh]e (?:buys|finds) (\d+) \w+ with (\d+) \w+ each\.', lambda q, a, b: q + a * b),
    (r'Then (\d+) \w+ come to \w+, and (\d+) \w+ are in every one\.', lambda q, a, b: q + a * b),
    (r'S?[Hh]e gives (\d+) \w+ to each of (\d+) friends\.', lambda q, a, b: q - a * b),
    (r'(\d+) friends get (\d+) \w+ each from \w+\.', lambda q, a, b: q - a * b),
    (r'(\d+) people come, and every one takes (\d+) \w+ from \w+\.', lambda q, a, b: q - a * b),
    (r'How many \w+ does \w+ have now\?', lambda q: q),
    (r'What number of \w+ does \w+ own in the end\?', lambda q: q),
    (r'(\w+) has (\d+) more \w+ than \w+\. How many \w+ does \1 have\?', lambda q, k: q + k),
    (r'(\w+) owns (\d+) \w+ more than \w+ in the end\. What number of \w+ does \1 own\?', lambda q, k: q + k),
    (r'(\w+) has (\d+) fewer \w+ than \w+\. How many \w+ does \1 have\?', lambda q, k: q - k),
    (r'(\w+) owns (\d+) \w+ less than \w+ in the end\. What number of \w+ does \1 own\?', lambda q, k: q - k),
    (r'(\w+) has (\d+) times as many \w+ as \w+\. How many \w+ does \1 have\?', lambda q, m: q * m),
    (r'(\w+) owns (\d+) times the \w+ that \w+ owns\. What number of \w+ does \1 own\?', lambda q, m: q * m),
    (r'S?[Hh]e sells all \w+ for (\d+) coins each\. How many coins does \w+ get\?', lambda q, k: q * k),
    (r'\w+ pays (\d+) coins for every one of the \w+\. What number of coins goes to \w+\?', lambda q, k: q * k),
    (r'S?[Hh]e wants (\d+) \w+\. How many more \w+ does \w+ need\?', lambda q, k: k - q),
    (r'H\w+ goal is (\d+) \w+\. What number of \w+ is missing\?', lambda q, k: k - q),
    (r'S?[Hh]e packs all \w+ into new \w+ of (\d+)\. How many new \w+ does \w+ fill\?', lambda q, m: Fraction(q, m)),
    (r'All \w+ go into new \w+, (\d+) in every one\. What number of new \w+ is full\?', lambda q, m: Fraction(q, m)),
    (r'\w+ has (\d+) more \w+ than \w+\. How many \w+ do they have together\?', lambda q, k: 2 * q + k),
    (r'\w+ owns (\d+) \w+ more than \w+ in the end\. What number of \w+ do the two own together\?', lambda q, k: 2 * q + k)]
READER = [(re.compile(pattern), meaning) for pattern, meaning in READER]
THINGS = '|'.join(synthetic._THINGS)


def read_story(question):
    "The answers of all ways to read a question from its start to its end"
    readings = [(0, Fraction(0))]
    answers = []
    while readings:
        at, q = readings.pop()
        for pattern, meaning in READER:
            if not (match := pattern.match(question, at)): continue
            if (at == 0) != (READER.index((pattern, meaning)) < 9): continue
            value = meaning(q, *(int(o) for o in match.groups() if o.isdigit()))
            if match.end() == len(question): answers.append(value)
            elif question[match.end()] == ' ': readings.append((match.end() + 1, value))
    return answers


def without_asides(problem):
    "The question without the sentences about other people's other things"
    thing = re.search(rf'\b({THINGS})\b', problem.question)[0] # the first sentence is never an aside
    sentences = re.split(r'(?<=[.?]) ', problem.question)
    return ' '.join(o for o in sentences if not (set(re.findall(rf'\b({THINGS})\b', o)) - {thing}))


@settings(max_examples=40, deadline=None)
@given(difficulties)
def test_every_story_has_one_reading_and_it_is_the_answer(difficulty):
    for problem in word_problems(**difficulty):
        told = without_asides(problem)
        assert problem.question.count('.') - told.count('.') == difficulty['wording'].distractors
        assert read_story(told) == [int(problem.answer)], problem.question


@settings(max_examples=40, deadline=None)
@given(difficulties)
def test_gold_steps_are_true_and_lead_to_the_answer(difficulty):
    problems = word_problems(**difficulty)
    assert len(problems) == difficulty['n'] == len({o.question for o in problems}) == len({o.id for o in problems})
    for problem in problems:
        assert difficulty['steps'][0] <= len(problem.gold_steps) <= difficulty['steps'][1]
        equations = [EQUATION.findall(step) for step in problem.gold_steps]
        assert all(len(o) == 1 and holds(*o[0]) for o in equations)
        assert equations[-1][0][3] == problem.answer and is_correct(problem, problem.answer)
        assert all(2 <= int(o) <= difficulty['largest'] for text in (problem.question, *problem.gold_steps) for o in re.findall(r'\d+', text))
        assert all(len(step.split()) <= 12 for step in problem.gold_steps)


@settings(max_examples=40, deadline=None)
@given(difficulties)
def test_subquestions_are_aligned_with_steps(difficulty):
    for problem in word_problems(**difficulty):
        assert len(problem.subquestions) == len(problem.gold_steps)
        assert problem.question.endswith(problem.subquestions[-1])
        assert all(o.endswith('?') and o[0].isupper() and '{' not in o for o in problem.subquestions)
        for subquestion, step in zip(problem.subquestions, problem.gold_steps): # both are about the same things
            assert set(re.findall(rf'\b({THINGS}|coins)\b', subquestion)) >= set(re.findall(rf'\b({THINGS}|coins)\b', step))


@settings(max_examples=40, deadline=None)
@given(difficulties)
def test_the_same_seed_gives_the_same_problems_and_the_first_of_more(difficulty):
    first = word_problems(**difficulty)
    assert first == word_problems(**difficulty) == word_problems(**{**difficulty, 'n': difficulty['n'] + 5})[:difficulty['n']]
    assert from_dataset(to_dataset(first), Problem) == first


@settings(max_examples=40, deadline=None)
@given(difficulties, difficulties)
def test_no_program_and_no_question_is_in_two_splits(a, b):
    if a['split'] == b['split']: return
    a, b = word_problems(**{**a, 'n': 100}), word_problems(**{**b, 'n': 100})
    assert not {o.meta['program'] for o in a} & {o.meta['program'] for o in b}
    assert not {o.question for o in a} & {o.question for o in b}


def test_small_worlds_are_split_without_remainder():
    "Where there are only few programs, every one of them is in exactly one split"
    programs = {split: {o.meta['program'] for o in word_problems(400, steps=(1, 1), largest=10, split=split)} for split in SPLITS}
    assert min(map(len, programs.values())) > 20
    assert sum(map(len, programs.values())) == len(set.union(*programs.values()))


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 60))
def test_the_task_has_no_question_twice(seed, n):
    task = word_problem_task(train=4 * n, validation=n, test=n, seed=seed)
    questions = [o.question for problems in task.splits.values() for o in problems]
    assert len(set(questions)) == len(questions) == 9 * n
    assert len({o.id for problems in task.splits.values() for o in problems}) == 9 * n


def test_the_sets_out_of_distribution_are_what_they_say():
    task = word_problem_task(train=3000, validation=10, test=300)
    words = {split: set(re.findall(r'[A-Za-z]+', ' '.join(o.question for o in problems))) for split, problems in task.splits.items()}
    assert set(OUT_OF_DISTRIBUTION) == set(task.splits) - set(SPLITS)
    assert {len(o.gold_steps) for o in task['test']} == {2, 3, 4} and {len(o.gold_steps) for o in task['longer']} == {5, 6}
    assert words['longer'] | words['distractors'] <= words['train'] and len(words['unseen_phrasing'] - words['train']) > 10
    assert len(set.union(*words.values())) < 300
    assert all(len(o.question.split()) <= 60 for o in task['train'])

    def shapes(problems): return {re.sub(r'\d+|\b[A-Z][a-z]+\b|\b[Ss]?he\b', '_', re.sub(rf'\b({THINGS}|bags|boxes|baskets|jars)\b', '_', s))
                                  for o in problems for s in re.split(r'(?<=[.?]) ', o.question)}
    seen, unseen = shapes(task['train']), shapes(task['unseen_phrasing'])
    assert not seen & unseen


def test_always_giving_the_same_answer_is_seldom_right():
    for split in ('test', 'longer'):
        problems = word_problem_task(train=1, validation=1, test=800)[split]
        assert max(Counter(o.answer for o in problems).values()) < .06 * len(problems)


def test_no_operation_and_no_wording_is_left_out():
    problems = word_problems(3000) + word_problems(3000, wording=Wording('unseen'))
    used = {name for o in problems for name, *_ in (part.split() for part in o.meta['program'].split('; '))}
    assert used == set(synthetic._OPERATIONS)
    told = ' '.join(o.question for o in problems)
    for operation in synthetic._OPERATIONS.values():
        for sentence in (*operation.plain, *operation.unseen):
            assert re.search(re.sub(r'\\\{\w+\\\}', r'\\w+', re.escape(sentence)), told), sentence


def test_golden():
    "These problems are named in saved records: if this fails, seeds mean something else than they did"
    def digest(problems): return hashlib.sha256('\n'.join(f'{o.id}\t{o.question}\t{o.answer}\t{o.gold_steps}\t{o.subquestions}' for o in problems).encode()).hexdigest()[:16]
    task = word_problem_task(train=50, validation=20, test=20, seed=1)
    assert {split: digest(problems) for split, problems in task.splits.items()} == GOLDEN
    assert digest(addition_problems(50)) == GOLDEN_ADDITION
    assert digest([o for ability in ABILITIES for o in ability_problems(ability, 10)]) == GOLDEN_GENERIC


GOLDEN = {'train': 'ccfb9b03387e8176', 'validation': 'fac87c0bc2563c6d', 'test': '2bc43c159afe2cf2',
          'longer': '0edbb57c663b116a', 'unseen_phrasing': '3a225c4a93dbd78b', 'distractors': '4aca240e4291b7bd'}
GOLDEN_ADDITION = 'aea4cfeec35086d7'
GOLDEN_GENERIC = '16cb6e383b6ecccf'


@pytest.mark.parametrize('bad', [dict(n=-1), dict(steps=(0, 2)), dict(steps=(4, 2)), dict(largest=3), dict(distractors=-1), dict(phrasing='rude'), dict(split='dev')], ids=str)
def test_bad_difficulties_are_refused_by_name(bad):
    wording = {name: value for name, value in bad.items() if name in ('distractors', 'phrasing')}
    with pytest.raises(CotkitError) as refused:
        if wording: Wording(**wording)
        else: word_problems(**{'n': 1, **bad})
    assert refused.value.field == next(iter(bad))


def test_too_many_are_refused():
    with pytest.raises(CotkitError, match=r'only \d\d different'): addition_problems(200, digits=(1, 1))
    with pytest.raises(CotkitError, match='only 1 different'): distinct_problems(2, lambda: ('the same again', 1))
    with pytest.raises(CotkitError, match='only 0 different'): distinct_problems(2, lambda: None)
    assert word_problems(0) == []


def test_task_difficulties_are_refused():
    with pytest.raises(CotkitError, match='steps'): word_problem_task(train=1, validation=1, test=1, steps=(3, 2))
    with pytest.raises(CotkitError): addition_task(train=1, validation=1, test=1, longer=(8,))


# Wrong and reworded rationales

@settings(max_examples=80, deadline=None)
@given(difficulties, st.integers(0, 10**9), st.booleans())
def test_a_wrong_rationale_has_one_wrong_step_and_the_rest_follows(difficulty, seed, reworded):
    problem = word_problems(**{**difficulty, 'n': 1})[0]
    if reworded: problem = Problem.from_dict({**problem.to_dict(), 'gold_steps': rephrase_steps(problem, Random(seed))})
    steps, answer = wrong_rationale(problem, Random(seed))
    assert answer != problem.answer and len(steps) == len(problem.gold_steps)
    gold, made = ([EQUATION.search(o).groups() for o in s] for s in (problem.gold_steps, steps))
    wrong = [i for i, o in enumerate(made) if not holds(*o)]
    assert len(wrong) == 1 and steps[:wrong[0]] == list(problem.gold_steps[:wrong[0]])
    assert made[-1][3] == answer
    assert [EQUATION.sub('', o) for o in steps] == [EQUATION.sub('', o) for o in problem.gold_steps]
    assert [o[1] for o in gold] == [o[1] for o in made]


@settings(max_examples=40, deadline=None)
@given(difficulties, st.integers(0, 10**9))
def test_reworded_steps_are_true_and_reach_the_same_results(difficulty, seed):
    problem = word_problems(**{**difficulty, 'n': 1})[0]
    steps = rephrase_steps(problem, Random(seed))
    gold, made = ([EQUATION.search(o).groups() for o in s] for s in (problem.gold_steps, steps))
    assert all(holds(*o) for o in made) and [o[3] for o in gold] == [o[3] for o in made]


def test_rewording_gives_different_words():
    problem = word_problems(1, steps=(4, 4))[0]
    assert len({tuple(rephrase_steps(problem, Random(seed))) for seed in range(20)}) > 10


def test_wrong_rationales_of_other_peoples_steps():
    "The shapes of GSM8K: calculator marks, dollars, a value that is used two steps later, decimals"
    problem = Problem('g', 'How much?', '18', gold_steps=(
        'Janet sells 16 - 3 - 4 = <<16-3-4=9>>9 eggs a day.', 'She makes 9 * 2 = <<9*2=18>>18 dollars.'))
    for seed in range(20):
        steps, answer = wrong_rationale(problem, Random(seed))
        assert steps[0] == problem.gold_steps[0] or answer != '18'
        assert f'={answer}>>{answer} dollars' in steps[1]
    decimals = Problem('d', 'How much?', '5', gold_steps=('One costs 5 / 2 = 2.5 dollars.', 'Two cost 2.5 * 2 = 5 dollars.'))
    for seed in range(20):
        steps, answer = wrong_rationale(decimals, Random(seed))
        left, right = re.search(r'= (\S+) dollars', steps[0])[1], re.search(r'cost (\S+) \*', steps[1])[1]
        assert left == right and answer in steps[1]


@pytest.mark.parametrize('steps', [(), ('She has some.',), ('1 + 1 = 2',)], ids=str)
def test_steps_that_give_no_way_to_go_wrong_are_refused(steps):
    with pytest.raises(CotkitError, match='no step'): wrong_rationale(Problem('p', 'How many?', '7', gold_steps=steps), Random(0))


# Addition

def naive_scratchpad(a, b):
    "The example of the paper, column by column and by hand"
    width, carry, done = max(len(a), len(b)), 0, []
    lines = ['<scratch>', f'{" ".join(a)} + {" ".join(b)} , C: 0']
    for i in range(1, width + 1):
        x, y = (int(o[-i]) if i <= len(o) else 0 for o in (a, b))
        done.insert(0, str((x + y + carry) % 10))
        carry = (x + y + carry) // 10
        rest = (f'{" ".join(a[:-i])} + {" ".join(b[:-i])}').strip() + ' ' if i < width else ''
        lines.append(f'{rest}, {" ".join(done)} C: {carry}')
    return [*lines, ' '.join([str(carry), *done]), '</scratch>']


@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_scratchpad(a, b):
    lines = scratchpad(a, b)
    assert lines == naive_scratchpad(str(a), str(b))
    assert int(lines[-2].replace(' ', '')) == a + b
    assert all(o == o.strip() and '  ' not in o for o in lines)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 5), st.integers(0, 5), st.sampled_from(SPLITS))
def test_additions(seed, low, more, split):
    problems = addition_problems(10, (low, low + more), seed, split)
    assert problems == addition_problems(10, (low, low + more), seed, split)
    for problem in problems:
        a, b = (o.replace(' ', '') for o in problem.question.split(' + '))
        assert problem.answer == ' '.join(str(int(a) + int(b))) and len(a) == len(b) and low <= len(a) <= low + more
        assert list(problem.gold_steps) == scratchpad(int(a), int(b)) and is_correct(problem, problem.answer)


def test_additions_and_their_mirror_images_are_in_one_split():
    pairs = {split: {frozenset((o.meta['a'], o.meta['b'])) for o in addition_problems(800, (1, 3), split=split, seed=i)} for i, split in enumerate(SPLITS)}
    assert not pairs['train'] & pairs['validation'] and not (pairs['train'] | pairs['validation']) & pairs['test']


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9))
def test_a_wrong_carry_spoils_the_sum_and_all_that_follows(seed):
    problem = addition_problems(1, (1, 8), seed)[0]
    lines, answer = wrong_rationale(problem, Random(seed))
    first = next(i for i, (a, b) in enumerate(zip(lines, problem.gold_steps)) if a != b)
    assert lines[first][:-1] == problem.gold_steps[first][:-1], 'the first difference is a carry'
    assert answer != problem.answer and int(lines[-2].replace(' ', '')) == int(answer.replace(' ', ''))
    assert not is_correct(problem, answer)


def test_scratchpad_examples_differ_only_in_the_scratchpad():
    problems = addition_problems(20)
    for problem, long, short in zip(problems, scratchpad_examples(problems), scratchpad_examples(problems, scratch=False)):
        assert long.input == short.input == f'Input:\n{problem.question}\nTarget:'
        assert long.target.partition('</scratch>\n')[2] == short.target == problem.answer


def test_addition_task():
    task = addition_task(train=200, validation=20, test=20)
    assert {len(str(o.meta['a'])) for o in task['train']} == set(range(1, 9))
    assert {o.meta['digits'] for o in task['digits_9']} == {9} and {o.meta['digits'] for o in task['digits_10']} == {10}
    questions = [o.question for problems in task.splits.values() for o in problems]
    assert len(set(questions)) == len(questions)


# The generic suite

ANSWERS = {
    'copy': lambda q: q.split(': ')[1],
    'reverse': lambda q: ' '.join(q.split(': ')[1].split()[::-1]),
    'sort': lambda q: ' '.join(map(str, sorted(map(int, q.split(': ')[1].split())))),
    'count': lambda q: str(q.split(': ')[1].count(q[6])),
    'compare': lambda q: max(re.findall(r'\d+', q), key=int),
    'parity': lambda q: ('even', 'odd')[q.count('1') % 2],
    'last_letters': lambda q: ' '.join(re.findall(r'(\w)\b', q.split(': ')[1])),
    'member': lambda q: 'yes' if q[3] in q.split(': ')[1].split() else 'no'}


@pytest.mark.parametrize('ability', ABILITIES)
def test_abilities(ability):
    problems = {split: ability_problems(ability, 300, seed, split) for seed, split in enumerate(SPLITS)}
    questions = [o.question for split in problems.values() for o in split]
    assert len(set(questions)) == len(questions) == 900
    for problem in problems['train']:
        assert problem.answer == ANSWERS[ability](problem.question)
        assert is_correct(problem, problem.answer) and not is_correct(problem, 'nothing of the sort')
    if problems['train'][0].choices:
        shares = Counter(o.answer for o in problems['train'])
        assert set(shares) == set(problems['train'][0].choices) and max(shares.values()) < .6 * 300


def test_generic_tasks():
    suite, task = generic_suite(20, held_out=5), generic_task(train=80, validation=16, test=16)
    assert set(suite) == set(ABILITIES) and all(len(o['train']) == 20 and len(o['test']) == 5 for o in suite.values())
    assert len(task['train']) == 80 and Counter(o.meta['ability'] for o in task['train']) == dict.fromkeys(ABILITIES, 10)
    assert all(task[ability] == [o for o in task['test'] if o.meta['ability'] == ability] for ability in ABILITIES)
    with pytest.raises(CotkitError, match='One of'): ability_problems('juggle', 1)


def test_tasks_are_registered():
    assert {'word_problems', 'addition', 'generic'} <= set(task_names())
    assert load_task('word_problems', train=10, validation=5, test=5, seed=3) == word_problem_task(10, 5, 5, seed=3)
    assert len(load_task('addition', train=10, validation=5, test=5)['train']) == 10
    assert len(load_task('generic', train=16, validation=8, test=8)['train']) == 16
