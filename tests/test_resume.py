"""A resumed run equals an uninterrupted one, whatever its model"""
from __future__ import annotations

import pytest, torch
from transformers import TrainerCallback

from cotkit.data.formats import ZeroShotCoT, examples_from, gold_rationale
from cotkit.data.word_problems import word_problems
from cotkit.models.students import Student, load_weights, with_lora
from cotkit.models.config import LoRA
from cotkit.models.tokenizers import train_tokenizer
from cotkit.training.trainer import Monitor, TrainConfig, train
from test_models import of_family

torch.set_num_threads(1)
PROBLEMS = word_problems(12, seed=0, split='train')
EXAMPLES = examples_from(ZeroShotCoT(), PROBLEMS, [gold_rationale(p) for p in PROBLEMS])
TEXTS = [text for example in EXAMPLES for text in (example.input, example.target)]
OFTEN_USED = ('gpt_neox', 'llama', 'mixtral', 'qwen2_moe', 'olmoe', 'granitemoe', 'gpt2', 'opt', 'bloom', 'falcon', 'phi', 'gemma2', 't5', 'bart')


class StopAfterTwo(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 2: control.should_training_stop = control.should_save = True


def student_of(name: str, adapters: bool = False) -> Student:
    model = of_family(name)
    arch = 'seq2seq' if model.config.is_encoder_decoder else 'causal'
    student = Student(model, train_tokenizer(TEXTS, arch, vocab_size=320), ZeroShotCoT(), arch)
    return with_lora(student, LoRA(rank=2)) if adapters else student


def run(name: str, folder, callbacks=(), resume: bool = False, adapters: bool = False) -> Student:
    config = TrainConfig(max_steps=4, batch_size=4, resume=resume, overrides=dict(disable_tqdm=True))
    return train(student_of(name, adapters), EXAMPLES, output_dir=folder, config=config, monitor=Monitor(callbacks=callbacks))


@pytest.mark.parametrize('name, adapters', [*((name, False) for name in OFTEN_USED), ('gpt_neox', True), ('mixtral', True)])
def test_a_resumed_run_ends_like_an_uninterrupted_one(name, adapters, tmp_path):
    "Bit equal, for models whose files name or stack their weights otherwise too (GPT-NeoX, all mixtures of experts)"
    run(name, tmp_path/'cut', (StopAfterTwo(),), adapters=adapters)
    (tmp_path/'cut'/'history.jsonl').unlink()  # as if it had been killed
    resumed, whole = run(name, tmp_path/'cut', resume=True, adapters=adapters), run(name, tmp_path/'whole', adapters=adapters)
    first, ours, theirs = (o.model.state_dict() for o in (student_of(name, adapters), resumed, whole))
    assert [key for key in theirs if not torch.equal(ours[key], theirs[key])] == []
    assert any(not torch.equal(first[key], theirs[key]) for key in theirs)


def test_the_best_model_comes_back_whole(tmp_path):
    "`load_best_model_at_end` restores a mixture of experts too"
    scores = iter([2.0, 1.0])
    overrides = dict(disable_tqdm=True, load_best_model_at_end=True, metric_for_best_model='score', eval_strategy='steps', eval_steps=2, save_steps=2)
    config = TrainConfig(max_steps=4, batch_size=4, overrides=overrides)
    ended = train(student_of('mixtral'), EXAMPLES, output_dir=tmp_path, config=config, monitor=Monitor(validate=lambda student: {'score': next(scores)}))
    best, last = of_family('mixtral', seed=3), of_family('mixtral', seed=4)
    load_weights(best, tmp_path/'checkpoint-2')
    load_weights(last, tmp_path/'checkpoint-4')
    assert all(torch.equal(a, b) for a, b in zip(ended.model.parameters(), best.parameters()))
    assert not all(torch.equal(a, b) for a, b in zip(last.parameters(), best.parameters()))
