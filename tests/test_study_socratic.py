"The study of Socratic distillation: its records are whole, every table and verdict follows from them, and a run is what it says"
import json
import os
import re
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from cotkit.app.study import after_holm, estimate_text, p_text, verdict
from cotkit.data.core import Rationale
from cotkit.data.formats import ZeroShotCoT, examples_from, gold_rationale
from cotkit.data.records import read_records
from cotkit.data.socratic_formats import Decomposer, Solver, Unified
from cotkit.evaluation.questions import error_share
from cotkit.evaluation.statistics import mean_estimate, paired_difference
from cotkit.papers import socratic_distillation as study
from shown import shown_text

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT/'nbs'/'papers'/'socratic_distillation.ipynb'
RECORDS = ROOT/'nbs'/'papers'/'records'/'socratic_distillation.jsonl'
REAL = RECORDS.with_name('socratic_distillation_real.jsonl')
DATA = Path(os.environ.get('COTKIT_DATA') or ROOT.parent/'shared'/'data')
SIZES = ('small', 'medium', 'large')
USUAL = json.loads(json.dumps(asdict(study.Settings())))
SMALL = study.Settings(problems=30, test=5, max_steps=3, batch_size=4, stories=40, start_steps=2, max_new_tokens=24)


@pytest.fixture(scope='module')
def records(): return read_records(RECORDS)


@pytest.fixture(scope='module')
def shown(): return shown_text(NOTEBOOK, prose=True)


def runs(records, method, size, **changed):
    settings = {**USUAL, **changed}
    return {r.seed: r.results for r in records if r.config == {'method': method, 'size': size, 'seed': r.seed, 'settings': settings}}


def taken(records, method, split, sizes=SIZES, seeds=None, **changed):
    "(seeds, problems), averaged over sizes, straight from the file"
    found = [runs(records, method, size, **changed) for size in sizes]
    seeds = sorted(set.intersection(*map(set, found))) if seeds is None else seeds
    return np.mean([[list(map(int, each[seed]['items'][split])) for seed in seeds] for each in found], 0)


# Records

def test_the_primary_contrast_has_five_seeds_at_three_sizes(records):
    keys = Counter(json.dumps(r.config, sort_keys=True) for r in records)
    assert set(keys.values()) == {1}
    wanted = {json.dumps(asdict(cell), sort_keys=True) for part in study.study_parts().values() for cell in part}
    assert set(keys) <= wanted
    for method in ('chain-of-thought', 'unified'):
        for size in SIZES: assert sorted(runs(records, method, size)) == [0, 1, 2, 3, 4]


def test_every_record_is_whole(records):
    for r in records:
        splits = {'test', 'longer'} | {f'longer {kind}' for kind in ('gold', 'shuffled', 'none') if r.config['method'] == 'iterative'}
        assert set(r.results['items']) == set(r.results['tokens']) == splits
        assert all(re.fullmatch('[01]{200}', o) for o in r.results['items'].values())
        assert len(r.results['parameters']) == len(r.results['examples']) == 1 + (r.config['method'] == 'iterative')
        assert set(r.seconds) == {'prepare', 'train', 'evaluate'} and not r.git['dirty'] and r.seed == r.config['seed']


def test_runs_of_a_seed_had_the_same_problems(records):
    by_seed = {}
    for r in records: assert by_seed.setdefault(r.seed, r.data) == r.data
    assert len({json.dumps(o) for o in by_seed.values()}) == len(by_seed)
    assert by_seed[0] == {'word_problems': study.study_task(study.Settings(), 0).fingerprint()}


def test_sizes_double(records):
    one = [runs(records, 'unified', size)[0]['parameters'][0] for size in SIZES]
    assert all(1.8 < b / a < 2.2 for a, b in zip(one, one[1:]))
    for size, n in zip(SIZES, one):
        for method in study.METHODS:
            for found in runs(records, method, size).values(): assert set(found['parameters']) == {n}


# The page

def test_every_verdict_follows_from_the_records(records, shown):
    claims = study.Results(records).claims()
    assert len(claims) == 9 and '(primary)' in claims[0].text
    for (number, text, first, second), claim, (p, said) in zip(study.COMPARISONS, claims, after_holm(claims)):
        seeds = sorted(set.intersection(*(set(runs(records, m, size)) for m, _, sizes in (first, second) for size in sizes)))
        difference = paired_difference(*(taken(records, m, split, sizes, seeds) for m, split, sizes in (first, second)))
        assert estimate_text(difference) == str(claim) and len(seeds) >= 3
        row = f"{number} {text} {estimate_text(difference)} {verdict('above', difference)} {p_text(claim.p)} {p_text(p)} {said}"
        assert row in shown


def test_the_table_of_accuracies_is_the_records(records, shown):
    for split in TITLES:
        for method, name in NAMES.items():
            cells = ' '.join(estimate_text(mean_estimate(taken(records, method, split, [size]))) for size in SIZES)
            assert f'{name} {split} {cells}' in shown


def test_the_decomposers_share_is_the_records(records, shown):
    for size in SIZES:
        gold, own = (taken(records, 'iterative', split, [size]) for split in ('longer gold', 'longer'))
        many = [np.array([list(map(int, o['as_many'][split])) for _, o in sorted(runs(records, 'iterative', size).items())]) for split in ('test', 'longer')]
        assert f'{size} {estimate_text(error_share(gold, own))} ' + ' '.join(estimate_text(mean_estimate(o)) for o in many) in shown


def test_the_dialogue_is_the_records(records, shown):
    for question, solution in runs(records, 'iterative', 'large')[0]['dialogue']: assert f'{question} {solution}' in shown
    kept = [len(r.results['dialogue']) for r in records if 'dialogue' in r.results]
    assert len(kept) == 33 and max(kept) == 4 and len(study.study_task(study.Settings())['longer'][0].subquestions) == 6


NAMES = {'unified': 'Socratic, unified', 'iterative': 'Socratic, two students', 'chain-of-thought': 'chain of thought',
         'restated': 'as many tokens', 'answer-only': 'answer-only'}
TITLES = {'test': '2 to 4 steps, as in training', 'longer': '5 and 6 steps'}


def test_the_table_of_tokens_is_the_records(records, shown):
    for method, name in NAMES.items():
        assert f'{name} ' + ' '.join(f"{np.mean([o['tokens']['longer'] for o in runs(records, method, size).values()]):.0f}" for size in SIZES) in shown


def test_longer_training_is_the_records(records, shown):
    for split, title in TITLES.items():
        chain, unified = (taken(records, m, split, ['medium'], max_steps=1500) for m in ('chain-of-thought', 'unified'))
        assert chain.shape == unified.shape and len(chain) >= 3
        assert f'{title} {estimate_text(mean_estimate(chain))} {estimate_text(mean_estimate(unified))} {estimate_text(paired_difference(unified, chain))}' in shown


def by_the_end(problem): return tuple(problem.meta['program'].split('; ')[-2:])


def test_the_guess_by_the_end_and_the_problems_that_it_gets_wrong(records, shown):
    task, counts = study.study_task(study.Settings()), {}
    for p in task['train']: counts.setdefault(by_the_end(p), Counter())[p.answer] += 1
    for split in TITLES:
        wrong = np.array([by_the_end(p) not in counts or counts[by_the_end(p)].most_common(1)[0][0] != p.answer for p in task[split]])
        assert f'{100 * (1 - wrong.mean()):.1f} %' in shown
        for method, name in NAMES.items():
            cells = ' '.join(estimate_text(mean_estimate(taken(records, method, split, [size])[:, wrong])) for size in SIZES)
            assert f'{name} {split} {wrong.sum()} {cells}' in shown


def test_two_runs_made_again_came_out_as_before_and_say_where_chains_end(records, shown):
    again = read_records(RECORDS.with_name('socratic_distillation_lengths.jsonl'))
    assert [r.config['method'] for r in again] == ['chain-of-thought', 'unified']
    for r in again:
        assert r.results['items'] == runs(records, r.config['method'], 'medium')[0]['items']
        counts = r.results['steps']['longer']
        assert sum(counts.values()) == 200 and f"{NAMES[r.config['method']]} " + ' '.join(str(counts.get(str(n), 0)) for n in range(10)) in shown
    assert again[0].results['steps']['longer'] == {'3': 25, '4': 175} and sum(n for k, n in again[1].results['steps']['longer'].items() if int(k) > 4) == 15


@pytest.mark.skipif(not (DATA/'socratic').is_dir(), reason='the shared data are not here')
def test_questions_of_real_data_are_measured_again():
    [kept] = read_records(REAL)
    for row, again in zip(kept.results['rows'], study.real_questions(DATA), strict=True):
        assert {k: v for k, v in row.items() if not isinstance(v, float)} == {k: v for k, v in again.items() if not isinstance(v, float)}
        assert all(row[k] == pytest.approx(v) for k, v in again.items() if isinstance(v, float))
    bart = kept.results['rows'][0]
    assert (bart['n'], round(bart['count'], 3), round(bart['gold_count'], 3), bart['same_count']) == (229, 2.009, 2.943, 61)


def test_the_page_shows_the_questions_of_real_data(shown):
    [kept] = read_records(REAL)
    for row in kept.results['rows']:
        assert f"{row['data']} {row['name']} {row['n']} {row['bleu']:.1f} {row['chrf']:.1f} {row['count']:.3f} {row['gold_count']:.3f} {row['same_count']}" in shown


# The design

def test_no_program_is_trained_on_and_tested():
    task = study.study_task(study.Settings(problems=500, test=50), 3)
    programs = {split: {p.meta['program'] for p in task[split]} for split in task.splits}
    for split in ('validation', 'test', 'longer validation', 'longer'):
        assert len(programs[split]) == 50 and not any(programs[split] & programs[o] for o in task.splits if o != split)
    assert {len(p.gold_steps) for p in task['longer']} == {5, 6} and {len(p.gold_steps) for p in task['test']} == {2, 3, 4}


def test_a_start_sees_no_sub_question_and_no_chain():
    from cotkit.data.word_problems import word_problems
    for problem in word_problems(60, 5, (1, 6), 10):
        rows = study.story_steps(problem)
        assert sum(e.target.count(' = ') for e in rows) == len(problem.gold_steps)
        for e in rows: assert not any(q in e.target for q in problem.subquestions) and '**' not in e.input + e.target


def test_restated_has_as_many_tokens_and_no_decomposition():
    problems = study.study_task(study.Settings(problems=300, test=20))['train']
    restated, unified, chain = (examples_from(f, problems, gold=True) for f in (study.Restated(), Unified(), ZeroShotCoT()))
    words = [sum(len(re.findall(r'\w+|[^\w\s]', e.target)) for e in rows) for rows in (restated, unified, chain)]
    assert 0.9 < words[0] / words[1] < 1.1 and words[1] > 1.5 * words[2]
    for problem, e in zip(problems, restated):
        assert e.target.count('**') == len(problem.gold_steps) and e.input == Unified().prompt(problem)
        assert not any(q in e.target for q in problem.subquestions[:-1] if q != problem.subquestions[-1])
    assert study.Restated().examples(problems[0], [Rationale(problems[0].id, 'No steps.')]) == []


def test_each_method_is_asked_as_it_is_taught():
    assert study.FORMATS_OF['iterative'] == (Decomposer(order='first'), Solver()) and set(study.FORMATS_OF) == set(study.METHODS)
    problem = study.study_task(study.Settings(problems=20, test=5))['train'][0]
    for method, formats in study.FORMATS_OF.items():
        for f in formats: assert f.examples(problem, [gold_rationale(problem)])[0].input == f.prompt(problem, *([(), problem.subquestions[0]] if method == 'iterative' else []))


@pytest.mark.parametrize('method', ('unified', 'iterative'))
def test_a_run_is_repeatable_and_what_its_cell_says(tmp_path, method):
    cell = study.Cell(method, 'small', 1, SMALL)
    one, two = (study.run(cell, tmp_path) for _ in range(2))
    assert one.config == json.loads(json.dumps(asdict(cell))) or one.config == cell
    assert one.results == two.results and one.data == two.data
    assert all(re.fullmatch('[01]{5}', o) for o in one.results['items'].values())
    assert len(list(tmp_path.glob('start-small-*'))) == 1
