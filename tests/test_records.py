"Run records: they survive the disk, crashes and company"
import json
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cotkit.data.core import CotkitError
from cotkit.data.records import RunRecord, Stages, append_record, git_commit, hardware, read_records, versions


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
