"Formats: the place of step-by-step's marker, and settings that are read back"
import json

import pytest

from cotkit.data.core import CotkitError, Example, Problem, Rationale, question_text
from cotkit.data.formats import (FORMATS, AnswerOnly, FewShotAnswerOnly, FewShotCoT, Format, Mixture, StepByStep, ZeroShotCoT,
                                 check_demonstrations, check_disjoint, contaminated, demonstrations, examples_from,
                                 format_from_dict, gold_rationale, register_format)
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
