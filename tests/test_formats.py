"Formats: the place of step-by-step's marker, and settings that are read back"
import json

import pytest

from cotkit.data.core import CotkitError, Problem, question_text
from cotkit.data.formats import Mixture, StepByStep, ZeroShotCoT, format_from_dict, gold_rationale
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
