"Decomposer, solver and unified student: trained by one call, saved as one folder, from the command line and from a recipe"
from __future__ import annotations

import json

import pytest, torch

from cotkit.app.cli import main
from cotkit.app.recipes import path_hash
from cotkit.data.core import CotkitError, Problem, write_jsonl
from cotkit.data.formats import examples_from, gold_rationale
from cotkit.data.socratic_formats import Decomposer, Solver, Unified
from cotkit.data.word_problems import word_problems
from cotkit.evaluation.evaluate import Evaluation
from cotkit.models.config import ARCHITECTURES, DecodingParams, StudentConfig
from cotkit.models.generate import generate
from cotkit.models.students import Student, make_student
from cotkit.training.config import TrainConfig
from cotkit.training.socratic import SocraticStudents, is_socratic, socratic, socratic_students
from cotkit.training.trainer import TrainingSet
from tiny_models import chat_tokenizer, sentencepiece_t5, tiny_llama

torch.set_num_threads(1)
PROBLEMS = word_problems(24, steps=(2, 2), largest=10)
GOLD = [gold_rationale(p) for p in PROBLEMS]
DATA = TrainingSet(PROBLEMS, GOLD)
QUICK = TrainConfig(max_steps=2, batch_size=4, overrides={'disable_tqdm': True})
ROLES = {'pair': (Decomposer(), Solver()), 'unified': (Unified(),), 'questions first': (Decomposer(order='first'), Solver())}


def weights(student): return [w.detach().clone() for w in student.model.parameters()]


@pytest.mark.parametrize('arch', ARCHITECTURES)
@pytest.mark.parametrize('kind', ROLES)
def test_train_save_and_load(tmp_path, arch, kind):
    students = socratic_students(StudentConfig('nano', arch, 400), DATA, ROLES[kind])
    before = {role: weights(s) for role, s in students.roles.items()}
    assert socratic(students, DATA, output_dir=tmp_path/'run', config=QUICK) is students
    for role, student in students.roles.items(): assert any(not torch.equal(a, b) for a, b in zip(before[role], weights(student)))
    saved = students.save(tmp_path/'saved')
    for folder in (tmp_path/'run', saved):
        assert is_socratic(folder) and {p.name for p in folder.iterdir() if p.is_dir()} == set(students.roles)
        loaded = SocraticStudents.load(folder)
        for role, student in loaded.roles.items():
            ours = students.roles[role]
            prompt = 'Q: Ann has 3 apples.\n-'
            assert student.format == ours.format and generate(student, [prompt], DecodingParams(6)) == generate(ours, [prompt], DecodingParams(6))


def test_each_role_learns_its_examples(tmp_path):
    "As many as its format makes, and a decomposer learns none of the solver's"
    students = socratic(socratic_students('nano', DATA), DATA, output_dir=tmp_path, config=QUICK)
    for role, objective in (('decomposer', 'question'), ('solver', 'solution')):
        record = json.loads((tmp_path/role/'training.json').read_text())
        count = len(examples_from(students.roles[role].format, PROBLEMS, GOLD))
        assert record['examples'] == count and record['objectives'] == {objective: count}


def test_checkpoints_of_any_kind(tmp_path):
    "A SentencePiece T5 and a Llama with a tokenizer of its own"
    t5 = sentencepiece_t5(tmp_path, [p.question for p in PROBLEMS] * 4)
    tokenizer = chat_tokenizer()
    tiny_llama(tokenizer).save_pretrained(tmp_path/'llama')
    tokenizer.save_pretrained(tmp_path/'llama')
    for name, folder in (('t5', t5), ('llama', tmp_path/'llama')):
        students = socratic_students(StudentConfig(str(folder)), DATA)
        socratic(students, DATA, output_dir=tmp_path/f'run {name}', config=QUICK)
        assert {s.arch for s in SocraticStudents.load(tmp_path/f'run {name}').roles.values()} == {'seq2seq' if name == 't5' else 'causal'}


def test_nothing_to_teach():
    bare = Problem('a', 'How many?', '8', gold_steps=('4 * 2 = 8.',))
    with pytest.raises(CotkitError, match='no decomposition to teach'): socratic_students('nano', TrainingSet([bare], [gold_rationale(bare)]))
    with pytest.raises(CotkitError, match='no decomposition to teach'): socratic_students('nano', TrainingSet(PROBLEMS))


def test_test_questions_stay_out(tmp_path):
    leak = TrainingSet(PROBLEMS, GOLD, held_out=PROBLEMS[:1])
    with pytest.raises(CotkitError, match='also trained on'): socratic(socratic_students('nano', DATA), leak, output_dir=tmp_path, config=QUICK)


@pytest.mark.parametrize('content, said', [(None, 'holds no decomposer and solver'), ('{', 'names no roles'), ('[]', 'names no roles'), ('{"roles": ["x"]}', "names ['x']")])
def test_a_folder_of_another_kind(tmp_path, content, said):
    if content is not None: (tmp_path/'socratic.json').write_text(content)
    with pytest.raises(CotkitError) as error: SocraticStudents.load(tmp_path)
    assert said in str(error.value)


@pytest.fixture(scope='module')
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp('data')/'apples.jsonl'
    write_jsonl(path, ({'question': p.question, 'answer': p.answer, 'steps': list(p.gold_steps), 'subquestions': list(p.subquestions)} for p in PROBLEMS))
    return path


@pytest.fixture(scope='module')
def runs(file, tmp_path_factory):
    "A pair and a unified student, from the command line"
    folder = tmp_path_factory.mktemp('runs')
    train = ['--task', str(file), '--test-size', '0.3', '--student', 'nano', '--vocab-size', '400', '--max-steps', '2', '--batch-size', '4']
    assert main(['socratic', *train, '--out', str(folder/'pair')]) == main(['socratic', *train, '--unified', '--out', str(folder/'one')]) == 0
    return folder


@pytest.mark.parametrize('name, strategy', [('pair', 'iterative'), ('one', 'unified')])
def test_the_command_line_end_to_end(file, runs, tmp_path, capsys, name, strategy):
    for role in SocraticStudents.load(runs/name).roles:
        record = json.loads((runs/name/role/'record.json').read_text())
        assert record['config']['role'] == role and record['config']['recipe'] == 'socratic' and 'cotkit' in (runs/name/role/'student'/'README.md').read_text()
    test = ['evaluate', '--task', str(file), '--test-size', '0.3', '--student', str(runs/name), '--max-new-tokens', '8', '--json']
    for questions in ('predicted', 'gold'):
        assert main([*test, '--questions', questions, '--metrics', 'question_count', '--max-turns', '3', '--out', str(tmp_path/'e.json')]) == 0
        summary = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert summary['strategy']['strategy'] == strategy and summary['strategy']['questions'] == questions and summary['strategy']['max_turns'] == 3
        found = Evaluation.from_dict(json.loads((tmp_path/'e.json').read_text()))
        assert all(p.finish_reason for p in found.predictions) and len(found.scores('question_count')) == summary['n']
    assert main([*test, '--strategy', 'vote', '-k', '2', '--temperature', '1']) == 0


def refusal(capsys, *argv):
    "The one line on which a command refuses its input"
    capsys.readouterr()
    assert main(list(map(str, argv))) == 2
    line, = capsys.readouterr().err.strip().splitlines()[-1:]
    return line


def test_bad_input_is_refused_in_a_line(file, runs, tmp_path, capsys):
    test = ['evaluate', '--task', file, '--test-size', '0.3']
    bare = tmp_path/'bare.jsonl'
    write_jsonl(bare, ({'question': p.question, 'answer': p.answer, 'steps': list(p.gold_steps)} for p in PROBLEMS))
    assert '--task: there are no sub-questions to teach' in refusal(capsys, 'socratic', '--task', bare, '--test-size', '0.3', '--out', tmp_path/'run')
    write_jsonl(tmp_path/'chains.jsonl', [{'problem_id': p.id, 'text': 'So. The answer is 3.'} for p in PROBLEMS])
    line = refusal(capsys, 'socratic', '--task', file, '--rationales', tmp_path/'chains.jsonl', '--out', tmp_path/'run')
    assert '--rationales: there are no sub-questions to teach' in line and 'few-shot-socratic' in line
    assert '--format: these students have formats of their own' in refusal(capsys, *test, '--student', runs/'pair', '--format', 'answer-only')
    assert '--strategy: single_turn needs a model' in refusal(capsys, *test, '--student', runs/'pair', '--strategy', 'single_turn')
    assert '--strategy: iterative needs a decomposer' in refusal(capsys, *test, '--student', runs/'one'/'unified', '--strategy', 'iterative')
    assert '--questions: this model asks none' in refusal(capsys, *test, '--student', runs/'pair'/'solver', '--questions', 'gold')
    assert '--max-turns: is 0' in refusal(capsys, *test, '--student', runs/'pair', '--max-turns', '0')
    assert 'no gold sub-questions' in refusal(capsys, 'evaluate', '--task', bare, '--test-size', '0.3', '--student', runs/'pair', '--questions', 'gold')


def test_a_stage_of_a_recipe(file, tmp_path, capsys):
    recipe = tmp_path/'recipe.yaml'
    recipe.write_text(f'''folder: {tmp_path/'out'}
data: {{task: {file}, test_size: 0.3}}
socratic:
  - {{name: pair, student: nano, vocab_size: 400, max_steps: 2, batch_size: 4}}
  - {{name: one, unified: true, student: nano, vocab_size: 400, max_steps: 2, batch_size: 4}}
evaluate: {{max_new_tokens: 8, questions: gold}}
report: {{title: Dialogues}}
''')
    assert main(['run', str(recipe)]) == 0
    made = {p.name: json.loads(p.read_text())['strategy']['strategy'] for p in (tmp_path/'out'/'evaluations').glob('*.json')}
    assert made == {'pair-test.json': 'iterative', 'one-test.json': 'unified'} and (tmp_path/'out'/'report.html').is_file()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path/'out').rglob('*.json')}
    assert main(['run', str(recipe)]) == 0
    assert {p: p.stat().st_mtime_ns for p in (tmp_path/'out').rglob('*.json')} == before  # nothing is done twice
    pair = tmp_path/'out'/'students'/'pair'
    known = path_hash(pair)
    (pair/'decomposer'/'history.jsonl').write_text('')
    assert path_hash(pair) == known
    (pair/'solver'/'student'/'cotkit.json').write_text('{}')
    assert path_hash(pair) != known
    recipe.write_text(recipe.read_text().replace('unified: true', 'unifed: true'))
    assert 'unified' in refusal(capsys, 'run', recipe)
