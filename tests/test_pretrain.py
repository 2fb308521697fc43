"The ladder: the paper's table, settings and their rule, work beside torch's counter, interpolation; training: resumed, divided, measured"
import csv
import json
import math
import os
import socket
import subprocess
import sys
from itertools import islice
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerCallback

from cotkit.app.cli import main
from cotkit.data.core import CotkitError, Example
from cotkit.models.flops import flops_per_token
from cotkit.models.config import StudentConfig
from cotkit.models.students import Student, make_student, parameter_count
from cotkit.models.tokenizers import train_tokenizer
from cotkit.data.story_world import stories
from cotkit.pretraining.config import MICRO, PAPER, CorpusConfig, PretrainConfig, Rung, read_rung
from cotkit.pretraining.corpus import Corpus, Document, build_corpus, split_of_document
from cotkit.pretraining.ladder import interpolate, make_rung, training_flops
from cotkit.pretraining.span_corruption import corrupt_spans, corrupted_rows, pretrain_seq2seq
from cotkit.pretraining.pretrain import corpus_texts, ladder_cells, pretrain, run_ladder_cell, text_losses
from cotkit.training.checkpoints import last_checkpoint, read_history
from cotkit.training.config import TrainConfig
from cotkit.training.trainer import Monitor, train

# Muckatira et al. (2024), the table of models: width, layers, parameters in millions as printed
TABLE = {(32, 2): '0.993', (32, 4): '1.026', (32, 8): '1.092', (64, 2): '2.05', (64, 4): '2.18', (64, 8): '2.45',
         (128, 2): '4.36', (128, 4): '4.89', (128, 8): '5.94', (256, 2): '9.78', (256, 4): '11.88', (256, 8): '16.07',
         (512, 2): '23.75', (512, 4): '32.14', (512, 8): '48.92', (1024, 2): '64.28', (1024, 4): '97.84', (1024, 8): '164.96'}
TEXT = 'Ann has 3 apples. She buys 4 bags with 2 apples each. How many apples does Ann have now?'


@pytest.fixture(scope='module')
def tokenizer(): return train_tokenizer([TEXT] * 2, vocab_size=300)


@pytest.mark.parametrize('shape', TABLE)
def test_parameters_of_the_table(shape):
    "To 0.1 %; the printed figures have three digits where they are below 10, so to their last digit there"
    printed, ours = TABLE[shape], PAPER[f'{shape[0]}x{shape[1]}'].parameters() / 1e6
    digits = len(printed.partition('.')[2])
    assert abs(ours / float(printed) - 1) < 1e-3 or f'{ours:.{digits}f}' == printed


def test_the_ladder_is_the_table(): assert {(r.width, r.layers) for r in PAPER.values()} == {*TABLE}


def test_micro_rungs():
    sizes = [r.parameters(2000) for r in MICRO.values()]
    assert sizes == sorted(sizes) and sum(n < 1e6 for n in sizes) == 4
    assert all(2 <= b / a <= 3.1 for a, b in zip(sizes, sizes[1:]))


@pytest.mark.parametrize('name', ['8x2', '16x2', '32x4', '64x2', '128x2'])
def test_built_as_counted(tokenizer, name):
    "Parameters and FLOPs of the formulas are those of a model; torch counts the same FLOPs in a step"
    rung, vocabulary = read_rung(name), len(tokenizer)
    model = make_rung(name, tokenizer).model
    model.set_attn_implementation('eager')  # fused attention computes its scores twice
    assert parameter_count(model) == rung.parameters(vocabulary)
    assert parameter_count(model, embeddings=False) == rung.parameters(vocabulary, embeddings=False)
    ids = torch.randint(0, vocabulary, (2, 128))
    with FlopCounterMode(display=False) as counter: model(input_ids=ids, labels=ids).loss.backward()
    counted = training_flops(rung, ids.numel(), vocabulary)['complete']
    assert counter.get_total_flops() == counted == 3 * ids.numel() * flops_per_token(model, 128)


def test_counts_by_name():
    "The reference, worked out by hand for one block of width 32 with 2 layers and 15,000 tokens"
    sequence = 128
    lookup = 2 * sequence * 15_000 * 32 + 2 * sequence * 32 * 32
    attention = 2 * 3 * sequence * 32 * 32 + 2 * sequence**2 * 32 + 3 * 8 * sequence**2
    forward = lookup + 2 * (attention + 2 * sequence * 2 * 32 * 128) + 2 * sequence * 32 * 15_000
    counts = training_flops('32x2', sequence)
    assert counts['reference'] == pytest.approx(3 * forward, rel=1e-12)
    assert counts['6ND'] == 6 * sequence * 992_928
    assert counts['6ND without embeddings'] == 6 * sequence * (992_928 - 2 * 15_000 * 32)
    missing = 2 * (32 * 32 + 128 * 32 + 2 * 128 * 32 // 2)   # of a layer: output projection, third matrix, attn·V
    surplus = 2 * 15_000 * 32 + 2 * 32 * 32 + 2 * 3 * 8 * 128  # lookup, projection, softmax
    assert counts['complete'] == counts['reference'] + 3 * sequence * (2 * missing - surplus)


def test_weights_depend_on_the_seed_alone(tokenizer):
    one, same, other = (make_rung('16x2', tokenizer, seed).model.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not torch.equal(one['lm_head.weight'], other['lm_head.weight'])
    assert one['lm_head.weight'].data_ptr() != one['model.embed_tokens.weight'].data_ptr()


def test_interpolated_positions_save_and_load(tokenizer, tmp_path):
    student = make_rung('16x2', tokenizer)
    longer = interpolate(student)
    longer.save(tmp_path/'longer')
    read = Student.load(tmp_path/'longer')
    assert read.model.config.max_position_embeddings == 1024
    ids = torch.randint(0, len(tokenizer), (1, 600))
    with torch.no_grad():
        torch.testing.assert_close(read.model(input_ids=ids).logits, longer.model(input_ids=ids).logits)
        squeezed = student.model(input_ids=ids, position_ids=torch.arange(600)[None] / 8)
    torch.testing.assert_close(squeezed.logits, longer.model(input_ids=ids).logits, rtol=1e-3, atol=1e-5)
    again = interpolate(longer, 2048)
    assert again.model.config.rope_parameters['factor'] == 16
    longer.model.lm_head.weight.data.zero_()
    assert student.model.lm_head.weight.abs().sum() > 0


@pytest.mark.parametrize('make', [
    lambda t: interpolate(make_rung('8x2', t), 128), lambda t: interpolate(make_rung('8x2', t), 64),
    lambda t: interpolate(_t5(t)),
    lambda t: read_rung('big'), lambda t: read_rung('32x'), lambda t: Rung(6, 2), lambda t: Rung(36, 2), lambda t: Rung(32, 0),
    lambda t: PretrainConfig(epochs=0), lambda t: PretrainConfig(beta2=1), lambda t: PretrainConfig(peak_rate=math.nan),
    lambda t: PretrainConfig(sequences=0), lambda t: PretrainConfig(precision='half'),
    lambda t: PretrainConfig(sequences=9).train_config(PAPER['32x2'], 100, processes=2)])
def test_bad_input(tokenizer, make):
    with pytest.raises(CotkitError): make(tokenizer)


def _t5(tokenizer):
    from cotkit.models.students import build_model
    return Student(build_model('nano', tokenizer, 'seq2seq'), tokenizer, arch='seq2seq')


def test_the_papers_settings_on_the_papers_corpus():
    run = PretrainConfig().train_config(PAPER['32x8'], blocks=2_100_000_000 // 128)
    given = run.overrides
    assert run.batch_size * given['gradient_accumulation_steps'] == 512 and run.learning_rate == 2.8e-3
    assert (given['adam_beta1'], given['adam_beta2'], given['adam_epsilon'], given['weight_decay']) == (0.9, 0.95, 1e-4, 0.1)
    assert given['warmup_steps'] == 1000 and given['max_grad_norm'] == 0
    assert run.max_steps == math.ceil((2_100_000_000 // 128) / 512)


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 10**9), st.sampled_from([*PAPER.values(), *MICRO.values()]), st.sampled_from([1, 2, 4, 8]), st.integers(1, 100))
def test_the_rule(blocks, rung, processes, most):
    run = PretrainConfig(micro_batch=most).train_config(rung, blocks, processes)
    step = run.batch_size * run.overrides['gradient_accumulation_steps'] * processes
    assert 8 <= step <= 512 and math.log2(step).is_integer() and run.batch_size <= most
    assert (run.max_steps - 1) * step < blocks <= run.max_steps * step
    assert step == 8 or run.max_steps >= 1000
    assert run.overrides['warmup_steps'] <= min(1000, run.max_steps / 32)
    assert run.overrides['save_steps'] % run.overrides['logging_steps'] == 0
    half_life = math.log(0.5) / math.log(run.overrides['adam_beta2']) * step
    assert half_life == pytest.approx(math.log(0.5) / math.log(0.95) * 512)


# Training: exact resumption, several processes, losses in bits per byte

TRAIN = '''
import json, sys
from cotkit.pretraining.config import PretrainConfig
from cotkit.pretraining.corpus import Corpus
from cotkit.pretraining.pretrain import pretrain
pretrain(Corpus(sys.argv[1]), '8x2', sys.argv[2], PretrainConfig(**json.loads(sys.argv[3])))
'''


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
    texts = [s.text for s in islice(stories(), 220)]
    return build_corpus(texts, tmp_path_factory.mktemp('corpus')/'stories', CorpusConfig(vocab_size=500, validation=0.1))


def same(a, b, exact=True):
    one, other = read_history(a), read_history(b)
    assert len(one) == len(other) > 3 and 'eval_loss' in one[-1]
    weights = [load_file(o/'student'/'model.safetensors') for o in (a, b)]
    if exact:
        assert one == other and all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
        return
    for x, y in zip(one, other): assert {k: x[k] for k in x} == pytest.approx(y, rel=2e-5, abs=1e-7)
    for k in weights[0]: torch.testing.assert_close(weights[0][k], weights[1][k], rtol=1e-4, atol=1e-5)


class Stop(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 17: raise KeyboardInterrupt


def test_resumed_to_the_bit(corpus, tmp_path):
    settings = dict(sequences=8, checkpoints=5)
    pretrain(corpus, '8x2', tmp_path/'whole', PretrainConfig(**settings))
    with pytest.raises(KeyboardInterrupt):
        pretrain(corpus, '8x2', tmp_path/'cut', PretrainConfig(**settings), Monitor(validation=corpus.blocks('validation'), callbacks=[Stop()]))
    assert last_checkpoint(tmp_path/'cut') and not (tmp_path/'cut'/'history.jsonl').exists()
    with pytest.raises(CotkitError, match='resume'): pretrain(corpus, '8x2', tmp_path/'cut', PretrainConfig(**settings))
    pretrain(corpus, '8x2', tmp_path/'cut', PretrainConfig(**settings, resume=True))
    same(tmp_path/'whole', tmp_path/'cut')


def test_two_processes_learn_what_one_learns(corpus, tmp_path):
    settings = dict(sequences=16, micro_batch=4, checkpoints=2)
    pretrain(corpus, '8x2', tmp_path/'one', PretrainConfig(**settings))
    (tmp_path/'train.py').write_text(TRAIN)
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    command = [Path(sys.executable).with_name('accelerate'), 'launch', '--multi_gpu', '--num_processes', '2', '--num_machines', '1', '--mixed_precision', 'no',
               '--dynamo_backend', 'no', '--main_process_port', str(port), tmp_path/'train.py', corpus.folder, tmp_path/'two', json.dumps(settings)]
    ran = subprocess.run(command, env={**os.environ, 'ACCELERATE_USE_CPU': 'true', 'OMP_NUM_THREADS': '1'}, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr[-3000:]
    same(tmp_path/'one', tmp_path/'two', exact=False)


def test_the_schedule(corpus, tmp_path):
    "Up to the peak, then along a quarter of a cosine's period down to half of it"
    pretrain(corpus, '8x2', tmp_path, PretrainConfig(sequences=8, warmup=5, peak_rate=1e-2, checkpoints=100))
    rates = [row['learning_rate'] for row in read_history(tmp_path)]
    steps = len(rates)
    expected = [1e-2 * min(1, i / 5) if i <= 5 else 1e-2 * 0.5 * (1 + math.cos(math.pi / 2 * (i - 5) / (steps - 5))) for i in range(steps)]
    assert rates == pytest.approx(expected, rel=1e-6) and 0.5 < rates[-1] / 1e-2 < 0.56


def test_bits_per_byte(corpus, tokenizer):
    "Against one plain pass over a text that fits into the context, and block by block over one that does not"
    student = make_rung('16x2', corpus.tokenizer, context=512)
    texts = [s.text for s in islice(stories(split='test'), 7)] + ['Ann ran.']
    found = text_losses(student, texts, context=512, batch_size=3)
    t = corpus.tokenizer
    plain = []
    for text in texts:
        ids = torch.tensor([[t.bos_token_id, *t(text).input_ids, t.eos_token_id]])
        plain.append(student.model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1))
    assert found.nats.tolist() == pytest.approx(plain, rel=1e-4)
    assert found.bits_per_byte == pytest.approx(sum(plain) / sum(len(o.encode()) for o in texts) / math.log(2), rel=1e-4)
    low, high = found.interval()
    assert low < found.bits_per_byte < high
    short = text_losses(student, texts, context=16)
    ids = [t.bos_token_id, *t(texts[0]).input_ids, t.eos_token_id]
    blocks = [torch.tensor([ids[i:i + 16]]) for i in range(0, len(ids) - 1, 15)]
    plain = sum(student.model(input_ids=o, labels=o).loss.item() * (o.shape[1] - 1) for o in blocks)
    assert short.nats[0] == pytest.approx(plain, rel=1e-4)
    with pytest.raises(CotkitError): text_losses(student, [])


@pytest.mark.parametrize('across', [False, True])
def test_texts_come_back(tmp_path, tokenizer, across):
    texts = [s.text for s in islice(stories(), 30)] + ['naïve 🧮\n\t"x" ' * 40]
    made = build_corpus(texts, tmp_path/'c', CorpusConfig(context=24, validation=0, across=across), tokenizer)
    assert [*corpus_texts(made, 'train')] == texts


def test_a_cell_counts_what_it_was_trained_on(corpus, tmp_path):
    cells = ladder_cells({'stories': corpus}, ['8x2'], [3], PretrainConfig(sequences=8, epochs=1.5))
    texts = {'test': [s.text for s in islice(stories(split='test'), 5)]}
    record = run_ladder_cell(cells[0], {corpus.hash: corpus.folder}, tmp_path, texts)
    account, results = corpus.account(), record.results
    assert results['steps'] == math.ceil(1.5 * account.blocks / 8)
    assert results['tokens'] == pytest.approx(1.5 * account.tokens, rel=0.05)
    assert results['bits_per_byte']['test'] == pytest.approx(text_losses(Student.load(tmp_path/'stories-8x2-3'/'student'), texts['test']).bits_per_byte, rel=1e-4)
    again = run_ladder_cell(cells[0], {corpus.hash: corpus.folder}, tmp_path, texts)
    assert again.results == results


# The command

def test_command(tmp_path, capsys):
    "Spans and texts to corpora, runs and a table of losses; a second call goes on, or is refused; scaling reads the table"
    rows = [{'text': f'{s.text} Then it was night {i}.', 'document': f'book {i % 30}'} for i, s in enumerate(islice(stories(), 160))]
    (tmp_path/'spans.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    (tmp_path/'texts').mkdir()
    for i, row in enumerate(rows[:60]): (tmp_path/'texts'/f'{i}.txt').write_text(row['text'])
    out = tmp_path/'out'
    command = ['pretrain', str(tmp_path/'spans.jsonl'), str(tmp_path/'texts'), '--out', str(out), '--rungs', '8x2', '8x3', '--runs', '2', '--vocab-size', '500',
               '--validation', '0.2', '--sequences', '16', '--score', '4', '--json']
    assert main(command) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said['runs'] == 8 and {*said['corpora']} == {'spans', 'texts'}
    table = list(csv.DictReader((out/'losses.csv').open()))
    assert len(table) == 8 and {row['rung'] for row in table} == {'8x2', '8x3'} and {row['seed'] for row in table} == {'0', '1'}
    assert all(float(row['loss']) > 0 and float(row['bits_on_spans']) > 0 for row in table)
    assert len({row['loss'] for row in table}) == 8
    assert main(command) == 2 and '--resume' in capsys.readouterr().err
    lines = (out/'records.jsonl').read_text().splitlines()
    (out/'records.jsonl').write_text('\n'.join(lines[:5]) + '\n')  # three runs were not written down
    assert main([*command, '--resume']) == 0
    again = list(csv.DictReader((out/'losses.csv').open()))
    assert again == table
    corpus = Corpus(out/'corpora'/'spans')
    assert corpus.account('validation').documents == sum(split_of_document(Document('', row['document']), 0.2) == 'validation' for row in rows)
    assert main([*command[:-1], '--resume', '--context', '64']) == 2 and 'other settings' in capsys.readouterr().err


@pytest.mark.parametrize('words', [['missing.jsonl', '--out', 'o'], ['--out', 'o'], ['x.txt', '--out', 'o', '--rungs', 'big'], ['x.txt', '--out', 'o', '--runs', '0']])
def test_command_refuses(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'x.txt').write_text('Ann ran.')
    assert main(['pretrain', *words]) in (1, 2)
    assert not (tmp_path/'o').exists()


def test_a_run_is_a_start(corpus, tmp_path):
    "A pretrained model is loaded by its folder like any checkpoint, reads further when it is lengthened, and is trained on"
    pretrain(corpus, '8x2', tmp_path/'run', PretrainConfig(sequences=16))
    start = make_student(StudentConfig(student=str(tmp_path/'run'/'student')))
    assert start.base == './student' and start.model.config.max_position_embeddings == 128
    interpolate(start).save(tmp_path/'stories-8x2')
    longer = make_student(StudentConfig(student=str(tmp_path/'stories-8x2')))
    examples = [Example('Ann has 3 apples and buys 8. How many has she? ' * 12, 'The answer is 11.', 'label')] * 4
    before = {k: v.clone() for k, v in longer.model.state_dict().items()}
    trained = train(longer, examples, output_dir=tmp_path/'distilled', config=TrainConfig(max_steps=2, batch_size=2))
    assert any(not torch.equal(before[k], v) for k, v in trained.model.state_dict().items())
    with pytest.raises(CotkitError, match='128'): train(start, examples, output_dir=tmp_path/'short', config=TrainConfig(max_steps=2))


@settings(deadline=None, max_examples=200)
@given(st.integers(2, 200), st.integers(0, 10**6))
def test_span_corruption(length, seed):
    "The two sides are the text again; about 15 % is cut out, no two gaps touch, sentinels are in order"
    ids, sentinels = [*range(1000, 1000 + length)], [*range(16)]
    inputs, target = corrupt_spans(ids, sentinels, Random(seed))
    gaps = {}
    for token in target:
        if token < 16: gaps[last := token] = []
        else: gaps[last].append(token)
    assert [o for token in inputs for o in (gaps[token] if token < 16 else [token])] == ids
    assert [o for o in inputs if o < 16] == [o for o in target if o < 16] == sentinels[:len(gaps)] and all(gaps.values())
    assert sum(map(len, gaps.values())) == min(max(1, round(0.15 * length)), length - 1)
    assert all(a >= 16 or b >= 16 for a, b in zip(inputs, inputs[1:])) and inputs[0] >= 16


def test_a_pretrained_t5_is_a_start(corpus, tmp_path):
    pretrain_seq2seq(corpus, '8x2', tmp_path/'run', PretrainConfig(sequences=32))
    start = make_student(StudentConfig(student=str(tmp_path/'run'/'student')))
    assert start.arch == 'seq2seq' and start.tokenizer('Ann').input_ids[-1] == start.tokenizer.eos_token_id
    assert start.tokenizer('Ann ran.').input_ids[:-1] == corpus.tokenizer('Ann ran.').input_ids
    one, same, other = (corrupted_rows(corpus, start.tokenizer, seed=seed)['input_ids'][:3] for seed in (0, 0, 1))
    assert one == same != other
