"Training on data of every kind with every loss; what is recorded, obeyed or refused; resuming every family exactly"
import copy, json, math, warnings
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import transformers as T

from cotkit.data.core import CotkitError, Example, TokenLogprob
from cotkit.models.students import Student, build_model
from cotkit.models.tokenizers import train_tokenizer
from cotkit.training.checkpoints import last_checkpoint, read_history, read_training
from cotkit.training.config import KDConfig, OnPolicyConfig, TrainConfig
from cotkit.training.encode import IGNORE_INDEX, TokenBlocks
from cotkit.training.losses import LOSSES, CrossEntropy, Loss, loss_from_dict, register_loss, token_losses
from cotkit.training.on_policy import OnPolicy
from cotkit.training.soft_targets import FullVocabulary, SoftLabels, SoftTargets, label_examples, soft_labels
from cotkit.training.teacher_tokens import TeacherModel, TeacherTokens
from cotkit.training.trainer import Monitor, StudentTrainer, TrainingSet, train, training_arguments
from test_distill import GOLD, PROBLEMS, VALIDATION, FirstGradient, Stop, gradients, make_student, run
from tokenizers_of_kinds import TOKENIZERS
from train_settings import one_step, settings

torch.set_num_threads(1)
APPLES = [Example(f'Ann has {i} apples and buys 2.', f'{i} + 2 = {i + 2}. The answer is {i + 2}.', 'rationale', f'p{i}') for i in range(6)]
LABELS = [Example(f'{e.input} answer', str(i + 2), 'label', e.problem_id) for i, e in enumerate(APPLES)]
TOKENIZER = train_tokenizer([f'{e.input} {e.target}' for e in APPLES] * 5, vocab_size=300)
BLOCKS = np.random.default_rng(0).integers(5, len(TOKENIZER), (9, 12))


def plain_student(seed=0, scale=1.0): return Student(build_model('nano', TOKENIZER, init_seed=seed), TOKENIZER)


def opinionated(seed=7):
    student = plain_student(seed)
    with torch.no_grad(): student.model.get_output_embeddings().weight.mul_(20)
    return TeacherModel(student.model.eval(), TOKENIZER)


# data of every kind

def test_a_student_without_a_format_learns_examples_and_is_saved_without_one(tmp_path):
    student = train(plain_student(), [*APPLES, *LABELS], output_dir=tmp_path, config=settings(max_steps=3, batch_size=4), monitor=Monitor(APPLES))
    history = read_history(tmp_path)
    assert history[-1]['loss'] == pytest.approx(history[-1]['rationale_loss'] + history[-1].get('label_loss', 0), rel=1e-5)
    saved = Student.load(tmp_path/'student')
    assert saved.format is None and all(torch.equal(a, b) for a, b in zip(student.model.parameters(), saved.model.parameters()))


@pytest.mark.parametrize('batch_size, accumulation', [(9, 1), (2, 5)])
@pytest.mark.parametrize('kind', [np.asarray, torch.tensor, TokenBlocks], ids=['array', 'tensor', 'blocks'])
def test_blocks_have_the_gradients_of_the_model_s_own_loss(kind, batch_size, accumulation, tmp_path):
    student, seen = plain_student(), FirstGradient()
    ids = torch.from_numpy(BLOCKS)
    expected = student.model(input_ids=ids, labels=ids).loss
    expected.backward()
    wanted = gradients(student.model)
    student.model.zero_grad(set_to_none=True)
    config = one_step(batch_size=batch_size, gradient_accumulation_steps=accumulation)
    trainer = StudentTrainer(student, kind(BLOCKS), output_dir=tmp_path, config=config, monitor=Monitor(callbacks=[seen]))
    trainer.train()
    assert (seen.gradient - wanted).norm() <= 1e-5*wanted.norm()
    assert trainer.state.log_history[0]['loss'] == pytest.approx(expected.item(), rel=1e-5)


def test_blocks_resume_exactly_and_are_validated(tmp_path):
    from datasets import Dataset
    blocks = Dataset.from_dict({'input_ids': BLOCKS.tolist()})
    def go(folder, callbacks=(), **named):
        config = settings(max_steps=6, batch_size=2, save_steps=2, logging_steps=1, eval_steps=2, **named)
        return train(plain_student(), blocks, output_dir=tmp_path/folder, config=config, monitor=Monitor(BLOCKS[:2], callbacks=callbacks))
    whole = go('whole')
    with pytest.raises(KeyboardInterrupt): go('cut', [Stop(5)])
    resumed = go('cut', resume=True)
    assert read_history(tmp_path/'whole') == read_history(tmp_path/'cut') and 'eval_tokens_loss' in read_history(tmp_path/'cut')[-1]
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), resumed.model.parameters()))
    with pytest.raises(CotkitError, match='training rows'):
        train(plain_student(), BLOCKS[::-1], output_dir=tmp_path/'cut', config=settings(max_steps=6, batch_size=2, save_steps=2, logging_steps=1, eval_steps=2, resume=True), monitor=Monitor(BLOCKS[:2]))


def test_data_that_cannot_be_trained_on_is_refused(tmp_path):
    def refuse(match, data, student=None, **named):
        with pytest.raises(CotkitError, match=match): StudentTrainer(student or plain_student(), data, output_dir=tmp_path, config=settings(), **named)
    refuse('no use for token blocks', BLOCKS, make_student('seq2seq'))
    refuse('no embedding', BLOCKS + 10**6)
    refuse('room for', np.ones((1, 10_000), int))
    refuse('no example', ['a text'])
    refuse('other objectives', APPLES, monitor=Monitor(BLOCKS))
    small = plain_student()
    small.model.resize_token_embeddings(200)
    refuse('no embedding: the model has 200', APPLES, small)
    with pytest.raises(CotkitError, match='holds a str'): TrainingSet(['a question'])
    with pytest.raises(CotkitError, match='has shape'): TokenBlocks(np.arange(3))


# losses

@register_loss('test-focal')
@dataclass(frozen=True)
class Focal(Loss):
    gamma: float = 2.0

    def per_token(self, logits, labels, batch):
        losses = token_losses(logits, labels)
        return losses*(1 - torch.exp(-losses))**self.gamma


def naive_focal(student, examples, gamma):
    total = count = 0
    for e in examples:
        read, written = TOKENIZER(e.input).input_ids, TOKENIZER(f' {e.target}').input_ids + [TOKENIZER.eos_token_id]
        q = student.model(torch.tensor([read + written])).logits[0, len(read) - 1:-1].softmax(-1)
        for row, token in zip(q, written): total, count = total - (1 - row[token])**gamma*row[token].log(), count + 1
    return total/count


@pytest.mark.parametrize('batch_size, accumulation', [(6, 1), (2, 3)])
def test_a_loss_of_one_s_own_has_its_gradients_counted_over_the_whole_step(batch_size, accumulation, tmp_path):
    student, seen = plain_student(), FirstGradient()
    expected = naive_focal(student, APPLES, 1.5)
    expected.backward()
    wanted = gradients(student.model)
    student.model.zero_grad(set_to_none=True)
    config = one_step(batch_size=batch_size, gradient_accumulation_steps=accumulation)
    trainer = StudentTrainer(student, APPLES, output_dir=tmp_path, loss=Focal(1.5), config=config, monitor=Monitor(callbacks=[seen]))
    trainer.train()
    assert (seen.gradient - wanted).norm() <= 1e-5*wanted.norm()
    assert trainer.state.log_history[0]['loss'] == pytest.approx(expected.item(), rel=1e-5)


def test_a_loss_survives_saving_and_decides_whether_a_run_resumes(tmp_path):
    config = dict(max_steps=4, batch_size=3, save_steps=2, logging_steps=1)
    with pytest.raises(KeyboardInterrupt): train(plain_student(), APPLES, output_dir=tmp_path, loss=Focal(1.5), config=settings(**config), monitor=Monitor(callbacks=[Stop(3)]))
    with pytest.raises(CotkitError) as e: train(plain_student(), APPLES, output_dir=tmp_path, loss=Focal(2.0), config=settings(**config, resume=True))
    assert e.value.field == 'loss.gamma'
    train(plain_student(), APPLES, output_dir=tmp_path, loss=Focal(1.5), config=settings(**config, resume=True))
    assert loss_from_dict(read_training(tmp_path)['loss']) == Focal(1.5)
    with pytest.raises(CotkitError, match='no loss'): loss_from_dict({'name': 'test-fokal'})


def test_label_smoothing_is_that_of_torch():
    logits, labels = torch.randn(2, 5, 11), torch.randint(11, (2, 5))
    labels[0, 1] = IGNORE_INDEX
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=0.2, reduction='none')
    assert torch.allclose(CrossEntropy(0.2).per_token(logits, labels, {}), expected.view(2, 5))
    with pytest.raises(CotkitError, match='label_smoothing'): CrossEntropy(1.0)


def block_labels(teacher, k=4):
    "The teacher's likeliest tokens for each supervised token of the blocks"
    with torch.no_grad(): p = teacher.model(torch.from_numpy(BLOCKS)).logits[:, :-1].softmax(-1).flatten(0, 1)
    own = torch.from_numpy(BLOCKS[:, 1:]).flatten()
    ids = torch.cat([own[:, None], p.scatter(1, own[:, None], -1).topk(k).indices], 1)
    values = p.gather(1, ids)
    ones = np.ones(len(own))
    return SoftLabels(ids.numpy(), values.numpy(), 1 - values.sum(1).numpy(), ones.astype(bool), ones, np.arange(len(BLOCKS) + 1)*(BLOCKS.shape[1] - 1))


def loss_of(kind, teacher, data):
    if kind == 'soft_targets': return SoftTargets(block_labels(teacher) if data is BLOCKS else label_examples(plain_student(), data, teacher=teacher), teacher=teacher)
    return {'cross_entropy': lambda: CrossEntropy(), 'full_vocabulary': lambda: FullVocabulary(teacher)}[kind]()


@pytest.mark.parametrize('kind', ['cross_entropy', 'soft_targets', 'full_vocabulary'])
@pytest.mark.parametrize('source', ['examples', 'packed', 'blocks', 'on_policy'])
def test_every_loss_goes_with_every_kind_of_data_and_moves_with_its_teacher(kind, source, tmp_path):
    "One step; the gradient depends on the teacher where there is one, and only there"
    found = []
    for seed in (7, 8):
        teacher, seen = opinionated(seed), FirstGradient()
        data = BLOCKS if source == 'blocks' else [*APPLES, *LABELS]
        loss = loss_of(kind, teacher, data)
        policy = OnPolicyConfig(1.0, max_new_tokens=6)
        student = plain_student()
        trainer = StudentTrainer(student, OnPolicy(data, policy, teacher) if source == 'on_policy' else data, output_dir=tmp_path, loss=loss,
                                 config=one_step(batch_size=12, share_prefix=source == 'packed'), monitor=Monitor(callbacks=[seen]))
        trainer.train()
        log = trainer.state.log_history[0]
        assert math.isfinite(log['loss']) and (kind == 'cross_entropy') == ('coverage' not in log)
        if kind != 'cross_entropy': assert (log['coverage'] == 1 if source == 'blocks' else 0.3 < log['coverage'] < 1) and log['kept_probability'] > 0.9
        found.append(seen.gradient)
    assert torch.equal(*found) == (kind == 'cross_entropy') and found[0].norm() > 0


def test_packed_rows_have_the_soft_losses_of_separate_ones(tmp_path):
    teacher = opinionated()
    for kind in ('soft_targets', 'full_vocabulary'):
        logs = []
        for share_prefix in (False, True):
            loss = loss_of(kind, teacher, [*APPLES, *LABELS])
            trainer = StudentTrainer(plain_student(), [*APPLES, *LABELS], output_dir=tmp_path, loss=loss, config=one_step(batch_size=12, share_prefix=share_prefix))
            trainer.train()
            logs.append({k: trainer.state.log_history[0][k] for k in ('loss', 'coverage', 'label_loss', 'rationale_loss')})
        assert logs[0] == pytest.approx(logs[1], rel=1e-4) and len(trainer.train_dataset) == 6


def test_soft_labels_and_teachers_are_given_again_to_a_loss_from_its_settings():
    teacher, loss = opinionated(), loss_of('soft_targets', opinionated(), APPLES)
    again = loss_from_dict(json.loads(json.dumps(loss.config())), labels=loss.labels, teacher=teacher)
    assert again.config() == loss.config() and again.labels is loss.labels and again.teacher is teacher
    whole = FullVocabulary(teacher, KDConfig(0.5, 'reverse'))
    assert loss_from_dict(whole.config(), teacher=teacher).config() == whole.config()
    with pytest.raises(CotkitError, match='no soft labels'): SoftTargets().prepare(plain_student(), None)
    assert {'cross_entropy', 'soft_targets', 'full_vocabulary'} <= set(LOSSES)


# what is recorded

def test_the_record_counts_what_was_really_trained(tmp_path):
    long = [Example('a', 'b c ' * 100, 'rationale', 'long')] * 3
    for name, packed in (('plain', False), ('packed', True)):
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            train(plain_student(), [*APPLES, *LABELS, *long], output_dir=tmp_path/name, config=settings(max_steps=2, max_target=40, share_prefix=packed))
        record = read_training(tmp_path/name)
        assert (record['examples'], record['dropped'], record['steps']) == (12, 3, 2) and record['objectives'] == {'rationale': 6, 'label': 6}
        assert record['config']['max_target'] == 40 and record['loss'] == {'name': 'cross_entropy', 'label_smoothing': 0.0}
    with pytest.raises(CotkitError, match='finished run'): read_training(tmp_path)


def test_a_learning_rate_suits_the_student_unless_given(tmp_path):
    for base, given, expected in (('', None, 2e-3), ('./folder', None, 5e-5), ('./folder', 1e-3, 1e-3), ('', 0.0, 0.0)):
        student = replace(plain_student(), base=base)
        trainer = StudentTrainer(student, APPLES, output_dir=tmp_path, config=settings(**({} if given is None else {'learning_rate': given})))
        assert trainer.args.learning_rate == trainer.config.learning_rate == expected


# settings are obeyed or refused

@pytest.mark.parametrize('overrides', [{'num_train_epochs': 2}, {'label_smoothing_factor': 0.3}, {'max_steps': 5}, {'seed': 3}, {'learning_rate': 1.0},
                                       {'per_device_train_batch_size': 2}, {'remove_unused_columns': True}, {'no_such_field': 1}, {'report_to': 'wandb'}, {'optim': 'no_such'}])
def test_what_would_not_be_obeyed_is_refused_by_name(overrides, tmp_path):
    with pytest.raises(CotkitError) as e: training_arguments(tmp_path, TrainConfig(overrides=overrides))
    assert e.value.field in {*overrides, 'overrides'} and e.value.remedy


def test_the_seed_of_the_data_is_its_own(tmp_path):
    def order(**named): return list(StudentTrainer(plain_student(), APPLES, output_dir=tmp_path, config=settings(batch_size=1, **named)).sampler)
    assert order() == order(train_seed=0) != order(data_seed=7) == order(data_seed=7, train_seed=1)


def test_early_stopping_with_nothing_to_watch_is_refused(tmp_path):
    for named in ({}, {'metric_for_best_model': 'eval_loss'}):
        with pytest.raises(CotkitError, match='nothing to watch'):
            StudentTrainer(plain_student(), APPLES, output_dir=tmp_path, config=settings(**named), monitor=Monitor(callbacks=[T.EarlyStoppingCallback(2)]))


# resuming

SHAPE = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=300, max_position_embeddings=256,
             pad_token_id=TOKENIZER.pad_token_id, eos_token_id=TOKENIZER.eos_token_id, bos_token_id=TOKENIZER.eos_token_id)
FAMILIES = {'gpt_neox': lambda: T.GPTNeoXConfig(**SHAPE), 'llama': lambda: T.LlamaConfig(**SHAPE),
            'mixtral': lambda: T.MixtralConfig(**SHAPE, num_key_value_heads=2, num_local_experts=4)}


@pytest.mark.parametrize('family', FAMILIES)
def test_every_weight_of_every_family_goes_on_from_where_it_was(family, tmp_path):
    "GPT-NeoX and mixtures of experts are saved under other names; a checkpoint is a student too"
    def student():
        torch.manual_seed(0)
        return Student(T.AutoModelForCausalLM.from_config(FAMILIES[family]()), TOKENIZER)
    def go(folder, callbacks=(), **named):
        config = settings(max_steps=4, batch_size=4, save_steps=2, logging_steps=1, learning_rate=2e-3, **named)
        return train(student(), APPLES, output_dir=tmp_path/folder, config=config, monitor=Monitor(callbacks=callbacks))
    whole = go('whole')
    with pytest.raises(KeyboardInterrupt): go('cut', [Stop(3)])
    checkpoint = Student.load(last_checkpoint(tmp_path/'cut'))
    resumed = go('cut', resume=True)
    assert read_history(tmp_path/'whole') == read_history(tmp_path/'cut')
    assert all(torch.equal(a, b) for a, b in zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True))
    assert checkpoint.format is None and any(not torch.equal(a, b) for a, b in zip(checkpoint.model.parameters(), whole.model.parameters()))
    ended = go('cut', resume=True)
    assert all(torch.equal(a, b) for a, b in zip(ended.model.state_dict().values(), whole.model.state_dict().values(), strict=True))


# tokenizers that split on white space before they mark words

LINES = 'Ann has 3 apples.\nThe answer is 11.'


def with_alternatives(pairs):
    return [TokenLogprob(token, math.log(0.5), ((token, math.log(0.5)), *((o, math.log(0.2)) for o in others))) for token, *others in pairs]


def t5_tokenizer(words=('▁Ann', '▁has', '▁3', '▁apples', '.', '▁The', '▁answer', '▁is', '▁11', '▁4', '4', '▁24', '24', '▁So', 'So', '▁')):
    "`transformers`' own T5 tokenizer over a few words"
    return T.T5Tokenizer(vocab=[('<pad>', 0.0), ('</s>', 0.0), ('<unk>', 0.0), *((word, -2.0) for word in words)], extra_ids=0)


@pytest.mark.parametrize('tokenizer', [t5_tokenizer(), TOKENIZERS['white-space-split']], ids=['T5Tokenizer', 'white-space-split'])
@pytest.mark.parametrize('text', [LINES, LINES.replace('\n', ' ')], ids=['lines', 'one-line'])
def test_alternatives_keep_their_leading_space_on_several_lines(tokenizer, text):
    line = '\n' in text
    pairs = [('Ann',), (' has',), (' 3', ' 4', ' 24'), (' apples',), ('.',), *([('\n',), ('The', 'So')] if line else [(' The', ' So')]), (' answer',), (' is',), (' 11', ' 4', '4'), ('.',)]
    labels = soft_labels(TeacherTokens.from_logprobs([with_alternatives(pairs)], [text]), tokenizer, 'seq2seq')
    names = [{tokenizer.convert_ids_to_tokens(int(i)): round(float(p), 2) for i, p in zip(ids, p) if p > 0} for ids, p in zip(labels.ids, labels.probabilities)]
    assert not any({'4', '24', 'So'} & row.keys() for row in names if {'▁3', '▁The'} & row.keys())
    if isinstance(tokenizer, T.T5Tokenizer):
        assert {'▁3': 0.5, '▁4': 0.2, '▁24': 0.2} in names and {'▁The': 0.5, '▁So': 0.2} in names
        assert labels.coverage > 0.9 and labels.kept_probability > 0.97


def test_what_is_kept_of_the_teacher_s_probability_is_counted():
    tokenizer = t5_tokenizer()
    labels = soft_labels(TeacherTokens.from_logprobs([with_alternatives([('Ann', ' Zoë'), (' has',), (' 3', ' 4', ' 999')])], ['Ann has 3']), tokenizer, 'seq2seq')
    assert labels.kept[labels.has_target].tolist() == pytest.approx([0.5/0.7, 1, 0.7/0.9])
    assert labels.kept_probability == pytest.approx((0.5/0.7 + 1 + 0.7/0.9)/3) and f'{labels.kept_probability:.1%} of the probability kept' in repr(labels)
