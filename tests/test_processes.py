"Several processes: the same losses and weights as one, however a step is divided"
import json, os, socket, subprocess, sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cotkit.training.checkpoints import last_checkpoint, read_history
from test_distill import run

TRAIN = '''
import json, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_distill import Stop, make_student, run
import torch

for name, job in json.loads(sys.argv[1]).items():
    student, cut = make_student(job.pop('arch', 'causal')), job.pop('cut', None)
    for module in student.model.modules():
        if isinstance(module, torch.nn.Dropout): module.p = job.get('dropout', 0)
    job.pop('dropout', None)
    try: run(Path({folder!r})/name, student=student, callbacks=[Stop(cut)] if cut else [], **job)
    except KeyboardInterrupt: pass
'''


def launch(folder, jobs):
    "Run the jobs one after another with `accelerate launch`, on two processes"
    (folder/'train.py').write_text(TRAIN.format(tests=os.path.dirname(__file__), folder=str(folder)))
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    command = [Path(sys.executable).with_name('accelerate'), 'launch', '--multi_gpu', '--num_processes', '2', '--num_machines', '1', '--mixed_precision', 'no',
               '--dynamo_backend', 'no', '--main_process_port', str(port), folder/'train.py', json.dumps(jobs)]
    ran = subprocess.run(command, env={**os.environ, 'ACCELERATE_USE_CPU': 'true', 'OMP_NUM_THREADS': '1'}, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr[-3000:]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "48 rows; 10 in a step, so that the last step of an epoch has 8 and the two processes get 5 and 3 of them"
    folder = tmp_path_factory.mktemp('processes')
    launch(folder, {'two': dict(batch_size=5), 'two-idle': dict(batch_size=11), 'two-seq2seq': dict(batch_size=3, gradient_accumulation_steps=2, arch='seq2seq'),
                    'two-dropout': dict(batch_size=5, dropout=0.1, arch='seq2seq'), 'cut': dict(batch_size=5, dropout=0.1, cut=9, arch='seq2seq'), 'moved': dict(batch_size=5, cut=9)})
    launch(folder, {'cut': dict(batch_size=5, dropout=0.1, resume=True, arch='seq2seq')})
    return folder


def assert_same(a, b):
    one, other = read_history(a), read_history(b)
    assert [row['step'] for row in one] == [row['step'] for row in other] == list(range(1, 13))
    for x, y in zip(one, other):
        assert x.keys() == y.keys()
        assert {k: x[k] for k in x} == pytest.approx(y, rel=2e-5, abs=1e-7)
    assert {'label_loss', 'rationale_loss', 'eval_label_loss', 'eval_rationale_loss', 'eval_loss'} <= one[-1].keys()
    for name, weight in load_file(a/'student'/'model.safetensors').items():
        torch.testing.assert_close(weight, load_file(b/'student'/'model.safetensors')[name], rtol=1e-4, atol=1e-5)


def test_two_processes_learn_what_one_learns(folder, tmp_path):
    run(tmp_path/'one', batch_size=10)
    assert_same(folder/'two', tmp_path/'one')


def test_a_process_without_rows_at_the_end_of_an_epoch(folder, tmp_path):
    "22 rows in a step leave 4, all of them for the first process"
    run(tmp_path/'one', batch_size=22)
    assert_same(folder/'two-idle', tmp_path/'one')


def test_an_encoder_decoder_whose_steps_are_accumulated(folder, tmp_path):
    run(tmp_path/'one', arch='seq2seq', batch_size=12)
    assert_same(folder/'two-seq2seq', tmp_path/'one')


def test_accumulation_in_one_process(folder, tmp_path):
    "The ragged last step of an epoch included: 5 and 3 rows in place of 8"
    run(tmp_path/'accumulated', batch_size=5, gradient_accumulation_steps=2)
    assert_same(folder/'two', tmp_path/'accumulated')


def test_resumed_on_two_processes(folder):
    "To the bit, dropout included: each process has its own random numbers in the checkpoint"
    assert read_history(folder/'cut') == read_history(folder/'two-dropout')
    weights = [load_file(folder/name/'student'/'model.safetensors') for name in ('cut', 'two-dropout')]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    files = json.loads((last_checkpoint(folder/'cut')/'cotkit_run.json').read_text())['files']
    assert {'rng_state_0.pth', 'rng_state_1.pth'} <= files.keys()


def test_resumed_on_one_process_what_two_began(folder):
    assert not (folder/'moved'/'history.jsonl').exists() and last_checkpoint(folder/'moved').name == 'checkpoint-8'
    run(folder/'moved', batch_size=10, resume=True)
    assert_same(folder/'moved', folder/'two')
