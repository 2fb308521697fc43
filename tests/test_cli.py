"The command line: one whole run, what --json promises, and what bad input meets"
import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from loopback import Loopback, Raw, Stall, Status, reply

from cotkit.app.cli import main
from cotkit.app.recipes import load_commands
from cotkit.data.core import Problem, Rationale, read_jsonl, write_jsonl
from cotkit.data.records import RunRecord
from cotkit.data.word_problems import word_problems

RAW = [{'id': p.id, 'question': p.question, 'answer': p.answer, 'steps': list(p.gold_steps)} for p in word_problems(60, seed=5, steps=(1, 2))]


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


@pytest.mark.parametrize('name', load_commands())
def test_help_is_enough_to_start(cotkit, name):
    code, out, err = cotkit(f'{name} --help')
    assert code == 0 and err == ''
    assert out.rstrip().splitlines()[-2:] == ['example:', f'  {load_commands()[name].example}'] and '--json' in out


@pytest.mark.parametrize('line', ['', 'nothing', 'collect', 'collect --task data --model a --oracle 0.5', 'publish', 'evaluate --task data --student'])
def test_a_command_line_that_makes_no_sense(cotkit, line):
    "Errors go to standard error, with exit code 2"
    code, out, err = cotkit(line)
    assert code == 2 and out == '' and err.strip() and 'Traceback' not in err


def test_the_whole_path(cotkit, here):
    "collect, curate, distill, evaluate and report on a folder of one's own"
    code, out, _ = cotkit('collect --task data --oracle 0.8 --samples 2 --json')
    collected = last(out)
    assert code == 0 and collected['rationales'] == collected['sent'] == 2*(40 - 4) and collected['failed'] == 0
    code, out, _ = cotkit('curate --task data --rationales rationales.jsonl --out curated.jsonl --json')
    curated = last(out)
    assert code == 0 and {'rationales', 'parsed', 'correct', 'accuracy', 'kept'} <= set(curated)
    assert curated['kept'] == len(list(read_jsonl('curated.jsonl'))) <= curated['correct']
    code, out, _ = cotkit('distill --task data --rationales curated.jsonl --student nano --max-steps 20 --out run --json')
    distilled = last(out)
    assert '**recipe**: distill' in Path(distilled['student'], 'README.md').read_text() and 'nothing yet' in Path(distilled['student'], 'README.md').read_text()
    assert code == 0 and Path(distilled['student'], 'model.safetensors').is_file() and distilled['max_steps'] == 20
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
    line = 'distill --task data --rationales rationales.jsonl --student nano --arch seq2seq --max-steps 10 --out run'
    assert cotkit(line)[0] == 0
    code, _, err = cotkit(line)
    assert code == 2 and 'already holds checkpoints' in err and '--resume' in err
    assert cotkit(f'{line} --resume')[0] == 0


def folder_of(student): return json.loads((Path(student)/'cotkit.json').read_text())


def test_a_shared_prefix(cotkit):
    "--share-prefix puts the question first in step-by-step, and counts problems"
    cotkit('collect --task data --oracle 1.0')
    code, out, _ = cotkit('distill --task data --rationales rationales.jsonl --student nano --max-steps 3 --share-prefix --out run --json')
    assert code == 0 and last(out)['examples'] == 72 and folder_of('run/student')['format']['marker'] == 'after'
    assert RunRecord.load('run/record.json').config['share_prefix'] is True
    code, out, _ = cotkit('distill --task data --rationales rationales.jsonl --student nano --max-steps 3 --format zero-shot-cot --share-prefix --out chain --json')
    assert code == 0 and folder_of('chain/student')['format'] == {'name': 'zero-shot-cot'}


def test_what_is_counted_is_what_is_trained(cotkit):
    "With --alpha 1 the rationales have no weight: they are neither trained nor counted"
    cotkit('collect --task data --oracle 1.0')
    line = 'distill --task data --rationales rationales.jsonl --student nano --max-steps 3 --json'
    for alpha, examples in ((1, 36), (0, 36), (0.5, 72)):
        code, out, _ = cotkit(f'{line} --alpha {alpha} --out run-{alpha}')
        assert code == 0 and last(out)['examples'] == RunRecord.load(f'run-{alpha}/record.json').config['examples'] == examples


EASY = [{'id': p.id, 'question': p.question, 'answer': p.answer, 'steps': list(p.gold_steps)} for p in word_problems(60, seed=5, steps=(1, 1), largest=10)]


@pytest.fixture(scope='module')
def school(tmp_path_factory):
    "A folder with easy problems and a student that has learned them: somebody's teacher"
    folder = tmp_path_factory.mktemp('school')
    write_jsonl(folder/'easy/train.jsonl', EASY[:40])
    write_jsonl(folder/'easy/test.jsonl', EASY[40:])
    assert main(f'collect --task {folder}/easy --oracle 1.0 --store {folder}/store.sqlite --out {folder}/gold.jsonl'.split()) == 0
    assert main(f'distill --task {folder}/easy --rationales {folder}/gold.jsonl --format zero-shot-cot --student nano --max-steps 60 --learning-rate 1e-2 --out {folder}/teacher'.split()) == 0
    return folder


def test_distributions_from_the_ledger_to_a_student(cotkit, school):
    "collect with log-probabilities, curate, specialize and evaluate; and the same again with --resume"
    task = f'--task {school}/easy'
    code, out, _ = cotkit(f'collect {task} --local {school}/teacher --top-logprobs 3 --max-tokens 48 --json')
    asked = last(out)
    assert code == 0 and asked['rationales'] + asked['failed'] == 36 and asked['rationales'] > 30, 'an empty answer is none'
    code, out, _ = cotkit(f'curate {task} --rationales rationales.jsonl --keep parsed --out kept.jsonl --json')
    kept = last(out)['kept']
    assert code == 0 and kept > 10 and all(r['logprobs'] for r in read_jsonl('kept.jsonl'))
    line = f'specialize {task} --rationales kept.jsonl --student nano --arch seq2seq --max-steps 10 --out run --json'
    code, out, _ = cotkit(line)
    done = last(out)
    assert code == 0 and done['examples'] == kept and done['max_steps'] == 10 and 0.5 < done['coverage'] <= 1
    record = RunRecord.load('run/record.json')
    assert record.results['coverage'] == done['coverage'] and record.config['kd_weight'] == 1 and record.config['teacher'][0].startswith('student-')
    assert '**recipe**: specialize' in Path(done['student'], 'README.md').read_text()
    assert cotkit(line)[0] == 2 and last(cotkit(f'{line} --resume')[1]) == done
    code, out, _ = cotkit(f'evaluate {task} --student run --max-new-tokens 8 --json')
    assert code == 0 and last(out)['n'] == 20


def test_several_formats_and_a_teacher_that_is_here(cotkit, school):
    "A mixture of four formats, asked in the first; what is shown is right and from training, and a training problem of the test split is left out"
    write_jsonl('easy/train.jsonl', EASY[:40])
    write_jsonl('easy/test.jsonl', [{**EASY[0], 'id': 'leaked'}, *EASY[41:]])
    code, _, _ = cotkit('collect --task easy --oracle 0.5')
    assert code == 0 and cotkit('curate --task easy --rationales rationales.jsonl --keep all --out all.jsonl')[0] == 0
    code, out, _ = cotkit(f'specialize --task easy --rationales all.jsonl --teacher {school}/teacher --format few-shot-cot zero-shot-cot answer-only few-shot-answer-only --shots 1 '
                          '--kd-weight 0.5 --divergence reverse --tail-mode restrict --top-k 2 --student nano --max-steps 3 --out run --json')
    done, mixture = last(out), folder_of('run/student')['format']
    shown = mixture['formats'][0]['demonstrations']
    assert code == 0 and done['in_test_split'] == 1 and done['examples'] == 4*35 and 0.2 < done['coverage'] < 1
    assert mixture['name'] == 'mixture' and mixture['eval_format'] == 0 and [f['name'] for f in mixture['formats']] == ['few-shot-cot', 'zero-shot-cot', 'answer-only', 'few-shot-answer-only']
    assert len(shown) == 4 and all(d['rationale']['correct'] for d in shown) and EASY[0]['question'] not in {d['problem']['question'] for d in shown}
    assert {d['rationale']['teacher'] for d in shown} == {'gold', 'oracle(accuracy=0.5, seed=0)'}


def test_the_whole_vocabulary_and_texts_of_its_own(cotkit, school):
    "--top-k all gives a named size the teacher's tokens; without rationales gold steps are taught"
    code, out, _ = cotkit(f'specialize --task {school}/easy --teacher {school}/teacher --top-k all --on-policy 1 --student nano --max-steps 2 --batch-size 2 --out run --json')
    assert code == 0 and last(out)['examples'] == 36 and last(out)['coverage'] == 1
    assert Path('run/student/tokenizer.json').read_text() == (school/'teacher/student/tokenizer.json').read_text()
    record = RunRecord.load('run/record.json')
    assert record.config['teacher'] == ['teacher'] and record.config['top_k'] == 'all' and record.config['on_policy'] == 1


def test_problems_that_nobody_has_solved(cotkit):
    "collect, curate and distill without gold answers: the teacher's are taught, and nothing is said about accuracy"
    recorded = [{'id': r['id'], 'question': r['question'], 'said': f"{' '.join(r['steps'])} The answer is {int(r['answer']) + 1}."} for r in RAW[:40]]
    write_jsonl('questions.jsonl', [*recorded, {'id': 'mute', 'question': 'How many?', 'said': 'I cannot tell.'}])
    task = '--task questions.jsonl --split train+validation --unlabelled'
    code, out, _ = cotkit(f'collect {task} --replay said --json')
    assert code == 0 and last(out)['rationales'] == 41
    code, out, _ = cotkit(f'curate {task} --rationales rationales.jsonl --keep parsed --out kept.jsonl --json')
    assert code == 0 and last(out)['kept'] == 40 and not {'accuracy', 'correct', 'first', 'low', 'high'} & set(last(out))
    kept = {r.problem_id: r for r in map(Rationale.from_dict, read_jsonl('kept.jsonl'))}
    assert {r.correct for r in kept.values()} == {None} and kept[RAW[0]['id']].answer == str(int(RAW[0]['answer']) + 1)
    for recipe, examples in (('answer-only', 36), ('step-by-step', 72), ('zero-shot-cot', 36)):
        code, out, _ = cotkit(f'distill --task questions.jsonl --unlabelled --rationales kept.jsonl --labels teacher --format {recipe} --student nano --max-steps 2 --out {recipe} --json')
        assert code == 0 and abs(last(out)['examples'] - examples) <= 2
    code, out, _ = cotkit('evaluate --task data --student answer-only --max-new-tokens 4 --json')
    assert code == 0 and last(out)['n'] == 20


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
    'size does not exist': ('distill --task data --format answer-only --student tinny --out run', r'tinny'),
    'recipe does not exist': ('distill --task data --format cot --out run', r"'cot'.*zero-shot-cot"),
    'evaluation is none': ('report --task data --evaluations data/test.jsonl', r'test\.jsonl'),
    'timeout of zero': ('collect --task data --model m --base-url http://127.0.0.1:9/v1 --timeout 0 --out new.jsonl', r'--timeout'),
    'batch without a model': ('collect --task data --oracle 0.5 --batch-file new.jsonl', r'--model'),
    'batch results of something else': ('collect --task data --model m --base-url http://127.0.0.1:9/v1 --batch-results other.jsonl --out new.jsonl', r'none of the 1 results'),
    'batch results without an id': ('collect --task data --model m --base-url http://127.0.0.1:9/v1 --batch-results data/train.jsonl --out new.jsonl', r'train\.jsonl:1: .*"custom_id"'),
    'share of a file': ('curate --task data/train.jsonl --test-size 2 --rationales r.jsonl', r'--test-size.*0'),
    'batch results that are requests': ('collect --task data --model m --base-url http://127.0.0.1:9/v1 --batch-results requests.jsonl --out old.jsonl', r'no result could be read; the first: .*requests'),
    'batch results in no line': ('collect --task data --model m --base-url http://127.0.0.1:9/v1 --batch-results nothing.jsonl --out old.jsonl', r'nothing\.jsonl|no result could be read'),
    'a folder where a file goes': ('collect --task data --oracle 0.5 --out data', r"--out.*'data' is a folder"),
    'a file where a folder goes': ('distill --task data --format answer-only --out plain.jsonl', r"--out.*'plain\.jsonl' is a file"),
    'labels alone': ('distill --task data --student nano --out run', r'step-by-step needs rationales.*--rationales.*answer-only'),
    'labels alone beside rationales about others': ('distill --task plain.jsonl --rationales r.jsonl --out run', r'step-by-step needs rationales'),
    'format of training': ('collect --task data --oracle 0.5 --format mixture --out new.jsonl', r'--format'),
    'distilling on test': ('distill --task data --split test --format answer-only --out run', r'--split'),
    'published student is none': ('publish data', r'data.*cotkit\.json|data.*config\.json'),
    'published without a token': ('publish data --repo ann/apples', r'HF_TOKEN'),
    'about without a value': ('publish data --about teacher', r'--about'),
    'record is none': ('publish data --record data/test.jsonl', r'test\.jsonl'),
    'limit of zero': ('curate --task data --limit 0 --rationales r.jsonl', r'--limit'),
    'oracle out of range': ('collect --task data --oracle 80 --out new.jsonl', r'80'),
    'soft targets from nowhere': ('specialize --task data --rationales r.jsonl --out run', r'r\.jsonl: .*--top-logprobs.*--teacher'),
    'gold steps alone': ('specialize --task data --out run', r'--top-logprobs.*--teacher'),
    'on-policy without a teacher': ('specialize --task data --rationales r.jsonl --on-policy 0.5 --out run', r'--on-policy.*--teacher'),
    'whole vocabulary without a teacher': ('specialize --task data --rationales r.jsonl --top-k all --out run', r'--top-k.*--teacher'),
    'format does not exist': ('specialize --task data --teacher nowhere --format zero-shot-cot cot --out run', r"'cot'.*few-shot-answer-only"),
    'nothing to show': ('specialize --task plain.jsonl --teacher nowhere --format few-shot-cot --out run', r'few-shot-cot.*none.*zero-shot-cot'),
    'wrong rationales are not shown': ('specialize --task plain.jsonl --rationales wrong.jsonl --teacher nowhere --format few-shot-cot --out run', r'few-shot-cot.*none'),
    'no shots': ('specialize --task data --teacher nowhere --format few-shot-cot --shots 0 --out run', r'--shots'),
    'nothing to teach': ('specialize --task plain.jsonl --teacher nowhere --out run', r'nothing to teach.*curate'),
    'rationales about something else': ('distill --task plain.jsonl --rationales r.jsonl --format zero-shot-cot --out run', r'nothing to teach.*curate'),
    'gold answers in a few-shot format': ('specialize --task data --teacher nowhere --format few-shot-answer-only --labels teacher --out run', r'--format.*gold'),
    'answers alone': ('specialize --task data --teacher nowhere --format answer-only --out run', r'--format.*zero-shot-cot'),
    'teacher does not exist': ('specialize --task data --teacher ./nowhere --out run', r'nowhere: no such folder'),
    'training on test': ('specialize --task data --split test --teacher nowhere --out run', r'--split'),
    'match weight out of range': ('specialize --task data --rationales r.jsonl --teacher nowhere --kd-weight 2 --out run', r'--kd-weight'),
    'on-policy out of range': ('specialize --task data --teacher nowhere --on-policy 2 --out run', r'--on-policy'),
    'shared prefix of an encoder': ('distill --task data --format answer-only --student nano --arch seq2seq --share-prefix --out run', r'Only causal'),
    'no answers in the file': ('curate --task questions.jsonl --rationales r.jsonl', r'questions\.jsonl: .*"answer".*--unlabelled'),
    'checked against no answers': ('curate --task questions.jsonl --unlabelled --rationales r.jsonl', r'--keep parsed'),
    'evaluated against no answers': ('evaluate --task questions.jsonl --split train --unlabelled --student nowhere', r'no gold answers.*leave this out'),
    'gold labels that are not there': ('distill --task questions.jsonl --unlabelled --rationales r.jsonl --out run', r'--labels teacher'),
    'an oracle without answers': ('collect --task questions.jsonl --unlabelled --oracle 0.5 --out new.jsonl', r'--oracle'),
    'unlabelled kind': ('curate --task questions.jsonl --unlabelled --kind colour --rationales r.jsonl', r"'colour'.*number"),
    'unlabelled task of ours': ('curate --task word_problems --unlabelled --rationales r.jsonl', r'--unlabelled.*--labels teacher'),
    'few-shot without steps': ('collect --task plain.jsonl --oracle 0.5 --format few-shot-cot --out new.jsonl', r'--format'),
}


SPLIT = re.compile(r'\w+: (\w+ \d+(, \w+ \d+)*|\w+ answers\b.*; columns: .*)')  # how problems were split and rows read


@pytest.fixture
def bad_files(here, cotkit):
    Path('broken.jsonl').write_text('{"question": "1 + 1?", "answer": "2"}\n{"question": "1 +\n')
    Path('missing.jsonl').write_text('{"question": "1 + 1?", "answer": "2"}\n{"question": "1 + 2?"}\n')
    write_jsonl('plain.jsonl', [{'question': f'1 + {i}?', 'answer': f'{i + 1}'} for i in range(20)])
    write_jsonl('questions.jsonl', [{'question': f'1 + {i}?'} for i in range(20)])
    write_jsonl('wrong.jsonl', [{'problem_id': Problem('', '1 + 0?').id, 'text': '1 + 0 = 2. The answer is 2.', 'answer': '2', 'correct': False}])
    Path('empty').mkdir()
    Path('empty/train.jsonl').write_text('')
    write_jsonl('r.jsonl', [{'problem_id': RAW[0]['id'], 'text': 'The answer is 1.'}])
    Path('old.jsonl').write_text(Path('r.jsonl').read_text())
    Path('nothing.jsonl').write_text('')
    cotkit('collect --task data --model m --base-url http://127.0.0.1:9/v1 --batch-file requests.jsonl')
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
    lines = [l for l in err.splitlines() if l.strip() and not SPLIT.fullmatch(l)]
    assert len(lines) == 1 and lines[0].startswith(f'cotkit {line.split()[0]}: ')
    assert re.search(expected, lines[0]), lines[0]
    assert not {p for p in visible(here) - before if not p.startswith('store.sqlite')}


OUT_OF_BOUNDS = [
    'collect --oracle 0.5 --samples 0', 'collect --oracle 0.5 --temperature -3', 'collect --oracle 0.5 --temperature nan', 'collect --oracle 0.5 --max-tokens 0',
    'collect --oracle 0.5 --top-logprobs -1', 'collect --oracle 0.5 --max-concurrency 0', 'collect --oracle 0.5 --max-requests -1', 'collect --oracle 0.5 --shots 0', 'collect --oracle -0.1',
    'curate --replay said --per-problem 0', 'curate --replay said --limit 1.5', 'distill --out run --batch-size 0', 'distill --out run --learning-rate -1', 'distill --out run --learning-rate inf',
    'distill --out run --max-steps 0', 'distill --out run --max-steps -5', 'distill --out run --train-seed -1', 'distill --out run --alpha 2',
    'specialize --out run --max-steps 0', 'specialize --out run --top-k 0', 'evaluate --student run --batch-size 0', 'evaluate --student run --max-new-tokens 0', 'demo --max-steps 0', 'demo --test 0']


@pytest.mark.parametrize('line', OUT_OF_BOUNDS)
def test_numbers_out_of_bounds(cotkit, here, line):
    "One line that names the option, exit code 2, and nothing is written"
    name, *options = line.split()
    before = visible(here)
    code, out, err = cotkit(' '.join([name, *([] if name == 'demo' else ['--task', 'data']), *options]))
    assert code == 2 and out == '' and options[-2] in err
    assert '1.5' in line or err.count('\n') == 1 and err.startswith(f'cotkit {name}: {options[-2]}: is ')
    assert visible(here) == before


def test_an_old_file_of_rationales_stays(cotkit, bad_files):
    "Neither requests taken for results nor a run that sent nothing replaces it"
    before = Path('old.jsonl').read_bytes()
    line = 'collect --task data --model m --base-url http://127.0.0.1:9/v1 --out old.jsonl'
    assert cotkit(f'{line} --batch-results requests.jsonl')[0] == 2
    code, _, err = cotkit(f'{line} --max-requests 0')
    assert code == 2 and re.search(r'old\.jsonl: holds rationales.*--out', err)
    assert Path('old.jsonl').read_bytes() == before


def test_some_requests_fail(cotkit):
    "How many and why is on standard error, and in the summary"
    with Loopback(lambda n, body: Status(400, body={'error': {'message': 'too long for us'}}) if n % 2 else None) as server:
        code, out, err = cotkit(f'collect --task data --limit 6 --max-concurrency 1 --model teacher --base-url {server.base_url} --json')
    said = last(out)
    assert code == 0 and (said['rationales'], said['failed']) == (3, 3) and 'too long for us' in said['first_failure']
    assert f"3 of 6 requests failed; the first: {said['first_failure']}" in err.splitlines()


def test_the_split_is_said(cotkit):
    "On standard error, where work is about to start"
    expected = 'data: train 36, validation 4, test 20'
    assert expected in cotkit('collect --task data --oracle 1.0')[2].splitlines()
    for line in ('distill --format answer-only --student nano --max-steps 1', 'distill --rationales rationales.jsonl --student nano --max-steps 1'):
        assert expected in cotkit(f'{line} --task data --out run-{len(line)}')[2].splitlines()


@pytest.mark.parametrize(('error', 'expected'), [
    (KeyboardInterrupt(), r'cotkit distill: interrupted\. Run the same command with --resume to go on\.\n'),
    (PermissionError(13, 'Permission denied', 'run'), r"cotkit distill: .*Permission denied: 'run'\n")])
def test_what_stops_a_command(cotkit, monkeypatch, error, expected):
    "Ctrl-C names --resume where there are checkpoints; the system's own errors are one line; exit code 1"
    def stop(*given): raise error
    monkeypatch.setattr('cotkit.app.student_commands.read_lesson', stop)
    code, out, err = cotkit('distill --task data --out run')
    assert code == 1 and out == '' and re.fullmatch(expected, err)


def test_interrupted_collecting_needs_no_option(cotkit, monkeypatch):
    def stop(self, request): raise KeyboardInterrupt
    monkeypatch.setattr('cotkit.teachers.protocol.OracleTeacher.complete', stop)
    code, _, err = cotkit('collect --task data --oracle 0.5')
    assert code == 1 and 'Run the same command again to go on.' in err


def test_a_student_goes_on_from_a_run(cotkit, here):
    "--student takes the folder of a run or the student in it; a size stays a size beside a run of that name"
    line = 'distill --task data --format answer-only --max-steps 1'
    assert cotkit(f'{line} --student nano --out nano')[0] == 0
    for student, base in (('./nano', './student'), ('nano/student', './student'), ('nano', 'nano')):
        out = f'run-{len(student)}'
        assert cotkit(f'{line} --student {student} --out {out}')[0] == 0
        assert RunRecord.load(f'{out}/record.json').config['student'] == base


def test_exit_codes_are_explained(cotkit): assert 'Exit codes: 0 done, 2 input cannot be used, 1 interrupted or failed' in cotkit('--help')[1].splitlines()


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
        assert code == 0 and (said['kept'], said['batch_failed'], said['unmatched'], said['pending'], said['rationales'], said['sent']) == (71, 1, 0, 1, 71, 0)
        assert last(cotkit(f'{line} --batch-file again.jsonl')[1])['requests'] == 1 and [r['custom_id'] for r in read_jsonl('again.jsonl')] == [asked[0]['custom_id']]
        assert server.received == []
        write_jsonl('output.jsonl', answers[:1])
        assert last(cotkit(f'{line} --batch-results output.jsonl')[1])['kept'] == 1
        assert last(cotkit(line)[1])['sent'] == 0 and server.received == []
        assert last(cotkit(f'{line} --batch-file none.jsonl')[1])['files'] == [] and not Path('none.jsonl').exists()


def test_one_file_is_enough(cotkit):
    "--test-size makes a test split that train never sees"
    write_jsonl('mine.jsonl', RAW)
    ids = [{r['problem_id'] for r in read_jsonl('rationales.jsonl')} for split in ('train+validation', 'test')
           if cotkit(f'collect --task mine.jsonl --test-size 0.3 --split {split} --oracle 1.0')[0] == 0]
    assert len(ids) == 2 and not ids[0] & ids[1] and len(ids[0] | ids[1]) == 60 and ids[1]
    assert '--test-size' in cotkit('collect --task mine.jsonl --split test --oracle 1.0')[2]


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
    assert code == 0 and last(out)['dropped'] == {'contaminated': 1}
    code, out, _ = cotkit('distill --task data --format answer-only --student nano --max-steps 1 --out run --json')
    assert code == 0 and last(out)['in_test_split'] == 1 and last(out)['examples'] == 35


def test_curate_keeps_test_questions_out_of_one_file(cotkit):
    "The test split that --test-size draws is kept out too, and so is it from training"
    task = '--task mine.jsonl --test-size 0.3'
    write_jsonl('mine.jsonl', RAW)
    assert cotkit(f'collect {task} --split test --oracle 1.0')[0] == 0
    tested = {r['problem_id'] for r in read_jsonl('rationales.jsonl')}
    write_jsonl('mine.jsonl', [*RAW, *({**row, 'id': f"{row['id']}-again"} for row in RAW if row['id'] in tested)])
    assert cotkit(f'collect {task} --oracle 1.0')[0] == 0
    code, out, _ = cotkit(f'curate {task} --rationales rationales.jsonl --out kept.jsonl --json')
    assert code == 0 and 'contaminated' not in last(out)['dropped'], 'a question and its copy are in the same split'
    cotkit(f'collect {task} --split test --oracle 1.0 --out test.jsonl')
    texts = [{' '.join(r['text'].split()) for r in read_jsonl(name)} for name in ('kept.jsonl', 'test.jsonl')]
    assert texts[0] and not texts[0] & texts[1]
    code, out, _ = cotkit(f'distill {task} --rationales kept.jsonl --student nano --max-steps 1 --out run --json')
    assert code == 0 and 'in_test_split' not in last(out)


def test_a_person_reads_accuracies_with_their_intervals(cotkit):
    cotkit('collect --task data --oracle 0.8')
    code, out, _ = cotkit('curate --task data --rationales rationales.jsonl --out curated.jsonl')
    assert code == 0 and re.search(r'accuracy  \d+\.\d % \[\d+\.\d, \d+\.\d\], n = 36', out) and '{' not in out and ' low ' not in out


def test_other_splits_and_other_tasks_are_noticed(cotkit, here):
    "A student of one division of a file is not tested in silence on another, and a report is about its own problems"
    assert cotkit('collect --task data/train.jsonl --test-size 0.2 --oracle 1.0')[0] == 0
    assert cotkit('distill --task data/train.jsonl --test-size 0.2 --rationales rationales.jsonl --format zero-shot-cot --student nano --max-steps 2 --out run')[0] == 0
    for share, warned in ((0.2, False), (0.3, True)):
        code, _, err = cotkit(f'evaluate --task data/train.jsonl --test-size {share} --student run --out e.json --max-new-tokens 4')
        assert code == 0 and ('trained on other splits' in err) == warned
    code, _, err = cotkit('report --task data/test.jsonl --evaluations e.json')
    assert code == 2 and 'outputs are about problems that this task does not have' in err and not (here/'report.html').exists()


def test_a_served_model_is_measured(cotkit):
    "evaluate --model asks an endpoint once a problem, keeps the answers, and votes over samples"
    def right(n, body):
        question = body['messages'][-1]['content']
        gold = next(row['answer'] for row in RAW if row['question'] in question)
        whole = reply(body)
        whole['choices'][0]['message']['content'] = f'The answer is {gold}.'
        return Raw(json.dumps(whole))
    with Loopback(right) as server:
        line = f'evaluate --task data --model big --base-url {server.base_url} --out big.json --json'
        code, out, _ = cotkit(line)
        assert code == 0 and (last(out)['accuracy'], last(out)['n'], last(out)['name']) == (1, 20, 'big')
        assert len(server.received) == 20 and last(cotkit(line)[1])['accuracy'] == 1 and len(server.received) == 20
        code, out, err = cotkit(f'{line} --strategy vote -k 3')
        assert code == 2 and '--temperature: is 0' in err
        code, out, _ = cotkit(f'{line} --strategy vote -k 3 --temperature 0.7')
        assert code == 0 and last(out)['accuracy'] == 1 and len(server.received) == 20 + 3*20
        assert len(json.loads(Path('big.json').read_text())['predictions'][0]['samples']) == 3


def test_a_plain_checkpoint_is_a_baseline(cotkit):
    "A model folder that cotkit did not write is asked in the format that is named"
    from cotkit.data.formats import AnswerOnly
    from cotkit.models.students import make_student
    untrained = make_student('nano', AnswerOnly(), [row['question'] for row in RAW])
    for part in (untrained.model, untrained.tokenizer): part.save_pretrained('plain')
    code, _, err = cotkit('evaluate --task data --student plain --max-new-tokens 4')
    assert code == 2 and '--format' in err
    code, out, _ = cotkit('evaluate --task data --student plain --format answer-only --max-new-tokens 4 --out plain.json --json')
    strategy = json.loads(Path('plain.json').read_text())['strategy']
    assert code == 0 and last(out)['n'] == 20 and strategy['format']['name'] == 'answer-only'


OWN = '''
from dataclasses import dataclass
from typing import ClassVar
from cotkit.app.recipes import command
from cotkit.data.core import Example
from cotkit.data.formats import AnswerOnly, register_format
from cotkit.evaluation.metrics import register_metric

@register_format
@dataclass(frozen=True)
class Riddle(AnswerOnly):
    name: ClassVar[str] = 'riddle'
    sign: str = '?!'
    def prompt(self, problem): return f'Riddle: {problem.question} {self.sign}'

@register_metric('length')
def length(prediction, problem): return float(len(prediction.output))

@dataclass(frozen=True)
class GreetConfig:
    "Whom"
    name: str = 'Ann'  # of the person

@command('greet', 'cotkit --import own.py greet --name Ben')
def greet(config: GreetConfig = GreetConfig()):
    "Say hello"
    return {'said': f'Hello, {config.name}'}
'''


def test_a_file_of_ones_own(cotkit, monkeypatch):
    "--import registers a format, a metric and a command; all are named like the others, and saved"
    from cotkit.data.formats import FORMATS
    from cotkit.evaluation.metrics import METRICS
    for register in (FORMATS, METRICS): monkeypatch.setattr(register, '_known', dict(register.load()))
    commands = load_commands()
    Path('own.py').write_text(OWN)
    before = set(commands)
    code, out, _ = cotkit('distill --import own.py --task data --format riddle --student nano --max-steps 1 --out run --json')
    assert code == 0 and folder_of('run/student')['format'] == {'name': 'riddle', 'labels': 'gold', 'sign': '?!'}
    code, out, _ = cotkit('evaluate --import own.py --task data --student run --metrics length --max-new-tokens 4 --out e.json --json')
    row = json.loads(Path('e.json').read_text())['predictions'][0]
    assert code == 0 and row['scores']['length'] == len(row['output'])
    code, out, _ = cotkit('--import own.py greet --name Ben --json')
    assert code == 0 and last(out) == {'said': 'Hello, Ben'}
    for name in set(commands) - before: commands.pop(name)
    Path('broken.py').write_text('x = 1\ny = x +\n')
    code, _, err = cotkit('--import broken.py demo')
    assert code == 2 and re.fullmatch(r'cotkit: broken\.py:2: SyntaxError.*\n', err)
    code, _, err = cotkit('--import nowhere.py demo')
    assert code == 2 and 'nowhere.py: no such file' in err


def test_help_and_mistakes_wait_for_no_library(here):
    "Neither help nor a mistake in options loads torch; the version is one line"
    program = ('import sys\nfrom cotkit.app.cli import main\ntry: code = main(sys.argv[1:])\nexcept SystemExit as e: code = e.code\n'
               'print(code, sorted({"torch", "transformers", "datasets", "openai", "pandas", "seaborn"} & set(sys.modules)))')
    for line, expected in (('--help', 0), ('--version', 0), ('nothing', 2), *((f'{name} --help', 0) for name in load_commands()),
                           ('distill --task data --out run --max-stesp 3', 2), ('specialize --task data --out run --kd-weight 7', 2)):
        ran = subprocess.run([sys.executable, '-c', program, *line.split()], capture_output=True, text=True)
        assert ran.stdout.splitlines()[-1] == f'{expected} []', line
        if line == '--version': assert re.match(r'cotkit \d+\.\d+', ran.stdout)
        if 'stesp' in line: assert '--max-steps' in ran.stderr


def test_a_command_loads_its_own_module_alone():
    "Which module holds a command is known without loading it, and rightly"
    from cotkit.app.recipes import _MODULES
    for module, names in _MODULES.items():
        assert all(load_commands()[name].run.__module__ == f'cotkit.app.{module}' for name in names.split()), module
    assert set(load_commands()) >= set(' '.join(_MODULES.values()).split())
    program = 'import sys; from cotkit.app.recipes import load_commands; print([*load_commands("curate")], "cotkit.app.student_commands" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', program], capture_output=True, text=True).stdout.strip() == "['collect', 'curate'] False"


def test_a_mistake_in_a_commands_name(cotkit):
    code, out, err = cotkit('colect --task data')
    assert code == 2 and out == '' and err.count('\n') == 1 and 'Did you mean collect?' in err
