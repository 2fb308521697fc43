"Specializing: mixtures of formats, the matched loss and its gradients against a dense naive one, and the whole of it with a local teacher"
import copy, json, math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings, strategies as st
from transformers import TrainerCallback

from cotkit.data.core import CotkitError, Problem, Rationale, TokenLogprob
from cotkit.training.config import KDConfig
from cotkit.training.distill import distill
from cotkit.training.losses import CrossEntropy, student_logits
from cotkit.training.checkpoints import read_history
from cotkit.training.trainer import Monitor, StudentTrainer, TrainingSet
from cotkit.training.encode import IGNORE_INDEX, Collator, encode
from cotkit.data.formats import (FORMATS, AnswerOnly, FewShotAnswerOnly, FewShotCoT, Mixture, StepByStep, ZeroShotCoT, check_demonstrations, demonstrations,
                            format_from_dict, gold_rationale)
from cotkit.training.teacher_tokens import TeacherModel, teacher_logprobs
from cotkit.training.soft_targets import FullVocabulary, SoftTargets, label_examples, soft_labels
from cotkit.models.students import Size, Student, build_model
from cotkit.models.tokenizers import train_tokenizer
from cotkit.training.specialize import Matching, read_matching, specialize
from cotkit.data.word_problems import word_problems
from train_settings import one_step, settings as training

torch.set_num_threads(1)
ARCHITECTURES = ('causal', 'seq2seq')
PROBLEMS = word_problems(24, seed=1, steps=(1, 2), largest=20)
VALIDATION = word_problems(6, seed=1, steps=(1, 2), largest=20, split='validation')
TEST = word_problems(6, seed=1, steps=(1, 2), largest=20, split='test')
GOLD = [gold_rationale(p) for p in PROBLEMS]
POOL = demonstrations(PROBLEMS[:4])
FOUR = (AnswerOnly(), ZeroShotCoT(), FewShotAnswerOnly(POOL, shots=1), FewShotCoT(POOL, shots=1))
BOTH = Mixture((AnswerOnly(), ZeroShotCoT()), eval_format=1)
TEXTS = [f'{e.input} {e.target}' for p, g in zip(PROBLEMS, GOLD) for f in FOUR[:2] for e in f.examples(p, [g])]


def make_student(arch='causal', format=BOTH, vocab_size=320, seed=0):
    tokenizer = train_tokenizer(TEXTS, arch, vocab_size)
    return Student(build_model(Size(2, 16, 2), tokenizer, arch, seed), tokenizer, format, arch)


def make_teacher(arch='causal'):
    "Of other tokens, untrained, and with opinions"
    tokenizer = train_tokenizer(TEXTS, arch, 420)
    model = build_model(Size(1, 16, 2), tokenizer, arch, 7).eval()
    with torch.no_grad(): model.get_output_embeddings().weight.mul_(20)
    return TeacherModel(model, tokenizer, arch)


def data(student, teacher, n=6, rest='tail'):
    "Rows and soft targets, of answers as well as of chains"
    examples = [e for p, g in zip(PROBLEMS[:n], GOLD) for e in student.format.examples(p, [g])]
    scored = teacher_logprobs(teacher, [e.input for e in examples], [e.target for e in examples])
    return encode(examples, student.tokenizer, student.arch), soft_labels(scored, student.tokenizer, student.arch, rest)


def dense(q, ids, probabilities, tail, divergence):
    "The divergence written out, one outcome at a time, in double precision"
    listed = [(int(i), float(p)) for i, p in zip(ids, probabilities) if p > 0]
    outcomes = [(p, q[i]) for i, p in listed] + [(float(tail), 1 - sum(q[i] for i, _ in listed))]
    total = 0
    for p, q_v in outcomes:
        if divergence == 'forward': total = total + (p * (math.log(p) - q_v.log()) if p else 0)
        elif divergence == 'reverse': total = total + q_v * (q_v.log() - math.log(max(p, 1e-6)))
        else:
            m = (p + q_v) / 2
            total = total + (q_v * (q_v.log() - m.log()) + (p * (math.log(p) - m.log()) if p else 0)) / 2
    return total


def naive_loss(student, rows, targets, weight, divergence):
    "One example and one token at a time"
    names, sums, counts = rows.features['objective'].names, Counter(), Counter()
    for row in rows:
        logits, labels = student_logits(student.model, Collator(student.tokenizer, student.arch)([row]), student.arch)
        at = targets.splits[row['example']]
        for q, label in zip(logits[0].softmax(-1)[labels[0] != IGNORE_INDEX], labels[labels != IGNORE_INDEX]):
            loss = -q[label].log()
            if targets.has_target[at]:
                loss = (1 - weight) * loss + weight * dense(q, targets.ids[at], targets.probabilities[at], targets.tail[at], divergence)
            sums[row['objective']], counts[row['objective']], at = sums[row['objective']] + loss, counts[row['objective']] + 1, at + 1
    return sum(student.format.objective_weights[names[t]] * sums[t] / counts[t] for t in counts)


def gradients(model): return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).double()


class FirstGradient(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs): self.gradient = gradients(model)


@pytest.mark.parametrize('arch', ARCHITECTURES)
@pytest.mark.parametrize('divergence, weight, batch_size, accumulation, rest', [
    ('forward', 1.0, 12, 1, 'tail'), ('forward', 0.3, 5, 3, 'restrict'), ('forward', 1.0, 1, 12, 'renormalise'),
    ('reverse', 0.7, 5, 3, 'tail'), ('jensen-shannon', 1.0, 4, 3, 'tail')])
def test_loss_and_gradients_equal_a_naive_dense_implementation(arch, divergence, weight, batch_size, accumulation, rest, tmp_path):
    student = make_student(arch)
    rows, targets = data(student, make_teacher(), rest=rest)
    assert 0.1 < targets.coverage < 1 and targets.probabilities[targets.has_target].max(1).min() < 0.9
    precise = Student(copy.deepcopy(student.model).double(), student.tokenizer, student.format, arch)
    expected = naive_loss(precise, rows, targets, weight, divergence)
    expected.backward()
    seen, config = FirstGradient(), one_step(batch_size=batch_size, gradient_accumulation_steps=accumulation)
    loss = SoftTargets(targets, KDConfig(weight, divergence))
    trainer = StudentTrainer(student, rows, output_dir=tmp_path, loss=loss, config=config, monitor=Monitor(callbacks=[seen]))
    trainer.train()
    assert (seen.gradient - gradients(precise.model)).norm() <= 1e-5 * seen.gradient.norm()
    assert trainer.state.log_history[0]['loss'] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize('arch', ARCHITECTURES)
def test_a_weight_of_0_is_plain_distillation(arch, tmp_path):
    config = one_step(max_steps=4, batch_size=3, gradient_accumulation_steps=2)
    students = [make_student(arch) for _ in range(3)]
    rows, targets = data(students[0], make_teacher())
    losses = CrossEntropy(), SoftTargets(targets, KDConfig(kd_weight=0.0)), SoftTargets(targets)
    trainers = [StudentTrainer(s, rows, output_dir=tmp_path, loss=loss, config=config) for s, loss in zip(students, losses)]
    for trainer in trainers: trainer.train()
    plain, zero, one = (list(s.model.parameters()) for s in students)
    assert all(torch.equal(a, b) for a, b in zip(plain, zero)) and not all(torch.equal(a, b) for a, b in zip(plain, one))
    losses = [[row['loss'] for row in t.state.log_history if 'loss' in row] for t in trainers]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize('arch', ARCHITECTURES)
@pytest.mark.parametrize('divergence, weight', [('forward', 1.0), ('reverse', 0.4)])
def test_the_whole_vocabulary_between_equal_tokenizers(arch, divergence, weight, tmp_path):
    "Loss and gradients are those of one example at a time, and what a bare answer costs is cross-entropy"
    student, teacher = make_student(arch), make_student(arch, seed=5)
    with torch.no_grad(): teacher.model.get_output_embeddings().weight.mul_(20)
    examples = [e for p, g in zip(PROBLEMS[:6], GOLD) for e in student.format.examples(p, [g])]
    rows = encode(examples, student.tokenizer, arch)
    reasoned = sum(len([l for l in row['labels'] if l != IGNORE_INDEX]) for row in rows if examples[row['example']].objective == 'rationale')
    supervised = sum(len([l for l in row['labels'] if l != IGNORE_INDEX]) for row in rows)
    precise, names, sums, counts = copy.deepcopy(student.model).double(), rows.features['objective'].names, Counter(), Counter()
    judge = copy.deepcopy(teacher.model).double().eval()
    for row in rows:
        logits, labels = student_logits(precise, Collator(student.tokenizer, arch)([row]), arch)
        with torch.no_grad(): theirs, _ = student_logits(judge, Collator(student.tokenizer, arch)([row]), arch)
        p, q = theirs.softmax(-1)[labels != IGNORE_INDEX], logits.softmax(-1)[labels != IGNORE_INDEX]
        loss = -q.gather(1, labels[labels != IGNORE_INDEX][:, None]).log().sum()
        if names[row['objective']] == 'rationale':
            apart = (p*(p/q).log()).sum() if divergence == 'forward' else (q*(q/p).log()).sum()
            loss = (1 - weight)*loss + weight*apart
        sums[row['objective']], counts[row['objective']] = sums[row['objective']] + loss, counts[row['objective']] + len(q)
    expected = sum(student.format.objective_weights[names[t]]*sums[t]/counts[t] for t in counts)
    expected.backward()
    seen, config = FirstGradient(), one_step(batch_size=5, gradient_accumulation_steps=3)
    loss = FullVocabulary(TeacherModel(teacher.model, teacher.tokenizer, arch), KDConfig(weight, divergence))
    trainer = StudentTrainer(student, rows, output_dir=tmp_path, loss=loss, config=config, monitor=Monitor(callbacks=[seen]))
    trainer.train()
    assert (seen.gradient - gradients(precise)).norm() <= 1e-5*seen.gradient.norm()
    assert trainer.state.log_history[0]['loss'] == pytest.approx(expected.item(), rel=1e-5)
    assert trainer.state.log_history[0]['coverage'] == pytest.approx(reasoned/supervised)


def test_the_whole_vocabulary_is_refused_between_others(tmp_path):
    for teacher in (make_teacher(), make_teacher('seq2seq'), None):
        with pytest.raises(CotkitError) as e: specialized(make_student(), tmp_path, [stored(r) for r in GOLD], teacher=teacher, top_k='all')
        assert e.value.field == 'top_k'
    same = make_student(seed=5)
    specialized(make_student(), tmp_path, teacher=TeacherModel(same.model, same.tokenizer), top_k='all')
    assert all(math.isfinite(row['loss']) for row in read_history(tmp_path))


@pytest.mark.parametrize('arch', ARCHITECTURES)
def test_the_loss_falls_on_one_batch(arch, tmp_path):
    student = make_student(arch)
    rows, targets = data(student, make_teacher(), n=4)
    config = one_step(max_steps=30, batch_size=8, learning_rate=1e-2)
    trainer = StudentTrainer(student, rows, output_dir=tmp_path, loss=SoftTargets(targets), config=config)
    trainer.train()
    losses = [row['loss'] for row in trainer.state.log_history if 'loss' in row]
    assert len(losses) == 30 and all(map(math.isfinite, losses)) and losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize('settings', [dict(kd_weight=1.5), dict(kd_weight=-0.1), dict(kd_weight=float('nan')), dict(divergence='sideways'),
                                      dict(tail_mode='drop'), dict(top_k=0), dict(top_k='most')])
def test_settings_of_the_match_are_checked(settings):
    with pytest.raises(CotkitError) as e: KDConfig(**settings)
    assert e.value.field in settings


# The whole of it

STEPS = dict(max_steps=5, batch_size=4, save_steps=2, logging_steps=1, eval_steps=2, learning_rate=2e-3)


def specialized(student, folder, rationales=GOLD, teacher=None, **named):
    "`specialize` with flat keywords: of the data, of the comparison, of training"
    def some(*names): return {name: named.pop(name) for name in names if name in named}
    data = TrainingSet(PROBLEMS, rationales, **some('validation', 'held_out'))
    matching, monitor = Matching(KDConfig(**some('kd_weight', 'divergence', 'top_k')), teacher), Monitor(**some('callbacks'))
    return specialize(student, data, output_dir=folder, matching=matching, monitor=monitor, config=training(**STEPS | named))


@pytest.mark.parametrize('arch', ARCHITECTURES)
def test_specialize_with_a_live_teacher_of_other_tokens(arch, tmp_path):
    mixture = Mixture(FOUR, weights=(1, 2, 1, 2), eval_format=1, held_out=TEST)
    student = specialized(make_student(arch, mixture), tmp_path, validation=VALIDATION, teacher=make_teacher(), held_out=TEST)
    history, matching = read_history(tmp_path), read_matching(tmp_path)
    assert len(history) == 5 and all(math.isfinite(row['loss']) for row in history) and 'eval_rationale_loss' in history[1]
    assert 0.05 < matching['coverage'] < 0.95 and 0.1 < matching['kept_probability'] < 1 and all(row['coverage'] < 1 for row in history)
    saved = Student.load(tmp_path/'student')
    assert saved.format == mixture == student.format
    assert all(torch.equal(a, b) for a, b in zip(student.model.parameters(), saved.model.parameters()))


class BreakOff(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 3: raise KeyboardInterrupt


def test_a_resumed_run_ends_as_an_uninterrupted_one_and_another_match_is_refused(tmp_path):
    def run(folder, **named): return specialized(make_student(), tmp_path/folder, validation=VALIDATION, teacher=make_teacher(), **named)
    whole = run('whole')
    with pytest.raises(KeyboardInterrupt): run('broken', callbacks=[BreakOff()])
    for other, field in ((dict(kd_weight=0.5), 'loss.kd_weight'), (dict(divergence='reverse'), 'loss.divergence'), (dict(top_k=2), 'loss.labels')):
        with pytest.raises(CotkitError) as e: run('broken', resume=True, **other)
        assert e.value.field == field
    with pytest.raises(CotkitError, match='resume=True'): run('broken')
    resumed = run('broken', resume=True)
    assert read_history(tmp_path/'whole') == read_history(tmp_path/'broken')
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), resumed.model.parameters()))


def stored(rationale, doubt=0.6):
    "The rationale as a teacher would have sent it: word by word, never sure"
    words = [w if i == 0 else f' {w}' for i, w in enumerate(rationale.text.split(' '))]
    logprobs = tuple(TokenLogprob(w, math.log(doubt), ((w, math.log(doubt)), (' and', math.log(0.2)))) for w in words)
    return replace(rationale, logprobs=logprobs)


def test_specialize_from_stored_logprobs(tmp_path):
    specialized(make_student(), tmp_path/'doubts', [stored(r) for r in GOLD])
    assert 0.02 < read_matching(tmp_path/'doubts')['coverage'] < 0.9
    with pytest.raises(CotkitError, match='no soft target'): specialized(make_student(), tmp_path/'none')
    specialized(make_student(), tmp_path/'plain', kd_weight=0)
    distill(make_student(), TrainingSet(PROBLEMS, GOLD), output_dir=tmp_path/'distilled', config=training(**STEPS))
    assert read_matching(tmp_path/'plain')['coverage'] == 0
    plain = [{k: v for k, v in row.items() if k not in ('coverage', 'kept_probability')} for row in read_history(tmp_path/'plain')]
    assert plain == read_history(tmp_path/'distilled') != read_history(tmp_path/'doubts')
    with pytest.raises(CotkitError, match='no matching'): read_matching(tmp_path/'distilled')


def test_bare_answers_are_never_matched(tmp_path):
    with pytest.raises(CotkitError, match='no soft target'):
        specialized(make_student(format=AnswerOnly()), tmp_path, teacher=make_teacher())


def test_test_items_have_no_way_in(tmp_path):
    renamed = Problem('other', PROBLEMS[5].question.upper(), PROBLEMS[5].answer)
    with pytest.raises(CotkitError, match='trained on'): specialized(make_student(), tmp_path, teacher=make_teacher(), held_out=[renamed])
    student = make_student(format=Mixture((FewShotCoT(demonstrations(TEST)),)))
    for named in (dict(held_out=TEST[3:4]), dict(validation=TEST[3:4])):
        with pytest.raises(CotkitError, match='demonstration'): specialized(student, tmp_path, teacher=make_teacher(), **named)
    with pytest.raises(CotkitError, match='history.jsonl'): read_matching(tmp_path)


# Mixtures

MANY = word_problems(3000, seed=3, steps=(1, 1))


@pytest.mark.parametrize('shares', [(1, 1, 1, 1), (0.1, 0.2, 0.3, 0.4), (0, 3, 0, 1)])
def test_shares(shares):
    counts = Counter(f.name for p in MANY for f in Mixture(FOUR, shares).formats_for(p))
    for format, share in zip(FOUR, shares):
        expected = share / sum(shares)
        assert abs(counts[format.name] / len(MANY) - expected) <= 4 * math.sqrt(expected * (1 - expected) / len(MANY))


def test_the_draw_depends_on_seed_and_id_alone():
    mixture = Mixture(FOUR, (1, 1, 1, 1))
    assert [mixture.formats_for(p) for p in MANY[:50]] == [mixture.formats_for(Problem(p.id, 'something else', '1')) for p in MANY[:50]]
    assert [mixture.formats_for(p) for p in MANY[:50]] != [replace(mixture, seed=1).formats_for(p) for p in MANY[:50]]
    assert [f.name for f in mixture.formats_for(Problem('a\0b\ud800', 'q', '1'))] == [f.name for f in format_from_dict(mixture.to_dict()).formats_for(Problem('a\0b\ud800', 'q', '1'))]


def test_no_question_is_shown_to_itself():
    mixture = Mixture((FewShotAnswerOnly(POOL), FewShotCoT(POOL), FewShotCoT(POOL, shots=2)))
    for problem, gold in zip(PROBLEMS[:8], GOLD):
        examples = mixture.examples(problem, [gold])
        assert len(examples) == 3 and all(e.input.count(problem.question) == 1 for e in examples)
        assert not any(t.question in e.input for e in examples for t in TEST)


def test_forbidden_demonstrations_are_refused_by_id_and_by_words():
    by_words = Problem('other', f'  {POOL[0].problem.question.upper()}', '1')
    by_id = Problem(POOL[1].problem.id, 'something else', '1')
    nested = Mixture((AnswerOnly(), Mixture((FewShotCoT(POOL),))))
    for never in ([by_words], [by_id], iter([TEST[0], by_id])):
        with pytest.raises(CotkitError, match='demonstration'): Mixture(FOUR, held_out=never)
    with pytest.raises(CotkitError, match='demonstration'): check_demonstrations(nested, [by_id])
    with pytest.raises(CotkitError, match='demonstration'): check_demonstrations(FewShotCoT(POOL), [by_id])
    check_demonstrations(nested, TEST)


@given(st.lists(st.floats(0, 10), min_size=4, max_size=4).filter(lambda s: sum(s) > 1e-3), st.integers(0, 3), st.integers(0, 2**40))
@settings(max_examples=30, deadline=None)
def test_round_trip_as_json(shares, asked, seed):
    mixture = Mixture(FOUR, shares, asked, seed)
    again = format_from_dict(json.loads(json.dumps(mixture.to_dict())))
    assert again == mixture and [again.formats_for(p) for p in MANY[:20]] == [mixture.formats_for(p) for p in MANY[:20]]


def test_asked_in_one_format():
    for i, format in enumerate(FOUR):
        mixture = Mixture(FOUR, eval_format=i)
        assert mixture.prompt(TEST[0]) == format.prompt(TEST[0]) and (mixture.system, mixture.stop) == (format.system, format.stop)
        text = f'The answer is {TEST[0].answer}.'
        assert mixture.parse(text, TEST[0]) == format.parse(text, TEST[0])
    assert FORMATS['mixture'] is Mixture and Mixture(FOUR).objective_weights == {'label': 1.0, 'rationale': 1.0}


@pytest.mark.parametrize('settings, field', [
    (dict(formats=()), 'formats'), (dict(formats=(AnswerOnly(), StepByStep())), 'formats'), (dict(eval_format=4), 'eval_format'), (dict(eval_format=-1), 'eval_format'),
    (dict(weights=(1,)), 'weights'), (dict(weights=(0, 0, 0, 0)), 'weights'), (dict(weights=(1, 1, 1, -1)), 'weights'), (dict(weights=(1, 1, 1, float('nan'))), 'weights')])
def test_a_mixture_that_makes_no_sense_is_refused(settings, field):
    with pytest.raises(CotkitError) as e: Mixture(**dict(formats=FOUR) | settings)
    assert e.value.field == field
