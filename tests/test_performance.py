"Every table of the performance page follows from its records"
import json
from pathlib import Path

import pytest

from cotkit.evaluation.evaluate import Evaluation, compare_seeds, summarise
from cotkit.data.records import read_records

RECORDS = Path(__file__).resolve().parent.parent/'nbs'/'explanations'/'records'
RUNS = read_records(RECORDS/'demo.jsonl')
STUDENTS = ('label_only', 'step_by_step', 'chain_of_thought')


def evaluations(student, split):
    return [e for run in RUNS for row in run.results['evaluations'] for e in [Evaluation.from_summary(row)] if (e.name, e.split) == (student, split)]


def test_the_runs_differ_in_their_seed_alone():
    assert sorted(run.seed for run in RUNS) == [3, 4, 5]
    assert len({json.dumps({**run.config, 'seed': None}, sort_keys=True) for run in RUNS}) == 1
    assert all(run.git['commit'] and run.hardware['cores'] for run in RUNS)


@pytest.mark.parametrize('run', RUNS, ids=lambda run: f'seed {run.seed}')
def test_accuracies_are_those_of_the_items(run):
    for row in run.results['evaluations']:
        accuracy = Evaluation.from_summary(row).accuracy.to_dict()
        assert {k: row[k] for k in accuracy} == accuracy
        assert row['n'] == run.config['test']


def test_the_claim_of_the_demo():
    "At least 80 % in distribution and 40 points before label-only, with every seed"
    cot, label = (evaluations(name, 'test') for name in ('chain_of_thought', 'label_only'))
    assert len(cot) == len(label) == 3
    for one, other in zip(cot, label):
        assert one.accuracy.value >= 0.8 and one.accuracy.value - other.accuracy.value >= 0.4
    assert compare_seeds(cot, label).low > 0.4


def test_the_page_shows_these_numbers():
    page = (RECORDS.parent/'performance.ipynb').read_text(encoding='utf-8')
    for student in STUDENTS:
        for split in ('test', 'longer', 'unseen_phrasing', 'distractors'):
            assert str(summarise(evaluations(student, split))) in page
    home = (RECORDS.parent.parent/'index.ipynb').read_text(encoding='utf-8')
    assert 'image/png' in home


def test_the_demo_takes_less_than_five_minutes():
    "Measured when the records were made, on two cores"
    assert all(sum(run.seconds.values()) < 300 for run in RUNS)
