"Encoding: token ids and labels against the plain definition, dropping, filling, and the order of rows"
import warnings

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings, strategies as st

from cotkit.data.core import CotkitError, Example
from cotkit.training.config import EncodeConfig
from cotkit.training.encode import IGNORE_INDEX, Collator, LengthGroupedSampler, segment_mask, encode, objective_names
from cotkit.models.tokenizers import train_tokenizer

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
        assert row['labels'] == [IGNORE_INDEX] * len(read) + row['input_ids'][len(read):]
        assert row['input_ids'][-1] == tokenizer.eos_token_id
        assert row['length'] == len(row['input_ids'])
        assert rows.features['objective'].names[row['objective']] == example.objective


@settings(max_examples=60, deadline=None)
@given(examples)
def test_encoder_decoder_rows_are_two_ended_halves(given_examples):
    tokenizer = TOKENIZERS['seq2seq']
    for example, row in zip(given_examples, encode(given_examples, tokenizer, 'seq2seq')):
        assert row['input_ids'] == tokenizer(example.input)['input_ids']
        assert row['labels'].count(tokenizer.eos_token_id) == 1 and row['labels'][-1] == tokenizer.eos_token_id
        assert tokenizer.decode(row['labels'][:-1]) == example.target
        assert IGNORE_INDEX not in row['labels']


def test_special_tokens_in_a_text_are_text():
    tokenizer = TOKENIZERS['causal']
    row = encode([Example('Q </s><pad>', 'a </s> b')], tokenizer, 'causal')[0]
    assert row['input_ids'].count(tokenizer.eos_token_id) == 1 and tokenizer.pad_token_id not in row['input_ids']


@pytest.mark.parametrize('arch', TOKENIZERS)
def test_what_is_too_long_is_dropped_whole_and_counted(arch):
    long_input, long_target, fine = Example('a b ' * 50, '1', 'label', 'p1'), Example('a', 'b c ' * 50, 'label', 'p2'), Example('a', '1', 'label', 'p3')
    with pytest.warns(UserWarning, match=r"2 of 3 examples .* dropped; the first is about problem 'p1'"):
        rows = encode([long_input, long_target, fine], TOKENIZERS[arch], arch, EncodeConfig(20, 20))
    assert rows['example'][:] == [2]
    with pytest.raises(CotkitError, match='all 1 examples'): encode([long_target], TOKENIZERS[arch], arch, EncodeConfig(max_target=20))


def test_limits_are_inclusive_and_silent_where_nothing_is_dropped():
    example = Example('a', '1')
    row = encode([example], TOKENIZERS['causal'], 'causal')[0]
    marked = sum(label != IGNORE_INDEX for label in row['labels'])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert len(encode([example], TOKENIZERS['causal'], 'causal', EncodeConfig(row['length'] - marked, marked))) == 1


def test_bad_input_is_refused_by_name():
    tokenizer = TOKENIZERS['causal']
    with pytest.raises(CotkitError, match='no examples'): encode([], tokenizer, 'causal')
    with pytest.raises(CotkitError, match='arch'): encode([Example('a', 'b')], tokenizer, 'rnn')
    with pytest.raises(CotkitError, match='has no input'): encode([Example('', 'b', problem_id='p')], tokenizer, 'causal')
    with pytest.raises(CotkitError, match="objective 'rationale'"): encode([Example('a', 'b', 'rationale')], tokenizer, 'causal', objectives=['label'])
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
        assert batch['labels'][i].tolist() == row['labels'] + [IGNORE_INDEX] * (batch['labels'].shape[1] - marks)
    assert batch['objective'].tolist() == [row['objective'] for row in rows]


def lengths_table(n, tasks=1, seed=0):
    random = np.random.default_rng(seed)
    return Dataset.from_dict({'length': random.integers(5, 200, n), 'objective': random.integers(0, tasks, n)})


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(1, 9), st.integers(1, 20), st.integers(1, 3))
def test_every_row_once_and_a_new_order_each_epoch(n, batch_size, pool, tasks):
    sampler = LengthGroupedSampler(lengths_table(n, tasks), batch_size, pool, seed=3)
    first, again = list(sampler), list(sampler)
    assert sorted(first) == list(range(n)) and first == again
    sampler.set_epoch(1)
    assert sorted(sampler) == list(range(n))
    if n > 30: assert list(sampler) != first


def test_batches_are_of_one_length_and_mixed_over_time():
    table = lengths_table(8000)
    lengths = np.array(table['length'][:])
    batches = lengths[list(LengthGroupedSampler(table, 8))].reshape(-1, 8)
    assert np.ptp(batches, axis=1).mean() < 30
    means = batches.mean(1)
    assert abs(np.corrcoef(means[1:], means[:-1])[0, 1]) < 0.1


def test_tasks_share_batches():
    table = Dataset.from_dict({'length': [10] * 400 + [100] * 400, 'objective': [0] * 400 + [1] * 400})
    tasks = np.array(table['objective'][:])[list(LengthGroupedSampler(table, 8))].reshape(-1, 8)
    assert (tasks.mean(1) > 0).mean() > 0.95 and (tasks.mean(1) < 1).mean() > 0.95


# Shared rows

PREFIXED = ['Ann has 3 apples.', 'Ann has 3 apples. She buys 4 bags', 'Ann has 4', 'explain:']
alike = st.lists(st.builds(lambda a, b, t, task, p: Example(f'{a} {b}', t, task, p), st.sampled_from(PREFIXED), words, words,
                           st.sampled_from(['label', 'rationale']), st.sampled_from(['p1', 'p2'])), min_size=1, max_size=8)


@settings(max_examples=100, deadline=None)
@given(alike)
def test_shared_rows_are_the_same_examples(given_examples):
    "Each branch, with the prefix before it, is the row that it would have had alone; a branch never begins with a marked token"
    tokenizer = TOKENIZERS['causal']
    alone, shared = encode(given_examples, tokenizer, 'causal'), encode(given_examples, tokenizer, 'causal', EncodeConfig(share_prefix=True))
    assert sorted(i for row in shared for i in row['example']) == list(range(len(given_examples)))
    assert sum(shared['length']) <= sum(alone['length']) and objective_names(shared) == objective_names(alone)
    for row in shared:
        assert len({given_examples[i].problem_id for i in row['example']}) == 1 and row['length'] == len(row['input_ids']) == len(row['labels'])
        ends, prefix = [*row['segment'][1:], row['length']], row['segment'][0]
        for i, begin, end, task in zip(row['example'], row['segment'], ends, row['objective'], strict=True):
            assert row['input_ids'][:prefix] + row['input_ids'][begin:end] == alone[i]['input_ids']
            assert row['labels'][:prefix] + row['labels'][begin:end] == alone[i]['labels']
            assert row['labels'][begin] == IGNORE_INDEX and task == alone[i]['objective']
            assert len(row['example']) == 1 or 2 * prefix >= alone[i]['labels'].count(IGNORE_INDEX)


@settings(max_examples=40, deadline=None)
@given(alike, st.sampled_from([1, 8]))
def test_a_batch_of_shared_rows_token_by_token(given_examples, multiple):
    tokenizer = TOKENIZERS['causal']
    rows = list(encode(given_examples, tokenizer, 'causal', EncodeConfig(share_prefix=True)))
    batch = Collator(tokenizer, 'causal', multiple)(rows)
    mask = segment_mask(batch['segment'])
    size = batch['input_ids'].shape[1]
    assert mask.shape == (len(rows), 1, size, size) and mask.any(-1).all() and all(batch[name].shape == batch['input_ids'].shape for name in ('segment', 'objective', 'position_ids'))
    for i, row in enumerate(rows):
        begins = [*row['segment'], row['length']]
        of = [0] * begins[0] + [k + 1 for k in range(len(row['segment'])) for _ in range(begins[k], begins[k + 1])]
        for a in range(row['length']):
            seen = [b for b in range(a + 1) if of[b] in (0, of[a])]
            assert mask[i, 0, a].nonzero().flatten().tolist() == seen
            assert batch['position_ids'][i, a] == len(seen) - 1
            if of[a]: assert batch['objective'][i, a] == row['objective'][of[a] - 1]


def test_what_shares_little_and_what_grows_too_long_stays_apart():
    question = 'Ann has 3 apples. She buys 4 bags with 2 apples each.'
    many = [Example(question, f'{i} apples', 'rationale', 'p') for i in range(6)]
    tokenizer = TOKENIZERS['causal']
    assert len(encode(many, tokenizer, 'causal', EncodeConfig(share_prefix=True))) == 1
    assert len(encode([many[0], Example('Ann has 4 pears and no apples, and Ben is away', '4', 'label', 'p')], tokenizer, 'causal', EncodeConfig(share_prefix=True))) == 2
    assert len(encode([many[0], Example(question, '1', 'label', 'q')], tokenizer, 'causal', EncodeConfig(share_prefix=True))) == 2
    longest = max(encode(many, tokenizer, 'causal')['length']) + 10
    rows = encode(many, tokenizer, 'causal', EncodeConfig(longest - 8, 8, share_prefix=True))
    assert 1 < len(rows) < 6 and max(rows['length']) <= longest


def test_an_encoder_decoder_does_not_share():
    with pytest.raises(CotkitError, match='share_prefix'): encode([Example('a', 'b')], TOKENIZERS['seq2seq'], 'seq2seq', EncodeConfig(share_prefix=True))


def test_the_sampler_goes_by_the_length_of_the_whole_row():
    rows = encode([Example('a b c d ' * 4 + str(i % 2), '1 ' * (i % 7 + 1) + '1', 'label', f'p{i // 2}') for i in range(120)], TOKENIZERS['causal'], 'causal', EncodeConfig(share_prefix=True))
    sampler = LengthGroupedSampler(rows, 4)
    assert sampler.lengths.tolist() == [len(row['input_ids']) for row in rows] and sorted(sampler) == list(range(len(rows)))
    lengths = sampler.lengths[list(sampler)[:len(rows) // 4 * 4]].reshape(-1, 4)
    assert np.ptp(lengths, axis=1).mean() < np.ptp(sampler.lengths) / 2


def test_padding_of_blocks_is_never_supervised():
    from cotkit.training.encode import IGNORE_INDEX, TokenBlocks
    row = TokenBlocks(np.array([[5, 6, 7, 0, 0]]), pad_id=0)[0]
    assert row['labels'].tolist() == [IGNORE_INDEX, 6, 7, IGNORE_INDEX, IGNORE_INDEX]
    assert TokenBlocks(np.array([[5, 6, 0]]))[0]['labels'].tolist() == [IGNORE_INDEX, 6, 0]
