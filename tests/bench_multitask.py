"Step-by-step training: one forward pass for both tasks against the two of the reference approach, in one run on one thread"
from __future__ import annotations

import sys
import tempfile
import time

import torch
from datasets import Dataset
from transformers import PrinterCallback, Trainer

from cotkit.distill import DistillTrainer, training_arguments, training_rows
from cotkit.encode import Collator, encode
from cotkit.formats import StepByStep, gold_rationale
from cotkit.models import make_student
from cotkit.synthetic import word_problems
from measured import Measured, clock

STEPS, ROUNDS, PROBLEMS, ALPHA = 60, 3, 8, 0.5
TEXTS = word_problems(STEPS*PROBLEMS, seed=0, steps=(2, 3), largest=20)
GOLD = [gold_rationale(p) for p in TEXTS]


class TwoForwards(Trainer):
    "The published trainer's step: a pass for the labels, a pass for the rationales, α of one loss and 1 − α of the other"

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        label, rationale = (model(**inputs[task], use_cache=False) for task in ('label', 'rationale'))
        return ALPHA*label.loss + (1 - ALPHA)*rationale.loss


def newborn(arch: str, size: str, marker: str):
    format = StepByStep(ALPHA, marker=marker)
    return make_student(size, format, [t for p, g in zip(TEXTS, GOLD) for e in format.examples(p, [g]) for t in (e.input, e.target)], arch)


def reference(student, folder: str) -> Trainer:
    "A row is a problem with both its examples; each half of a batch is filled up to its own longest row"
    rows = list(encode([e for p, g in zip(TEXTS, GOLD) for e in student.format.examples(p, [g])], student.tokenizer, student.arch))
    pairs = Dataset.from_list([{'label': label, 'rationale': rationale} for label, rationale in zip(rows[::2], rows[1::2])])
    collate = Collator(student.tokenizer, student.arch)

    def halves(batch):
        padded = {task: collate([pair[task] for pair in batch]) for task in ('label', 'rationale')}
        return {task: {name: half[name] for name in ('input_ids', 'attention_mask', 'labels')} for task, half in padded.items()}
    trainer = TwoForwards(student.model, arguments(folder, PROBLEMS), halves, pairs)
    trainer.remove_callback(PrinterCallback)
    return trainer


def ours(student, folder: str, share_prefix: bool = False, by_task: bool = False) -> DistillTrainer:
    "The same problems in each step: a row holds one example, or with `share_prefix` both"
    rows, _ = training_rows(student, TEXTS, GOLD, (), share_prefix)
    return DistillTrainer(student, arguments(folder, PROBLEMS if share_prefix else 2*PROBLEMS), rows, by_task=by_task)


def arguments(folder: str, batch_size: int):
    return training_arguments(folder, max_steps=STEPS, batch_size=batch_size, disable_tqdm=True, logging_steps=STEPS, save_strategy='no', use_cpu=True)


def seconds(make, student, **settings) -> float:
    with tempfile.TemporaryDirectory() as folder:
        trainer, time_taken = make(student, folder, **settings), clock()
        trainer.add_callback(time_taken)
        trainer.train()
        return time_taken.seconds


def loading(student, **settings) -> tuple[float, float]:
    "Seconds for the batches of a whole run: rows fetched and collated, and collated only"
    with tempfile.TemporaryDirectory() as folder:
        trainer = ours(student, folder, **settings)
        begin = time.perf_counter()
        for _ in trainer.get_train_dataloader(): pass
        both, rows, size = time.perf_counter() - begin, list(trainer.train_dataset), trainer.args.train_batch_size
        begin = time.perf_counter()
        for i in range(0, len(rows), size): trainer.data_collator(rows[i:i + size])
        return both, time.perf_counter() - begin


def compare(measured: Measured, arch: str, size: str, goal: float) -> None:
    marker, fast = ('before', {'by_task': True}) if arch == 'seq2seq' else ('after', {'share_prefix': True})
    sides = {'two forward passes': (reference, {}), 'cotkit': (ours, {}), f'cotkit, {next(iter(fast))}': (ours, fast)}
    student, taken = newborn(arch, size, marker), {name: [] for name in sides}
    tokens = sum(training_rows(student, TEXTS, GOLD, ())[0]['length'])
    for _ in range(ROUNDS):
        for name, (make, settings) in sides.items(): taken[name].append(seconds(make, newborn(arch, size, marker), **settings))
    print(f'{arch}, {size}: {len(TEXTS)} problems, {PROBLEMS} in a step; tokens are those of the separate examples, so the same work on each side')
    best, (fetched, collated) = {name: min(times) for name, times in taken.items()}, loading(student, **fast)
    reference = tokens/best['two forward passes']
    for name, each in best.items():
        measured.say(f'{name}, {size} {arch}', tokens/each, 'tokens/s', *(() if name == 'two forward passes' else ('two forward passes', reference)))
    measured.say(f'collation, {size} {arch}', 100*collated/each, '% of a step')
    measured.say(f'collation and fetching the rows, {size} {arch}', 100*fetched/each, '% of a step')
    print(f'goal {goal}\n')


def main() -> None:
    torch.set_num_threads(1)
    measured = Measured(__file__, 'train two tasks')
    for arch, goal in (('seq2seq', 1.3), ('causal', 1.5)):
        for size in ('tiny', 'mini'): compare(measured, arch, size, goal)
    measured.save()


if __name__ == '__main__': sys.exit(main())
