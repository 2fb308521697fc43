"""Rows per second of processor time of cotkit's `generate` against `model.generate`, interleaved in one run.

    python tests/bench_generate.py [size] [prompts] [architecture]

The student is trained for a moment, so that its texts end where rationales end. One thread; processor time, so that a busy machine disturbs it less.
"""
from __future__ import annotations

import random, statistics, sys, time
from typing import Sequence

import torch

from cotkit.data.core import Example, Problem
from cotkit.data.formats import ZeroShotCoT, gold_rationale
from cotkit.models.generate import DecodingParams, generate
from cotkit.models.students import Student, StudentConfig, make_student
from cotkit.models.tokenizers import tokenize_inputs, tokenize_targets
from cotkit.data.word_problems import word_problems
from measured import Measured

BATCHES = (8, 32, 64, 128, 256)


def fit(student: Student, examples: Sequence[Example], steps: int) -> None:
    "A moment of training, by a plain loop"
    read = tokenize_inputs(student.tokenizer, [e.input for e in examples], student.arch)
    write = tokenize_targets(student.tokenizer, [e.target for e in examples], student.arch)
    optimizer, order = torch.optim.AdamW(student.model.parameters(), lr=2e-3), random.Random(0)

    def padded(rows, fill):
        width = max(map(len, rows))
        return torch.tensor([row + [fill] * (width - len(row)) for row in rows])

    for _ in range(steps):
        chosen = order.sample(range(len(examples)), 8)
        if student.arch == 'causal':
            ids = padded([read[i] + write[i] for i in chosen], 0)
            labels = padded([[-100] * len(read[i]) + write[i] for i in chosen], -100)
        else: ids, labels = padded([read[i] for i in chosen], 0), padded([write[i] for i in chosen], -100)
        student.model(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    student.model.eval()


def trained(size: str, arch: str, problems: list[Problem], steps: int = 150) -> Student:
    "A student that has learned when to stop"
    format = ZeroShotCoT()
    examples = [e for p in problems for e in format.examples(p, [gold_rationale(p)])]
    student = make_student(StudentConfig(size, arch), format, [text for e in examples for text in (e.input, ' ' + e.target)])
    fit(student, examples, steps)
    return student


def static(student: Student, prompts: list[str], max_new_tokens: int, batch_size: int) -> list[str]:
    "`model.generate` over batches of prompts of like length"
    rows = tokenize_inputs(student.tokenizer, prompts, student.arch)
    order, texts = sorted(range(len(rows)), key=lambda i: len(rows[i])), [''] * len(rows)
    for start in range(0, len(order), batch_size):
        chosen = order[start:start + batch_size]
        batch = student.tokenizer.pad({'input_ids': [rows[i] for i in chosen]}, return_tensors='pt')
        out = student.model.generate(**batch, max_new_tokens=max_new_tokens, do_sample=False)
        out = out[:, batch['input_ids'].shape[1] if student.arch == 'causal' else 1:]
        for i, text in zip(chosen, student.tokenizer.batch_decode(out, skip_special_tokens=True)): texts[i] = text.removeprefix(' ')
    return texts


def main(size: str = 'tiny', count: int = 256, arch: str = 'causal', longest: int = 128, repeats: int = 3) -> None:
    torch.set_num_threads(1)
    student = trained(size, arch, word_problems(2000, seed=0, split='train'))
    prompts = [student.format.prompt(p) for p in word_problems(count, seed=0, split='test')]
    tokens = [len(o) for o in student.tokenizer(generate(student, prompts, DecodingParams(longest))).input_ids]
    print(f'{size} {arch}, {count} prompts, {longest} new tokens at most, written {statistics.mean(tokens):.0f} on average, {max(tokens)} at most')
    measured = Measured(__file__, 'generate')
    for batch in BATCHES:
        few = prompts[:max(32, min(count, batch * 16))]
        seconds: dict[str, list[float]] = {'static': [], 'cotkit': []}
        for _ in range(repeats):
            began = time.process_time()
            theirs = static(student, few, longest, batch)
            seconds['static'].append(time.process_time() - began)
            began = time.process_time()
            ours = generate(student, few, DecodingParams(longest, batch))
            seconds['cotkit'].append(time.process_time() - began)
        a, b = (len(few) / statistics.median(o) for o in seconds.values())
        measured.say(f'model.generate, {size} {arch}, batch {batch}', a, 'rows/s')
        measured.say(f'cotkit, {size} {arch}, batch {batch}', b, 'rows/s', 'model.generate', a)
        print(f'{sum(x != y for x, y in zip(theirs, ours))} of {len(few)} texts differ')
    if (size, arch) == ('tiny', 'causal'): measured.save()


if __name__ == '__main__':
    given = sys.argv[1:]
    main(*given[:1], *map(int, given[1:2]), *given[2:3])
