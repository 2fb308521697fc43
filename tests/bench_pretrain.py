"Pretraining: the matrix limit, a plain PyTorch loop and cotkit's trainer on the same blocks, alternating, on one thread, in processor time, which other processes disturb less"
from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import replace
from itertools import islice

import numpy as np
import torch

from cotkit.data.story_world import stories
from cotkit.models.config import Size
from cotkit.models.students import Student, build_model
from cotkit.models.tokenizers import train_tokenizer
from cotkit.pretraining.config import PretrainConfig, read_rung
from cotkit.pretraining.ladder import ROPE_BASE, make_rung, training_flops
from cotkit.training.trainer import Monitor, StudentTrainer
from measured import Measured, clock, matrix_limit

CONTEXT, ROUNDS = 128, 3
CASES = (('32x2', 2000, 16, 20), ('128x2', 2000, 16, 10), ('128x8', 15_000, 8, 4), ('256x2', 15_000, 8, 4))  # rung, vocabulary, sequences, steps


def model_of(rung, vocabulary, tokenizer) -> Student:
    "The rung with a vocabulary of that size, whatever the tokenizer has"
    shape = dict(intermediate_size=rung.feed_forward, tie_word_embeddings=False, max_position_embeddings=CONTEXT, vocab_size=vocabulary,
                 rope_parameters={'rope_type': 'default', 'rope_theta': ROPE_BASE}, initializer_range=0.02)
    model = build_model(Size(rung.layers, rung.width, rung.heads), tokenizer, 'causal', 0, **shape)
    model.set_attn_implementation(make_rung('8x2', tokenizer).model.config._attn_implementation)
    return Student(model, tokenizer)


def plain_loop(student, blocks, sequences, steps) -> float:
    "Seconds of the steps after the first, without bookkeeping"
    model, rows = student.model.train(), torch.from_numpy(blocks).long()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2.8e-3, betas=(0.9, 0.95), eps=1e-4, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4 * steps)
    for i in range(steps):
        if i == 1: begin = time.process_time()
        ids = rows[i * sequences:(i + 1) * sequences]
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return (time.process_time() - begin) / (steps - 1)


class AfterTheFirst(type(clock())):
    "Seconds of a step, the first left out as in the loop"
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 1: self.begin = time.process_time()

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step > 1: self.seconds = (time.process_time() - self.begin) / (state.global_step - 1)


def ours(student, blocks, sequences, steps, rung) -> float:
    "Seconds of a step of the trainer, the first left out"
    config = PretrainConfig(sequences=sequences, micro_batch=sequences, precision='float32').train_config(rung, len(blocks))
    config = replace(config, max_steps=steps, overrides={**config.overrides, 'disable_tqdm': True, 'save_strategy': 'no', 'logging_steps': steps})
    with tempfile.TemporaryDirectory() as folder:
        taken = AfterTheFirst()
        StudentTrainer(student, blocks, output_dir=folder, config=config, monitor=Monitor(callbacks=[taken])).train()
    return taken.seconds


def main() -> None:
    torch.set_num_threads(1)
    tokenizer = train_tokenizer([s.text for s in islice(stories(), 500)], vocab_size=500)
    measured = Measured(__file__, 'pretrain')
    for name, vocabulary, sequences, steps in CASES:
        rung, blocks = read_rung(name), np.random.default_rng(0).integers(3, vocabulary, (sequences * steps, CONTEXT)).astype(np.uint16)
        limits, plain, mine = [], [], []
        for _ in range(ROUNDS):
            limits.append(matrix_limit(time.process_time))
            plain.append(plain_loop(model_of(rung, vocabulary, tokenizer), blocks, sequences, steps))
            mine.append(ours(model_of(rung, vocabulary, tokenizer), blocks, sequences, steps, rung))
        tokens, limit = sequences * CONTEXT, max(limits)
        work = training_flops(rung, tokens, vocabulary)['complete'] / 1e9
        what = f'{name}, {rung.parameters(vocabulary) / 1e6:.2f}M parameters'
        measured.say(f'{what}: tokens', tokens / min(mine), 'a second', 'the plain loop', tokens / min(plain))
        measured.say(f'{what}: matrix products', work / min(mine), 'GFLOP/s', 'the limit', limit)
    measured.save()


if __name__ == '__main__': sys.exit(main())
