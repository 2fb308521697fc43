"The command line: one whole run, what --json promises, and what bad input meets"
import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from loopback import Loopback, Stall, Status, reply

from cotkit.cli import COMMANDS, main
from cotkit.core import read_jsonl, write_jsonl
from cotkit.synthetic import word_problems

RAW = [{'id': p.id, 'question': p.question, 'answer': p.answer, 'steps': list(p.steps)} for p in word_problems(60, seed=5, steps=(1, 2))]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jsonl('data/train.jsonl', RAW[:40])
    write_jsonl('data/test.jsonl', RAW[40:])
    return tmp_path


@pytest.fixture
def cotkit(capsys):
    "Run one command line; gives the exit code, standard output and standard error"
    def run(line):
        try: code = main(line.split())
        except SystemExit as e: code = e.code
        out, err = capsys.readouterr()
        return code, out, err
    return run


def last(out): return json.loads(out.splitlines()[-1])


def visible(folder): return {str(p.relative_to(folder)) for p in folder.rglob('*') if p.is_file()}


@pytest.mark.parametrize('name', COMMANDS)
def test_help_is_enough_to_start(cotkit, name):
    code, out, err = cotkit(f'{name} --help')
    assert code == 0 and err == ''
    assert out.rstrip().splitlines()[-2:] == ['example:', f'  {COMMANDS[name].example}'] and '--json' in out


@pytest.mark.parametrize('line', ['', 'nothing', 'collect', 'collect --task data --model a --oracle 0.5', 'publish', 'evaluate --task data --student'])
def test_a_command_line_that_makes_no_sense(cotkit, line):
    "Errors go to standard error, with exit code 2"
    code, out, err = cotkit(line)
    assert code == 2 and out == '' and 'error:' in err


def test_the_whole_path(cotkit, here):
    "collect, curate, distill, evaluate and report on a folder of one's own"
    code, out, _ = cotkit('collect --task data --oracle 0.8 --samples 2 --json')
    collected = last(out)
    assert code == 0 and collected['rationales'] == collected['sent'] == 2*(40 - 4) and collected['failed'] == 0
    code, out, _ = cotkit('curate --task data --rationales rationales.jsonl --out curated.jsonl --json')
    curated = last(out)
    assert code == 0 and {'rationales', 'parsed', 'correct', 'accuracy', 'kept'} <= set(curated)
    assert curated['kept'] == len(list(read_jsonl('curated.jsonl'))) <= curated['correct']
    code, out, _ = cotkit('distill --task data --rationales curated.jsonl --student nano --steps 20 --out run --json')
    distilled = last(out)
    assert '**recipe**: step-by-step' in Path(distilled['student'], 'README.md').read_text() and 'nothing yet' in Path(distilled['student'], 'README.md').read_text()
    assert code == 0 and Path(distilled['student'], 'model.safetensors').is_file() and distilled['steps'] == 20
    for name in ('one', 'two'):
        code, out, _ = cotkit(f'evaluate --task data --student run/student --name {name} --max-new-tokens 8 --out {name}.json --json')
        assert code == 0 and last(out)['n'] == 20
    code, out, _ = cotkit('evaluate --task data --student run/student --max-new-tokens 8 --against one.json --json')
    assert last(out)['against']['difference'] == 0 and last(out)['against']['n'] == 20
    code, out, _ = cotkit('publish run --evaluations one.json --about data=homework --license mit --json')
    card = Path(last(out)['folder'], 'README.md').read_text()
    assert code == 0 and last(out)['folder'] == str(here/'run'/'student') and Path('run/record.json').is_file()
    assert '# run\n' in card and '| one | test |' in card and '**data**: homework' in card and '**teacher**: ' in card and 'oracle(accuracy=0.8' in card and str(here) not in card
    code, out, _ = cotkit('report --task data --evaluations one.json two.json --rationales curated.jsonl --json')
    page = Path(last(out)['report']).read_text()
    assert code == 0 and RAW[40]['question'][:20] in page


def test_seq2seq_and_resume(cotkit):
    "An encoder-decoder student; a second run into its folder is refused without --resume"
    cotkit('collect --task data --oracle 1.0')
    line = 'distill --task data --rationales rationales.jsonl --student nano --arch seq2seq --steps 10 --out run'
    assert cotkit(line)[0] == 0
    code, _, err = cotkit(line)
    assert code == 2 and 'resume' in err
    assert cotkit(f'{line} --resume')[0] == 0


BAD = {
    'broken line': ('curate --task broken.jsonl --rationales r.jsonl', r'broken\.jsonl:2: .*JSON'),
    'missing field': ('curate --task missing.jsonl --rationales r.jsonl', r'missing\.jsonl:2: .*"answer".*missing'),
    'unknown task': ('curate --task gsm8kk --rationales r.jsonl', r"'gsm8kk'.*gsm8k"),
    'unknown split': ('curate --task data --split tset --rationales r.jsonl', r'tset.*test'),
    'empty split': ('curate --task empty --rationales r.jsonl', r'empty'),
    'unknown column': ('curate --task data --replay palm', r'palm'),
    'no rationales file': ('curate --task data --rationales nowhere.jsonl', r'nowhere\.jsonl: no such file'),
    'rationales of another kind': ('curate --task data --rationales data/train.jsonl', r'train\.jsonl:1: .*"problem_id"'),
    'newer store': ('collect --task data --oracle 0.8 --store newer.sqlite --out new.jsonl', r'newer\.sqlite'),
    'store is no store': ('collect --task data --oracle 0.8 --store data/train.jsonl --out new.jsonl', r'train\.jsonl'),
    'model folder is none': ('evaluate --task data --student data --out new.json', r'data.*(config|cotkit)\.json'),
    'student does not exist': ('evaluate --task data --student nowhere --out new.json', r'nowhere'),
    'size does not exist': ('distill --task data --recipe label-only --student tinny --out run', r'tinny'),
    'recipe does not exist': ('distill --task data --recipe cot --out run', r"'cot'.*chain-of-thought"),
    'evaluation is none': ('report --task data --evaluations data/test.jsonl', r'test\.jsonl'),
    'timeout of zero': ('collect --task data --model m --base-url http://127.0.0.1:9/v1 --timeout 0 --out new.jsonl', r'--timeout'),
    'batch without a model': ('collect --task data --oracle 0.5 --batch-file new.jsonl', r'--model'),
    'batch results of something else': ('collect --task data --model m --base-url http://127.0.0.1:9/v1 --batch-results other.jsonl --out new.jsonl', r'none of the 1 results'),
    'batch results without an id': ('collect --task data --model m --base-url http://127.0.0.1:9/v1 --batch-results data/train.jsonl --out new.jsonl', r'train\.jsonl:1: .*"custom_id"'),
    'share of a file': ('curate --task data/train.jsonl --test-share 2 --rationales r.jsonl', r'"test".*0'),
    'published student is none': ('publish data', r'data.*cotkit\.json|data.*config\.json'),
    'published without a token': ('publish data --repo ann/apples', r'HF_TOKEN'),
    'about without a value': ('publish data --about teacher', r'--about'),
    'record is none': ('publish data --record data/test.jsonl', r'test\.jsonl'),
    'limit of zero': ('curate --task data --limit 0 --rationales r.jsonl', r'--limit'),
    'oracle out of range': ('collect --task data --oracle 80 --out new.jsonl', r'80'),
    'few-shot without steps': ('collect --task plain.jsonl --oracle 0.5 --format few-shot-cot --out new.jsonl', r'--format'),
}


@pytest.fixture
def bad_files(here):
    Path('broken.jsonl').write_text('{"question": "1 + 1?", "answer": "2"}\n{"question": "1 +\n')
    Path('missing.jsonl').write_text('{"question": "1 + 1?", "answer": "2"}\n{"question": "1 + 2?"}\n')
    write_jsonl('plain.jsonl', [{'question': f'1 + {i}?', 'answer': f'{i + 1}'} for i in range(20)])
    Path('empty').mkdir()
    Path('empty/train.jsonl').write_text('')
    write_jsonl('r.jsonl', [{'problem_id': RAW[0]['id'], 'text': 'The answer is 1.'}])
    write_jsonl('other.jsonl', [{'id': 'batch_req_1', 'custom_id': 'request-1', 'response': {'status_code': 200, 'body': {}}, 'error': None}])
    with sqlite3.connect('newer.sqlite') as connection: connection.execute('PRAGMA user_version = 999')
    connection.close()


@pytest.mark.parametrize('case', BAD, ids=lambda c: c.replace(' ', '-'))
def test_bad_input_meets_one_line(cotkit, here, bad_files, case):
    "One line on standard error that names the place, exit code 2, and no new file"
    line, expected = BAD[case]
    before = visible(here)
    code, out, err = cotkit(line + ' --json')
    assert code == 2 and out == ''
    lines = [l for l in err.splitlines() if l.strip()]
    assert len(lines) == 1 and lines[0].startswith(f'cotkit {line.split()[0]}: ')
    assert re.search(expected, lines[0]), lines[0]
    assert not {p for p in visible(here) - before if not p.startswith('ledger.sqlite')}


def test_a_server_that_answers_401(cotkit, here, monkeypatch):
    "The line names the variable with the key, never the key; answers are not made up"
    monkeypatch.setenv('OPENAI_API_KEY', 'sk-very-secret')
    with Loopback(lambda n, body: Status(401)) as server:
        code, out, err = cotkit(f'collect --task data --model teacher --base-url {server.base_url} --out new.jsonl')
    assert code == 2 and 'OPENAI_API_KEY' in err and not Path('new.jsonl').exists()
    assert 'sk-very-secret' not in out + err
    assert not any(b'sk-very-secret' in p.read_bytes() for p in here.rglob('*') if p.is_file())


def test_an_endpoint_that_accepts_nothing(cotkit):
    "One line with the server's own words, exit code 2 and no file, instead of an empty success"
    with Loopback(lambda n, body: Status(400, body={'error': {'message': 'max_tokens must be below 256'}})) as server:
        code, out, err = cotkit(f'collect --task data --limit 5 --model teacher --base-url {server.base_url} --out new.jsonl --json')
    assert code == 2 and out == '' and not Path('new.jsonl').exists()
    line, = [l for l in err.splitlines() if l.startswith('cotkit collect: ')]
    assert 'all 5 requests failed' in line and 'HTTP 400' in line and 'max_tokens must be below 256' in line


def test_timeout(cotkit):
    "--timeout is the teacher's; an endpoint that says nothing does not hold a command for ever"
    with Loopback(lambda n, body: Stall(20) if n == 0 else None) as server:
        code, out, _ = cotkit(f'collect --task data --limit 2 --model teacher --base-url {server.base_url} --timeout 0.3 --json')
        assert code == 0 and last(out)['sent'] == 2 and len(server.received) == 3


def test_batch_job(cotkit, here):
    "Requests are written, answered elsewhere, taken in from two files; after that collecting sends nothing"
    with Loopback() as server:
        line = f'collect --task data --samples 2 --model teacher --base-url {server.base_url} --json'
        code, out, _ = cotkit(f'{line} --batch-file requests.jsonl')
        assert code == 0 and last(out)['requests'] == 72 and last(out)['files'] == ['requests.jsonl'] and not Path('rationales.jsonl').exists()
        asked = list(read_jsonl('requests.jsonl'))
        answers = [{'id': f'b{i}', 'custom_id': row['custom_id'], 'response': {'status_code': 200, 'request_id': 'r', 'body': reply(row['body'])}, 'error': None} for i, row in enumerate(asked)]
        failed = [{**answers[0], 'response': {'status_code': 400, 'request_id': 'r', 'body': {'error': {'message': 'too long'}}}}]
        write_jsonl('output.jsonl', answers[:0:-1])
        write_jsonl('errors.jsonl', failed)
        code, out, _ = cotkit(f'{line} --batch-results output.jsonl errors.jsonl')
        said = last(out)
        assert code == 0 and (said['kept'], said['batch_failed'], said['foreign'], said['pending'], said['rationales'], said['sent']) == (71, 1, 0, 1, 71, 0)
        assert last(cotkit(f'{line} --batch-file again.jsonl')[1])['requests'] == 1 and [r['custom_id'] for r in read_jsonl('again.jsonl')] == [asked[0]['custom_id']]
        assert server.received == []
        write_jsonl('output.jsonl', answers[:1])
        assert last(cotkit(f'{line} --batch-results output.jsonl')[1])['kept'] == 1
        assert last(cotkit(line)[1])['sent'] == 0 and server.received == []
        assert last(cotkit(f'{line} --batch-file none.jsonl')[1])['files'] == [] and not Path('none.jsonl').exists()


def test_one_file_is_enough(cotkit):
    "--test-share makes a test split that train never sees"
    write_jsonl('mine.jsonl', RAW)
    ids = [{r['problem_id'] for r in read_jsonl('rationales.jsonl')} for split in ('train+validation', 'test')
           if cotkit(f'collect --task mine.jsonl --test-share 0.3 --split {split} --oracle 1.0')[0] == 0]
    assert len(ids) == 2 and not ids[0] & ids[1] and len(ids[0] | ids[1]) == 60 and ids[1]
    assert '--test-share' in cotkit('collect --task mine.jsonl --split test --oracle 1.0')[2]


def test_as_a_program(here):
    "The installed command: exit code, and nothing but JSON on standard output"
    program = Path(sys.executable).parent/'cotkit'
    ran = subprocess.run([program, 'collect', '--task', 'data', '--oracle', '0.8', '--json'], capture_output=True, text=True)
    assert ran.returncode == 0 and json.loads(ran.stdout)['sent'] == 36
    ran = subprocess.run([program, 'curate', '--task', 'nothing'], capture_output=True, text=True)
    assert ran.returncode == 2 and 'Traceback' not in ran.stderr


def test_curate_keeps_test_questions_out(cotkit):
    "A training problem that also stands in the test split is not taught"
    write_jsonl('data/test.jsonl', [{**RAW[40], 'question': RAW[0]['question'].upper(), 'answer': RAW[0]['answer']}, *RAW[41:]])
    cotkit('collect --task data --oracle 1.0 --split train+validation')
    code, out, _ = cotkit('curate --task data --split train+validation --rationales rationales.jsonl --json')
    assert code == 0 and last(out)['dropped'] == {'in test split': 1}
