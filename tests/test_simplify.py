"Simplify: the published rule to the word, the clean rule on real text, the fast path beside the plain one, files in and out, and bad input"
import gzip
import json
import os
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from cotkit.data.core import CotkitError
from cotkit.pretraining import scan as scans
from cotkit.pretraining.buffers import join_texts, normalise_buffer
from cotkit.pretraining.normalise import PUNCTUATION, normalise, unwrap
from cotkit.pretraining.scan import Scanner, WordTable, find_spans
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


# The fast path

LIST = Vocabulary(frozenset(['ann', 'has', 'apples', "don't", 'dont', 'its', 'a', 'I', 'café', 'über', 'straße', 'TRUE', '.b', ' c', 'x\0y', 'eightlet', 'ninelette', 'sixteenlettershe',
                             'seventeenlettersx', 'k', 'nul\x01', 'bA', 'ﬁ', '東京']))
PIECES = [*sorted(LIST.words), *'AbB.,?!-_\'"()7930 \n\r\t\0\x01\x0b\x7f', ' ', ' ', ' ', '. ', '\n\n', '\r\n', *PUNCTUATION, 'zebra', 'Ann', 'HAS', 'DON’T', 'CAFÉ', 'cafe\u0301', 'K', 'İ', 'É', 'é', '😀', 'eightlets',
          'ninelettes', 'sixteenlettersheX', 'x' * 40, '10 apples', '5. A', "a's", "a''s", "'a'", 'a-a', '3.5', 'e.g.a', '\u0085', '\ufffd', 'Ünder', 'ÿ', 'ā']
documents = st.lists(st.lists(st.sampled_from(PIECES), max_size=40).map(''.join) | st.text(max_size=30).filter(lambda t: not any('\ud800' <= c <= '\udfff' for c in t)), min_size=1, max_size=5)
rules = st.builds(SpanRule, st.sampled_from(['clean', 'reference']), st.integers(1, 6), st.sampled_from([0, 0.01, 0.1, 0.2, 0.25, 0.34, 0.5, 1]))


@settings(max_examples=600, deadline=None)
@given(documents, rules, st.sampled_from([2, 16, 1 << 18]), st.sampled_from([1, 2, 64]))
def test_arrays_find_what_the_plain_rule_finds(texts, rule, block, rounds):
    before = scans.BLOCK, scans.ROUNDS
    scans.BLOCK, scans.ROUNDS = block, rounds
    try: fast = list(find_spans(Scanner(LIST, rule.rule).scan(texts), rule).spans())
    finally: scans.BLOCK, scans.ROUNDS = before
    assert fast == [span for i, text in enumerate(texts) for span in plain_spans(text, LIST, rule, i)]


lines = st.lists(st.sampled_from(['', ' ', '  a', 'x ' * 25, 'word ' * 9 + 'end', 'well-', 'a' * 60, 'é' * 45, 'ﬁ', 'short', '\t', 'it ends here and -', 'x' * 101, 'the cat sat on the mat and then it slept', ' indented']), max_size=9)


@settings(max_examples=400, deadline=None)
@given(st.lists(lines.map('\n'.join) | st.lists(st.sampled_from(PIECES), max_size=30).map(''.join), min_size=1, max_size=4))
def test_a_buffer_is_normalised_like_its_texts(texts):
    buffer, ends = normalise_buffer(*join_texts(texts))
    starts = [0, *(ends + 2)]
    for text, start, end in zip(texts, starts, ends):
        assert buffer[start:end].decode().rstrip('\n') == normalise(text).rstrip('\n')  # a carriage return may go with the separator
        assert buffer[end:end + 2] == b'\n\n'
    assert unwrap(unwrap(texts[0])) == unwrap(texts[0])


@settings(max_examples=200, deadline=None)
@given(st.sets(st.binary(min_size=1, max_size=8).filter(lambda w: 0 not in w)), st.sets(st.binary(min_size=1, max_size=8).filter(lambda w: 0 not in w), min_size=1))
def test_a_table_has_its_words_and_no_others(words, asked):
    asked = sorted(asked | words)
    numbers = np.frombuffer(b''.join(w.ljust(8, b'\0') for w in asked), '<u8')
    assert WordTable(words).contains(numbers).tolist() == [w in words for w in asked]


@real
@pytest.mark.parametrize('kind', ['clean', 'reference'])
def test_on_a_book_cut_into_short_documents_both_paths_agree(books, children, kind):
    paragraphs, rule = books[5].split('\n'), SpanRule(kind, min_words=8, max_oov=0.05)
    plain = [span for i, text in enumerate(paragraphs) for span in plain_spans(text, children, rule, i)]
    assert list(simplify(paragraphs, children, rule)) == plain and len(plain) > 100
    assert list(simplify(paragraphs * 9, children, rule, processes=2))[:len(plain)] == plain


@real
def test_wrapped_books_with_curly_quotes_keep_what_plain_ones_keep(books, children):
    "The clean rule gives the same spans for a text however it is typed; the reference rule loses most of them"
    paragraphs = [o for o in books[3].split('\n') if len(o) < 300 or len(o) > 101][:400]
    text = '\n\n'.join(' '.join(o.split()) for o in paragraphs if '--' not in o and '-' not in o and len(o) > 100)
    typed = '\r\n\r\n'.join('\r\n'.join(textwrap.wrap(o, 72)) for o in text.split('\n\n')).replace("'", '’').replace('"', '”')
    spans = [o.text for o in simplify([text], children)]
    assert spans == [o.text for o in simplify([typed], children)] and len(spans) > 10
    kept = [sum(o.words for o in simplify([o], children, SpanRule('reference'))) for o in (text, typed)]
    assert kept[1] < 0.8 * kept[0]


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
