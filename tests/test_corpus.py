"The corpus: exact accounts, every token predicted once, splits by source, duplicates and test items left out, whole or not at all"
import json
import os
import subprocess
import sys
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from cotkit.data.core import CotkitError, Problem
from cotkit.data.story_world import PHENOMENA, stories, story_problems, story_words
from cotkit.models.tokenizers import train_tokenizer
from cotkit.pretraining.config import CorpusConfig
from cotkit.pretraining.corpus import (
    Corpus, Document, TestItems, block_rows, build_corpus, coverage, document_words, matched_corpora, random_vocabulary,
    split_of_document, stretches)
from cotkit.pretraining.vocabulary import Vocabulary, count_words
from cotkit.training.encode import IGNORE_INDEX

TestItems.__test__ = False
TEXTS = [s.text for s in islice(stories(), 300)]
SMALL = CorpusConfig(context=32, vocab_size=600, validation=0.1)


@pytest.fixture(scope='module')
def tokenizer(): return train_tokenizer(TEXTS, vocab_size=600)


@settings(deadline=None)
@given(st.integers(2, 200), st.integers(2, 40))
def test_each_token_is_predicted_once(length, context):
    rows = block_rows([*range(length)], context)
    assert [token for row in rows for token in row[1:]] == [*range(1, length)]
    assert all(2 <= len(row) <= context for row in rows) and all(len(row) == context for row in rows[:-1])


@pytest.mark.parametrize('across', [False, True])
@pytest.mark.parametrize('tokens', [None, 1000, 1001, 1033])
def test_accounts(tmp_path, tokenizer, across, tokens):
    config = CorpusConfig(context=32, validation=0.1, across=across, tokens=tokens)
    corpus = build_corpus(TEXTS, tmp_path/'corpus', config, tokenizer)
    for split in ('train', 'validation'):
        account, blocks = corpus.account(split), corpus.blocks(split)
        assert len(blocks) == account.blocks and blocks.length == 32
        assert account.blocks * 32 == account.tokens + account.blocks + account.padding
        labels = np.stack([row['labels'] for row in blocks])
        assert (labels != IGNORE_INDEX).sum() == account.tokens
        assert across is False or account.padding < 32
    if tokens: assert corpus.account().tokens == tokens
    else: _check_text(corpus, tokenizer)


def _check_text(corpus, tokenizer):
    "Every word and byte is counted, and what is predicted is the text"
    for split in ('train', 'validation'):
        mine = [o for o in TEXTS if split_of_document(Document(o), 0.1) == split]
        account = corpus.account(split)
        assert account.documents == len(mine) and account.words == sum(len(o.split()) for o in mine)
        assert account.bytes == sum(len(o.encode()) for o in mine)
        predicted = [t for row in corpus.blocks(split) for t in row['labels'].tolist() if t != IGNORE_INDEX]
        assert tokenizer.decode(predicted, skip_special_tokens=True) == ''.join(mine)
    assert corpus.account('train').documents + corpus.account('validation').documents == len(TEXTS)


def test_the_same_documents_give_the_same_corpus(tmp_path):
    one, same = (build_corpus(iter(TEXTS), tmp_path/name, SMALL) for name in ('one', 'same'))
    assert one.hash == same.hash and (tmp_path/'one'/'train.npy').read_bytes() == (tmp_path/'same'/'train.npy').read_bytes()
    other = build_corpus(TEXTS[1:], tmp_path/'other', SMALL)
    assert other.hash != one.hash
    assert Corpus(tmp_path/'one', verify=True).tokenizer('Ann ran.').input_ids == one.tokenizer('Ann ran.').input_ids


def test_unigram(tmp_path):
    corpus = build_corpus(TEXTS, tmp_path/'unigram', CorpusConfig(kind='unigram', vocab_size=600))
    first = corpus.tokenizer.decode(corpus.blocks()[0]['input_ids'], skip_special_tokens=True)
    assert len(first) > 30 and any(text.startswith(first) for text in TEXTS)
    assert json.loads((tmp_path/'unigram'/'tokenizer'/'tokenizer.json').read_text())['model']['type'] == 'Unigram'


def test_split_by_source(tmp_path, tokenizer):
    "All spans of a source are on one side, and it is the same side in another corpus"
    spans = [Document(f'{text} Part {i}.', f'book {i % 40}') for i, text in enumerate(TEXTS)]
    sides = {o.source: split_of_document(o, 0.3) for o in spans}
    assert all(split_of_document(o, 0.3) == sides[o.source] for o in spans) and set(sides.values()) == {'train', 'validation'}
    corpus = build_corpus(spans, tmp_path/'books', CorpusConfig(validation=0.3), tokenizer)
    assert corpus.account('validation').documents == sum(sides[o.source] == 'validation' for o in spans)
    share = sum(split_of_document(Document(o), 0.1) == 'validation' for o in (s.text for s in islice(stories(), 3000))) / 3000
    assert 0.08 < share < 0.12


def test_duplicates_and_empty_documents(tmp_path, tokenizer):
    again = [TEXTS[0].upper().replace('.', ' !\n'), '', ' \n', '...'] + TEXTS[:20]
    corpus = build_corpus(TEXTS[:50] + again, tmp_path/'corpus', SMALL, tokenizer)
    assert corpus.manifest['excluded'] == {'empty': 3, 'duplicates': 21, 'contaminated': 0}


def test_decontamination():
    "Against a plain search for every phrase of 13 words, or of all words of a shorter item"
    items = [*story_problems('agreement', 40), *story_problems('cloze', 20), Problem('', 'too short', 'item', 'text')]
    phrases = [f' {" ".join(words[i:i + 13])} ' for p in items for o in (p.choices or (p.answer,)) for words in [document_words(f'{p.question} {o}')]
               for i in range(max(1, len(words) - 12)) if len(words) >= 4]
    found = TestItems(items)
    texts = TEXTS + [f'One day. {p.question} {p.choices[0]} The end.' for p in items if p.choices] + ['too short item', 'the end']
    for text in texts:
        words = document_words(text)
        line = f' {" ".join(words)} '
        assert found.within(words) == any(phrase in line for phrase in phrases)
    assert not TestItems([]).within(document_words(TEXTS[0]))
    assert sum(found.within(document_words(t)) for t in texts) >= 60


def test_stories_do_not_contain_the_minimal_pairs():
    found = TestItems([p for kind in PHENOMENA for p in story_problems(kind, 2000)])
    assert not any(found.within(document_words(s.text)) for s in islice(stories(start=5000), 1500))


FILL = '''
import resource, signal, sys
from itertools import islice
from cotkit.data.story_world import stories
from cotkit.pretraining.config import CorpusConfig
from cotkit.pretraining.corpus import build_corpus
from cotkit.data.core import CotkitError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
texts = [s.text for s in islice(stories(), 2500)]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try: build_corpus(texts, sys.argv[1], CorpusConfig(vocab_size=600))
except CotkitError as e: print(e); sys.exit(3)
'''


@pytest.mark.parametrize('limit', [150_000, 500_000])
def test_a_full_disk_leaves_nothing(tmp_path, limit):
    "No file of this process may grow beyond a limit: writing fails half way, as on a full disk"
    run = subprocess.run([sys.executable, '-c', FILL, str(tmp_path/'corpus'), str(limit)], capture_output=True, text=True, timeout=300)
    assert run.returncode == 3, run.stderr
    assert 'cannot be written' in run.stdout and str(tmp_path/'corpus') in run.stdout
    assert not any(tmp_path.iterdir())


def test_a_killed_build_passes_for_no_corpus(tmp_path):
    def dies():
        yield from TEXTS
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): build_corpus(dies(), tmp_path/'corpus', SMALL, train_tokenizer(TEXTS, vocab_size=600))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize('spoil', [
    lambda f: (f/'manifest.json').unlink(), lambda f: (f/'train.npy').unlink(), lambda f: os.truncate(f/'train.npy', 1000),
    lambda f: (f/'manifest.json').write_text('{'), lambda f: (f/'manifest.json').write_text((f/'manifest.json').read_text().replace('"padding": ', '"padding": 1'))])
def test_a_spoiled_corpus(tmp_path, tokenizer, spoil):
    build_corpus(TEXTS, tmp_path/'corpus', SMALL, tokenizer)
    spoil(tmp_path/'corpus')
    with pytest.raises(CotkitError): Corpus(tmp_path/'corpus')


def test_a_changed_byte_is_found(tmp_path, tokenizer):
    build_corpus(TEXTS, tmp_path/'corpus', SMALL, tokenizer)
    file = tmp_path/'corpus'/'train.npy'
    raw = bytearray(file.read_bytes())
    raw[-3] ^= 1
    file.write_bytes(raw)
    Corpus(tmp_path/'corpus')
    with pytest.raises(CotkitError, match='train.npy'): Corpus(tmp_path/'corpus', verify=True)


@pytest.mark.parametrize('make', [
    lambda f, t: build_corpus([], f), lambda f, t: build_corpus(['', ' '], f), lambda f, t: build_corpus([3], f),
    lambda f, t: build_corpus(TEXTS, f, CorpusConfig(tokens=10**8), t), lambda f, t: build_corpus(TEXTS, f.parent, SMALL, t),
    lambda f, t: build_corpus(TEXTS, f, CorpusConfig(validation=0), t).blocks('validation'), lambda f, t: Corpus(f),
    lambda f, t: build_corpus(TEXTS, f, SMALL, t).account('test'), lambda f, t: CorpusConfig(context=1), lambda f, t: CorpusConfig(validation=1),
    lambda f, t: CorpusConfig(kind='words'), lambda f, t: matched_corpora(TEXTS, f, Vocabulary(frozenset({'zebra'})), SMALL)])
def test_bad_input(tmp_path, tokenizer, make):
    with pytest.raises(CotkitError): make(tmp_path/'corpus', tokenizer)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=9), st.integers(0, 200))
def test_stretches(lengths, number):
    "Together they are the text; each has the wanted words, and ends with the first sentence that reaches them"
    text, wanted = TEXTS[number], []
    def given_lengths():
        for i in count():
            wanted.append(lengths[i % len(lengths)])
            yield wanted[-1]
    pieces = [*stretches(text, given_lengths())]
    assert ' '.join(pieces) == text
    for piece, n in zip(pieces[:-1], wanted):
        assert len(piece.split()) >= n and piece.endswith('.')
        assert len(piece[:-1].rpartition('. ')[0].split()) < n


def test_matched_corpora(tmp_path):
    "Equal tokens; the control is as covered as the simplified text, and is not simple; no filter on the third"
    texts = [s.text for s in islice(stories('mixed'), 3000)]
    simple, counts = Vocabulary(frozenset(story_words('simple'))), count_words(texts)
    made = matched_corpora(texts, tmp_path, simple, CorpusConfig(vocab_size=1200, validation=0.1))
    assert {*made} == {'simplified', 'control', 'unrestricted'}
    assert len({c.account().tokens for c in made.values()}) == 1
    def share(name):
        ids = made[name].blocks().ids
        words = count_words(made[name].tokenizer.decode(row, skip_special_tokens=True) for row in ids)
        return coverage(simple, words)
    found = {name: share(name) for name in made}
    assert found['simplified'] > 0.99 > found['control'] and abs(found['unrestricted'] - coverage(simple, counts)) < 0.02, found
    lengths = {name: c.account().words / c.account().documents for name, c in made.items()}
    assert abs(lengths['unrestricted'] / lengths['simplified'] - 1) < 0.25, lengths


def test_random_vocabulary():
    counts = count_words(s.text for s in islice(stories('rich'), 500))
    one, same, other = (random_vocabulary(counts, 0.8, seed) for seed in (0, 0, 1))
    assert one.words == same.words != other.words
    for vocabulary in (one, other): assert abs(coverage(vocabulary, counts) - 0.8) < 1e-3
    assert coverage(random_vocabulary(counts, 1.0), counts) == 1
