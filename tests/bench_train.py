"Training: the machine's matrix limit, a bare loop and cotkit's trainer, in one run on one thread"
from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import torch

from cotkit.training.config import TrainConfig
from cotkit.training.encode import IGNORE_INDEX, Collator, LengthGroupedSampler, encode
from cotkit.training.losses import student_logits, token_losses
from cotkit.training.trainer import Monitor, StudentTrainer
from cotkit.data.formats import ZeroShotCoT, examples_from, gold_rationale
from cotkit.models.students import make_student, parameter_count
from cotkit.data.word_problems import word_problems
from measured import Measured, clock, matrix_limit

STEPS, ROUNDS, BATCH = 150, 3, 8


def new_student(problems):
    texts = [t for p in problems[:2000] for e in ZeroShotCoT().examples(p, [gold_rationale(p)]) for t in (e.input, e.target)]
    return make_student('tiny', ZeroShotCoT(), texts=texts)


def bare_loop(student, rows) -> float:
    "Seconds for STEPS steps of the same batches in a loop without any bookkeeping"
    collate = Collator(student.tokenizer, student.arch)
    order = list(LengthGroupedSampler(rows, BATCH, seed=0))[:STEPS*BATCH]
    optimizer = torch.optim.AdamW(student.model.parameters(), lr=2e-3)
    student.model.train()
    begin = time.perf_counter()
    for i in range(STEPS):
        batch = collate([rows[j] for j in order[i*BATCH:(i + 1)*BATCH]])
        logits, labels = student_logits(student.model, batch, student.arch)
        loss = token_losses(logits, labels).sum() / (labels != IGNORE_INDEX).sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return time.perf_counter() - begin


def trainer(student, rows) -> float:
    "Seconds for the same steps through `StudentTrainer`"
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(max_steps=STEPS, batch_size=BATCH, overrides={'disable_tqdm': True, 'save_strategy': 'no'})
        time_taken = clock()
        StudentTrainer(student, rows, output_dir=folder, config=config, monitor=Monitor(callbacks=[time_taken])).train()
        return time_taken.seconds


def main() -> None:
    torch.set_num_threads(1)
    problems = word_problems(3000, seed=0, steps=(2, 3), largest=20)
    student, gold = new_student(problems), [gold_rationale(p) for p in problems]
    rows = encode(examples_from(student.format, problems, gold), student.tokenizer, student.arch)
    order = list(LengthGroupedSampler(rows, BATCH, seed=0))[:STEPS*BATCH]
    tokens = sum(rows['length'][i] for i in order)
    limits, bare, ours = [], [], []
    for _ in range(ROUNDS):
        limits.append(matrix_limit())
        bare.append(bare_loop(new_student(problems), rows))
        ours.append(trainer(new_student(problems), rows))
    limit, bare, ours = max(limits), min(bare), min(ours)
    work = 6 * parameter_count(new_student(problems).model) * tokens / 1e9
    measured = Measured(__file__, 'train')
    measured.say('matrix products, one thread: the limit', limit, 'GFLOP/s')
    measured.say('bare loop, tiny, batch 8, by 6ND', work/bare, 'GFLOP/s', 'the limit', limit)
    measured.say('bare loop, tiny, batch 8', STEPS/bare, 'steps/s')
    measured.say('StudentTrainer, tiny, batch 8', STEPS/ours, 'steps/s', 'bare loop', STEPS/bare)
    measured.save()


if __name__ == '__main__': sys.exit(main())
