"On-policy distillation: the student's own texts, their loss against a naive one, exact resuming, and a student that comes round to its teacher"
import copy
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from cotkit.data.core import CotkitError, Problem, Rationale
from cotkit.training.config import EncodeConfig, KDConfig, OnPolicyConfig
from cotkit.training.distill import distill
from cotkit.training.losses import CrossEntropy, student_logits
from cotkit.training.checkpoints import read_history
from cotkit.training.trainer import Monitor, StudentTrainer, TrainingSet
from cotkit.training.encode import IGNORE_INDEX, Collator, encode
from cotkit.data.formats import AnswerOnly, Mixture, ZeroShotCoT, gold_rationale
from cotkit.models.generate import DecodingParams, generate
from cotkit.training.teacher_tokens import TeacherModel, teacher_logprobs
from cotkit.training.soft_targets import FullVocabulary, SoftTargets, label_examples, soft_labels
from cotkit.models.students import Size, Student, build_model
from cotkit.models.tokenizers import tokenize_inputs, tokenize_targets, train_tokenizer
from cotkit.training.on_policy import OnPolicy
from cotkit.training.specialize import Matching, specialize
from cotkit.data.word_problems import word_problems
from train_settings import one_step, settings as training

torch.set_num_threads(1)
PROBLEMS = word_problems(12, seed=1, steps=(1, 1), largest=20)
GOLD = [gold_rationale(p) for p in PROBLEMS]
BOTH = Mixture((AnswerOnly(), ZeroShotCoT()), eval_format=1)
TEXTS = [f'{e.input} {e.target}' for p, g in zip(PROBLEMS, GOLD) for e in BOTH.examples(p, [g])]
KINDS = {'causal': train_tokenizer(TEXTS, 'causal', 300), 'seq2seq': train_tokenizer(TEXTS, 'seq2seq', 420)}  # byte-level BPE, Unigram with byte fallback


def make_student(arch='causal', seed=0, positions=None, tokens=None, format=BOTH):
    tokenizer = KINDS[tokens or arch]
    model = build_model(Size(1, 16, 2), tokenizer, arch, seed)
    if positions: model.config.max_position_embeddings = positions
    return Student(model, tokenizer, format, arch)


def make_teacher(arch='causal', tokens='seq2seq', seed=7):
    "Untrained, and with opinions; its tokens are of the other kind"
    student = make_student(arch, seed, tokens=tokens)
    with torch.no_grad(): student.model.get_output_embeddings().weight.mul_(20)
    return TeacherModel(student.model.eval(), student.tokenizer, arch)


def trainer_of(student, folder, loss, policy, config=None, callbacks=(), teacher=None):
    "`loss` is made from the examples"
    examples = [e for p, g in zip(PROBLEMS[:6], GOLD) for f in student.format.formats for e in f.examples(p, [g])]
    return StudentTrainer(student, OnPolicy(examples, policy, teacher), output_dir=folder, loss=loss(examples), config=config or one_step(),
                          monitor=Monitor(callbacks=callbacks))


def soft(student, teacher, kd=KDConfig()): return lambda examples: SoftTargets(label_examples(student, examples, (), teacher, kd), kd, teacher)


def dense(q, ids, probabilities, tail, divergence):
    "The divergence written out, one outcome at a time"
    listed = [(int(i), float(p)) for i, p in zip(ids, probabilities) if p > 0]
    total = 0
    for p, q_v in [(p, q[i]) for i, p in listed] + [(float(tail), 1 - sum(q[i] for i, _ in listed))]:
        if divergence == 'forward': total = total + (p*(math.log(p) - q_v.log()) if p else 0)
        else: total = total + q_v*(q_v.log() - math.log(max(p, 1e-6)))
    return total


def naive_loss(student, model, teacher, examples, divergence, weights):
    "One text and one token at a time: cross-entropy of answers, the divergence where a chain's token matches, nothing elsewhere"
    sums, counts = Counter(), Counter()
    for e in examples:
        [row], logits = encode([e], student.tokenizer, student.arch, EncodeConfig(9999, 9999)), None
        logits, labels = student_logits(model, Collator(student.tokenizer, student.arch)([row]), student.arch)
        soft = soft_labels(teacher_logprobs(teacher, [e.input], [e.target]), student.tokenizer, student.arch)
        for at, (q, label) in enumerate(zip(logits[0].softmax(-1)[labels[0] != IGNORE_INDEX], labels[labels != IGNORE_INDEX])):
            counts[e.objective] += 1
            if e.objective != 'rationale': sums[e.objective] = sums[e.objective] - q[label].log()
            elif soft.has_target[at]: sums[e.objective] = sums[e.objective] + dense(q, soft.ids[at], soft.probabilities[at], soft.tail[at], divergence)
    return sum(weights[t]*sums[t]/counts[t] for t in counts)


class FirstGradient(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs): self.gradient = gradients(model)


def gradients(model): return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).double()


def watched(monkeypatch):
    "What students write from now on: (prompts, texts) of each call"
    seen = []
    def watch(student, prompts, *given, **named):
        texts = generate(student, prompts, *given, **named)
        seen.append((list(prompts), texts))
        return texts
    monkeypatch.setattr('cotkit.training.on_policy.generate', watch)
    return seen


@pytest.mark.parametrize('arch, tokens', [('causal', 'seq2seq'), ('seq2seq', 'causal')])
@pytest.mark.parametrize('divergence, batch_size, accumulation', [('reverse', 12, 1), ('forward', 5, 3)])
def test_loss_and_gradients_are_those_of_the_sampled_texts(arch, tokens, divergence, batch_size, accumulation, tmp_path, monkeypatch):
    student, teacher, seen = make_student(arch), make_teacher(tokens=tokens), watched(monkeypatch)
    precise = copy.deepcopy(student.model).double()
    first = FirstGradient()
    config = one_step(batch_size=batch_size, gradient_accumulation_steps=accumulation)
    trainer = trainer_of(student, tmp_path, soft(student, teacher, KDConfig(0.3, divergence)), OnPolicyConfig(1.0, max_new_tokens=12), config, [first], teacher)
    examples = trainer.source.examples
    trainer.train()
    written = {prompt: text for prompts, texts in seen for prompt, text in zip(prompts, texts)}
    chains = [e for e in examples if e.objective == 'rationale']
    assert len(written) == len(chains) == 6 and all(written[e.input] != e.target for e in chains)
    own = [replace(e, target=written[e.input]) if e.objective == 'rationale' else e for e in examples]
    expected = naive_loss(student, precise, teacher, own, divergence, student.format.objective_weights)
    expected.backward()
    assert (first.gradient - gradients(precise)).norm() <= 1e-5*first.gradient.norm()
    assert trainer.state.log_history[0]['loss'] == pytest.approx(expected.item(), rel=1e-5)
    assert 0 < trainer.state.log_history[0]['coverage'] < 1


def test_the_whole_vocabulary_of_an_equal_teacher(tmp_path, monkeypatch):
    student, teacher, seen = make_student(), make_teacher(tokens='causal'), watched(monkeypatch)
    precise, judge, first = copy.deepcopy(student.model).double(), copy.deepcopy(teacher.model).double(), FirstGradient()
    loss = FullVocabulary(teacher, KDConfig(divergence='reverse'))
    trainer = trainer_of(student, tmp_path, lambda _: loss, OnPolicyConfig(1.0, max_new_tokens=12), one_step(batch_size=12), [first])
    trainer.train()
    [(prompts, texts)] = seen
    total = count = 0
    for prompt, text in zip(prompts, texts):
        read, [label] = tokenize_inputs(student.tokenizer, [prompt])[0], tokenize_targets(student.tokenizer, [text])
        logits = precise(torch.tensor([read + label])).logits[0, len(read) - 1:-1].log_softmax(-1)
        with torch.no_grad(): theirs = judge(torch.tensor([read + label])).logits[0, len(read) - 1:-1].log_softmax(-1)
        total, count = total + (logits.exp()*(logits - theirs)).sum(), count + len(label)
    chains = student.format.objective_weights['rationale']*total/count
    bare = naive_loss(student, precise, teacher, [e for e in trainer.source.examples if e.objective == 'label'], 'reverse', student.format.objective_weights)
    (chains + bare).backward()
    assert (first.gradient - gradients(precise)).norm() <= 1e-5*first.gradient.norm()
    assert trainer.state.log_history[0]['loss'] == pytest.approx((chains + bare).item(), rel=1e-5)


def test_the_share_of_micro_batches_and_their_seeds(tmp_path, monkeypatch):
    "No text twice; about half of the micro-batches; none at share 0, which is then plain matching"
    seen = watched(monkeypatch)
    student, config = make_student(), one_step(max_steps=20, batch_size=3, gradient_accumulation_steps=2)
    trainer = trainer_of(student, tmp_path, soft(student, make_teacher()), OnPolicyConfig(0.5, max_new_tokens=8), config)
    trainer.train()
    assert 10 <= len(seen) <= 30
    texts = [text for _, o in seen for text in o]
    assert len(set(texts)) > 0.9*len(texts)
    seen.clear()
    plain, none = specialized(make_student(), tmp_path/'plain'), specialized(make_student(), tmp_path/'none', OnPolicyConfig(0.0))
    assert not seen and read_history(tmp_path/'plain') == read_history(tmp_path/'none')
    assert all(torch.equal(a, b) for a, b in zip(plain.model.parameters(), none.model.parameters()))


STEPS = dict(max_steps=6, batch_size=4, gradient_accumulation_steps=2, save_steps=2, logging_steps=1)


def specialized(student, folder, policy=None, kd=KDConfig(), callbacks=(), **named):
    return specialize(student, TrainingSet(PROBLEMS, GOLD), output_dir=folder, matching=Matching(kd, make_teacher(), policy),
                      config=training(**STEPS | named), monitor=Monitor(callbacks=callbacks))


class BreakOff(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 3: raise KeyboardInterrupt


@pytest.mark.parametrize('arch', ['causal', 'seq2seq'])
def test_a_resumed_run_ends_as_an_uninterrupted_one(arch, tmp_path):
    def run(folder, policy=OnPolicyConfig(0.5, max_new_tokens=10), **named):
        return specialized(make_student(arch), tmp_path/folder, policy, KDConfig(divergence='reverse'), **named)
    whole = run('whole')
    with pytest.raises(KeyboardInterrupt): run('broken', callbacks=[BreakOff()])
    for other, named, field in ((OnPolicyConfig(0.6, max_new_tokens=10), {}, 'source.share'), (OnPolicyConfig(0.5, 0.7, 10), {}, 'source.temperature'), (None, {}, 'source.max_new_tokens')):
        with pytest.raises(CotkitError) as e: run('broken', other, resume=True, **named)
        assert e.value.field == field
    resumed = run('broken', resume=True)
    assert read_history(tmp_path/'whole') == read_history(tmp_path/'broken')
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), resumed.model.parameters()))
    other = run('other', train_seed=1)
    assert read_history(tmp_path/'other') != read_history(tmp_path/'whole') and not other.model.training


def test_a_text_that_does_not_fit_gives_way_to_the_teachers(tmp_path):
    longest = max(len(a) + len(b) for e in [e for p, g in zip(PROBLEMS[:6], GOLD) for e in ZeroShotCoT().examples(p, [g])]
                  for a, b in zip(tokenize_inputs(KINDS['causal'], [e.input]), tokenize_targets(KINDS['causal'], [e.target])))
    student = make_student(positions=longest)
    teacher = make_teacher()
    trainer = trainer_of(student, tmp_path, soft(student, teacher), OnPolicyConfig(1.0, max_new_tokens=400), one_step(batch_size=12), teacher=teacher)
    trainer.train()
    [batch], _ = trainer.get_batch_samples(iter([trainer.collate(list(trainer.train_dataset))]), 1, torch.device('cpu'))
    lengths = batch['attention_mask'].sum(1)
    assert lengths.max() <= longest and batch['is_on_policy'].sum() == 6
    kept = int(lengths.argmax())
    assert torch.equal(batch['labels'][kept][batch['labels'][kept] != IGNORE_INDEX], torch.tensor(tokenize_targets(KINDS['causal'], [trainer.source.examples[batch_example(trainer, kept)].target])[0]))


def batch_example(trainer, row): return trainer.train_dataset[row]['example']


@pytest.mark.parametrize('settings', [dict(share=-0.1), dict(share=1.5), dict(share=float('nan')), dict(temperature=-1), dict(temperature=float('nan')), dict(max_new_tokens=0)])
def test_settings_are_checked(settings):
    with pytest.raises(CotkitError) as e: OnPolicyConfig(**settings)
    assert e.value.field in settings


def test_a_teacher_and_chains_of_thought_are_needed(tmp_path):
    with pytest.raises(CotkitError, match='judge'): Matching(on_policy=OnPolicyConfig())
    student, kd = make_student(), KDConfig(kd_weight=0)
    unjudged = trainer_of(student, tmp_path, lambda examples: SoftTargets(label_examples(student, examples), kd), OnPolicyConfig(1.0, max_new_tokens=8))
    with pytest.raises(CotkitError, match='no teacher for what the student writes'): unjudged.train()
    bare = make_student(format=AnswerOnly())
    with pytest.raises(CotkitError, match='no reasoning to write'): specialized(bare, tmp_path, OnPolicyConfig(), kd)


def test_a_student_comes_round_to_a_teacher_that_prefers_one_answer(tmp_path):
    "Taught two answers half and half, it says the teacher's after a few steps on its own texts; the teacher's tokens are of another kind"
    problems = [Problem(str(i), f'How many apples are in bag {i}?', '7') for i in range(8)]
    seven, both = [[Rationale(p.id, f'It is {n}. So the answer is {n}.', n, True) for p, n in zip(problems, o)] for o in ('7'*8, '74'*4)]
    texts = [f'{p.question} {r.text}' for o in (seven, both) for p, r in zip(problems, o)]
    settings = dict(batch_size=8, learning_rate=1e-2, save_strategy='no')

    def taught(tokens, rationales, steps, seed):
        tokenizer = train_tokenizer(texts, tokens, 330)
        student = Student(build_model('nano', tokenizer, 'causal', seed), tokenizer, ZeroShotCoT(), 'causal')
        return distill(student, TrainingSet(problems, rationales), output_dir=tmp_path/tokens, config=training(max_steps=steps, **settings))

    teacher, student = taught('seq2seq', seven, 50, 1), taught('causal', both, 50, 2)
    prompts = [student.format.prompt(p) for p in problems]
    def sevens(): return sum('It is 7.' in text for seed in range(3) for text in generate(student, prompts, DecodingParams(40, temperature=1.0, sampling_seed=seed)))/24
    before = sevens()
    matching = Matching(KDConfig(divergence='reverse'), TeacherModel(teacher.model, teacher.tokenizer), OnPolicyConfig(1.0, max_new_tokens=40))
    specialize(student, TrainingSet(problems, both), output_dir=tmp_path/'own', matching=matching, config=training(max_steps=30, **settings | dict(learning_rate=3e-3)))
    assert before < 0.75 and sevens() > 0.9
