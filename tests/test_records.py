"Run records: they survive the disk, crashes and company; sweeps go on where they stopped"
import json
import math
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cotkit.data.core import CotkitError
from cotkit.data.records import RunRecord, Stages, append_record, git_commit, grid, hardware, read_records, sweep, versions


def test_record_survives_the_disk(tmp_path):
    record = RunRecord({'size': 'tiny', 'path': tmp_path, 'nested': {'HF_TOKEN': 'hf_x', 'max_tokens': 5, 'password': 'x', 'key_env': 'OPENAI_API_KEY'}}, seed=3,
                       data={'word_problems': 'abc'}, seconds={'train': 1.5}, results={'accuracy': 0.5, 'name': 'Zoë'})
    again = RunRecord.load(record.save(tmp_path / 'runs' / 'run.json'))
    assert again == record and os.listdir(tmp_path / 'runs') == ['run.json']
    assert record.config['nested'] == {'HF_TOKEN': '[removed]', 'max_tokens': 5, 'password': '[removed]', 'key_env': 'OPENAI_API_KEY'}
    assert record.versions['python'] == '.'.join(map(str, sys.version_info[:3])) and 'torch' in record.versions
    assert record.hardware['cores'] >= 1 and record.hardware['processor']


def test_record_refuses_what_json_cannot_hold(tmp_path):
    with pytest.raises(CotkitError, match='cannot hold'): RunRecord({}, results={'model': object()}).save(tmp_path / 'run.json')
    assert os.listdir(tmp_path) == []


def test_a_diverged_run_has_a_record_too(tmp_path):
    record = RunRecord({'sizes': (1, 2)}, results={'loss': math.nan, 'losses': [1.0, -math.inf], 'steps': np.int64(3), 'rate': np.float32(0.5)})
    again = RunRecord.load(record.save(tmp_path / 'run.json'))
    assert again == record and again.results == {'loss': 'nan', 'losses': [1.0, '-inf'], 'steps': 3, 'rate': 0.5} and again.config == {'sizes': [1, 2]}


@pytest.mark.parametrize('text, problem', [
    ('{', 'not valid JSON'), ('[]', 'config'), ('{"seed": 1}', 'config'), ('{"config": {}, "schema": 2}', 'newer'), ('{"config": {}}', 'schema'),
    ('{"config": {}, "schema": 1, "colour": "red"}', 'no run record has'), ('{"config": {}, "schema": 1, "seconds": 3}', 'seconds'), ('\udcff', 'not valid JSON')])
def test_bad_records_are_explained(tmp_path, text, problem):
    path = tmp_path / 'run.json'
    path.write_bytes(text.encode('utf-8', 'surrogateescape'))
    with pytest.raises(CotkitError, match=problem) as error: RunRecord.load(path)
    assert str(path) in str(error.value)


def test_missing_record(tmp_path):
    with pytest.raises(CotkitError, match='no such run record'): RunRecord.load(tmp_path / 'run.json')


def test_records_are_appended_by_many(tmp_path):
    path = tmp_path / 'runs.jsonl'
    one = RunRecord({'filler': 'x' * 20_000})
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda seed: append_record(path, RunRecord(one.config, seed=seed, versions={}, git={}, hardware={})), range(40)))
    assert sorted(r.seed for r in read_records(path)) == list(range(40))


def test_a_torn_line_is_named_and_spoils_nothing(tmp_path):
    path = tmp_path / 'runs.jsonl'
    append_record(path, RunRecord({}, seed=1))
    with path.open('a') as f: f.write('{"config": {"half')
    append_record(path, RunRecord({}, seed=2))
    assert json.loads(path.read_text().splitlines()[-1])['seed'] == 2
    with pytest.raises(CotkitError) as error: read_records(path)
    assert error.value.line == 2


def test_stages_add_up_and_count_failures():
    stages = Stages()
    with stages('train'): pass
    before = stages.seconds['train']
    with pytest.raises(KeyError):
        with stages('train'): raise KeyError
    assert stages.seconds['train'] > before and list(stages.seconds) == ['train']


def test_commit_of_a_checkout(tmp_path):
    assert git_commit(tmp_path) == {} or git_commit(tmp_path)['commit'] != ''
    run = lambda *words: subprocess.run(['git', '-c', 'user.name=a', '-c', 'user.email=a@b', *words], cwd=tmp_path, check=True, capture_output=True)
    run('init', '-q')
    (tmp_path / 'file').write_text('one')
    run('add', 'file')
    run('commit', '-qm', 'first')
    assert len(git_commit(tmp_path)['commit']) == 40 and not git_commit(tmp_path)['dirty']
    (tmp_path / 'other').write_text('untracked')
    assert not git_commit(tmp_path)['dirty']
    (tmp_path / 'file').write_text('two')
    assert git_commit(tmp_path)['dirty']


def test_versions_and_hardware_are_json(): json.dumps([versions(), hardware()])


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
    program = ('import os, sys\nfrom cotkit.data.records import RunRecord, grid, sweep\n'
               'def run(config):\n    if config["number"] == 3 and len(sys.argv) > 2: os.kill(os.getpid(), 9)\n    return RunRecord(config)\n'
               'print(len(sweep(run, grid(number=range(6)), sys.argv[1], progress=False)))')
    first = subprocess.run([sys.executable, '-c', program, tmp_path/'runs.jsonl', 'die'], capture_output=True)
    assert first.returncode == -9 and len(read_records(tmp_path/'runs.jsonl')) == 3
    again = subprocess.run([sys.executable, '-c', program, tmp_path/'runs.jsonl'], capture_output=True, text=True, check=True)
    assert again.stdout.strip() == '6' and len(read_records(tmp_path/'runs.jsonl')) == 6
