"Recipes: the same settings as the command line, nothing done twice, and what a kill leaves behind"
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotkit.app import cli
from cotkit.app.recipes import load_commands, plan, read_recipe, read_value, run_recipe
from cotkit.data.core import read_jsonl, write_jsonl
from cotkit.data.word_problems import word_problems

RAW = [{'id': p.id, 'question': p.question, 'answer': p.answer, 'steps': list(p.gold_steps)}
       for p in word_problems(60, seed=5, steps=(1, 2))]
RECIPE = '''
folder: {folder}
data:
  task: apples.jsonl
  test_size: 0.3
collect:
  oracle: 0.8
curate:
distill:
  format: zero-shot-cot
  student: nano
  max_steps: {steps}
evaluate:
  max_new_tokens: 8
report:
  title: Apples
'''


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jsonl('apples.jsonl', RAW)
    return tmp_path


def write(text=RECIPE, name='apples.yaml', **values):
    Path(name).write_text(text.format(**{'folder': 'run', 'steps': 4} | values))
    return name


def files(folder): return {p.relative_to(folder): p.read_bytes() for p in sorted(Path(folder).rglob('*')) if p.is_file()}


def test_a_whole_job_and_nothing_the_second_time():
    "Every stage runs once; the second run changes no byte; a changed stage runs, and what depends on it"
    first = run_recipe(write())
    assert [name.split()[0] for name in first] == ['collect', 'curate', 'distill', 'evaluate', 'report']
    assert not any(job['skipped'] for job in first.values())
    assert first['curate']['kept'] < first['collect']['rationales'] and Path('run/report.html').is_file()
    before = files('run')
    again = run_recipe('apples.yaml')
    assert all(job['skipped'] for job in again.values()) and files('run') == before
    assert [{k: v for k, v in job.items() if k != 'skipped'} for job in again.values()] == [
        {k: v for k, v in job.items() if k != 'skipped'} for job in first.values()]
    third = run_recipe(write(steps=6))
    assert [name.split()[0] for name, job in third.items() if not job['skipped']] == ['distill', 'evaluate', 'report']
    assert third['distill nano']['max_steps'] == 6


def test_an_output_that_is_gone_or_an_input_that_changed():
    run_recipe(write())
    Path('run/report.html').unlink()
    assert [name for name, job in run_recipe('apples.yaml').items() if not job['skipped']] == ['report']
    write_jsonl('apples.jsonl', RAW[:-2])
    assert not any(job['skipped'] for job in run_recipe('apples.yaml').values())


def test_several_students_on_several_sets():
    "Lists make one job an entry; every student is tested on every set, and the report names them all"
    text = RECIPE.replace('''distill:
  format: zero-shot-cot
  student: nano
  max_steps: {steps}
evaluate:
  max_new_tokens: 8
''', '''distill:
- {{name: answers, format: answer-only, student: nano, max_steps: 2}}
- {{name: both, format: [zero-shot-cot, answer-only], student: nano, max_steps: 2}}
evaluate:
- {{split: test, max_new_tokens: 4}}
- {{split: validation, max_new_tokens: 4}}
''')
    jobs = plan(read_recipe(write(text)))
    assert [job.out.name for job in jobs if job.stage == 'evaluate'] == [
        'answers-test.json', 'both-test.json', 'answers-validation.json', 'both-validation.json']
    results = run_recipe('apples.yaml')
    assert results['distill both']['examples'] > results['distill answers']['examples']
    page = Path('run/report.html').read_text()
    assert 'answers' in page and 'both' in page


def test_the_same_as_by_hand(capsys):
    "A recipe and the commands give the same rationales, student and predictions"
    run_recipe(write())
    task = '--task apples.jsonl --test-size 0.3'
    for line in (f'collect {task} --oracle 0.8 --out r.jsonl', f'curate {task} --rationales r.jsonl --out c.jsonl',
                 f'distill {task} --rationales c.jsonl --format zero-shot-cot --student nano --max-steps 4 --out s',
                 f'evaluate {task} --student s --name nano --max-new-tokens 8 --out e.json'):
        assert cli.main(line.split()) == 0
    assert Path('c.jsonl').read_bytes() == Path('run/curated.jsonl').read_bytes()
    weights = 'student/model.safetensors'
    assert Path('s', weights).read_bytes() == Path('run/students/nano', weights).read_bytes()
    one, two = (json.loads(Path(p).read_text())['predictions'] for p in ('e.json', 'run/evaluations/nano-test.json'))
    assert one == two


BAD = {
    'no such section': ('colect:\n  oracle: 1\n', r'bad\.yaml:1: field "colect": no such section\. Did you mean collect'),
    'misspelt setting': ('data: {task: apples.jsonl}\ncollect:\n  oracle: 1\n  sampels: 2\n',
                         r'bad\.yaml:4: field "sampels": collect has no such setting\. Did you mean samples'),
    'misspelt in data': ('data:\n  tsak: apples.jsonl\ncollect:\n  oracle: 1\n', r'bad\.yaml:2: field "tsak".*Did you mean task'),
    'missing': ('collect:\n  oracle: 1\n', r'bad\.yaml:1: field "task": is missing'),
    'another kind': ('data: {task: apples.jsonl}\ncollect:\n  oracle: 1\n  samples: two\n',
                     r"bad\.yaml:4: field \"samples\": is 'two'\. It should be a whole number"),
    'no choice': ('data: {task: apples.jsonl}\ncurate:\n  keep: good\n', r"bad\.yaml:3: .*'good'.*correct, parsed, all"),
    'out of bounds': ('data: {task: apples.jsonl}\ncollect:\n  oracle: 7\n', r'bad\.yaml:3: field "oracle": is 7'),
    'twice': ('data: {task: apples.jsonl}\ncollect:\n  oracle: 1\n  oracle: 0.5\n', r'bad\.yaml:4: field "oracle": stands twice'),
    'no YAML': ('collect: [\n', r'bad\.yaml:2: not valid YAML'),
    'no mapping': ('- collect\n', r'bad\.yaml:1: is no mapping'),
    'no stage': ('folder: x\n', r'bad\.yaml: has no stage'),
    'a Python object': ('collect: !!python/object/apply:os.system ["touch owned"]\n', r'bad\.yaml:1: not valid YAML'),
    'one name twice': ('data: {task: apples.jsonl}\ndistill:\n- {student: nano}\n- {student: nano}\n', r'bad\.yaml:4: .*two jobs make'),
    'a late stage': ('data: {task: apples.jsonl}\ncollect: {oracle: 1}\nreport: {titel: x}\n', r'bad\.yaml:3: .*"titel".*title'),
}


@pytest.mark.parametrize('case', BAD, ids=lambda c: c.replace(' ', '-'))
def test_what_is_wrong_is_said_before_anything_runs(here, capsys, case):
    "One line with file, line and key, exit code 2, nothing written"
    text, expected = BAD[case]
    Path('bad.yaml').write_text(text)
    before = set(here.rglob('*'))
    assert cli.main(['run', 'bad.yaml', '--json']) == 2
    out, err = capsys.readouterr()
    assert out == '' and err.count('\n') == 1 and err.startswith('cotkit run: ') and re.search(expected, err), err
    assert set(here.rglob('*')) == before


def test_somebody_elses_folder_is_not_removed():
    "A run folder without a stamp, which the recipe would have to replace, stays"
    Path('run/students/nano/checkpoint-1').mkdir(parents=True)
    Path('run/students/nano/checkpoint-1/mine.txt').write_text('mine')
    run_recipe(write())
    assert Path('run/students/nano/checkpoint-1/mine.txt').read_text() == 'mine'


def test_failed_requests_are_asked_again(monkeypatch):
    "A stage that left something undone is not up to date"
    run_recipe(write(RECIPE.replace('oracle: 0.8', 'oracle: 0.8\n  max_requests: 5')))
    count = len(list(read_jsonl('run/rationales.jsonl')))
    again = run_recipe('apples.yaml')
    assert count == 5 and not again['collect']['skipped'] and again['collect']['rationales'] == 10


def finished_steps(folder):
    return [int(p.name.split('-')[1]) for p in Path(folder).glob('checkpoint-*') if (p/'trainer_state.json').is_file()]


def test_killed_in_the_middle_and_run_again(here):
    "kill -9 during training, then the same command: the same student and predictions as without"
    environment = os.environ | {'PYTHONPATH': str(Path(cli.__file__).parents[2]), 'OMP_NUM_THREADS': '1'}
    program = [sys.executable, '-c', 'import sys; from cotkit.app.cli import main; sys.exit(main(sys.argv[1:]))', 'run']
    killed, whole = write(steps=300, folder='killed', name='killed.yaml'), write(steps=300, folder='whole', name='whole.yaml')
    process = subprocess.Popen([*program, killed], env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not finished_steps('killed/students/nano'):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not Path('killed/students/nano/student').exists() and not Path('killed/report.html').exists()
    for recipe in (killed, whole): subprocess.run([*program, recipe], env=environment, check=True, capture_output=True)
    weights = 'students/nano/student/model.safetensors'
    assert Path('killed', weights).read_bytes() == Path('whole', weights).read_bytes()
    one, two = (json.loads(Path(f, 'evaluations/nano-test.json').read_text())['predictions'] for f in ('killed', 'whole'))
    assert one == two


def test_a_new_field_is_an_option_a_key_and_in_the_record(capsys):
    "Every field of every command's dataclasses is an option that its help explains"
    for command in load_commands().values():
        with pytest.raises(SystemExit): cli.main([command.name, '--help'])
        out = capsys.readouterr().out
        for name in set(command.settings) - {'extra', 'overrides'}:
            option = f'--{name.replace("_", "-")}'
            assert option in out or f'--no-{option[2:]}' in out or f'{name.upper()}' in out or name in ('inputs', 'table') and 'PATH' in out or command.name in ('publish', 'run'), (command.name, name)


@given(st.one_of(st.integers(), st.floats(allow_nan=False), st.booleans(), st.text(), st.none(),
                 st.lists(st.integers()), st.dictionaries(st.text(), st.integers())))
def test_values_are_of_their_type_or_refused(value):
    for kind in (int, float, str, bool, int | None, tuple[str, ...], Path):
        try: read = read_value(value, kind)
        except ValueError: continue
        if kind in (int, float, str, bool): assert type(read) is kind


def test_a_recipe_imports_a_file_of_ones_own_and_notices_when_it_changes(here, capsys):
    "The section `import` registers a task; a change of that file makes the stages run again"
    mine = Path('mine.py')
    mine.write_text('from cotkit.data.core import Problem\nfrom cotkit.data.tasks import Task, register_task\n\n'
                    '@register_task("recipe_sums")\ndef sums(seed: int = 0):\n    "Ten sums"\n'
                    '    return Task("recipe_sums", {"train": [Problem(f"s{i}", f"{i} + 1?", str(i + 1), gold_steps=(f"{i} + 1 = {i + 1}.",)) for i in range(10)]})\n')
    Path('own.yaml').write_text('import: [mine.py]\nfolder: own\ndata: {task: recipe_sums}\ncollect: {oracle: 1.0, progress: false}\n')
    def skipped():
        assert cli.main(['run', 'own.yaml', '--json']) == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])['collect']['skipped']
    assert not skipped() and skipped()
    mine.write_text(mine.read_text() + '# changed\n')
    assert not skipped()
    Path('own.yaml').write_text('import: {a: b}\ncollect: {task: recipe_sums, oracle: 1.0}\n')
    assert cli.main(['run', 'own.yaml']) == 2 and 'own.yaml:1: field "import"' in capsys.readouterr().err
