"The ladder: the paper's table, its settings and the rule that scales them, work beside torch's counter, interpolation"
import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.utils.flop_counter import FlopCounterMode

from cotkit.data.core import CotkitError
from cotkit.models.flops import flops_per_token
from cotkit.models.students import Student, parameter_count
from cotkit.models.tokenizers import train_tokenizer
from cotkit.pretraining.config import MICRO, PAPER, PretrainConfig, Rung, read_rung
from cotkit.pretraining.ladder import interpolate, make_rung, training_flops

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
