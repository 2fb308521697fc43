"Simplify: the published rule to the word, the clean rule on real text, the fast path beside the plain one, files in and out, and bad input"
import gzip
import json
import os
import textwrap
from pathlib import Path

import pytest

from cotkit.data.core import CotkitError
from cotkit.pretraining.normalise import normalise, unwrap
from cotkit.pretraining.simplify import simplify
from cotkit.pretraining.spans import REFERENCE, SEPARATORS, SpanRule, plain_spans
from cotkit.pretraining.vocabulary import Vocabulary, count_words, read_vocabulary, word_key

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get('COTKIT_DATA') or ROOT.parent/'shared'/'data')
BOOKS, WORDS = DATA/'text'/'gutenberg_children.jsonl.gz', DATA/'vocab'/'aochildes_words.tsv'
real = pytest.mark.skipif(not (BOOKS.is_file() and WORDS.is_file()), reason='the books and the word list are not here')


@pytest.fixture(scope='module')
def children(): return read_vocabulary(WORDS)


@pytest.fixture(scope='module')
def books():
    with gzip.open(BOOKS, 'rt', encoding='utf-8') as f: return [json.loads(line)['text'] for line in f]


# The rules

def character_tokens(text):
    "Tokens as the published program makes them, one character after the other"
    tokens, word, digit_before = [], '', text[:1] in tuple('0123456789')
    for c in text:
        digit = c in '0123456789'
        boundary, digit_before = digit != digit_before, digit
        if c not in SEPARATORS and not boundary:
            word += c
            continue
        if word: tokens.append(word)
        word = c if boundary else ''
        if not boundary: tokens.append(c)
    return tokens + ([word] if word else [])


@real
@pytest.mark.parametrize('max_oov, spans, words', [(0.01, 13_985, 730_979), (0.05, 17_259, 2_138_916)])
def test_the_reference_rule_is_the_published_one(books, children, max_oov, spans, words):
    found = list(simplify(books, children, SpanRule('reference', max_oov=max_oov)))
    assert (len(found), sum(span.words for span in found)) == (spans, words)


@real
def test_reference_tokens_are_those_of_a_character_loop(books):
    for text in [*books[:3], '10 apples', '5. Then', 'a1 .5\n6\nx', '7', ' ', '1 2 3', '\r\n9\r\n', '10.\n"So', '3-year-old', 'é1é']:
        assert [o[0] for o in REFERENCE.token.finditer(text)] == character_tokens(text)


KNOWN = Vocabulary(frozenset("ann has apples she buys bags with each dont know its 'tis how many now".split()))


@pytest.mark.parametrize('text, reference, clean', [
    ('Ann has 10 apples now.', 3, 5),            # the word behind a number
    ("She dont know Ann's apples.", 4, 3),       # "ann's" is "anns", which is not in the list
    ("They know. She don't know now.", 1, 4),    # "don" and "t" are no words
    ('“She has apples now.”', 0, 4),             # the quote sticks to the word
    ('She has\r\napples now.', 1, 4),            # "has" with the carriage return
    ('She has — apples now.', 2, 4),             # the dash is a word
    ('Pears, e.g.now she has apples', 3, 0)])    # no sentence begins inside "e.g.now"
def test_the_defects_of_the_reference_rule_are_gone_in_the_clean_one(text, reference, clean):
    def longest(rule):
        found = [n for n in range(1, 9) if plain_spans(text, KNOWN, SpanRule(rule, min_words=n, max_oov=0))]
        return max(found, default=0)
    assert (longest('reference'), longest('clean')) == (reference, clean)


def test_words_are_counted_as_each_rule_says():
    text = 'Ann has apples. She buys bags with pears each. Now she has'
    assert [(o.words, o.oov) for o in plain_spans(text, KNOWN, SpanRule('reference', 3, 0))] == [(8, 1)]
    assert [(o.words, o.oov) for o in plain_spans(text, KNOWN, SpanRule('clean', 3, 0))] == [(7, 0), (3, 0)]


def test_a_share_on_the_line_is_allowed():
    text = ' '.join(['apples'] * 99 + ['pears'] + ['apples'] * 9)
    assert [o.words for o in plain_spans(text, KNOWN, SpanRule())] == [109]
    assert [o.words for o in plain_spans(text[7:], KNOWN, SpanRule())] == [98]


def test_settings_are_checked():
    for wrong in ({'rule': 'cleaner'}, {'min_words': 0}, {'max_oov': 1.5}, {'max_oov': float('nan')}):
        with pytest.raises(CotkitError, match=next(iter(wrong))): SpanRule(**wrong)


# Normalising

def test_wraps_are_undone_and_verse_is_not():
    "A known text, wrapped at any width by the standard library, is the text again"
    paragraphs = ['Ann has three apples and a well-known dog, ' * n + 'so she buys more of them.' for n in (2, 5, 9)]
    verse = 'Tom, he was a piper\'s son,\nHe learned to play when he was young,\nAnd all the tune that he could play'
    for width in (45, 60, 72, 80, 99):
        wrapped = '\n\n'.join([textwrap.fill(o, width) for o in paragraphs] + [verse])
        assert unwrap(wrapped) == '\n\n'.join([*paragraphs, verse]), width
        indented = '\n'.join(textwrap.fill(o, width, initial_indent='   ') for o in paragraphs)
        assert unwrap(indented) == '\n'.join(f'   {o}' for o in paragraphs), width


def test_normalising_twice_is_once():
    for text in ('‘Ann’s’\u00a0“apples”…\r\n—\rnow\u2028then', 'a\n' * 50, 'x ' * 60 + '\n' + 'y'): assert normalise(normalise(text)) == normalise(text)


# Vocabularies

def test_a_word_list_is_read_in_every_common_shape(tmp_path):
    shapes = {'plain.txt': 'apples\nann\n', 'headed.txt': 'word\napples\nann\n', 'crlf.txt': 'apples\r\nann\r\n',
              'table.tsv': 'word\tfrequency\napples\t3\nann\t2\n', 'bare.tsv': 'apples\t3\nann\t2\n',
              'published.csv': ',word,frequency\n0,apples,3\n1,ann,2\n', 'bom.txt': '\ufeffapples\nann\n'}
    for name, text in shapes.items():
        (tmp_path/name).write_bytes(text.encode())
        vocabulary = read_vocabulary(tmp_path/name)
        assert set(vocabulary) == {'apples', 'ann'}, name
        assert vocabulary.counts == ({'apples': 3, 'ann': 2} if '3' in text else {}), name


@pytest.mark.parametrize('content, message', [
    (b'', 'empty'), (b'\n\n', 'empty'), (b'word\tfrequency\n', 'empty'), (b'lemma,count\napple,3\n', 'no column.*lemma, count'),
    (b'ann\napp\xffle\n', r'words\.txt:2: not UTF-8 at byte 7'), (b'\x7fELF\0\0', 'binary')])
def test_a_word_list_that_is_none_is_refused(tmp_path, content, message):
    (tmp_path/'words.txt').write_bytes(content)
    with pytest.raises(CotkitError, match=message): read_vocabulary(tmp_path/'words.txt')


def test_a_vocabulary_is_never_empty():
    for words in (frozenset(), frozenset({''})):
        with pytest.raises(CotkitError, match='vocabulary is empty'): Vocabulary(words)
    with pytest.raises(CotkitError, match='vocabulary is empty'): Vocabulary.counted(['1 2 3'])


def test_a_counted_vocabulary_is_the_most_frequent_words():
    counts = count_words(['Ann’s apples, ann’s APPLES; Dan 7'])
    assert counts == {'anns': 2, 'apples': 2, 'dan': 1}
    assert set(Vocabulary.counted(['b a c a c'], size=2)) == {'a', 'c'} and set(Vocabulary.counted(['b a c a c'], min_count=2)) == {'a', 'c'}
    assert word_key('Cafe\u0301') == 'café'
