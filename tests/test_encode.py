"Encoding: token ids and labels against the plain definition, dropping, filling, and the order of rows"
import warnings

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings, strategies as st

from cotkit.core import CotkitError, Example
from cotkit.encode import IGNORED, Collator, MixedLengthSampler, encode
from cotkit.models import train_tokenizer

TEXT = 'Ann has 3 apples. She buys 4 bags with 2 apples each. The answer is 11. predict: explain:'
TOKENIZERS = {arch: train_tokenizer([TEXT] * 5, arch=arch, vocab_size=320) for arch in ('causal', 'seq2seq')}
words = st.text(st.characters(blacklist_categories=('Cs',)), min_size=1, max_size=30).filter(lambda t: t.strip() == t)
examples = st.lists(st.builds(Example, words, words, st.sampled_from(['label', 'rationale'])), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(examples)
def test_causal_rows_are_input_then_marked_target_and_end(given_examples):
    tokenizer = TOKENIZERS['causal']
    rows = encode(given_examples, tokenizer, 'causal')
    assert len(rows) == len(given_examples)
    for example, row in zip(given_examples, rows):
        read = tokenizer(example.input)['input_ids']
        assert row['input_ids'][:len(read)] == read
        assert tokenizer.decode(row['input_ids'][len(read):-1]) == f' {example.target}'
        assert row['labels'] == [IGNORED] * len(read) + row['input_ids'][len(read):]
        assert row['input_ids'][-1] == tokenizer.eos_token_id
        assert row['length'] == len(row['input_ids'])
        assert rows.features['task'].names[row['task']] == example.task


@settings(max_examples=60, deadline=None)
@given(examples)
def test_encoder_decoder_rows_are_two_ended_halves(given_examples):
    tokenizer = TOKENIZERS['seq2seq']
    for example, row in zip(given_examples, encode(given_examples, tokenizer, 'seq2seq')):
        assert row['input_ids'] == tokenizer(example.input)['input_ids']
        assert row['labels'].count(tokenizer.eos_token_id) == 1 and row['labels'][-1] == tokenizer.eos_token_id
        assert tokenizer.decode(row['labels'][:-1]) == example.target
        assert IGNORED not in row['labels']


def test_special_tokens_in_a_text_are_text():
    tokenizer = TOKENIZERS['causal']
    row = encode([Example('Q </s><pad>', 'a </s> b')], tokenizer, 'causal')[0]
    assert row['input_ids'].count(tokenizer.eos_token_id) == 1 and tokenizer.pad_token_id not in row['input_ids']


@pytest.mark.parametrize('arch', TOKENIZERS)
def test_what_is_too_long_is_dropped_whole_and_counted(arch):
    long_input, long_target, fine = Example('a b ' * 50, '1', 'label', 'p1'), Example('a', 'b c ' * 50, 'label', 'p2'), Example('a', '1', 'label', 'p3')
    with pytest.warns(UserWarning, match=r"2 of 3 examples .* dropped; the first is about problem 'p1'"):
        rows = encode([long_input, long_target, fine], TOKENIZERS[arch], arch, max_input=20, max_target=20)
    assert rows['example'][:] == [2]
    with pytest.raises(CotkitError, match='all 1 examples'): encode([long_target], TOKENIZERS[arch], arch, max_target=20)


def test_limits_are_inclusive_and_silent_where_nothing_is_dropped():
    example = Example('a', '1')
    row = encode([example], TOKENIZERS['causal'], 'causal')[0]
    marked = sum(label != IGNORED for label in row['labels'])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert len(encode([example], TOKENIZERS['causal'], 'causal', max_input=row['length'] - marked, max_target=marked)) == 1


def test_bad_input_is_refused_by_name():
    tokenizer = TOKENIZERS['causal']
    with pytest.raises(CotkitError, match='no examples'): encode([], tokenizer, 'causal')
    with pytest.raises(CotkitError, match='arch'): encode([Example('a', 'b')], tokenizer, 'rnn')
    with pytest.raises(CotkitError, match='is empty'): encode([Example('', 'b', problem_id='p')], tokenizer, 'causal')
    with pytest.raises(CotkitError, match="task 'rationale'"): encode([Example('a', 'b', 'rationale')], tokenizer, 'causal', tasks=['label'])
    endless = train_tokenizer([TEXT] * 5, vocab_size=320)
    endless.eos_token = None
    with pytest.raises(CotkitError, match='end-of-sequence'): encode([Example('a', 'b')], endless, 'causal')


@settings(max_examples=60, deadline=None)
@given(examples, st.sampled_from(['causal', 'seq2seq']), st.sampled_from([1, 8]))
def test_a_batch_is_its_rows_filled_on_the_right(given_examples, arch, multiple):
    tokenizer = TOKENIZERS[arch]
    rows = list(encode(given_examples, tokenizer, arch))
    batch = Collator(tokenizer, arch, multiple)(rows)
    assert all(tensor.dtype == torch.long for tensor in batch.values())
    assert batch['input_ids'].shape == batch['attention_mask'].shape and batch['input_ids'].shape[1] % multiple == 0
    for i, row in enumerate(rows):
        size, marks = len(row['input_ids']), len(row['labels'])
        assert batch['input_ids'][i].tolist() == row['input_ids'] + [tokenizer.pad_token_id] * (batch['input_ids'].shape[1] - size)
        assert batch['attention_mask'][i].tolist() == [1] * size + [0] * (batch['input_ids'].shape[1] - size)
        assert batch['labels'][i].tolist() == row['labels'] + [IGNORED] * (batch['labels'].shape[1] - marks)
    assert batch['task'].tolist() == [row['task'] for row in rows]


def lengths_table(n, tasks=1, seed=0):
    random = np.random.default_rng(seed)
    return Dataset.from_dict({'length': random.integers(5, 200, n), 'task': random.integers(0, tasks, n)})


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(1, 9), st.integers(1, 20), st.integers(1, 3))
def test_every_row_once_and_a_new_order_each_epoch(n, batch_size, pool, tasks):
    sampler = MixedLengthSampler(lengths_table(n, tasks), batch_size, pool, seed=3)
    first, again = list(sampler), list(sampler)
    assert sorted(first) == list(range(n)) and first == again
    sampler.set_epoch(1)
    assert sorted(sampler) == list(range(n))
    if n > 30: assert list(sampler) != first


def test_batches_are_of_one_length_and_mixed_over_time():
    table = lengths_table(8000)
    lengths = np.array(table['length'][:])
    batches = lengths[list(MixedLengthSampler(table, 8))].reshape(-1, 8)
    assert np.ptp(batches, axis=1).mean() < 30
    means = batches.mean(1)
    assert abs(np.corrcoef(means[1:], means[:-1])[0, 1]) < 0.1


def test_tasks_share_batches():
    table = Dataset.from_dict({'length': [10] * 400 + [100] * 400, 'task': [0] * 400 + [1] * 400})
    tasks = np.array(table['task'][:])[list(MixedLengthSampler(table, 8))].reshape(-1, 8)
    assert (tasks.mean(1) > 0).mean() > 0.95 and (tasks.mean(1) < 1).mean() > 0.95
