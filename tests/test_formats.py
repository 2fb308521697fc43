"Formats: the place of step-by-step's marker, and settings that are read back"
import json, re, time

import pytest
from hypothesis import given, settings, strategies as st

from cotkit.data.core import CotkitError, Example, Problem, Rationale, question_text
from cotkit.data.formats import (FORMATS, AnswerOnly, FewShotAnswerOnly, FewShotCoT, Format, Mixture, StepByStep, ZeroShotCoT,
                                 chain_text, check_demonstrations, check_disjoint, contaminated, demonstrations, examples_from,
                                 format_from_dict, gold_rationale, register_format, split_reasoning)
from cotkit.models.tokenizers import tokenize_inputs, train_tokenizer
from cotkit.data.word_problems import word_problems

PROBLEMS = word_problems(20, seed=2, steps=(1, 3)) + [Problem('beaver', 'Where does a beaver find wood?', 'wooded area', 'choice', ('zoo', 'wooded area'), gold_steps=('It builds.',))]


@pytest.mark.parametrize('marker', ['before', 'after'])
def test_the_marker_stands_on_one_side_of_the_whole_question(marker):
    format = StepByStep(alpha=0.2, marker=marker)
    for problem in PROBLEMS:
        label, rationale = format.examples(problem, [gold_rationale(problem)])
        assert label.input == format.prompt(problem) and (label.target, label.objective, rationale.objective) == (problem.answer, 'label', 'rationale')
        for example, word in ((label, 'predict'), (rationale, 'explain')):
            assert example.input.replace(question_text(problem), '') == (f'{word}: ' if marker == 'before' else f'\n{word}:')
            assert example.input == example.input.rstrip()
        assert format.parse(label.target, problem).value == problem.answer


def test_targets_and_weights_do_not_depend_on_the_marker():
    before, after = StepByStep(), StepByStep(marker='after')
    assert before.objective_weights == after.objective_weights
    for problem in PROBLEMS:
        gold = [gold_rationale(problem)]
        assert [e.target for e in before.examples(problem, gold)] == [e.target for e in after.examples(problem, gold)]


def test_with_the_marker_behind_it_the_question_is_the_same_tokens():
    for problem in PROBLEMS:
        for marker, all_of_it in (('before', False), ('after', True)):
            inputs = [e.input for e in StepByStep(marker=marker).examples(problem, [gold_rationale(problem)])]
            tokenizer = train_tokenizer(inputs * 5)
            first, second = tokenize_inputs(tokenizer, inputs)
            question = len(tokenizer(question_text(problem)).input_ids)
            assert (first[:question] == second[:question]) is all_of_it


def test_a_student_saved_before_there_was_a_marker_has_it_in_front():
    old = {'name': 'step-by-step', 'alpha': 0.3, 'labels': 'gold'}
    assert format_from_dict(old) == StepByStep(alpha=0.3, marker='before')
    inside = {'name': 'mixture', 'formats': [{'name': 'zero-shot-cot'}, {**old, 'alpha': 0.0}], 'weights': [], 'eval_format': 0, 'seed': 0}
    assert format_from_dict(inside) == Mixture((ZeroShotCoT(), StepByStep(alpha=0.0)))


def test_the_marker_is_kept_and_checked():
    format = StepByStep(marker='after')
    assert format_from_dict(json.loads(json.dumps(format.to_dict()))) == format
    with pytest.raises(CotkitError) as e: StepByStep(marker='behind')
    assert e.value.field == 'marker'


# the same question in another spelling: one rule for every check

TWINS = [lambda q: q.rstrip('?'), str.upper, lambda q: f'  {q}\n', lambda q: q.replace(' ', '  '), lambda q: q.replace("'", '’'), lambda q: f'“{q}”']
ASKED = Problem('asked', "What is Ann's change if she pays 5 - 2.5 coins?", '2.5', gold_steps=('5 - 2.5 = 2.5.',))


@pytest.mark.parametrize('spelling', TWINS)
def test_a_twin_is_found_by_every_check(spelling):
    twin, shown = Problem('twin', spelling(ASKED.question), '2.5'), demonstrations([ASKED, PROBLEMS[0]])
    assert contaminated([ASKED, PROBLEMS[0]], [twin]) == {'asked'}
    with pytest.raises(CotkitError, match='twin'): check_disjoint([PROBLEMS[0], ASKED], [twin])
    for format in (FewShotCoT(shown), FewShotAnswerOnly(shown), Mixture((AnswerOnly(), FewShotCoT(shown)))):
        with pytest.raises(CotkitError, match='twin'): check_demonstrations(format, [twin])
    with pytest.raises(CotkitError, match='twin'): Mixture((FewShotCoT(shown),), held_out=[twin])
    assert [d.problem for d in FewShotCoT(shown).shown(twin)] == [PROBLEMS[0]]
    assert ASKED.gold_steps[0] not in FewShotCoT(shown).prompt(twin)


@pytest.mark.parametrize('other', ['What is Ann’s change if she pays 5 + 2.5 coins?', 'What is Ann’s change if she pays 5 - 25 coins?'])
def test_another_sum_is_another_question(other):
    problem, shown = Problem('other', other, '1'), demonstrations([ASKED])
    assert contaminated([ASKED], [problem]) == set() and len(FewShotCoT(shown).shown(problem)) == 1
    check_disjoint([ASKED], [problem])
    check_demonstrations(FewShotCoT(shown), [problem])


# examples are made in one place

def test_examples_without_weight_are_left_out():
    gold = [gold_rationale(p) for p in PROBLEMS]
    for alpha, objectives in ((1.0, {'label'}), (0.0, {'rationale'}), (0.5, {'label', 'rationale'})):
        found = examples_from(StepByStep(alpha), PROBLEMS, iter(gold))
        assert {e.objective for e in found} == objectives and len(found) == len(objectives) * len(PROBLEMS)
    assert [e.problem_id for e in found[::2]] == [p.id for p in PROBLEMS]


def test_gold_steps_stand_in_only_where_they_are_wanted():
    known = Rationale(PROBLEMS[0].id, 'By hand. The answer is 1.', '1')
    assert [e.problem_id for e in examples_from(ZeroShotCoT(), PROBLEMS[:3], [known])] == [PROBLEMS[0].id]
    filled = examples_from(ZeroShotCoT(), PROBLEMS[:3], [known, Rationale('nobody', 'x', '1')], gold=True)
    assert [e.problem_id for e in filled] == [p.id for p in PROBLEMS[:3]] and filled[0].target.startswith('By hand.')
    assert examples_from(ZeroShotCoT(), [Problem('bare', 'What?', '1')], gold=True) == []


# a user's own format

def test_a_format_of_ones_own_is_registered_saved_and_loaded():
    @register_format
    class Terse(Format):
        "Question in, bare answer out"
        name = 'terse-of-test'
        def prompt(self, problem): return f'{question_text(problem)} ='
        def examples(self, problem, rationales=()): return [Example(self.prompt(problem), problem.answer, 'label', problem.id)]

    assert FORMATS['terse-of-test'] is Terse
    mixture = Mixture((Terse(), ZeroShotCoT()))
    again = format_from_dict(json.loads(json.dumps(mixture.to_dict())))
    assert again == mixture and again.formats == (Terse(), ZeroShotCoT()) and again.prompt(ASKED) == Terse().prompt(ASKED)
    assert Terse().parse('2.5', ASKED).value == '5/2'
    with pytest.raises(CotkitError, match='no such setting'): format_from_dict({'name': 'terse-of-test', 'alpha': 1})


def test_a_format_that_nobody_registered_says_what_to_do():
    with pytest.raises(CotkitError) as e: format_from_dict({'name': 'tersest-of-all'})
    assert 'import the file that registers it' in str(e.value)
    with pytest.raises(CotkitError, match='import the file'): format_from_dict({})
    class Nameless(ZeroShotCoT): pass
    with pytest.raises(CotkitError, match="name = "): register_format(Nameless)


# what is taught is what was written

NLI, PLACES = ('entailment', 'neutral', 'contradiction'), ('zoo', 'Paris', 'wooded area')
WRITTEN = [  # kind, choices, gold, what the teacher stated, what is taught
    ('number', (), '2.50', '2.50', '2.50'), ('number', (), '2.5', '$2.50 each', '$2.50'), ('number', (), '70.4', '70.4', '70.4'),
    ('number', (), '70.4', '**70.40**', '70.40'), ('number', (), '', '70.4', '70.4'), ('number', (), '1000', '1,000 apples', '1,000'),
    ('number', (), '1/3', '1/3 of it', '1/3'), ('number', (), '50', '50 %', '50 %'), ('number', (), '1.5', '1½ cups', '1½'), ('number', (), '-4', '−4', '−4'),
    ('number', (), '11', '3 + 8 = 11.00 apples', '11.00'), ('number', (), '11', '3 + 8', '11'), ('number', (), '', '1 / 2 + 2', '2.5'),
    ('number', (), '2.5', r'$\boxed{2.50}$', '2.50'), ('number', (), '11', '$11$', '11'), ('number', (), '11', '__11__', '11'), ('number', (), '11', '11', '11'),
    ('text', (), 'Paris', 'Paris', 'Paris'), ('text', (), 'NASA (US)', 'NASA (US)', 'NASA (US)'), ('text', (), '5:30 p.m.', '5:30 p.m', '5:30 p.m'),
    ('text', (), 'Paris', '**Paris**', 'Paris'), ('text', (), '', 'École Normale', 'École Normale'),
    ('choice', PLACES, 'Paris', '(b)', '(b) Paris'), ('choice', PLACES, 'Paris', 'paris', '(b) Paris'), ('choice', PLACES, 'Paris', '**(c) Wooded Area**', '(c) wooded area'),
    ('label', NLI, 'neutral', 'Neutral', 'neutral'), ('label', ('Yes', 'No'), 'Yes', 'true', 'Yes'),
    ('expression', (), '( 10.0 * 45.0 )', '(45 × 10.0)', '(45 × 10.0)'), ('expression', (), '( 84.0 / 2.0 )', '(84 ÷ 2) points', '(84 ÷ 2)')]
ENDINGS = [  # around what is stated; each becomes the one ending that students learn
    'The answer is {}.', 'So the answer is {}.', 'Therefore, the answer is {}.', 'Thus the answer is: {}', 'Hence, the final answer is: the answer is {}.',
    '**The answer is {}.**', '**Final Answer:** {}', '**Final answer: {}**', '✅ Final Answer: {}', '### Final Answer: {}', '\n\n### Final Answer\n\nThe answer is {}.',
    '\n\n---\n\n**Answer:** {}', '\n#### {}', '\n> Answer: {}', '\n- **Answer:** {}', '\n3. **Final Answer:** {}', 'So we know that the answer is {}.',
    'In conclusion, the answer is {}.', 'Now: The answer is {}.', '*Answer:* {}', '\n## Conclusion\nSo the answer is {}.', '"The answer is {}."', '\n__Answer__\nThe answer is {}.']


@pytest.mark.parametrize('kind, choices, gold, stated, taught', WRITTEN)
def test_what_is_taught_is_what_was_written(kind, choices, gold, stated, taught):
    problem, reasoning = Problem('p', 'Which one is it?', gold, kind, choices), 'First we **look** at it. Then we count: 5 and 6.'
    for ending in ENDINGS:
        if kind == 'text' and ending.endswith('"'): continue  # a quotation mark may belong to a text
        text = f'{reasoning}{"" if ending.startswith(chr(10)) else " "}{ending.format(stated)}'
        read = ZeroShotCoT().parse(text, problem)
        rationale = Rationale('p', text, read.value)
        [example] = ZeroShotCoT().examples(problem, [rationale])
        assert example.target == f'{reasoning} The answer is {taught}.', text
        again = ZeroShotCoT().parse(example.target, problem)
        assert again.strict and again.value == read.value
        for format, target in ((AnswerOnly('teacher'), f'The answer is {taught}.'), (StepByStep(0.5, 'teacher'), taught[4:] if choices == PLACES else taught)):
            label = format.examples(problem, [rationale])[0]
            assert label.target == target and format.parse(label.target, problem).value == read.value
        assert [e.target for e in examples_from(StepByStep(0.0), [problem], [rationale])] == [reasoning]


@pytest.mark.parametrize('text, chain, reasoning', [
    ('Ann has 42 apples, so the answer is 42.', 'Ann has 42 apples, so the answer is 42.', 'Ann has 42 apples.'),
    ('We add. Since 40 + 2 = 42, **the answer is 42**.', 'We add. Since 40 + 2 = 42, the answer is 42.', 'We add. Since 40 + 2 = 42.'),
    ('**Since 40 + 2 = 42, the answer is 42.**', 'Since 40 + 2 = 42, the answer is 42.', 'Since 40 + 2 = 42.'),
    ('**40 + 2 = 42**\n**Answer: 42**', '**40 + 2 = 42** The answer is 42.', '**40 + 2 = 42**'),
    ('40 + 2 = 42\n#### 42', '40 + 2 = 42 The answer is 42.', '40 + 2 = 42'), ('42 🍎\nAnswer: 42', '42 🍎 The answer is 42.', '42 🍎'),
    ('Then\n42.\nThe answer is 42.', 'Then\n42. The answer is 42.', 'Then\n42.'), ('- 40\n- 2\n- The answer is 42', '- 40\n- 2 The answer is 42.', '- 40\n- 2'),
    ('Answer: 42', 'The answer is 42.', ''), ('**Answer**\n\n#### 42', 'The answer is 42.', ''), ('It is 42', 'It is 42 The answer is 42.', 'It is 42')])
def test_reasoning_stays_as_it_was_written(text, chain, reasoning):
    problem, rationale = Problem('p', 'How many?', '42'), Rationale('p', text, '42')
    assert chain_text(problem, rationale) == chain
    assert [e.target for e in StepByStep(0.0).examples(problem, [rationale]) if e.objective == 'rationale'] == ([reasoning] if reasoning else [])


def test_an_answer_that_the_text_does_not_state_is_taught_as_gold_or_as_a_decimal():
    for gold, taught in (('70.40', '70.40'), ('3', '70.4'), ('', '70.4')):
        assert AnswerOnly('teacher').examples(Problem('p', 'q', gold), [Rationale('p', 'I forgot.', '352/5')])[0].target == f'The answer is {taught}.'
    assert AnswerOnly('teacher').examples(Problem('p', 'q'), [Rationale('p', '', '1/3')])[0].target == 'The answer is 1/3.'


@given(st.integers(0, 10**7), st.integers(0, 4), st.sampled_from(ENDINGS), st.sampled_from(['{}', '${}', '{} apples', '**{}**', '€{} each']))
@settings(max_examples=200, deadline=None)
def test_no_decimal_is_ever_rewritten(units, places, ending, stated):
    number = f'{units / 10**places:.{places}f}'
    problem, text = Problem('p', 'How much?', number), f'We count on. {ending.format(stated.format(number))}'
    read = ZeroShotCoT().parse(text, problem)
    [example] = ZeroShotCoT().examples(problem, [Rationale('p', text, read.value)])
    assert re.fullmatch(rf'We count on\. The answer is [$€]?{re.escape(number)}\.', example.target)


@given(st.text(max_size=60), st.sampled_from(ENDINGS))
@settings(max_examples=200, deadline=None)
def test_any_text_splits_and_nothing_is_invented(text, ending):
    rationale = f'{text}{ending.format(42)}'
    reasoning, _ = split_reasoning(rationale)
    chain = chain_text(Problem('p', 'q', '42'), Rationale('p', rationale, '42'))
    assert chain.startswith(reasoning) and chain.endswith('42.')
    if '*' not in rationale: assert reasoning in rationale


@pytest.mark.parametrize('text', ['*' * 50_000, ' ' * 50_000, '- ' * 25_000, 'so ' * 20_000, '# ' * 25_000, '1. ' * 20_000, '\n' * 50_000, '**\n' * 20_000, ': ' * 25_000, 'a. ' * 20_000, '"(' * 25_000])
def test_hostile_texts_are_split_in_no_time(text):
    began = time.monotonic()
    for end in ('x The answer is 42.', 'Answer: 42'): split_reasoning(text + end)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize('text, taught', [
    ('6 * 7 = 42.\n\n\\boxed{42}', '42'), ('6 * 7 = 42, so\n$$\\boxed{42}$$', '42'), ('We get 6 * 7 = 42', '42'), ('We pay 5 * 0.5 = $2.50', '$2.50')])
def test_an_answer_without_a_marker_is_taught_without_the_reasoning_before_it(text, taught):
    problem = Problem('a', 'How many?', '42' if '42' in text else '2.5')
    read = AnswerOnly().parse(text, problem)
    rationale = Rationale('a', text, read.value, True)
    assert StepByStep(labels='teacher').examples(problem, [rationale])[0].target == taught
    assert ZeroShotCoT().examples(problem, [rationale])[0].target.endswith(f' The answer is {taught}.')
