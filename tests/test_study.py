"Studies: grids of cells that processes share, claims that outlive nobody, one rule for verdicts, one command line"
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from cotkit.app.study import Claim, Study, after_holm, choose_cells, claim_p_value, digit_table, estimate_text, guess_accuracy, main, verdict
from cotkit.app.sweeps import Cache, Claims, content_hash, grid, process_start, sweep, this_host
from cotkit.data.core import CotkitError
from cotkit.data.records import RunRecord, append_record, read_records
from cotkit.evaluation.statistics import Estimate

ROOT = Path(__file__).resolve().parent.parent


# Sweeps in one process, or with workers

def test_a_grid_is_every_combination():
    assert grid(seed=(0, 1), size=('a', 'b')) == [{'seed': 0, 'size': 'a'}, {'seed': 0, 'size': 'b'}, {'seed': 1, 'size': 'a'}, {'seed': 1, 'size': 'b'}]
    assert grid() == [{}] and grid(seed=()) == []


def squared(config):
    "What the sweeps below run, also in other processes"
    if config.get('fails'): raise ValueError('this run fails')
    if config.get('slow'): time.sleep(1)
    return RunRecord(config, config['number'], results={'square': config['number'] ** 2, 'process': os.getpid()})


@pytest.mark.parametrize('workers', [1, 2])
def test_a_sweep_runs_each_config_once_and_in_order(tmp_path, workers):
    path, configs = tmp_path/'runs.jsonl', grid(number=range(5))
    first = sweep(squared, configs[:3], path, workers, progress=False)
    again = sweep(squared, configs[::-1], path, workers, progress=False)
    assert [r.results['square'] for r in again] == [16, 9, 4, 1, 0] and again[::-1][:3] == first
    assert len(read_records(path)) == 5
    if workers > 1: assert os.getpid() not in {r.results['process'] for r in again}


@pytest.mark.parametrize('workers', [1, 2])
def test_an_error_ends_a_sweep_and_keeps_what_was_finished(tmp_path, workers):
    path, configs = tmp_path/'runs.jsonl', [{'number': 1, 'slow': True}, {'number': 2, 'fails': True}, *grid(number=range(3, 40))]
    with pytest.raises(ValueError, match='this run fails'): sweep(squared, configs, path, workers, progress=False)
    done = [r.config['number'] for r in read_records(path)]
    assert 1 in done and len(done) < 30
    assert len(sweep(squared, [c for c in configs if 'fails' not in c], path, workers, progress=False)) == 38


def test_equal_configs_are_one_run(tmp_path):
    found = sweep(squared, [{'number': 2, 'size': (1, 2)}, {'size': [1, 2], 'number': 2}], tmp_path/'runs.jsonl', progress=False)
    assert found[0] == found[1] and len(read_records(tmp_path/'runs.jsonl')) == 1


def test_a_run_that_changes_its_config_is_refused(tmp_path):
    with pytest.raises(CotkitError, match='changed its config'):
        sweep(lambda config: RunRecord({**config, 'more': 1}), [{'number': 1}], tmp_path/'runs.jsonl', progress=False)


def test_a_killed_sweep_resumes(tmp_path):
    "kill -9 between two runs, in a process of its own"
    program = ('import os, sys\nfrom cotkit.app.sweeps import grid, sweep\nfrom cotkit.data.records import RunRecord\n'
               'def run(config):\n    if config["number"] == 3 and len(sys.argv) > 2: os.kill(os.getpid(), 9)\n    return RunRecord(config)\n'
               'print(len(sweep(run, grid(number=range(6)), sys.argv[1], progress=False)))')
    first = subprocess.run([sys.executable, '-c', program, tmp_path/'runs.jsonl', 'die'], capture_output=True)
    assert first.returncode == -9 and len(read_records(tmp_path/'runs.jsonl')) == 3
    again = subprocess.run([sys.executable, '-c', program, tmp_path/'runs.jsonl'], capture_output=True, text=True, check=True)
    assert again.stdout.strip() == '6' and len(read_records(tmp_path/'runs.jsonl')) == 6


def test_a_config_may_be_a_dataclass(tmp_path):
    def run(config): return RunRecord(config, results={'square': config.number ** 2})
    cells = [Number(1), Number(2, sizes=(1, 2))]
    assert [r.results['square'] for r in sweep(run, cells, tmp_path/'runs.jsonl', progress=False)] == [1, 4]
    assert sweep(None, cells, tmp_path/'runs.jsonl', progress=False)[1].config == {'number': 2, 'sizes': [1, 2], 'seed': 0}


@dataclass(frozen=True)
class Number:
    "A cell of the sweeps below"
    number: int
    sizes: tuple = ()
    seed: int = 0


def test_a_sweep_leaves_nothing_but_its_records(tmp_path):
    sweep(squared, grid(number=range(3)), tmp_path/'runs.jsonl', progress=False)
    assert os.listdir(tmp_path) == ['runs.jsonl']


def test_old_words_in_a_file_are_read_by_the_study_s_own_reader(tmp_path):
    append_record(tmp_path/'runs.jsonl', RunRecord({'old': 3}))
    def read(path): return [RunRecord({'number': r.config.get('old', r.config.get('number'))}, results=r.results) for r in read_records(path)]
    found = sweep(lambda config: RunRecord(config, results={'new': True}), grid(number=(3, 4)), tmp_path/'runs.jsonl', progress=False, read=read)
    assert [r.results for r in found] == [{}, {'new': True}]


# Processes that share one sweep

PROGRAM = """
import os, sys, time
from pathlib import Path
from cotkit.app.sweeps import grid, sweep
from cotkit.data.records import RunRecord

folder, name = Path(sys.argv[1]), sys.argv[2]

def run(config):
    with open(folder/'began', 'a') as log: log.write(f"{config['number']} {name}\\n")
    time.sleep(5 if name == 'slow' else 0.05)
    return RunRecord(config, results={'by': name})

sweep(run, grid(number=range(int(sys.argv[3]))), folder/'runs.jsonl', progress=False)
"""


def start(folder, name, cells): return subprocess.Popen([sys.executable, '-c', PROGRAM, str(folder), name, str(cells)], cwd=ROOT)


def began(folder): return [line.split() for line in (folder/'began').read_text().splitlines()] if (folder/'began').exists() else []


def wait_for(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, 'waited too long'
        time.sleep(0.02)


def test_two_processes_share_a_sweep_and_run_no_cell_twice(tmp_path):
    for process in [start(tmp_path, name, 40) for name in ('one', 'two')]: assert process.wait(120) == 0
    assert sorted(int(number) for number, _ in began(tmp_path)) == list(range(40))
    assert {name for _, name in began(tmp_path)} == {'one', 'two'}, 'both took part'
    assert sorted(r.config['number'] for r in read_records(tmp_path/'runs.jsonl')) == list(range(40))
    assert sorted(os.listdir(tmp_path)) == ['began', 'runs.jsonl'], 'who leaves last cleans up'


def test_the_cell_of_a_killed_process_is_run_by_the_other(tmp_path):
    slow = start(tmp_path, 'slow', 6)
    wait_for(lambda: began(tmp_path))
    other = start(tmp_path, 'other', 6)
    wait_for(lambda: len(began(tmp_path)) == 6)
    assert other.poll() is None, 'it waits for the cell that the slow one owns'
    slow.send_signal(signal.SIGKILL)
    slow.wait()
    assert other.wait(60) == 0
    runs = began(tmp_path)
    [lost] = [number for number, name in runs if name == 'slow']
    assert [number for number, _ in runs].count(lost) == 2 and len(runs) == 7
    assert sorted(r.config['number'] for r in read_records(tmp_path/'runs.jsonl')) == list(range(6))
    assert {r.results['by'] for r in read_records(tmp_path/'runs.jsonl')} == {'other'}


def slow_once(config):
    "The first run of number 0 hangs until its process is killed"
    mark = Path(config['folder'])/'pid'
    if config['number'] == 0 and not mark.exists():
        mark.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
    return RunRecord(config)


def test_a_killed_worker_costs_nothing_but_its_run(tmp_path):
    configs = grid(folder=[str(tmp_path)], number=range(6))
    assert len(sweep(slow_once, configs, tmp_path/'runs.jsonl', 2, progress=False)) == 6
    assert (tmp_path/'pid').exists() and len(read_records(tmp_path/'runs.jsonl')) == 6


def always_killed(config): os.kill(os.getpid(), signal.SIGKILL)


def test_when_all_workers_are_killed_the_sweep_says_so(tmp_path):
    with pytest.raises(CotkitError, match='4 cells have no result'):
        sweep(always_killed, grid(number=range(4)), tmp_path/'runs.jsonl', 2, progress=False)


# Claims

def test_a_claim_is_of_one_process_and_given_back(tmp_path):
    claims = Claims(tmp_path)
    with claims.claim('a') as first, claims.claim('a') as second, claims.claim('b') as other: assert (first, second, other) == (True, False, True)
    assert os.listdir(tmp_path) == []
    with pytest.raises(KeyError), claims.claim('a'): raise KeyError
    assert os.listdir(tmp_path) == []


def test_only_one_takes_a_dead_owner_s_claim_over(tmp_path):
    (tmp_path/'a.claim-000000').write_text(json.dumps({'host': this_host(), 'pid': 2 ** 30, 'start': '1'}))
    claims = Claims(tmp_path)
    with claims.claim('a') as first, claims.claim('a') as second: assert (first, second) == (True, False)
    assert (tmp_path/'a.claim-000000').exists(), 'a stale claim is not deleted by who takes over'


def test_a_process_id_that_was_given_away_again_is_no_owner(tmp_path):
    owner = {'host': this_host(), 'pid': os.getpid(), 'start': process_start(os.getpid())}
    (tmp_path/'a.claim-000000').write_text(json.dumps(owner))
    with Claims(tmp_path).claim('a') as mine: assert not mine
    (tmp_path/'a.claim-000000').write_text(json.dumps({**owner, 'start': '1'}))
    with Claims(tmp_path).claim('a') as mine: assert mine


@pytest.mark.parametrize('text', ['{"host": "elsewhere", "pid": 1, "start": "1"}', ''])
def test_an_owner_elsewhere_lives_as_long_as_its_heart_beats(tmp_path, text):
    "Also an owner that has not written its name yet"
    claim = tmp_path/'a.claim-000000'
    claim.write_text(text)
    with Claims(tmp_path, patience=60).claim('a') as mine: assert not mine
    os.utime(claim, (time.time() - 61,) * 2)
    with Claims(tmp_path, patience=60).claim('a') as mine: assert mine


def test_a_claim_is_touched_while_it_is_held(tmp_path):
    with Claims(tmp_path, patience=0.2).claim('a'):
        [claim] = tmp_path.iterdir()
        os.utime(claim, (0, 0))
        wait_for(lambda: claim.stat().st_mtime > 0, 5)


def test_a_zombie_is_dead():
    process = subprocess.Popen([sys.executable, '-c', ''])
    wait_for(lambda: process_start(process.pid) == '')
    process.wait()


# The cache

def test_what_is_kept_is_made_once_and_whole(tmp_path):
    cache = Cache(tmp_path/'cache')
    def fails(path):
        path.write_text('half')
        raise ValueError('interrupted')
    with pytest.raises(ValueError): cache.make('teacher', {'seed': 0}, fails)
    assert list(cache.folder.iterdir()) == []
    kept = cache.make('teacher', {'seed': 0}, lambda path: path.write_text('whole'))
    assert cache.make('teacher', {'seed': 0}, fails) == kept == cache.path('teacher', {'seed': 0}) and kept.read_text() == 'whole'
    assert cache.path('teacher', {'seed': 1}) != kept


MAKE = """
import sys, time
from pathlib import Path
from cotkit.app.sweeps import Cache

def build(path):
    time.sleep(0.5)
    path.mkdir()
    (path/'weights').write_text('w')
    with open(Path(sys.argv[1])/'built', 'a') as log: log.write('x')

print((Cache(Path(sys.argv[1])/'cache').make('teacher', {'size': 'tiny'}, build)/'weights').read_text())
"""


def test_two_processes_make_a_shared_thing_once(tmp_path):
    both = [subprocess.Popen([sys.executable, '-c', MAKE, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=60)[0].strip() for process in both] == ['w', 'w']
    assert (tmp_path/'built').read_text() == 'x'


def test_a_hash_counts_what_values_hold():
    assert content_hash({'a': 1, 'b': (1, 2)}) == content_hash({'b': [1, 2], 'a': 1}) != content_hash({'a': 1, 'b': (2, 1)})
    assert content_hash(Number(1)) == content_hash({'number': 1, 'sizes': [], 'seed': 0})
    assert content_hash({'size': 'tiny'}) == 'b740a272c88f48f9', 'another hash would orphan every cache and claim'


# Verdicts

def interval(low, high, difference=True): return Estimate((low + high) / 2, low, high, 100, difference=difference)


@pytest.mark.parametrize('rule, found, margin, expected', [
    ('above', [(0.01, 0.2)], 0, 'supported'), ('above', [(0.0, 0.2)], 0, 'undecided at this scale'), ('above', [(-0.1, 0.2)], 0, 'undecided at this scale'),
    ('above', [(-0.2, 0.0)], 0, 'undecided at this scale'), ('above', [(-0.2, -0.01)], 0, 'not supported'),
    ('above', [(0.01, 0.2), (-0.01, 0.2)], 0, 'undecided at this scale'), ('above', [(0.01, 0.2), (-0.2, -0.1)], 0, 'not supported'),
    ('above', [(0.01, 0.2), (0.3, 0.4)], 0, 'supported'),
    ('no worse', [(-0.02, 0.1)], 0.03, 'supported'), ('no worse', [(-0.04, 0.1)], 0.03, 'undecided at this scale'), ('no worse', [(-0.02, -0.01)], 0.03, 'not supported'),
    ('within', [(-0.02, 0.02)], 0.03, 'supported'), ('within', [(-0.04, 0.02)], 0.03, 'undecided at this scale'), ('within', [(0.031, 0.1)], 0.03, 'not supported'),
    ('within', [(-0.1, -0.031)], 0.03, 'not supported'),
    ('differs', [(-0.2, -0.1)], 0, 'supported'), ('differs', [(0.1, 0.2)], 0, 'supported'), ('differs', [(-0.1, 0.1)], 0, 'undecided at this scale')])
def test_the_rules(rule, found, margin, expected): assert verdict(rule, *(interval(*o) for o in found), margin=margin) == expected


def test_a_rule_needs_a_name_and_an_interval():
    for arguments in (('better', interval(0, 1)), ('above',)):
        with pytest.raises(CotkitError, match='above, no worse, within, differs'): verdict(*arguments)


def test_the_text_of_an_estimate():
    assert estimate_text(interval(-0.012, 0.1)) == '+4.4 [-1.2, +10.0]'
    assert estimate_text(interval(0.25, 0.5, difference=False)) == '37.5 [25.0, 50.0]' and estimate_text(interval(0.25, 0.5), 0) == '+38 [+25, +50]'


# The command line

@dataclass(frozen=True)
class Settings:
    "Of the study below"
    problems: int = 3  # how many
    sizes: tuple[str, ...] = ('nano', 'tiny') # of students


def numbered(config, cache):
    if config.number == 99: raise CotkitError('is 99', 'Less.', field='number')
    return RunRecord(config, config.seed, results={'cache': cache.name})


def parts(settings): return {'some': [Number(n, seed=s) for s in (0, 1) for n in range(settings.problems)], 'more': [Number(7, settings.sizes)]}


SMALL = Study('small', numbered, parts, Settings(), Settings(problems=5))


def numbers(path): return sorted((r.config['number'], r.seed) for r in read_records(path))


def test_the_command_line_runs_what_is_missing(tmp_path):
    out = ['--out', str(tmp_path/'runs.jsonl')]
    assert main(SMALL, [*out, '--cells', 'more']) == 0 and numbers(tmp_path/'runs.jsonl') == [(7, 0)]
    assert main(SMALL, [*out, '--seeds', '1']) == 0 and numbers(tmp_path/'runs.jsonl') == [(0, 1), (1, 1), (2, 1), (7, 0)]
    assert main(SMALL, out) == 0 and len(numbers(tmp_path/'runs.jsonl')) == 7
    assert {r.results['cache'] for r in read_records(tmp_path/'runs.jsonl')} == {'runs.cache'}
    assert main(SMALL, [*out, '--full-size', '--cells', '3', '4']) == 0 and numbers(tmp_path/'runs.jsonl')[5:] == [(2, 1), (3, 0), (4, 0), (7, 0)]
    assert main(SMALL, [*out, '--settings.problems', '9', '--cells', '8:9']) == 0 and (8, 0) in numbers(tmp_path/'runs.jsonl')


def test_the_command_line_refuses_what_is_not_there(tmp_path, capsys):
    out = ['--out', str(tmp_path/'runs.jsonl')]
    assert main(SMALL, [*out, '--cells', 'others']) == 1
    assert capsys.readouterr().err == 'error: field "cells": there is no part \'others\'. Parts: some, more; or places up to 6, such as 0:10.\n'
    assert main(SMALL, [*out, '--settings.problems', '100']) == 1 and 'is 99' in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended: main(SMALL, [*out, '--colour', 'red'])
    assert ended.value.code == 2


def test_ctrl_c_ends_with_130(tmp_path):
    def interrupted(config, cache): raise KeyboardInterrupt
    assert main(Study('small', interrupted, parts, Settings(), Settings()), ['--out', str(tmp_path/'runs.jsonl')]) == 130


def test_help_names_every_option_and_setting(capsys):
    with pytest.raises(SystemExit) as ended: main(SMALL, ['--help'])
    text = capsys.readouterr().out
    assert ended.value.code == 0 and all(option in text for option in ('--out', '--workers', '--cells', '--seeds', '--cache', '--full-size', '--settings.problems'))
    assert 'runs side by side' in text and 'how many' in text


@pytest.mark.parametrize('wanted, expected', [((), [0, 1, 2, 3]), (('b',), [2, 3]), (('0',), [0]), (('1:3',), [1, 2]), (('2:',), [2, 3]), ((':1',), [0]), (('b', '0'), [0, 2, 3])])
def test_the_cells_that_are_asked_for(wanted, expected): assert choose_cells({'a': [0, 1], 'b': [2, 3]}, wanted) == expected


# Claims over a page

def difference(value, low, high, freedom=20.0): return Estimate(value, low, high, 100, difference=True, freedom=freedom)


def test_holm_over_a_page_undecides_what_one_interval_decides():
    "p-values are those of the interval's own t-test; Holm's are pinned"
    sure, weak, none = difference(0.2, 0.1, 0.3), difference(0.1, 0.01, 0.19), difference(0.01, -0.1, 0.12)
    claims = [Claim('1', 'sure', {'': sure}), Claim('2', 'weak', {'': weak}), Claim('3', 'none', {'': none}), Claim('4', 'both', {'a': sure, 'b': weak})]
    assert [round(c.p, 4) for c in claims] == [0.0005, 0.0312, 0.8515, 0.0312]
    assert [c.verdict for c in claims] == ['supported', 'supported', 'undecided at this scale', 'supported']
    corrected, said = zip(*after_holm(claims))
    assert [round(p, 4) for p in corrected] == [0.0019, 0.0935, 0.8515, 0.0935]
    assert said == ('supported', *['undecided at this scale'] * 3)


@pytest.mark.parametrize('rule, margin', [('above', 0), ('no worse', 0.05), ('within', 0.15), ('differs', 0)])
def test_a_p_value_below_five_per_cent_is_a_decided_claim(rule, margin):
    "For a single interval the two say the same, whatever the rule"
    for value in (-0.3, -0.16, -0.12, -0.06, -0.03, 0.0, 0.02, 0.06, 0.1, 0.14, 0.3):
        found = difference(value, value - 0.05, value + 0.05)
        assert (claim_p_value(rule, found, margin=margin) < 0.05) == (verdict(rule, found, margin=margin) != 'undecided at this scale'), value


def test_one_of_several_intervals_against_a_claim_is_one_of_so_many():
    up, down = difference(0.2, 0.1, 0.3), difference(-0.1, -0.19, -0.01)
    assert claim_p_value('above', up, down) == pytest.approx(2 * claim_p_value('above', down)) and verdict('above', up, down) == 'not supported'
    assert claim_p_value('above', up, difference(-0.1, -0.2, -0.0, 0.0)) == 1, 'an interval that is not Student\'s decides nothing'


def test_digits_and_guesses():
    assert digit_table(['01', '11']).tolist() == [[0, 1], [1, 1]]
    with pytest.raises(CotkitError, match='same problems'): digit_table(['01', '1'])
    from cotkit.data.core import Problem
    train, test = ([Problem(str(i), f'q{i}', answer, 'number') for i, answer in enumerate(answers)] for answers in ('1123', '1131'))
    assert (guess_accuracy(train, test).correct, guess_accuracy(train, test).n) == (3, 4)
    assert guess_accuracy(train, test, lambda p: int(p.id) > 1).correct == 2, 'a guess for each group'
