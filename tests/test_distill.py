"Distilling: the loss and its gradients against a naive reference, resuming, recipes, and what is refused"
import json, os, shutil, signal, subprocess, sys, time

import pytest
import torch
from transformers import TrainerCallback

from cotkit.data.core import CotkitError, Example, Problem, Rationale
from cotkit.training.config import EncodeConfig
from cotkit.training.distill import distill
from cotkit.training.encode import IGNORE_INDEX, Collator, encode
from cotkit.data.formats import AnswerOnly, StepByStep, ZeroShotCoT, gold_rationale
from cotkit.models.students import Size, Student, build_model
from cotkit.models.tokenizers import train_tokenizer
from cotkit.data.word_problems import word_problems
from cotkit.training.losses import student_logits
from cotkit.training.checkpoints import last_checkpoint, read_history
from cotkit.training.trainer import Monitor, StudentTrainer, TrainingSet, training_arguments
from train_settings import one_step, settings

torch.set_num_threads(1)
ARCHITECTURES = ('causal', 'seq2seq')
PROBLEMS = word_problems(24, seed=1, steps=(1, 2), largest=20)
VALIDATION = word_problems(6, seed=1, steps=(1, 2), largest=20, split='validation')
GOLD = [gold_rationale(p) for p in PROBLEMS]


def make_student(arch='causal', format=None, seed=0):
    format = format or StepByStep(alpha=0.3)
    texts = [f'{e.input} {e.target}' for p, g in zip(PROBLEMS, GOLD) for e in format.examples(p, [g])]
    tokenizer = train_tokenizer(texts, arch, 400)
    return Student(build_model(Size(2, 16, 2), tokenizer, arch, seed), tokenizer, format, arch)


def naive_loss(student, examples, weights):
    "One example at a time, through the model's own loss: per task, the mean over all its target tokens"
    total = 0
    for task, weight in weights.items():
        sums, tokens = 0, 0
        for example in (e for e in examples if e.objective == task):
            row = Collator(student.tokenizer, student.arch)(list(encode([example], student.tokenizer, student.arch)))
            marked = int((row['labels'] != IGNORE_INDEX).sum())
            sums = sums + student.model(input_ids=row['input_ids'], attention_mask=row['attention_mask'], labels=row['labels']).loss * marked
            tokens += marked
        if tokens: total = total + weight * sums / tokens
    return total


def gradients(model): return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).double()


class FirstGradient(TrainerCallback):
    "Keeps the gradient of the first optimizer step as the trainer accumulated it"

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.global_step == 0: self.gradient = gradients(model)


UNEVEN = [Example('explain: ' + 'a b c ' * i, 'x y ' * (1 + 3 * i), 'rationale') for i in range(7)] + [Example('predict: a b', '7', 'label'), Example('predict: b', '8 9 9 9', 'label')]


@pytest.mark.parametrize('arch', ARCHITECTURES)
@pytest.mark.parametrize('batch_size, accumulation', [(9, 1), (2, 5), (1, 9), (4, 3)])
def test_gradients_equal_one_example_at_a_time(arch, batch_size, accumulation, tmp_path):
    student = make_student(arch)
    naive_loss(student, UNEVEN, student.format.objective_weights).backward()
    expected = gradients(student.model)
    student.model.zero_grad(set_to_none=True)
    seen, config = FirstGradient(), one_step(batch_size=batch_size, gradient_accumulation_steps=accumulation)
    trainer = StudentTrainer(student, UNEVEN, output_dir=tmp_path, config=config, monitor=Monitor(callbacks=[seen]))
    trainer.train()
    assert (seen.gradient - expected).norm() <= 1e-5 * expected.norm()
    student = make_student(arch)
    with torch.no_grad(): assert trainer.state.log_history[0]['loss'] == pytest.approx(naive_loss(student, UNEVEN, student.format.objective_weights).item(), rel=1e-5)


def test_an_encoder_decoder_reads_once_and_writes_each_task_as_wide_as_its_targets():
    student = make_student('seq2seq')
    batch = Collator(student.tokenizer, 'seq2seq')(list(encode(UNEVEN, student.tokenizer, 'seq2seq')))
    seen = {'encoder': [], 'decoder': []}
    for name, widths in seen.items(): getattr(student.model, name).register_forward_hook(lambda module, given, out, widths=widths: widths.append(tuple(out[0].shape[:2])))
    with torch.no_grad(): logits, labels = student_logits(student.model, batch, 'seq2seq')
    assert seen['encoder'] == [tuple(batch['input_ids'].shape)] and sorted(rows for rows, _ in seen['decoder']) == [2, 7]
    assert sorted(width for _, width in seen['decoder'])[0] < labels.shape[1] == logits.shape[1]


def test_an_encoder_reads_in_the_precision_that_was_asked_for(tmp_path):
    "It is called on its own, and `bf16` must hold there too"
    student = make_student('seq2seq')
    trainer, seen = StudentTrainer(student, UNEVEN, output_dir=tmp_path, config=one_step(batch_size=9, bf16=True)), set()
    student.model.encoder.block[0].layer[0].SelfAttention.q.register_forward_hook(lambda module, given, out: seen.add(out.dtype))
    trainer.train()
    assert seen == {torch.bfloat16}


@pytest.mark.parametrize('arch', ARCHITECTURES)
def test_filling_changes_nothing(arch):
    student = make_student(arch)
    rows = list(encode(UNEVEN, student.tokenizer, arch))
    together = Collator(student.tokenizer, arch, multiple=64)(rows)
    with torch.no_grad():
        logits, labels = student_logits(student.model, together, arch)
        for i, row in enumerate(rows):
            alone, its_labels = student_logits(student.model, Collator(student.tokenizer, arch)([row]), arch)
            here, marked = labels[i] != IGNORE_INDEX, its_labels[0] != IGNORE_INDEX
            assert labels[i][here].tolist() == its_labels[0][marked].tolist()
            torch.testing.assert_close(logits[i][here], alone[0][marked], rtol=1e-4, atol=1e-5)


def run(folder, arch='causal', student=None, rationales=GOLD, validation=VALIDATION, **arguments):
    monitor = Monitor(validate=arguments.pop('validate', None), callbacks=arguments.pop('callbacks', ()))
    config = settings(**dict(max_steps=12, batch_size=4, logging_steps=1, save_steps=4, eval_steps=4, learning_rate=2e-3) | arguments)
    data = TrainingSet(PROBLEMS, rationales, validation)
    return distill(student or make_student(arch), data, output_dir=folder, config=config, monitor=monitor)


class Stop(TrainerCallback):
    "Breaks off like Ctrl-C, after the step's checkpoint would have been due"

    def __init__(self, step): self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step: raise KeyboardInterrupt


@pytest.mark.parametrize('arch', ARCHITECTURES)
def test_a_resumed_run_ends_like_an_uninterrupted_one(arch, tmp_path):
    def student():
        made = make_student(arch)
        for module in made.model.modules():
            if isinstance(module, torch.nn.Dropout): module.p = 0.1
        return made
    whole = run(tmp_path/'whole', student=student(), gradient_accumulation_steps=2)
    with pytest.raises(KeyboardInterrupt): run(tmp_path/'cut', student=student(), gradient_accumulation_steps=2, callbacks=[Stop(9)])
    resumed = run(tmp_path/'cut', student=student(), gradient_accumulation_steps=2, resume=True)
    assert read_history(tmp_path/'cut') == read_history(tmp_path/'whole')
    assert [row['step'] for row in read_history(tmp_path/'cut')] == list(range(1, 13))
    for a, b in zip(whole.model.parameters(), resumed.model.parameters()): assert torch.equal(a, b)


KILLED = '''
import sys; sys.path.insert(0, {tests!r})
from test_distill import run
run({folder!r}, max_steps=2000, save_steps=5, eval_steps=1000, save_total_limit=2)
'''


def test_a_killed_run_resumes(tmp_path):
    "kill -9 at whatever step it is at"
    code = KILLED.format(tests=os.path.dirname(__file__), folder=str(tmp_path/'killed'))
    process = subprocess.Popen([sys.executable, '-c', code], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    for _ in range(1200):
        time.sleep(0.1)
        if last_checkpoint(tmp_path/'killed') or process.poll() is not None: break
    process.send_signal(signal.SIGKILL)
    process.wait()
    checkpoint = last_checkpoint(tmp_path/'killed')
    step = int(checkpoint.name.split('-')[1])
    arguments = dict(max_steps=2000, save_steps=5, eval_steps=1000, save_total_limit=2, callbacks=[Stop(step + 5)])
    with pytest.raises(KeyboardInterrupt): run(tmp_path/'killed', resume=True, **arguments)
    with pytest.raises(KeyboardInterrupt): run(tmp_path/'whole', **arguments)
    states = [json.loads((tmp_path/name/f'checkpoint-{step + 5}'/'trainer_state.json').read_text())['log_history'] for name in ('killed', 'whole')]
    assert len(states[0]) == step + 5 and states[0] == states[1]


@pytest.mark.parametrize('arch', ARCHITECTURES)
@pytest.mark.parametrize('kind', [AnswerOnly, StepByStep, ZeroShotCoT])
def test_every_format_learns(arch, kind, tmp_path):
    student = make_student(arch, kind())
    run(tmp_path/'run', student=student, max_steps=30, logging_steps=5, save_steps=30, eval_steps=10, learning_rate=1e-2)
    history = read_history(tmp_path/'run')
    assert history[-1]['loss'] < 0.8 * history[0]['loss']
    validated = [row['eval_loss'] for row in history if 'eval_loss' in row]
    assert len(validated) == 3 and validated[-1] < validated[0]
    for task in student.format.objective_weights: assert f'{task}_loss' in history[-1] and 0 <= history[-1][f'eval_{task}_exact'] <= 1
    loaded = Student.load(tmp_path/'run'/'student')
    assert loaded.format == student.format
    for a, b in zip(student.model.parameters(), loaded.model.parameters()): assert torch.equal(a, b)
    assert loaded.model.config.use_cache


def test_the_logged_loss_is_the_weighted_sum_of_its_tasks(tmp_path):
    run(tmp_path/'run', max_steps=3, save_steps=3)
    for row in read_history(tmp_path/'run'):
        assert row['loss'] == pytest.approx(0.3 * row.get('label_loss', 0) + 0.7 * row.get('rationale_loss', 0), rel=1e-5)


def test_a_task_of_weight_zero_is_not_computed(tmp_path):
    run(tmp_path/'run', student=make_student(format=StepByStep(alpha=1)), max_steps=2, save_steps=2)
    assert all('rationale_loss' not in row and row['loss'] == pytest.approx(row['label_loss'], rel=1e-5) for row in read_history(tmp_path/'run'))


def test_exact_match_is_that_of_greedy_decoding(tmp_path):
    student = make_student(format=AnswerOnly())
    examples = [e for p in PROBLEMS[:4] for e in student.format.examples(p)]
    rows = encode(examples, student.tokenizer, 'causal')
    run(tmp_path/'run', student=student, max_steps=60, logging_steps=10, save_steps=60, learning_rate=2e-2)
    trainer = StudentTrainer(student, examples, output_dir=tmp_path/'other', config=settings(), monitor=Monitor(examples))
    measured = trainer.evaluate()['eval_label_exact']
    hits = 0
    for row in rows:
        read = row['input_ids'][:row['labels'].count(IGNORE_INDEX)]
        written = student.model.generate(torch.tensor([read]), attention_mask=torch.ones(1, len(read), dtype=torch.long), max_new_tokens=20, do_sample=False)
        hits += written[0, len(read):].tolist() == row['labels'][len(read):]
    assert measured == hits / 4


def test_validation_may_be_a_function(tmp_path):
    asked = []
    def accuracy(student):
        asked.append(student)
        return {'accuracy': 0.5}
    student = make_student(format=ZeroShotCoT())
    run(tmp_path/'run', student=student, validation=(), validate=accuracy)
    assert len(asked) == 3 and all(o is student for o in asked)
    assert [row['eval_accuracy'] for row in read_history(tmp_path/'run') if 'eval_accuracy' in row] == [0.5] * 3


def test_a_budget_in_seconds_ends_and_saves(tmp_path):
    run(tmp_path/'run', max_steps=100_000, logging_steps=1, save_steps=50_000, eval_steps=50_000, max_seconds=1)
    assert 0 < read_history(tmp_path/'run')[-1]['step'] < 100_000 and last_checkpoint(tmp_path/'run')
    Student.load(tmp_path/'run'/'student')


def test_early_stopping(tmp_path):
    from transformers import EarlyStoppingCallback
    run(tmp_path/'run', max_steps=40, learning_rate=0.0, save_steps=4, eval_steps=4, load_best_model_at_end=True, metric_for_best_model='eval_loss',
        greater_is_better=False, callbacks=[EarlyStoppingCallback(2)])
    assert read_history(tmp_path/'run')[-1]['step'] == 12


# a shared prefix

AFTER = StepByStep(alpha=0.3, marker='after')
MANY = [e for p, g in zip(PROBLEMS[:5], GOLD) for e in AFTER.examples(p, [g, *(Rationale(p.id, f'{g.text[:40]} {i}. The answer is 1.') for i in range(len(p.gold_steps)))])]


def shared_student(kind, seed=3):
    "With opinions of its own: an untrained one hardly looks back"
    student = make_student('causal', AFTER, seed)
    if kind == 'gpt2':
        from transformers import GPT2Config, GPT2LMHeadModel
        torch.manual_seed(seed)
        student.model = GPT2LMHeadModel(GPT2Config(vocab_size=len(student.tokenizer), n_positions=128, n_embd=16, n_layer=2, n_head=2, initializer_range=0.3,
                                                   attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0, bos_token_id=None, eos_token_id=student.tokenizer.eos_token_id))
    else: student.model.set_attn_implementation(kind)
    return student


@pytest.mark.parametrize('kind', ['eager', 'sdpa', 'gpt2'])
@pytest.mark.parametrize('batch_size, accumulation', [(5, 1), (2, 3), (1, 5)])
def test_a_shared_prefix_gives_the_gradients_of_separate_rows(kind, batch_size, accumulation, tmp_path):
    student = shared_student(kind)
    expected_loss = naive_loss(student, MANY, AFTER.objective_weights)
    expected_loss.backward()
    expected = gradients(student.model)
    student.model.zero_grad(set_to_none=True)
    rows, seen = encode(MANY, student.tokenizer, 'causal', EncodeConfig(share_prefix=True)), FirstGradient()
    assert len(rows) == 5 and len({row['length'] for row in rows}) > 1 and len(MANY) > 15
    config = one_step(batch_size=batch_size, gradient_accumulation_steps=accumulation, share_prefix=True)
    trainer = StudentTrainer(student, MANY, output_dir=tmp_path, config=config, monitor=Monitor(callbacks=[seen]))
    trainer.train()
    assert (seen.gradient - expected).norm() <= 1e-5 * expected.norm()
    assert trainer.state.log_history[0]['loss'] == pytest.approx(expected_loss.item(), rel=1e-5)


def test_a_model_that_cannot_share_is_refused(tmp_path):
    from transformers import BloomConfig, BloomForCausalLM
    student = shared_student('eager')
    def refuse(match):
        with pytest.raises(CotkitError, match=match): StudentTrainer(student, MANY, output_dir=tmp_path, config=settings(share_prefix=True))
    student.model.config.sliding_window = 8
    refuse('looks back 8 tokens')
    del student.model.config.sliding_window
    without_mask = lambda module, args, kwargs: (args, kwargs | {'attention_mask': None})
    with student.model.model.register_forward_pre_hook(without_mask, with_kwargs=True): refuse('does not follow the mask')
    student.model = BloomForCausalLM(BloomConfig(vocab_size=len(student.tokenizer), hidden_size=16, n_layer=1, n_head=2))
    refuse('no position numbers')
    with pytest.raises(CotkitError, match='share_prefix'): run(tmp_path/'t5', 'seq2seq', share_prefix=True)


def test_the_context_is_counted_by_example_not_by_row(tmp_path):
    student = make_student(format=AFTER)
    longest = max(encode([e for p, g in zip(PROBLEMS, GOLD) for e in AFTER.examples(p, [g])], student.tokenizer, 'causal')['length'])
    student.model.config.max_position_embeddings = longest
    run(tmp_path/'run', student=student, validation=(), max_steps=1, save_steps=1, share_prefix=True)
    student.model.config.max_position_embeddings = longest - 1
    with pytest.raises(CotkitError, match=f'has {longest} tokens'): run(tmp_path/'other', student=student, validation=(), share_prefix=True)


def test_a_run_with_a_shared_prefix_resumes_exactly(tmp_path):
    def student(): return make_student(format=AFTER)
    packed = dict(gradient_accumulation_steps=2, share_prefix=True)
    whole = run(tmp_path/'whole', student=student(), **packed)
    with pytest.raises(KeyboardInterrupt): run(tmp_path/'cut', student=student(), callbacks=[Stop(9)], **packed)
    with pytest.raises(CotkitError, match='training rows'): run(tmp_path/'cut', student=student(), resume=True, gradient_accumulation_steps=2)
    resumed = run(tmp_path/'cut', student=student(), resume=True, **packed)
    assert read_history(tmp_path/'cut') == read_history(tmp_path/'whole')
    assert {'label_loss', 'rationale_loss', 'eval_label_exact'} <= read_history(tmp_path/'cut')[-1].keys()
    for a, b in zip(whole.model.parameters(), resumed.model.parameters()): assert torch.equal(a, b)


# what is refused

def test_validation_problems_are_not_trained_on(tmp_path):
    for overlap in (PROBLEMS[3], Problem('another-id', PROBLEMS[3].question.upper() + ' ', PROBLEMS[3].answer)):
        with pytest.raises(CotkitError, match=overlap.id): run(tmp_path/'run', validation=[overlap])
    assert not (tmp_path/'run').exists()


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp('finished')
    run(folder/'run', max_steps=4, save_steps=2)
    return folder/'run'


@pytest.mark.parametrize('arguments, field', [
    (dict(learning_rate=1e-4), 'learning_rate'), (dict(rationales=GOLD[:-1]), 'training rows'), (dict(validation=VALIDATION[:-1]), 'validation rows'),
    (dict(batch_size=3), 'rows of a step'), (dict(student=make_student(format=StepByStep(alpha=0.4))), 'objective weights'), (dict(train_seed=5), 'seed'), (dict(data_seed=5), 'data_seed')])
def test_resuming_with_other_data_or_settings_is_refused(finished, arguments, field):
    with pytest.raises(CotkitError, match=f'field "{field}"'): distill_again(finished, **arguments)


def distill_again(folder, **arguments): return run(folder, resume=True, **dict(max_steps=4, save_steps=2) | arguments)


def test_resuming_a_finished_run_trains_nothing(finished):
    before = read_history(finished)
    student = distill_again(finished)
    assert read_history(finished) == before
    for a, b in zip(student.model.parameters(), Student.load(finished/'student').model.parameters()): assert torch.equal(a, b)


def test_a_folder_of_another_run_is_not_overwritten(finished):
    with pytest.raises(CotkitError, match='resume=True'): run(finished, max_steps=4, save_steps=2)


def test_broken_folders_are_errors(finished, tmp_path):
    (tmp_path/'file').write_text('x')
    with pytest.raises(CotkitError, match='is a file'): run(tmp_path/'file', resume=True)
    for break_it in (lambda c: (c/'optimizer.pt').write_bytes(b'x'), lambda c: (c/'model.safetensors').unlink(), lambda c: (c/'cotkit_run.json').write_text('{')):
        broken = shutil.copytree(finished, tmp_path/'broken', dirs_exist_ok=True)
        break_it(last_checkpoint(broken))
        with pytest.raises(CotkitError, match='Delete this checkpoint'): distill_again(broken)
        shutil.rmtree(broken)


def test_a_half_written_checkpoint_is_passed_over(finished, tmp_path):
    half = shutil.copytree(finished, tmp_path/'half')
    (last_checkpoint(half)/'cotkit_run.json').unlink()
    assert last_checkpoint(half).name == 'checkpoint-2'
    distill_again(half)
    assert read_history(half) == read_history(finished)


def test_bad_arguments_are_refused_by_name(tmp_path):
    with pytest.raises(CotkitError, match='learning_rates'): training_arguments(tmp_path, settings(learning_rates=1))
    with pytest.raises(CotkitError, match='logging_steps'): training_arguments(tmp_path, settings(save_steps=15, logging_steps=10))
    with pytest.raises(CotkitError, match='no examples'): run(tmp_path/'run', student=make_student(format=ZeroShotCoT()), rationales=[])
    with pytest.raises(CotkitError, match='room for'):
        student = make_student()
        student.model.config.max_position_embeddings = 20
        run(tmp_path/'run', student=student)
