"All methods of Distilling step-by-step on one code path: small data in the schemas of the hub, both architectures"
import json, math
from pathlib import Path

import pytest
import torch

from cotkit.data.answers import is_correct, same_answer
from cotkit.data.core import CotkitError, Problem, Rationale
from cotkit.teachers.curate import curate
from cotkit.training.distill import distill
from cotkit.training.encode import encode
from cotkit.training.checkpoints import read_history
from cotkit.training.trainer import TrainingSet
from train_settings import settings
from cotkit.evaluation.evaluate import evaluate, score_outputs
from cotkit.evaluation.strategies import SingleTurn
from cotkit.models.generate import DecodingParams
from cotkit.data.formats import AnswerOnly, FewShotAnswerOnly, FewShotCoT, StepByStep, ZeroShotCoT, answer_text, demonstrations, examples_from, gold_rationale
from cotkit.models.students import Size, StudentConfig, make_student
from cotkit.data.word_problems import word_problems
from cotkit.data.addition import addition_problems
from cotkit.data.tasks import NLI_LABELS, hash_split, load_task

torch.set_num_threads(1)
ARCHITECTURES = ('causal', 'seq2seq')
METHODS = {'gold labels': AnswerOnly(), 'teacher labels': AnswerOnly('teacher'), 'rationale and label': ZeroShotCoT(), 'alpha 0': StepByStep(0.0),
           'alpha 0.3': StepByStep(0.3), 'alpha 1': StepByStep(1.0), 'alpha 0.3, teacher labels': StepByStep(0.3, 'teacher')}
TASKS = ('svamp', 'commonsense_qa', 'anli', 'esnli', 'word_problems', 'addition')

# small data, in the columns that the hub has


def svamp(i): return dict(ID=f's{i}', Body=f'Ann has {i + 3} bags with {i + 2} apples each', Question='How many apples does Ann have?',
                          Equation=f'( {i + 3}.0 * {i + 2}.0 )', Answer=str((i + 3) * (i + 2)), Type='Multiplication')


def commonsense_qa(i):
    places = ['desert', 'wooded area', 'ocean', 'mall', f'room {i}']
    return dict(id=f'c{i}', question=f'Where does animal number {i} find wood?', question_concept='wood', choices=dict(label=list('ABCDE'), text=places), answerKey='BEA'[i % 3])


def anli(i): return dict(uid=f'a{i}', premise=f'Ann bought {i + 2} bags of apples.', hypothesis='Ann was at the market.', label=i % 3, reason=f'She bought {i + 2} bags there.')


def esnli(i): return dict(premise=f'A girl peels {i + 1} apples.', hypothesis='The girl is hungry.', label=(i + 1) % 3, explanation_1=f'She peels {i + 1} apples.', explanation_2='', explanation_3='')


@pytest.fixture(scope='module')
def problems(tmp_path_factory):
    "Eight problems of each task, the public ones read from files"
    folder, found = tmp_path_factory.mktemp('tasks'), {}
    for schema in (svamp, commonsense_qa, anli, esnli):
        name = schema.__name__
        (folder/name).mkdir()
        (folder/name/('train_r1.jsonl' if name == 'anli' else 'train.jsonl')).write_text('\n'.join(json.dumps(schema(i)) for i in range(8)))
        found[name] = load_task(name, folder/name)['train']
    return found | {'word_problems': word_problems(8, steps=(1, 2), largest=20), 'addition': addition_problems(8, digits=(1, 2))}


def wrong(problem):
    "An answer that can be read and is not right"
    if problem.kind in ('choice', 'label'): return next(c for c in problem.choices if c != problem.answer)
    return {'expression': '( 1 + 1 )', 'text': '7 7 7'}.get(problem.kind, '777')


def rationales(problems):
    "What a teacher wrote: the third is mistaken, the last says nothing; read and kept by curation"
    def said(i, p):
        if i == len(problems) - 1: return '' if p.kind == 'text' else 'I do not want to say.'
        answer = answer_text(p, wrong(p) if i == 2 else p.answer)
        return f'First there are {i + 2} of them. Then it follows. The answer is {answer}.\n\nQ: How many bags are there?'
    written = [Rationale(p.id, said(i, p)) for i, p in enumerate(problems)]
    return curate(written, problems, ZeroShotCoT(), keep='parsed').kept

# what is taught


@pytest.mark.parametrize('task, label, chain', [
    ('svamp', '( 3.0 * 2.0 )', 'First there are 2 of them. Then it follows. The answer is ( 3.0 * 2.0 ).'),
    ('commonsense_qa', 'wooded area', 'First there are 2 of them. Then it follows. The answer is (b) wooded area.'),
    ('anli', 'entailment', 'First there are 2 of them. Then it follows. The answer is entailment.'),
    ('esnli', 'neutral', 'First there are 2 of them. Then it follows. The answer is neutral.')])
def test_targets_to_the_letter(task, label, chain, problems):
    problem, about = problems[task][0], rationales(problems[task])[:1]
    answered, explained = StepByStep().examples(problem, about)
    assert (answered.objective, answered.target) == ('label', label)
    assert (explained.objective, explained.target) == ('rationale', 'First there are 2 of them. Then it follows.')
    assert [e.target for e in ZeroShotCoT().examples(problem, about)] == [chain]
    assert [e.target for e in AnswerOnly().examples(problem)] == [f'The answer is {answer_text(problem, label)}.']


def test_inputs_to_the_letter(problems):
    asked = {task: StepByStep().prompt(problems[task][0]) for task in TASKS}
    assert asked['svamp'] == 'predict: Ann has 3 bags with 2 apples each\nHow many apples does Ann have?'
    assert asked['commonsense_qa'].split('\n') == ['predict: Where does animal number 0 find wood?', 'Answer Choices:', '(a) desert', '(b) wooded area', '(c) ocean', '(d) mall', '(e) room 0']
    assert asked['anli'] == 'predict: Premise: Ann bought 2 bags of apples.\nHypothesis: Ann was at the market.'
    assert AnswerOnly().prompt(problems['esnli'][0]) == 'Q: Premise: A girl peels 1 apples.\nHypothesis: The girl is hungry.\nA:'
    for task in TASKS:
        _, explained = StepByStep().examples(problems[task][0], rationales(problems[task])[:1])
        assert explained.input == 'explain: ' + asked[task].removeprefix('predict: ')


@pytest.mark.parametrize('task', TASKS)
def test_gold_steps_make_rationales(task, problems):
    if not problems[task][0].gold_steps: pytest.skip('this data set has no gold rationales')
    for problem in problems[task]:
        [example] = ZeroShotCoT().examples(problem, [gold_rationale(problem)])
        assert example.target == f'{" ".join(problem.gold_steps)} The answer is {problem.answer}.'


@pytest.mark.parametrize('task', TASKS)
def test_the_teacher_s_mistake_is_a_teacher_label(task, problems):
    about = rationales(problems[task])
    assert len(about) == 7 and [r.correct for r in about].count(False) == 1
    mistaken, problem = about[2], problems[task][2]
    for format in (AnswerOnly('teacher'), StepByStep(0.3, 'teacher')):
        label = next(e.target for e in format.examples(problem, [mistaken]) if e.objective == 'label')
        read = format.parse(label, problem)
        assert same_answer(read.value, wrong(problem), problem.kind, problem.choices) and not is_correct(problem, read)
        assert not [e for e in format.examples(problems[task][-1]) if e.objective == 'label'], 'no teacher, no label'
    gold = next(e.target for e in StepByStep(0.3).examples(problem, [mistaken]) if e.objective == 'label')
    assert is_correct(problem, StepByStep().parse(gold, problem)), 'gold labels stay gold whatever the teacher said'

# what is read back


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('task', TASKS)
def test_what_is_taught_is_read_back(task, method, problems):
    "Every target that states an answer scores as right, by the strict reading as well"
    format, kept = METHODS[method], {r.problem_id: r for r in rationales(problems[task]) if r.correct}
    answered = [p for p in problems[task] if p.id in kept]
    stating = 'rationale' if method == 'rationale and label' else 'label'
    targets = [e.target for p in answered for e in format.examples(p, [kept[p.id]]) if e.objective == stating]
    evaluation = score_outputs(targets, answered, format)
    assert evaluation.accuracy.correct == evaluation.strict.correct == len(answered) == 6

# what is trained


@pytest.fixture(scope='module')
def students(problems):
    "A student of each task, to be copied"
    texts = {task: [f'{e.input} {e.target}' for p in problems[task] for f in (StepByStep(), ZeroShotCoT()) for e in f.examples(p, rationales(problems[task])[:2])] for task in TASKS}
    return lambda task, format, arch: make_student(StudentConfig(Size(1, 16, 2), arch, 320), format, texts[task])


TURNS = [(task, method, ARCHITECTURES[(t + m) // 3 % 2]) for t, task in enumerate(TASKS) for m, method in enumerate(METHODS) if (t + m) % 3 == 0]


@pytest.mark.parametrize('task, method, arch', TURNS)
def test_one_path_trains_every_method_and_task(task, method, arch, problems, students, tmp_path):
    "Each method on two tasks, each task by two methods, and both architectures for all of them"
    format = METHODS[method]
    student = students(task, format, arch)
    train, held_out = problems[task][:6], problems[task][6:7]
    distill(student, TrainingSet(train, rationales(problems[task]), held_out), output_dir=tmp_path/'run',
            config=settings(max_steps=2, batch_size=4, eval_steps=2, save_strategy='no'))
    history = read_history(tmp_path/'run')
    assert len(history) == 2 and all(math.isfinite(v) for row in history for v in row.values())
    taught = {name for name, weight in format.objective_weights.items() if weight}
    assert {name for name in ('label', 'rationale') for row in history if f'{name}_loss' in row} == taught
    assert {f'eval_{name}_exact' for name in taught} <= history[-1].keys()
    evaluation = evaluate(SingleTurn(student, decoding=DecodingParams(4)), held_out)
    assert evaluation.accuracy.n == 1 and isinstance(evaluation.predictions[0].output, str)


def rows_of(student, problems, about): return encode(examples_from(student.format, problems, about), student.tokenizer, student.arch)


@pytest.mark.parametrize('arch', ARCHITECTURES)
def test_the_rows_of_each_method(arch, problems, students):
    "How many label and rationale rows eight problems give, of whose rationales seven were kept"
    counts = {}
    for method, format in METHODS.items():
        rows = rows_of(students('svamp', format, arch), problems['svamp'], rationales(problems['svamp']))
        names = rows.features['objective'].names
        counts[method] = {name: [names[t] for t in rows['objective']].count(name) for name in names}
    assert counts == {'gold labels': {'label': 8}, 'teacher labels': {'label': 7}, 'rationale and label': {'rationale': 7}, 'alpha 0': {'rationale': 7},
                      'alpha 0.3': {'label': 8, 'rationale': 7}, 'alpha 1': {'label': 8}, 'alpha 0.3, teacher labels': {'label': 7, 'rationale': 7}}


@pytest.mark.parametrize('share', (0.25, 0.5, 1.0))
def test_fractions_of_the_data(share, problems, students):
    "Rationales about problems outside the fraction teach nothing"
    _, part = hash_split(problems['anli'], share, exact=True)
    assert len(part) == 8 * share
    rows = rows_of(students('anli', METHODS['alpha 0.3'], 'causal'), part, rationales(problems['anli']))
    about = {r.problem_id for r in rationales(problems['anli'])} & {p.id for p in part}
    assert len(rows) == len(part) + len(about)

# problems whose answer nobody knows


@pytest.fixture
def unlabelled(problems):
    from dataclasses import replace
    return [replace(p, answer='') for p in problems['anli']], [r for r in rationales(problems['anli'])]


@pytest.mark.parametrize('method', ['teacher labels', 'rationale and label', 'alpha 0.3, teacher labels'])
def test_unlabelled_problems_are_taught_by_the_teacher(method, unlabelled, students, tmp_path):
    blank, about = unlabelled
    student = students('anli', METHODS[method], 'causal')
    targets = [e.target for p in blank for e in student.format.examples(p, [r for r in about if r.problem_id == p.id])]
    assert all(targets) and not any(t.endswith('is .') for t in targets)
    distill(student, TrainingSet(blank, about), output_dir=tmp_path/'run', config=settings(max_steps=2, batch_size=4, save_strategy='no'))
    assert all(math.isfinite(row['loss']) for row in read_history(tmp_path/'run'))


def test_curation_keeps_what_can_be_read_about_unlabelled_problems(unlabelled):
    blank, about = unlabelled
    written = [Rationale(r.problem_id, r.text) for r in about]
    kept = curate(written, blank, ZeroShotCoT(), keep='parsed')
    assert len(kept.kept) == 7 and all(r.answer in NLI_LABELS and not r.correct for r in kept.kept)
    with pytest.raises(CotkitError, match='no gold answers'): curate(written, blank, ZeroShotCoT())


def test_an_unknown_answer_is_never_taught(unlabelled, problems):
    blank, about = unlabelled
    unread = Rationale(blank[0].id, 'It is hard to say.')
    shown = demonstrations(problems['anli'][1:3], about)
    for format in (AnswerOnly(), StepByStep(), ZeroShotCoT(), FewShotCoT(shown), FewShotAnswerOnly(shown)):
        assert not [e for e in format.examples(blank[0], [unread]) if e.objective == 'label' or not isinstance(format, StepByStep)]
    assert [e.objective for e in StepByStep().examples(blank[0], about[:1])] == ['rationale'], 'its reasoning may still be taught'
    with pytest.raises(CotkitError, match='no gold answer'): gold_rationale(blank[0])


def test_gold_and_unlabelled_problems_together(unlabelled, problems, students):
    "Half with gold labels, half without: the rationale task learns from all, the label task from the gold half"
    blank, about = unlabelled
    rows = rows_of(students('anli', StepByStep(0.3), 'seq2seq'), [*problems['anli'][:4], *blank[4:]], about)
    assert [rows.features['objective'].names[t] for t in rows['objective']].count('label') == 4 and len(rows) == 4 + 7
