"""Problems per second of processor time of iterative inference with prefix reuse against a plain loop, interleaved in one run.

    python tests/bench_socratic.py [size] [problems] [architecture]

The plain loop calls `generate` with the whole prompt at every turn, for all problems together; its texts must be the same. Students are trained
for a moment, so that questions and solutions end where they should. One thread; processor time, so that a busy machine disturbs it less.
"""
from __future__ import annotations

import statistics, sys, time
from contextlib import contextmanager
from dataclasses import replace

import torch

from cotkit.data.core import Problem
from cotkit.data.formats import examples_from, gold_rationale
from cotkit.data.socratic_formats import Decomposer, Solver
from cotkit.data.word_problems import word_problems
from cotkit.evaluation.iterative import Iterative
from cotkit.evaluation.strategies import SingleTurn, Trace
from cotkit.models import dialogue, generate as generating
from cotkit.models.config import DecodingParams
from cotkit.models.generate import generations
from cotkit.models.students import StudentConfig, Student
from cotkit.training.socratic import socratic_students
from cotkit.training.trainer import TrainingSet
from bench_generate import fit
from measured import Measured

REUSE = dialogue.Dialogue


class PlainDialogue:
    "Reads every prompt whole"
    def __init__(self, student: Student, decoding: DecodingParams): self.student, self.decoding = student, decoding

    def ask(self, prompts, stop=()): return dict(zip(prompts, generations(self.student, list(prompts.values()), self.decoding)))


@contextmanager
def timed(spent: dict[str, float], name: str):
    began = time.process_time()
    yield
    spent[name] = spent.get(name, 0.0) + time.process_time() - began


@contextmanager
def prefill_timed(spent: dict[str, float]):
    "Time spent on reading prompts, whole or in part"
    old = generating.Decoder.prefill
    def prefill(decoder, count):
        with timed(spent, 'prefill'): return old(decoder, count)
    generating.Decoder.prefill = prefill
    try: yield
    finally: generating.Decoder.prefill = old


def solve(kind: type, strategy: Iterative, problems: list[Problem], seconds: dict[str, float]) -> list[Trace]:
    dialogue.Dialogue = kind
    try:
        with timed(seconds, 'all'), prefill_timed(seconds): return strategy.solve(problems)
    finally: dialogue.Dialogue = REUSE


def main(size: str = 'small', count: int = 64, arch: str = 'causal', longest: int = 64, repeats: int = 3) -> None:
    torch.set_num_threads(1)
    problems = word_problems(2000, steps=(3, 6), seed=0)
    data = TrainingSet(problems, [gold_rationale(p) for p in problems])
    pair = socratic_students(StudentConfig(size, arch), data)
    for student in pair.roles.values(): fit(student, examples_from(student.format, data.problems, data.rationales), 150)
    sides = [SingleTurn(student, decoding=DecodingParams(longest)) for student in pair.roles.values()]
    test, measured = word_problems(count, steps=(3, 6), seed=0, split='test'), Measured(__file__, 'iterative inference')
    for questions in ('predicted', 'gold'):
        strategy = Iterative(*sides, questions=questions, max_turns=8)
        plain: list[dict[str, float]] = []
        ours: list[dict[str, float]] = []
        for _ in range(repeats):
            for kind, spent in ((PlainDialogue, plain), (REUSE, ours)):
                spent.append({})
                traces = solve(kind, strategy, test, spent[-1])
                if kind is PlainDialogue: expected = traces
        alone: dict[str, float] = {}
        few = test[:16]
        one_by_one = [solve(PlainDialogue, strategy, [p], alone)[0] for p in few]
        different = sum(a != b for a, b in zip(traces, expected)), sum(a != b for a, b in zip(one_by_one, traces))
        turns = statistics.mean(len(t.turns) for t in traces)
        print(f'{size} {arch}, {questions} questions, {count} problems, {turns:.1f} turns and {statistics.mean(t.tokens for t in traces):.0f} tokens each; texts that differ: {different[0]} of {count}, one at a time {different[1]} of {len(few)}')
        a, b = (statistics.median(s['all'] for s in spent) for spent in (plain, ours))
        share = statistics.median(s['prefill'] / s['all'] for s in plain)
        reread = statistics.median(s['prefill'] for s in ours) / statistics.median(s['prefill'] for s in plain)
        limit = 1 / (1 - share)
        name = f'{size} {arch}, {questions}, {count} problems'
        measured.say(f'one at a time, {name}', len(few) / alone['all'], 'problems/s')
        measured.say(f'plain loop, {name}', count / a, 'problems/s')
        measured.say(f'cotkit, {name}', count / b, 'problems/s', 'plain loop', count / a)
        print(f'  {len(few) / alone["all"]:.2f} problems/s one at a time: cotkit {count / b / (len(few) / alone["all"]):.1f} x')
        print(f'  the plain loop spends {share:.0%} on reading, so reading nothing would give {limit:.2f} x; cotkit reads for {reread:.0%} of that time and has {a / b:.2f} x, {a / b / limit:.0%} of the limit')
    if (size, arch) == ('small', 'causal'): measured.save()


if __name__ == '__main__':
    given = sys.argv[1:]
    main(*given[:1], *map(int, given[1:2]), *given[2:3])
