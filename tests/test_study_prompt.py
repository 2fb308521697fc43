"Decomposition as a prompt: the page says what the record holds, and the comparison runs with any teacher"
from pathlib import Path

import pytest

from cotkit.data.core import Problem
from cotkit.data.decomposition import decomposition_fault, load_gsm8k_socratic
from cotkit.data.records import RunRecord, read_records
from cotkit.evaluation.evaluate import compare
from cotkit.papers.decomposition_prompt import compare_prompts, decomposed, prompt_record, recorded_evaluations
from cotkit.teachers.protocol import OracleTeacher
from shown import shown_text

ROOT = Path(__file__).resolve().parent.parent
RECORDS = read_records(ROOT/'nbs'/'papers'/'records'/'decomposition_prompt.jsonl')
FORMS = ['few-shot-answer-only', 'few-shot-cot', 'few-shot-socratic']


@pytest.mark.parametrize('record', RECORDS, ids=lambda r: r.config['prompt'])
def test_the_page_shows_the_record(record):
    shown, found = shown_text(ROOT/'nbs'/'papers'/'decomposition_prompt.ipynb'), recorded_evaluations(record)
    assert list(found) == FORMS
    for form, e in found.items():
        assert len({p.problem_id for p in e.predictions}) == len(e.predictions) == record.config['limit']
        tokens = round(sum(p.tokens for p in e.predictions) / len(e.predictions))
        assert f'{record.config["prompt"]} {form} {e.accuracy} {decomposed(e)} {e.unparsed} {e.truncated} {tokens}' in shown
    assert str(compare(found['few-shot-socratic'], found['few-shot-cot'])) in shown


@pytest.mark.parametrize('record', RECORDS, ids=lambda r: r.config['prompt'])
def test_decompositions_are_those_that_the_parser_has_no_fault_to_find_in(record):
    found = recorded_evaluations(record)
    for e in found.values():
        assert decomposed(e).correct == sum(not decomposition_fault(p.output) for p in e.predictions)
    assert decomposed(found['few-shot-answer-only']).correct == decomposed(found['few-shot-cot']).correct == 0


def test_any_teacher_is_compared_with_the_same_demonstrations(tmp_path):
    task = load_gsm8k_socratic(ROOT/'nbs'/'samples'/'tasks_gsm8k_socratic')
    shown, asked = task['train'], task['test']
    found = compare_prompts(OracleTeacher(asked), asked, shown, tmp_path/'store.sqlite')
    assert list(found) == FORMS and all(e.accuracy.correct == len(asked) for e in found.values())
    prompts = [e.strategy['format']['demonstrations'] for e in found.values()]
    assert all([d['problem']['id'] for d in each] == [p.id for p in shown] for each in prompts)
    again = recorded_evaluations(RunRecord.load(prompt_record(found, {'part': 'prompt'}, {}, {'all': 1.0}).save(tmp_path/'r.json')))
    assert {form: e.scores('exact_match') for form, e in again.items()} == {form: e.scores('exact_match') for form, e in found.items()}


def test_a_demonstration_without_questions_is_refused(tmp_path):
    bare = Problem('bare', 'What is 1 + 1?', '2', gold_steps=('1 + 1 = 2',))
    with pytest.raises(ValueError, match='no sub-questions to show'):
        compare_prompts(OracleTeacher([bare]), [bare], [bare], tmp_path/'store.sqlite')
