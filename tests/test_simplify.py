"Simplify: the published rule to the word, the clean rule on real text, the fast path beside the plain one, files in and out, and bad input"
import gzip
import json
import lzma
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from cotkit.app.cli import main
from cotkit.data.core import CotkitError, read_jsonl
from cotkit.pretraining import scan as scans
from cotkit.pretraining.buffers import join_texts, normalise_buffer
from cotkit.pretraining.normalise import PUNCTUATION, normalise_text, unwrap
from cotkit.pretraining.scan import Scanner, WordTable, find_spans
from cotkit.pretraining.simplify import audit, simplify, simplify_batches, simplify_dataset
from cotkit.pretraining.spans import REFERENCE, SEPARATORS, SpanRule, plain_spans
from cotkit.pretraining.text_files import read_documents, write_rows
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
@pytest.mark.parametrize('rule, max_oov, spans, share', [('reference', 0.01, 61_168, 15.6), ('reference', 0.05, 74_714, 45.3), ('clean', 0.01, 83_306, 22.5), ('clean', 0.05, 76_460, 61.5)])
def test_what_the_rules_keep_of_many_books_stands_on_the_page(children, rule, max_oov, spans, share):
    "The table of the page is counted again"
    texts = [o.text for o in read_documents([BOOKS.with_name('children_books.jsonl.xz')])]
    batches = list(simplify_batches(texts, children, SpanRule(rule, max_oov=max_oov)))
    kept = [span.words for batch in batches for span in batch.spans]
    assert (len(texts), len(kept), round(100 * sum(kept) / sum(batch.words for batch in batches), 1)) == (399, spans, share)
    page = (Path(__file__).parent.parent/'nbs'/'pretraining'/'40_simplify.ipynb').read_text(encoding='utf-8')
    assert f'{spans:,} spans, {share} %' in page


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
        assert buffer[start:end].decode().rstrip('\n') == normalise_text(text).rstrip('\n')  # a carriage return may go with the separator
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
    for text in ('‘Ann’s’\u00a0“apples”…\r\n—\rnow\u2028then', 'a\n' * 50, 'x ' * 60 + '\n' + 'y'): assert normalise_text(normalise_text(text)) == normalise_text(text)


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


# Audit

@real
@pytest.mark.parametrize('kind', ['clean', 'reference'])
def test_an_audit_accounts_for_every_word(books, children, kind):
    rule, texts = SpanRule(kind), books[:12]
    spans, found = list(simplify(texts, children, rule)), audit(texts, children, rule, thresholds=(0.0, 0.05))
    assert (found.documents, found.spans) == (12, len(spans)) and found.kept == spans[:5]
    assert found.yields[0.01] == (found.spans, found.words_kept) and sorted(found.yields) == [0.0, 0.01, 0.05]
    assert found.yields[0.0][1] <= found.yields[0.01][1] < found.yields[0.05][1]
    at_ends = found.words - found.words_kept - sum(found.words_lost.values())
    assert 0 <= at_ends < 32 * 12 and sum(found.outcomes.values()) - found.outcomes['kept, the document ends'] - found.outcomes['too short, the document ends'] == sum(found.ended.values())
    if kind == 'clean': assert found.words_kept == sum(o.words for o in spans) and found.words == sum(len(text.split()) for text in map(words_of, texts))


def words_of(text):
    "A text as its words with spaces between, by another way than the package's"
    import re
    return ' '.join(re.findall(r"(?:[^\W\d_]|[^\x00-\x7f])+(?:'(?:[^\W\d_]|[^\x00-\x7f])+)*|[0-9]+", normalise_text(text)))


def test_knowing_the_costliest_word_wins_what_the_audit_says():
    text = 'Ann has apples now. The zebra has apples now. She buys the bags now. A zebra.'
    list_of = Vocabulary(frozenset('ann has apples now the she buys bags a'.split()))
    found = audit([text], list_of, SpanRule(min_words=2, max_oov=0))
    assert found.costliest(1)[0][:2] == ('zebra', 2) and found.costliest(1)[0].words_lost == 5
    after = audit([text], Vocabulary(list_of.words | {'zebra'}), SpanRule(min_words=2, max_oov=0))
    assert after.words_kept - found.words_kept == 5
    assert [o.text for o in found.kept] == ['Ann has apples now. The', 'She buys the bags now. A']
    assert audit([text], list_of, SpanRule(min_words=6, max_oov=0)).dropped == [('Ann has apples now. The', 'zebra')]


# Files, datasets and the command

TEXTS = ['Ann has apples now. She buys bags.', 'How many apples has Ann now?\r\n“She dont know.”', 'Zebras.', 'Ann’s bags. Now she has 10 apples.']
FEW = SpanRule(min_words=3, max_oov=0)
SPANS = [(o.text, o.words, o.oov, o.document) for i, text in enumerate(TEXTS) for o in plain_spans(text, KNOWN, FEW, i)]


def rows(texts): return [{'id': f'story {i}', 'text': text} for i, text in enumerate(texts)]


@pytest.fixture
def corpus(tmp_path):
    "The texts in a folder, in every kind of file once, and a word list"
    (tmp_path/'corpus'/'deep').mkdir(parents=True)
    for ending in ('jsonl', 'ndjson', 'jsonl.gz', 'jsonl.xz', 'jsonl.zst', 'jsonl.bz2', 'parquet'): write_rows(tmp_path/'corpus'/f'a.{ending}', rows(TEXTS))
    for i, text in enumerate(TEXTS): (tmp_path/'corpus'/'deep'/f'{i}.txt').write_bytes(text.encode())
    with lzma.open(tmp_path/'corpus'/'deep'/'4.txt.xz', 'wb') as f: f.write(TEXTS[0].encode())
    (tmp_path/'corpus'/'notes.md').write_text('no text of the corpus')
    KNOWN.save(tmp_path/'words.tsv')
    return tmp_path


def run(capsys, *argv):
    "The exit code, the last line as JSON if there is one, and what went to standard error"
    capsys.readouterr()
    code = main(list(map(str, argv)))
    said = capsys.readouterr()
    return code, json.loads(said.out.splitlines()[-1]) if '--json' in argv and not code else said.out, said.err


def test_every_kind_of_file_holds_the_same_documents(corpus):
    found = [*read_documents([corpus/'corpus'])]
    assert [o.text for o in found] == TEXTS * 8 + TEXTS[:1] and [o.id for o in found[:2]] == ['story 0', 'story 1'] and found[-2].id == '3.txt'
    read = [o.read for o in found]
    assert read == sorted(read) and read[-1] == sum(o.stat().st_size for o in (corpus/'corpus').rglob('*') if o.is_file() and o.suffix != '.md')


@pytest.mark.parametrize('ending', ['jsonl', 'jsonl.gz', 'jsonl.xz', 'jsonl.zst', 'jsonl.bz2', 'parquet'])
def test_the_same_rows_are_the_same_bytes_and_come_back(tmp_path, ending):
    for name in 'ab': write_rows(tmp_path/f'{name}.{ending}', rows(TEXTS * 6000))
    assert (tmp_path/f'a.{ending}').read_bytes() == (tmp_path/f'b.{ending}').read_bytes()
    assert [o.text for o in read_documents([tmp_path/f'a.{ending}'])] == TEXTS * 6000


@pytest.mark.parametrize('processes', [1, 2])
def test_the_command_writes_the_spans_of_a_folder(corpus, capsys, processes):
    code, summary, said = run(capsys, 'simplify', corpus/'corpus', '--vocabulary', corpus/'words.tsv', '--min-words', 3, '--max-oov', 0,
                              '--out', corpus/'spans.jsonl', '--audit', corpus/'audit.json', '--processes', processes, '--json')
    assert code == 0 and 'simplify: 100%' in said and list(summary) == ['documents', 'words', 'spans', 'words_kept', 'seconds']
    written = [*read_jsonl(corpus/'spans.jsonl')]
    once = [(text, words, oov, f'story {document}') for text, words, oov, document in SPANS]
    assert [tuple(row[o] for o in ('text', 'words', 'oov', 'document')) for row in written[:len(once)]] == once
    assert len(written) == summary['spans'] == 8 * len(SPANS) + sum(o[3] == 0 for o in SPANS)
    assert summary['documents'] == 33 and summary['words_kept'] == sum(row['words'] for row in written)
    report = json.loads((corpus/'audit.json').read_text())
    assert (report['words'], report['words_kept'], report['spans']) == (summary['words'], summary['words_kept'], summary['spans'])


def test_rules_and_files_are_named_on_the_command_line(corpus, capsys):
    for ending in ('jsonl.zst', 'parquet'):
        code, summary, _ = run(capsys, 'simplify', corpus/'corpus'/'a.jsonl', corpus/'corpus'/'a.parquet', '--vocabulary', corpus/'words.tsv', '--rule', 'reference', '--min-words', 2, '--max-oov', 0.01,
                               '--out', corpus/f'spans.{ending}', '--json')
        spans = [o for text in TEXTS for o in plain_spans(text, KNOWN, SpanRule('reference', 2))]
        assert code == 0 and (summary['spans'], summary['words_kept']) == (2 * len(spans), 2 * sum(o.words for o in spans))
        assert [o.text for o in read_documents([corpus/f'spans.{ending}'])] == [o.text for o in spans] * 2


@real
def test_the_command_reproduces_the_published_counts(tmp_path, capsys):
    code, summary, _ = run(capsys, 'simplify', BOOKS, '--vocabulary', WORDS, '--rule', 'reference', '--min-words', '32', '--max-oov', '0.01', '--out', tmp_path/'spans.jsonl', '--json')
    assert code == 0 and (summary['documents'], summary['spans'], summary['words_kept']) == (79, 13_985, 730_979)


def bad_inputs(folder):
    "What is wrong, and what is said about it"
    def file(name, content):
        (folder/name).write_bytes(content)
        return folder/name
    good = json.dumps(rows(TEXTS)[0]).encode()
    yield [file('a.jsonl', good + b'\n{"text": "caf\xe9"}\n')], r'a\.jsonl:2: not UTF-8 at byte 13'
    yield [file('b.txt', b'Ann\nhas caf\xe9')], r'b\.txt:2: not UTF-8 at byte 11'
    yield [file('c.txt', b'\x89PNG\0\0')], r'c\.txt: is a binary file'
    yield [file('d.jsonl', b'\x7fELF\0\n')], r'd\.jsonl: is a binary file'
    yield [file('e.jsonl', b'{"story": "x"}')], r'e\.jsonl:1: .*"text": is missing. This line has: story'
    yield [file('f.jsonl', b'{"text": 7}')], r'f\.jsonl:1: .*is a int, not a text'
    yield [file('g.jsonl', good + b'\n{"text": "x')], r'g\.jsonl:2: not valid JSON'
    yield [file('h.jsonl', b'{"text": "Ann \\ud800 has"}')], r'h\.jsonl:1: .*half a surrogate pair at character 4'
    yield [file('i.jsonl.gz', gzip.compress(good * 99)[:-9])], r'i\.jsonl\.gz: is no whole gz file'
    yield [file('j.jsonl.zst', b'not zipped')], r'j\.jsonl\.zst: is no whole zst file'
    yield [file('k.parquet', b'PAR1 is not enough')], r'k\.parquet: is no Parquet file'
    yield [file('l.pdf', b'%PDF')], r'l\.pdf: is no file of texts.*\.jsonl'
    yield [folder/'nowhere'], 'no such file or folder'
    (folder/'empty').mkdir()
    yield [folder/'empty'], 'no texts in this folder'


def test_bad_input_is_named_and_nothing_is_written(tmp_path, capsys):
    KNOWN.save(words := tmp_path/'words.tsv')
    good = tmp_path/'good.jsonl'
    good.write_text('\n'.join(json.dumps(o) for o in rows(TEXTS)))
    for paths, message in bad_inputs(tmp_path):
        out = tmp_path/'out'/'spans.jsonl'
        code, _, said = run(capsys, 'simplify', good, *paths, '--vocabulary', words, '--min-words', 3, '--out', out)
        *_, last = said.strip().splitlines()
        import re
        assert code == 2 and re.search(message, last), (message, last)
        assert not out.parent.exists() or not any(out.parent.iterdir()), paths


def test_bad_settings_are_named(corpus, capsys):
    (corpus/'none.txt').write_text('\n')
    good = {'--vocabulary': corpus/'words.tsv', '--out': corpus/'spans.jsonl'}
    for changed, message in (({'--vocabulary': corpus/'none.txt'}, 'none.txt: the vocabulary is empty'), ({'--vocabulary': corpus/'nowhere'}, 'nowhere: no such file'),
                             ({'--out': corpus/'spans.csv'}, 'Known endings'), ({'--out': corpus}, 'is a folder'), ({'--out': corpus/'corpus'/'s.jsonl'}, '--out: .* lies among the texts'),
                             ({'--max-oov': 2}, '--max-oov: is 2'), ({'--min-words': 0}, '--min-words: is 0'), ({'--processes': 0}, '--processes: is 0'), ({'--column': 'story'}, '"story": is missing')):
        import re
        code, _, said = run(capsys, 'simplify', corpus/'corpus', *(o for pair in {**good, **changed}.items() for o in pair))
        assert code == 2 and re.search(message, said), (message, said)
        assert not (corpus/'spans.jsonl').exists()


def test_a_corpus_without_a_span_says_which_words_it_lacks(corpus, capsys):
    (corpus/'zoo.txt').write_text('The zebras and the lions know it. ' * 20 + 'She has zebras.')
    code, _, said = run(capsys, 'simplify', corpus/'zoo.txt', '--vocabulary', corpus/'words.tsv', '--out', corpus/'spans.jsonl')
    assert code == 2 and 'no span of 32 words' in said and 'the (' in said and not (corpus/'spans.jsonl').exists()


FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
from cotkit.app.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize('ending', ['jsonl', 'jsonl.gz', 'jsonl.zst', 'parquet'])
def test_a_disk_that_fills_up_leaves_no_file(corpus, ending):
    "A file that cannot grow beyond 20 kB stands for the disk"
    words = 'ann has apples she buys bags with each know how many now'.split()
    import random
    draw = random.Random(0)
    (corpus/'long.jsonl').write_text('\n'.join(json.dumps({'text': ' '.join(draw.choices(words, k=60)) + '.'}) for _ in range(5000)))
    done = subprocess.run([sys.executable, '-c', FULL, 'simplify', corpus/'long.jsonl', '--vocabulary', corpus/'words.tsv', '--out', corpus/'out'/f'spans.{ending}'], capture_output=True, text=True)
    assert done.returncode == 1 and 'File too large' in done.stderr and 'Traceback' not in done.stderr, done.stderr
    assert not any((corpus/'out').iterdir())


def test_datasets_come_in_and_go_out():
    from datasets import Dataset, IterableDataset
    stories = Dataset.from_dict({'story': TEXTS, 'pages': [1, 2, 3, 4]})
    found = simplify_dataset(stories, KNOWN, FEW, 'story')
    assert found.column_names == ['text', 'words', 'oov', 'document'] and [tuple(o.values()) for o in found] == SPANS
    assert simplify_dataset(stories, KNOWN, FEW, 'story', processes=2).to_list() == found.to_list()
    stream = simplify_dataset(stories.to_iterable_dataset(), KNOWN, FEW, 'story')
    assert isinstance(stream, IterableDataset) and [*stream] == found.to_list()
    with pytest.raises(CotkitError, match='"text": no such column. Its columns: story, pages'): simplify_dataset(stories, KNOWN)


def test_memory_does_not_grow_with_the_corpus():
    "Ten times the texts, the same peak, to a few percent of what the additional texts weigh"
    import tracemalloc
    def peak(count):
        tracemalloc.start()
        try:
            kept = sum(o.words for o in simplify((f'{TEXTS[0]} {i}. ' * 40 for i in range(count)), KNOWN, FEW))
            return kept, tracemalloc.get_traced_memory()[1]
        finally: tracemalloc.stop()
    (few, small), (many, large) = peak(1500), peak(15_000)
    assert many > 9 * few and large < 1.1 * small


def test_one_text_is_not_taken_for_its_letters():
    with pytest.raises(CotkitError, match='Give a list of texts'): next(simplify(TEXTS[0], KNOWN))


# On a cluster

PIPELINE = """
import sys
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from cotkit.pretraining.datatrove_step import SimplifyStep
from cotkit.pretraining.spans import SpanRule
from cotkit.pretraining.vocabulary import read_vocabulary

if __name__ == '__main__':
    folder, rule = sys.argv[1], sys.argv[2]
    step = SimplifyStep(read_vocabulary(f'{folder}/words.tsv'), SpanRule(rule, 3, 0))
    steps = [JsonlReader(f'{folder}/parts'), step, JsonlWriter(f'{folder}/spans', '${rank}.jsonl', compression=None)]
    LocalPipelineExecutor(steps, tasks=4, workers=2, logging_dir=f'{folder}/logs').run()
"""


@pytest.mark.parametrize('kind', ['clean', 'reference'])
def test_two_workers_of_datatrove_write_the_same_spans(tmp_path, kind):
    pytest.importorskip('datatrove')
    KNOWN.save(tmp_path/'words.tsv')
    parts = [(TEXTS * 400)[i:i + 300] for i in range(0, 1600, 300)]   # six files for four tasks
    for i, part in enumerate(parts): write_rows(tmp_path/'parts'/f'{i}.jsonl', [{'id': f'{i}-{o}', 'text': text, 'shelf': i} for o, text in enumerate(part)])
    (tmp_path/'pipeline.py').write_text(PIPELINE)
    subprocess.run([sys.executable, tmp_path/'pipeline.py', tmp_path, kind], check=True, capture_output=True, env={**os.environ, 'PYTHONPATH': str(ROOT)})
    rule = SpanRule(kind, 3, 0)
    for task in range(4):
        written = [*read_jsonl(tmp_path/'spans'/f'0000{task}.jsonl')]
        wanted = [(span, f'{i}-{span.document}', i) for i in range(task, 6, 4) for span in simplify(parts[i], KNOWN, rule)]
        assert [(o['text'], o['metadata']['words'], o['metadata']['oov'], o['metadata']['document'], o['metadata']['shelf']) for o in written] \
            == [(span.text, span.words, span.oov, document, shelf) for span, document, shelf in wanted] and len(written) > 200
        assert len({o['id'] for o in written}) == len(written)
    counted = json.loads((tmp_path/'logs'/'stats.json').read_text())[1]['stats']
    assert counted['words_kept']['total'] == sum(span.words for part in parts for span in simplify(part, KNOWN, rule))


def test_the_step_says_what_it_needs(monkeypatch):
    from cotkit.pretraining import datatrove_step
    monkeypatch.setattr(datatrove_step, 'PipelineStep', None)
    with pytest.raises(CotkitError, match=r"pip install 'cotkit\[cluster\]'"): datatrove_step.SimplifyStep(KNOWN)
