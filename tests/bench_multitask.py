"Step-by-step training: one forward pass for both tasks against the two of the reference approach, in one run on one thread"
from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, Trainer

from cotkit.data.formats import StepByStep, examples_from, gold_rationale
from cotkit.training.config import TrainConfig
from cotkit.training.encode import IGNORE_INDEX, Collator, encode
from cotkit.training.trainer import StudentTrainer, training_arguments
from cotkit.models.students import StudentConfig, make_student
from cotkit.data.word_problems import word_problems
from measured import Measured, clock

ROUNDS, ALPHA = 3, 0.5


@dataclass
class Load:
    "What both sides train on"
    name: str
    problems: int                  # in a step
    steps: int                     # of the optimizer
    dials: dict[str, Any]          # of the word problems

    def __post_init__(self):
        self.texts = word_problems(self.steps*self.problems, seed=0, **self.dials)
        self.gold = [gold_rationale(p) for p in self.texts]


FEW = Load('8 problems of 2 or 3 steps', 8, 60, {'steps': (2, 3), 'largest': 20})
MANY = Load('64 problems of 1 to 6 steps', 64, 16, {'steps': (1, 6), 'largest': 60})  # 64 is the paper's batch


class TwoForwards(Trainer):
    "The published trainer's step: a pass for the labels, a pass for the rationales, α of one loss and 1 − α of the other"

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        label, rationale = (model(**inputs[task], use_cache=False) for task in ('label', 'rationale'))
        return ALPHA*label.loss + (1 - ALPHA)*rationale.loss


def new_student(load: Load, arch: str, size: str, marker: str):
    format = StepByStep(ALPHA, marker=marker)
    return make_student(StudentConfig(size, arch), format, [t for p, g in zip(load.texts, load.gold) for e in format.examples(p, [g]) for t in (e.input, e.target)])


def reference(load: Load, student, folder: str) -> Trainer:
    "A row is a problem with both its examples; each half of a batch is padded up to its own longest row"
    rows = list(encode([e for p, g in zip(load.texts, load.gold) for e in student.format.examples(p, [g])], student.tokenizer, student.arch))
    pairs = Dataset.from_list([{'label': label, 'rationale': rationale} for label, rationale in zip(rows[::2], rows[1::2])])
    collate = Collator(student.tokenizer, student.arch)

    def halves(batch):
        padded = {task: collate([pair[task] for pair in batch]) for task in ('label', 'rationale')}
        return {task: {name: half[name] for name in ('input_ids', 'attention_mask', 'labels')} for task, half in padded.items()}
    trainer = TwoForwards(student.model, training_arguments(folder, settings(load, load.problems)), halves, pairs)
    trainer.remove_callback(PrinterCallback)
    return trainer


def ours(load: Load, student, folder: str, share_prefix: bool = False) -> StudentTrainer:
    "The same problems in each step: a row holds one example, or with `share_prefix` both"
    examples = examples_from(student.format, load.texts, load.gold)
    config = settings(load, load.problems if share_prefix else 2*load.problems, share_prefix)
    return StudentTrainer(student, examples, output_dir=folder, config=config)


def settings(load: Load, batch_size: int, share_prefix: bool = False) -> TrainConfig:
    overrides = {'disable_tqdm': True, 'logging_steps': load.steps, 'save_strategy': 'no', 'use_cpu': True}
    return TrainConfig(max_steps=load.steps, batch_size=batch_size, share_prefix=share_prefix, overrides=overrides)


def seconds(make, load: Load, student, **settings) -> float:
    with tempfile.TemporaryDirectory() as folder:
        trainer, time_taken = make(load, student, folder, **settings), clock()
        trainer.add_callback(time_taken)
        trainer.train()
        return time_taken.seconds


def loading(load: Load, student, **settings) -> tuple[float, float]:
    "Seconds for the batches of a whole run: rows fetched and collated, and collated only"
    with tempfile.TemporaryDirectory() as folder:
        trainer = ours(load, student, folder, **settings)
        begin = time.perf_counter()
        for _ in trainer.get_train_dataloader(): pass
        both, rows, size = time.perf_counter() - begin, list(trainer.train_dataset), trainer.args.train_batch_size
        begin = time.perf_counter()
        for i in range(0, len(rows), size): trainer.data_collator(rows[i:i + size])
        return both, time.perf_counter() - begin


def padding_share(load: Load, student) -> float:
    "The share of positions that the reference computes for nothing, since each half of a batch is as wide as its longest row"
    with tempfile.TemporaryDirectory() as folder: batches = list(reference(load, student, folder).get_train_dataloader())
    halves = [half for batch in batches for half in batch.values()]
    used = [half['attention_mask'] > 0 for half in halves] + ([half['labels'] != IGNORE_INDEX for half in halves] if student.arch == 'seq2seq' else [])
    return 1 - sum(o.sum().item() for o in used)/sum(o.numel() for o in used)


def compare(measured: Measured, load: Load, arch: str, size: str, goal: float) -> None:
    marker, fast = ('before', {}) if arch == 'seq2seq' else ('after', {'share_prefix': True})
    sides = {'two forward passes': (reference, {}), 'cotkit': (ours, {})} | ({'cotkit, share_prefix': (ours, fast)} if fast else {})
    student, taken = new_student(load, arch, size, marker), {name: [] for name in sides}
    tokens = sum(encode(examples_from(student.format, load.texts, load.gold), student.tokenizer, arch)['length'])
    for _ in range(ROUNDS):
        for name, (make, settings) in sides.items(): taken[name].append(seconds(make, load, new_student(load, arch, size, marker), **settings))
    print(f'{arch}, {size}: {load.name} in a step; tokens are those of the separate examples, so the same work on each side')
    best, (fetched, collated) = {name: min(times) for name, times in taken.items()}, loading(load, student, **fast)
    two = tokens/best['two forward passes']
    for name, each in best.items():
        measured.say(f'{name}, {size} {arch}, {load.name}', tokens/each, 'tokens/s', *(() if name == 'two forward passes' else ('two forward passes', two)))
    measured.say(f'collation, {size} {arch}, {load.name}', 100*collated/each, '% of a step')
    measured.say(f'collation and fetching the rows, {size} {arch}, {load.name}', 100*fetched/each, '% of a step')
    padded = padding_share(load, new_student(load, arch, size, marker))
    measured.say(f'padding in two forward passes, {size} {arch}, {load.name}', 100*padded, '% of positions')
    print(f'goal {goal}; without any padding the same passes would be {1/(1 - padded):.2f} times as fast\n')


def main() -> None:
    torch.set_num_threads(1)
    measured = Measured(__file__, 'train two tasks')
    for arch, goal in (('seq2seq', 1.3), ('causal', 1.5)):
        for load, size in ((FEW, 'tiny'), (FEW, 'mini'), (MANY, 'tiny')): compare(measured, load, arch, size, goal)
    measured.save()


if __name__ == '__main__': sys.exit(main())
