"Iterative inference: the traces of a plain loop, an end with a reason for every problem, any number of problems at once"
from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import get_args

import pytest, torch

from cotkit.data.core import Completion, CotkitError, Problem, Step
from cotkit.data.formats import ZeroShotCoT, gold_rationale
from cotkit.data.socratic_formats import Decomposer, Solver, Unified
from cotkit.data.word_problems import word_problems
from cotkit.evaluation import iterative
from cotkit.evaluation.evaluate import evaluate
from cotkit.evaluation.iterative import Iterative, Questions, UnifiedDialogue, new_chain, read_unified, shuffled
from cotkit.evaluation.strategies import SingleTurn, Trace, Vote, strategy_from_dict, strategy_to_dict
from cotkit.models import dialogue as dialogues
from cotkit.models.config import DecodingParams, StudentConfig
from cotkit.models.generate import generations
from cotkit.models.students import Student, make_student
from cotkit.training.config import TrainConfig
from cotkit.training.socratic import SocraticStudents, socratic, socratic_students
from cotkit.training.trainer import TrainingSet
from test_generate import STUDENTS

torch.set_num_threads(1)
KINDS = get_args(Questions)
APPLES = Problem('apples-1', 'Ann has 3 apples. She buys 4 bags with 2 apples each. How many apples does Ann have now?', '11',
                 gold_steps=('4 bags of 2 apples are 4 * 2 = 8 apples.', 'Ann has 3 + 8 = 11 apples.'),
                 subquestions=('How many apples are in the bags?', 'How many apples does Ann have now?'))


class PlainDialogue:
    "A loop that reads every prompt whole, by `generations`"
    def __init__(self, student, decoding): self.student, self.decoding = student, decoding

    def ask(self, prompts, stop=()):
        if not stop: return dict(zip(prompts, generations(self.student, list(prompts.values()), self.decoding)))
        from cotkit.models.generate import DecodeRequest, decode
        rows = self.student.tokenizer(list(prompts.values())).input_ids
        requests = [DecodeRequest(row, self.decoding.max_new_tokens, stop=stop) for row in rows]
        return dict(zip(prompts, [replace(g, text=g.text.removeprefix(' ')) for g in decode(self.student.model, self.student.tokenizer, requests)]))


def logged(kind, log):
    "A dialogue that notes the tokens of every turn"
    class Logged(kind):
        def ask(self, prompts, stop=()):
            said = super().ask(prompts, stop)
            log.append({i: (g.token_ids, g.finish_reason) for i, g in said.items()})
            return said
    return Logged


def both_ways(monkeypatch, strategy, problems):
    "Traces and tokens, with prefix reuse and by the plain loop"
    found, reuses = [], dialogues.Dialogue
    for kind in (reuses, PlainDialogue):
        log = []
        monkeypatch.setattr(dialogues, 'Dialogue', logged(kind, log))
        found.append((strategy.solve(problems), log))
    monkeypatch.setattr(dialogues, 'Dialogue', reuses)
    return found


def plain(text): return ''.join(o for o in text if o.isprintable() and o.isascii())[:10].strip() or '?'


@dataclass(frozen=True)
class LooseDecomposer(Decomposer):
    "Takes any text for a question, so that students with random weights go on"
    name = 'loose-decomposer'
    def prompt(self, problem, turns=(), question=''): return '- ' + ' '.join([problem.question[:20], *(f'{t.question} {t.solution}' for t in turns)])[-30:].strip()
    def read_question(self, text): return plain(text)


@dataclass(frozen=True)
class LooseSolver(Solver):
    name = 'loose-solver'
    def prompt(self, problem, turns=(), question=''): return f'{LooseDecomposer().prompt(problem, turns)} {question[:12]} **'
    def read_solution(self, text): return plain(text)


@pytest.mark.parametrize('name', STUDENTS)
def test_random_students_write_what_a_plain_loop_writes(monkeypatch, name):
    one, other = STUDENTS[name](), STUDENTS[name]()
    monkeypatch.setattr(iterative, '_is_cut', lambda said: False)  # they rarely stop by themselves
    sides = [SingleTurn(one, LooseDecomposer(), DecodingParams(9, 8)), SingleTurn(other, LooseSolver(), DecodingParams(9, 8))]
    problems = word_problems(20, seed=1)
    for questions in ('predicted', 'gold'):
        strategy = Iterative(*sides, questions=questions, max_turns=5)
        (ours, log), (plain, plain_log) = both_ways(monkeypatch, strategy, problems)
        assert ours == plain and log == plain_log and len(log) > 6
        assert max(len(t.turns) for t in ours) > 2 and 'length' not in {t.finish_reason for t in ours}


@pytest.fixture(scope='module', params=('causal', 'seq2seq'))
def trained(request, tmp_path_factory):
    "A pair and a unified student that have learned to ask and to answer, in form at least"
    problems = word_problems(150, steps=(2, 3), largest=10)
    data = TrainingSet(problems, [gold_rationale(p) for p in problems])
    config = TrainConfig(max_steps=120, batch_size=16, learning_rate=1e-2, overrides={'disable_tqdm': True})
    made = []
    for formats in ((Decomposer(), Solver()), (Unified(),)):
        students = socratic_students(StudentConfig('nano', request.param), data, formats)
        made.append(socratic(students, data, output_dir=tmp_path_factory.mktemp('run'), config=config))
    return made


TEST = word_problems(24, steps=(2, 4), largest=10, split='test')



@pytest.mark.parametrize('questions', KINDS)
def test_trained_students_write_what_a_plain_loop_writes(monkeypatch, trained, questions):
    pair, unified = trained
    how = DecodingParams(48, 16)
    strategies = [Iterative(SingleTurn(pair.decomposer, decoding=how), SingleTurn(pair.solver, decoding=how), questions, max_turns=6)]
    if questions != 'predicted': strategies.append(UnifiedDialogue(SingleTurn(unified.decomposer, decoding=how), questions, max_turns=6))
    for strategy in strategies:
        (ours, log), (plain, plain_log) = both_ways(monkeypatch, strategy, TEST)
        assert ours == plain and log == plain_log
        assert [t.problem_id for t in ours] == [p.id for p in TEST] and all(t.finish_reason for t in ours)
        assert sum(len(t.turns) for t in ours) >= len(TEST)
        if questions == 'gold': assert all([s.question for s in t.turns] == list(p.subquestions)[:len(t.turns)] for t, p in zip(ours, TEST))


def test_company_changes_nothing(trained):
    pair, unified = trained
    def solve(batch_size, problems, sampling=0.0):
        how = DecodingParams(32, batch_size, temperature=sampling)
        return Iterative(*(SingleTurn(s, decoding=how) for s in pair.roles.values()), max_turns=5).solve(problems)
    together = solve(64, TEST[:12])
    assert solve(5, TEST[:12]) == together == [solve(64, [p])[0] for p in TEST[:12]]
    assert solve(64, TEST[:12], 1.0) == solve(3, TEST[:12], 1.0) != together
    found = UnifiedDialogue(unified.decomposer).solve(TEST[:12])
    assert found == [UnifiedDialogue(unified.decomposer).solve([p])[0] for p in TEST[:12]]


def test_a_unified_student_is_read_into_turns(trained):
    traces = UnifiedDialogue(trained[1].decomposer).solve(TEST)
    assert sum(t.finish_reason == 'stop' for t in traces) > len(TEST) // 2
    for trace in traces:
        assert bool(trace.turns) or trace.finish_reason not in ('stop', 'max turns')
        if trace.finish_reason == 'stop': assert all(t.question in trace.output for t in trace.turns)


def test_votes_and_evaluations(trained):
    pair, _ = trained
    how = DecodingParams(32, temperature=1.0)
    strategy = Iterative(*(SingleTurn(s, decoding=how) for s in pair.roles.values()), max_turns=4)
    voted, = Vote(strategy, 3).solve(TEST[:1])
    assert len(voted.samples) == 3 and voted.tokens == sum(t.tokens for t in strategy.sample(TEST[:1], 3)[0])
    found = evaluate(replace(strategy, questions='gold'), TEST[:4], 'pair')
    assert found.strategy['questions'] == 'gold' and all(p.turns for p in found.predictions)
    again = strategy_from_dict(strategy_to_dict(strategy), pair)
    assert strategy_to_dict(again) == strategy_to_dict(strategy) and again.solve(TEST[:2]) == strategy.solve(TEST[:2])
    unified = UnifiedDialogue(trained[1].decomposer, 'gold')
    again = strategy_from_dict(strategy_to_dict(unified), trained[1].decomposer)
    assert again.questions == 'gold' and again.solve(TEST[:2]) == unified.solve(TEST[:2])


class Scripted:
    "A teacher that reads its answers from a table: turn by turn for each problem"
    needs_problem_id = False

    def __init__(self, questions, solutions): self.questions, self.solutions, self.name, self.prompts = questions, solutions, 'scripted', []

    async def complete(self, request):
        self.prompts.append(request.prompt)
        last, turn = request.prompt.splitlines()[-1], request.prompt.count('** ')
        said = self.questions if last == '-' else self.solutions
        return Completion(said[min(turn, len(said) - 1)], finish_reason='length' if said[min(turn, len(said) - 1)].endswith('…') else 'stop')

    async def aclose(self): pass


def scripted(tmp_path, asks, solves, problem=APPLES, **settings):
    teacher = Scripted(asks, solves)
    sides = [SingleTurn(teacher, format, store=tmp_path/f'{random.random()}.db') for format in (settings.pop('decomposer', Decomposer()), Solver())]
    return Iterative(*sides, **settings).solve([problem])[0]


GOOD, ANSWER = ('How many?', 'And now?', 'Done.'), ('4 * 2 = 8.', '3 + 8 = 11. The answer is 11.')


@pytest.mark.parametrize('questions, solutions, reason, turns', [
    (GOOD, ANSWER, 'stop', 2),
    (GOOD, ('4 * 2 = 8.', 'It is 11.'), 'no answer', 2),
    (('***',), ANSWER, 'no question', 0),
    (('How many?', '!'), ANSWER, 'no question', 1),
    (('How many?',), ('8.',), 'repeated step', 2),
    (('How many?', 'Is #3 more?'), ANSWER, 'reference to an absent step', 1),
    (('Is #1 more?',), ANSWER, 'reference to a later step', 0),
    (('How many?', 'Is #1 more?'), ('8.', 'Yes. The answer is 11.'), 'stop', 2),
    (GOOD, ('**',), 'no solution', 0),
    (('How many are there of the…',), ANSWER, 'length', 0),
    (GOOD, ('4 * 2 = 8.', '3 + 8 = 11. The ans…'), 'length', 2),
    (tuple(f'How many {i}?' for i in range(90)), tuple(f'It is {i}.' for i in range(90)), 'max turns', 20)])
def test_every_end_has_a_reason(tmp_path, questions, solutions, reason, turns):
    trace = scripted(tmp_path, questions, solutions)
    assert (trace.finish_reason, len(trace.turns)) == (reason, turns)
    assert all(isinstance(turn, Step) for turn in trace.turns)
    assert trace.output == (trace.turns[-1].solution if turns else '')


def test_questions_first(tmp_path):
    first = Decomposer(order='first')
    trace = scripted(tmp_path, ('How many?\n- And now?',), ANSWER, decomposer=first)
    assert trace.finish_reason == 'stop' and [t.question for t in trace.turns] == ['How many?', 'And now?']
    assert scripted(tmp_path, ('How many?\n- And now?\n- And now?',), ('8.', '11.'), decomposer=first).finish_reason == 'repeated step'
    assert scripted(tmp_path, ('\n- '.join(f'How many {i}?' for i in range(50)),), ANSWER, decomposer=first).finish_reason == 'too many steps'
    assert scripted(tmp_path, ('Done.',), ANSWER, decomposer=first).finish_reason == 'empty'


def test_a_fault_of_one_problem_does_not_touch_the_others(tmp_path):
    "Also an answer that the teacher leaves out altogether"
    class Uneven(Scripted):
        async def complete(self, request):
            said = await super().complete(request)
            if 'pears' in request.prompt: return replace(said, text='***')
            return replace(said, text='') if 'plums' in request.prompt else said
    problems = [APPLES, replace(APPLES, id='b', question='Bob has 2 pears. How many?'), replace(APPLES, id='c', question='Cy has 2 plums. How many?')]
    sides = [SingleTurn(Uneven(GOOD, ANSWER), format, store=tmp_path/'s.db') for format in (Decomposer(), Solver())]
    assert [t.finish_reason for t in Iterative(*sides).solve(problems)] == ['stop', 'no question', 'no question']


def test_given_questions_are_all_asked(tmp_path):
    early = ('It is 8. The answer is 8.', 'She has 11 apples.')
    gold = scripted(tmp_path, (), early, questions='gold')
    assert len(gold.turns) == 2 and gold.output == early[0] and gold.finish_reason == 'stop'
    assert len(scripted(tmp_path, GOOD, early).turns) == 1
    assert scripted(tmp_path, (), ('8.', '8.'), questions='gold', max_turns=1).finish_reason == 'max turns'
    none = scripted(tmp_path, (), ANSWER, questions='none')
    assert none.finish_reason == 'stop' and [t.question for t in none.turns] == ['', '']
    mixed = scripted(tmp_path, (), ANSWER, questions='shuffled')
    assert [t.question for t in mixed.turns] == list(reversed(APPLES.subquestions))


def test_a_teacher_is_paid_once(tmp_path):
    teacher = Scripted(GOOD, ANSWER)
    sides = [SingleTurn(teacher, format, store=tmp_path/'s.db') for format in (Decomposer(), Solver())]
    first = Iterative(*sides).solve([APPLES])
    asked = len(teacher.prompts)
    assert Iterative(*sides).solve([APPLES]) == first and len(teacher.prompts) == asked == 4
    with pytest.raises(CotkitError, match='one sample'): Iterative(*sides).sample([APPLES], 2)


def test_shuffling():
    questions = [f'q{i}' for i in range(4)]
    orders = {tuple(shuffled(questions, str(seed))) for seed in range(200)}
    assert len(orders) == 23 and tuple(questions) not in orders  # all but the old one
    assert shuffled(questions, 'a') == shuffled(questions, 'a') and shuffled(['x'], 'a') == ['x'] and shuffled(['x', 'x'], 'a') == ['x', 'x']
    assert new_chain(APPLES, 'shuffled', 20, 3).pending == new_chain(APPLES, 'shuffled', 20, 3).pending


def test_bad_settings(tmp_path):
    sides = [SingleTurn(Scripted(GOOD, ANSWER), format, store=tmp_path/'s.db') for format in (Decomposer(), Solver())]
    with pytest.raises(CotkitError, match='One of: predicted, gold, shuffled, none'): Iterative(*sides, questions='golden')
    with pytest.raises(CotkitError, match='At least 1'): Iterative(*sides, max_turns=0)
    with pytest.raises(CotkitError, match='does not speak in turns'): Iterative(sides[1], sides[1])
    with pytest.raises(CotkitError, match='does not speak in turns'): UnifiedDialogue(SingleTurn(sides[0].model, ZeroShotCoT(), store='s.db'))
    with pytest.raises(CotkitError, match='asks all its questions first'): UnifiedDialogue(SingleTurn(sides[0].model, Unified(order='first'), store='s.db'), 'gold')
    with pytest.raises(CotkitError, match='has no gold sub-questions'): Iterative(*sides, questions='gold').solve([Problem('x', 'Why?', '1')])


def test_unified_texts():
    def read(text, finish='stop', max_turns=20): return read_unified(Trace('a', text, finish_reason=finish), APPLES, Unified(), max_turns)
    whole = read('How many? ** 8.\n- And now? ** 11. The answer is 11.')
    assert whole.finish_reason == 'stop' and len(whole.turns) == 2
    assert read('How many? ** 8.\n- And now? ** 11.').finish_reason == 'no answer'
    assert read('How many? ** 8.\n- And now? ** 11. The answer is 11.', max_turns=1).finish_reason == 'max turns'
    assert read('How many? ** 8.\n- And', 'length').finish_reason == 'length'
    assert read('').finish_reason == 'empty' and read('How many?').finish_reason == 'no separator'


def test_a_dialogue_is_shown_as_one():
    html = Trace('a', 'The answer is 11.', turns=(Step('How many <b>?', '8.'),), finish_reason='stop')._repr_html_()
    assert 'How many &lt;b&gt;?' in html and html.index('How many') < html.index('8.') < html.index('The answer is 11.') and 'stop' in html
