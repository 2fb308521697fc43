"The main job, as a newcomer runs it: its promise is its test"
import json
import subprocess
import sys
from pathlib import Path

import pytest

from cotkit.data.core import CotkitError
from cotkit.app.demo import STUDENTS, DemoSettings, run_demo
from cotkit.data.records import RunRecord
from cotkit.models.students import Student
from cotkit.data.word_problems import OUT_OF_DISTRIBUTION


@pytest.fixture(scope='module')
def demo(tmp_path_factory):
    "`cotkit demo` with its defaults but for smaller test sets: folder, last line, standard error"
    folder = tmp_path_factory.mktemp('demo')
    ran = subprocess.run([Path(sys.executable).parent/'cotkit', 'demo', '--out', folder, '--test', '200'], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return folder, json.loads(ran.stdout.splitlines()[-1]), ran.stderr


def test_the_last_line_says_it_all(demo):
    folder, result, _ = demo
    assert set(result) == {'teacher', *STUDENTS, 'out_of_distribution', 'n', 'seconds', 'report'}
    assert set(result['out_of_distribution']) == set(OUT_OF_DISTRIBUTION)
    assert all(set(o) == set(STUDENTS) and all(0 <= v <= 1 for v in o.values()) for o in result['out_of_distribution'].values())
    assert Path(result['report']).is_file() and result['n'] == 200


def test_who_reasons_wins(demo):
    "The promise: at least 80 % in distribution, and 40 points before answers alone"
    _, result, _ = demo
    assert 0.77 < result['teacher'] < 0.83
    assert result['chain_of_thought'] >= 0.8
    assert result['chain_of_thought'] - result['label_only'] >= 0.4


def test_progress_is_visible(demo):
    _, _, err = demo
    assert all(stage in err for stage in ('collect', 'distill', 'evaluate'))


def test_the_record_and_the_students_are_there(demo):
    folder, result, _ = demo
    record = RunRecord.load(folder/'record.json')
    rows = {(row['name'], row['split']): row for row in record.results['evaluations']}
    assert len(rows) == len(STUDENTS)*4
    for name in STUDENTS:
        assert rows[name, 'test']['accuracy'] == result[name]
        assert Student.load(folder/'students'/name/'student').arch == 'causal'


def test_a_worker_that_fails_ends_the_run(tmp_path):
    "The error reaches the person, in one line, and no result is made up"
    with pytest.raises(CotkitError, match='gigantic'):
        run_demo(tmp_path, DemoSettings(size='gigantic', train=50, validation=5, test=5, max_steps=1), progress=False)
    assert not (tmp_path/'record.json').exists() and not (tmp_path/'report.html').exists()
