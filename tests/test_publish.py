"Publishing: the folder, the card, and uploads to a hub that speaks the real one's protocol"
import ast
import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hub_server import Hub
from huggingface_hub import ModelCard as HubCard

from cotkit.data.core import CotkitError, Problem
from cotkit.evaluation.evaluate import score_outputs
from cotkit.data.formats import FORMATS, StepByStep, ZeroShotCoT, demonstrations, get_format
from cotkit.models.generate import generate
from cotkit.models.students import Student, StudentConfig, make_student
from cotkit.reporting.publish import ModelCard, Upload, publish
from cotkit.data.records import RunRecord
from cotkit.data.word_problems import word_problems

torch.set_num_threads(1)
TOKEN = 'hf_very_secret_token'
APPLES = 'Ann has 3 apples. She buys 4 bags with 2 apples each. How many apples does Ann have now?'
PROBLEMS = word_problems(40, seed=1, split='test')
TEXTS = [p.question for p in PROBLEMS] * 2
RECORD = RunRecord({'task': 'word_problems', 'teacher': 'oracle', 'note': '```\n---\n# no heading'}, seed=7, git={'commit': 'c0ffee', 'dirty': False}, data={'word_problems': 'f00d'})


def taken(split='test', wrong=4): return score_outputs([f'The answer is {int(p.answer) + (i % wrong == 0)}.' for i, p in enumerate(PROBLEMS)], PROBLEMS, ZeroShotCoT(), 'apples', split)


@pytest.fixture(scope='module')
def student(): return make_student('nano', ZeroShotCoT(), TEXTS)


@pytest.fixture(autouse=True)
def no_token(monkeypatch): monkeypatch.delenv('HF_TOKEN', raising=False)


def code(card): return re.findall(r'```python\n(.*?)```', card, re.DOTALL)


def run_card(text, where, monkeypatch, capsys):
    "What the two programs of a card print, one after the other, started beside the folder"
    monkeypatch.chdir(where)
    for program in code(text): exec(compile(program, 'card', 'exec'), {})
    return capsys.readouterr().out


# The folder and the card

def test_the_card_says_what_somebody_needs(student, tmp_path):
    folder = Path(publish(student, tmp_path/'apples', [taken(), taken('longer', 2)], RECORD, ModelCard(info={'data': 'made by a program'}, license='apache-2.0')).folder)
    assert folder.is_absolute() and {'README.md', 'cotkit.json', 'config.json', 'model.safetensors', 'tokenizer.json'} <= set(os.listdir(folder))
    text = (folder/'README.md').read_text()
    data = HubCard(text).data.to_dict()
    assert data == {'library_name': 'transformers', 'tags': ['cotkit', 'distillation', 'chain-of-thought'], 'license': 'apache-2.0', 'pipeline_tag': 'text-generation'}
    rows = [[c.strip() for c in line.strip('|').split('|')] for line in text.splitlines() if line.startswith('| apples')]
    assert rows[0] == ['apples', 'test', '75.0 %', '59.8 – 85.8 %', '40', '1'] and rows[1][1:3] == ['longer', '50.0 %']
    for said in ('**teacher**: oracle', '**data**: made by a program', 'seed: `7`', 'commit: `c0ffee`', '`f00d`', 'measured on these problems only: test, longer'): assert said in text
    assert text.count('\n# ') == 1 and str(tmp_path) not in text


@pytest.mark.parametrize('arch', ['causal', 'seq2seq'])
def test_the_code_of_the_card_runs_and_gives_the_student_s_answer(tmp_path, arch, monkeypatch, capsys):
    "Both ways of asking, as they stand, give what cotkit's own generation gives"
    student = make_student(StudentConfig('nano', arch), ZeroShotCoT(), TEXTS)
    problem = Problem('p', 'Is a `pear` a fruit?\n```', 'yes', 'label', ('yes', 'no'))
    folder = Path(publish(student, tmp_path/'pears', card=ModelCard(example=problem)).folder)
    capsys.readouterr()
    output, = generate(student, [student.format.prompt(problem)])
    printed = run_card((folder/'README.md').read_text(), tmp_path, monkeypatch, capsys)
    plain, _, answer = printed.rstrip('\n').rpartition('\n')
    assert plain.strip() == output.strip() and answer == str(student.format.parse(output, problem))


@pytest.mark.parametrize('name', [n for n in FORMATS if n != 'mixture'])
def test_every_format_has_a_card(student, tmp_path, name):
    shown = demonstrations(word_problems(2, seed=0)) if name.startswith('few-shot') else ()
    try: format = get_format(name, **({'demonstrations': shown} if shown else {}))
    except (CotkitError, TypeError): pytest.skip('needs settings of its own')
    text = Path(publish(Student(student.model, student.tokenizer, format), tmp_path/'s').folder, 'README.md').read_text()
    prompt = re.search(r"tokenizer\((.*), return_tensors", text)[1]
    asked = format.prompt(replace(PROBLEMS[0], question='Ann'))  # as a format that adds nothing begins
    assert ast.literal_eval(prompt).startswith(asked[:3]) and 'measured on nothing yet' in text


@pytest.mark.parametrize('base, known', [('google/t5-v1_1-base', True), ('gpt2', True), ('./gpt2', False), ('', False)])
def test_base_model_is_named_where_a_hub_could_know_it(student, tmp_path, base, known):
    text = Path(publish(Student(student.model, student.tokenizer, student.format, base=base), tmp_path/'s').folder, 'README.md').read_text()
    assert (HubCard(text).data.base_model == base) if known else (HubCard(text).data.base_model is None)
    assert f'**base**: {base or "none"}' in text


def test_a_folder_is_a_student_too(student, tmp_path):
    "Published in place: weights as they were, the card added; again with more results"
    folder = student.save(tmp_path/'apples')
    weights = (folder/'model.safetensors').read_bytes()
    publish(folder, folder)
    publish(folder, folder, [taken()])
    assert (folder/'model.safetensors').read_bytes() == weights and '75.0 %' in (folder/'README.md').read_text()
    assert os.listdir(tmp_path) == ['apples']


def test_somebody_s_readme_is_left_alone(student, tmp_path):
    folder = student.save(tmp_path/'apples', {'README.md': 'By hand.\n'})
    with pytest.raises(CotkitError, match='README.md: was edited'): publish(student, folder)
    assert (folder/'README.md').read_text() == 'By hand.\n'
    (folder/'README.md').unlink()
    publish(student, folder)
    card = (folder/'README.md').read_text()
    (folder/'README.md').write_text(card.replace('apples', 'pears', 1))
    with pytest.raises(CotkitError, match='was edited'): publish(student, folder)


def test_nothing_is_half_written(student, tmp_path):
    class Unwritable(StepByStep):
        def to_dict(self): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): publish(Student(student.model, student.tokenizer, Unwritable()), tmp_path/'apples')
    with pytest.raises(CotkitError, match='no such folder'): publish(tmp_path/'nowhere', tmp_path/'apples')
    assert os.listdir(tmp_path) == []


# The hub

@pytest.mark.parametrize('repo, said', [('apples', 'owner and student'), ('ann/ap ples', 'owner and student'), ('a/b/c', 'owner and student'), ('ann/apples', 'HF_TOKEN')])
def test_what_is_missing_is_said_before_anything_is_written(student, tmp_path, repo, said):
    with pytest.raises(CotkitError, match=said): publish(student, tmp_path/'apples', upload=Upload(repo))
    assert os.listdir(tmp_path) == []


def process(program, where, environment, *arguments):
    done = subprocess.run([sys.executable, '-c', program, *arguments], cwd=where, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    return done.stdout


LINE = ['publish', 'student', '--out', 'apples', '--repo', 'ann/apples', '--json']
CLI = 'import sys; from cotkit.app.cli import main; sys.exit(main(sys.argv[1:]))'


@pytest.fixture
def saved(student, tmp_path):
    student.save(tmp_path/'student')
    (tmp_path/'apples.json').write_text(json.dumps(taken().to_dict()))
    return tmp_path


def test_upload_and_use_from_the_hub(saved, student):
    "All files arrive as they are, the weights by git-lfs; the card's code runs against the hub"
    with Hub(TOKEN) as hub:
        out = process(CLI, saved, hub.environment(HF_TOKEN=TOKEN), *LINE, '--evaluations', 'apples.json', '--license', 'mit')
        said = json.loads(out.splitlines()[-1])
        assert said['url'] == f'{hub.url}/ann/apples' and said['commit'] == hub.sha('ann/apples')
        assert hub.repos['ann/apples'] == {p.name: p.read_bytes() for p in (saved/'apples').iterdir()}
        assert hub.private == {'ann/apples': True} and len(hub.objects) == 1 and hub.commits == [('ann/apples', 'Upload student with cotkit')]
        both = '\n'.join(code(hub.repos['ann/apples']['README.md'].decode()))
        printed = process(both, saved, hub.environment(HF_TOKEN=TOKEN, HF_HOME=str(saved/'cache')))
    assert generate(student, [student.format.prompt(PROBLEMS[0]).replace(PROBLEMS[0].question, APPLES)])[0].strip() in printed


REFUSALS = {
    'token not known': (lambda r: 401, 'refused the token.*Set HF_TOKEN'),
    'may not write': (lambda r: 403, 'may not write to ann/apples.*write permission for ann'),
    'may not commit': (lambda r: 403 if '/commit/' in r.path else None, 'may not write to ann/apples'),
    'bad request': (lambda r: 422 if '/commit/' in r.path else None, 'HTTP 422.*no, said the hub'),
    'connection breaks': (lambda r: 0 if r.path == '/api/repos/create' else None, 'Check the network'),
    'another token': (lambda r: None, 'refused the token'),
    'no server': (lambda r: None, 'Check the network'),
    'no such licence': (lambda r: None, 'HTTP 400.*license.*must be one of'),
}


def all_uploads():
    "In one process, since starting it costs more than what it does: each refusal, and two uploads that succeed; what came of them as JSON"
    from cotkit.app.cli import main
    results = {}
    for case, plan in [*((case, plan) for case, (plan, _) in REFUSALS.items()), ('public', lambda r: None)]:
        with Hub(TOKEN, plan, lfs=False) as hub:
            os.environ.update(HF_ENDPOINT=hub.url if case != 'no server' else 'http://127.0.0.1:9', HF_TOKEN='hf_other' if case == 'another token' else TOKEN)
            for more in ([['--public'], ['--evaluations', 'apples.json']] if case == 'public' else [['--license', 'my own']] if case == 'no such licence' else [[]]):
                out, err = io.StringIO(), io.StringIO()
                with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err): status = main([*LINE, *more])
                results[case] = [status, out.getvalue(), err.getvalue(), os.path.isfile('apples/README.md'), len(hub.commits), hub.private,
                                 hub.repos.get('ann/apples', {}).get('README.md', b'').decode()]
                if case != 'public': shutil.rmtree('apples')
    print(json.dumps(results))


@pytest.fixture(scope='module')
def outcomes(student, tmp_path_factory):
    where = tmp_path_factory.mktemp('uploads')
    student.save(where/'student')
    (where/'apples.json').write_text(json.dumps(taken().to_dict()))
    with Hub(TOKEN) as hub: environment = hub.environment(HF_HUB_DISABLE_XET='0', HF_HOME=str(where/'cache'), PYTHONPATH=f'{Path(__file__).parent}:{Path(__file__).parent.parent}')
    return json.loads(process('import test_publish; test_publish.all_uploads()', where, environment).splitlines()[-1])


@pytest.mark.parametrize('case', REFUSALS)
def test_a_hub_that_refuses(outcomes, case):
    "One line on standard error, exit code 2, nothing committed, and the folder kept for another try"
    status, out, err, kept, commits, *_ = outcomes[case]
    lines = [line for line in err.splitlines() if line.startswith('cotkit publish: ')]
    assert status == 2 and out == '' and commits == 0 and kept
    assert len(lines) == 1 and re.search(REFUSALS[case][1], lines[0]), err
    assert 'the same call uploads it' in lines[0] and 'Traceback' not in err


def test_upload_again_into_a_public_repository(outcomes):
    status, out, err, _, commits, private, card = outcomes['public']
    assert status == 0 and commits == 2 and private == {'ann/apples': False} and '75.0 %' in card, err


def test_offline(saved, monkeypatch):
    "These tests run with HF_HUB_OFFLINE=1"
    monkeypatch.setenv('HF_TOKEN', TOKEN)
    with pytest.raises(CotkitError, match='HF_HUB_OFFLINE'): publish(saved/'student', saved/'apples', upload=Upload('ann/apples'))
