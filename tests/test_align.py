"Alignment against brute force on hostile Unicode, soft targets and losses against naive ones, gradients included"
import io
import itertools
import json
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings, strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from cotkit.align import (DIVERGENCES, RESTS, SoftCollator, TeacherTokens, _from_offsets, align, distribution_loss, full_distribution_loss, group_logprobs, score,
                          soft_targets, spans_from_offsets, target_spans, token_spans)
from cotkit.core import CotkitError, Example, Problem, Rationale, TokenLogprob
from cotkit.encode import IGNORED, Collator, encode
from cotkit.formats import AnswerOnly, StepByStep, ZeroShotCoT
from cotkit.models import build_model, target_tokens, train_tokenizer

torch.set_num_threads(1)
RATIONALE = '4 bags of 2 apples are 4 * 2 = 8 apples. Ann has 3 + 8 = 11 apples. The answer is 11.'
TEXTS = [RATIONALE, 'Ann has 3 apples. She buys 4 bags with 2 apples each.', 'A café, naïve and déjà vu.', 'The answer is the answer.'] * 4
SPECIAL = ['<pad>', '</s>', '<s>', '<unk>']
quick = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def fast(tokenizer): return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token='<unk>', pad_token='<pad>', eos_token='</s>', clean_up_tokenization_spaces=False)


def gpt2():
    "Byte-level BPE that trims its offsets and puts a space before the text"
    t = Tokenizer(models.BPE())
    t.pre_tokenizer, t.decoder = pre_tokenizers.ByteLevel(add_prefix_space=True), decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=True)
    t.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=330, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return fast(t)


def byte_level_nfc():
    t = Tokenizer(models.BPE())
    t.normalizer, t.pre_tokenizer, t.decoder = normalizers.NFC(), pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    t.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return fast(t)


def bert(lowercase=True):
    t = Tokenizer(models.WordPiece(unk_token='<unk>'))
    t.normalizer, t.pre_tokenizer, t.decoder = normalizers.BertNormalizer(lowercase=lowercase), pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    t.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=110, special_tokens=SPECIAL, show_progress=False))
    return fast(t)


def t5():
    "Unigram with metaspace and NFKC, runs of spaces made one"
    t = Tokenizer(models.Unigram())
    t.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(' {2,}'), ' ')])
    t.pre_tokenizer, t.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    t.train_from_iterator(TEXTS, trainers.UnigramTrainer(vocab_size=90, special_tokens=SPECIAL, unk_token='<unk>', show_progress=False))
    return fast(t)


def llama():
    "BPE with byte fallback, no pre-tokenizer, a space put before the text by the normaliser"
    t = Tokenizer(models.BPE(byte_fallback=True, unk_token='<unk>', fuse_unk=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend('▁'), normalizers.Replace(' ', '▁')])
    t.decoder = decoders.Sequence([decoders.Replace('▁', ' '), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(' ', 1, 0)])
    t.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL + [f'<0x{i:02X}>' for i in range(256)], show_progress=False))
    spec = json.loads(t.to_str())
    spec['added_tokens'] = spec['added_tokens'][:len(SPECIAL)]
    return fast(Tokenizer.from_str(json.dumps(spec)))


def fields(message):
    "The fields of a protocol buffer: (number, bytes)"
    def number(at):
        value = shift = 0
        while True:
            value, byte, at, shift = value | (message[at] & 127) << shift, message[at], at + 1, shift + 7
            if byte < 128: return value, at
    at = 0
    while at < len(message):
        key, at = number(at)
        if key & 7 == 0: size, at = 0, number(at)[1]
        else: size, at = number(at) if key & 7 == 2 else ({1: 8, 5: 4}[key & 7], at)
        yield key >> 3, message[at:at + size]
        at += size


def sentencepiece():
    "A SentencePiece model as `transformers` converts T5's: its own normaliser, metaspace, Unigram with byte fallback"
    import sentencepiece as spm
    file = io.BytesIO()
    spm.SentencePieceTrainer.train(sentence_iterator=iter(TEXTS), model_writer=file, vocab_size=340, byte_fallback=True, minloglevel=2,
                                   pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece='<pad>', hard_vocab_limit=False)
    model = spm.SentencePieceProcessor(model_proto=file.getvalue())
    charsmap = next(v for n, v in fields(dict(fields(file.getvalue()))[3]) if n == 2)
    t = Tokenizer(models.Unigram([(model.id_to_piece(i), model.get_score(i)) for i in range(model.get_piece_size())], unk_id=3, byte_fallback=True))
    t.normalizer = normalizers.Sequence([normalizers.Precompiled(charsmap), normalizers.Replace(Regex(' {2,}'), ' ')])
    t.pre_tokenizer, t.decoder = pre_tokenizers.Metaspace(), decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    t.add_special_tokens(SPECIAL)
    return fast(t)


TOKENIZERS = {'sentencepiece': sentencepiece(), 'gpt2': gpt2(), 'nfc': byte_level_nfc(), 'bert': bert(), 'cased': bert(False), 't5': t5(), 'llama': llama(),
              'cotkit': train_tokenizer(TEXTS, vocab_size=320), 'cotkit-large': train_tokenizer([f' {t}' for t in TEXTS], vocab_size=600),
              'cotkit-t5': train_tokenizer(TEXTS, 'seq2seq', vocab_size=400)}
PAIRS = list(itertools.permutations(TOKENIZERS, 2))
HOSTILE = ['👩‍👩‍👧‍👦', 'e\u0301', 'q\u0323\u0307', '\u0301', 'שלום', 'مرحبا', '中文', '日本語', '\x00', '\r\n', '\t', '  ', '   ', ' ', '\n', 'ﬁ', '½', '㎏', '\u3000', '\xa0',
           '\ufffd', '🧮', '\u200b', '\ufeff', 'İ', 'ß', 'Ǆ', '각', '각', '</s>', '<unk>', '▁', 'Ġ', '##s', '<0xE2>', 'naïve', '\x7f', '\u202e', '𝟙', 'ﷺ']
WORDS = ['4', 'bags', 'apples', 'Ann', 'has', '=', '11', '.', 'The', 'answer', 's', 'café']
texts = st.lists(st.one_of(st.sampled_from(HOSTILE), st.sampled_from(WORDS), st.just(' '), st.text(max_size=3).filter(lambda s: s.isprintable())), max_size=12).map(''.join)


def rows_of(spans): return [list(zip(spans.starts[a:b].tolist(), spans.ends[a:b].tolist())) for a, b in zip(spans.splits, spans.splits[1:])]


def brute_force(teacher, student):
    "Groups as connected tokens: two tokens are connected if they share a byte that both sides cover, or stand in one run of overlapping tokens"
    covered = [{b for s, e in side for b in range(s, e)} for side in (teacher, student)]
    common = covered[0] & covered[1]
    places = [0, *itertools.accumulate(b in common for b in range(-1, max(common, default=0) + 1))]
    def place(p): return places[min(p + 1, len(places) - 1)]
    runs = [[0, *itertools.accumulate(max(e for _, e in row[:i]) <= row[i][0] for i in range(1, len(row)))] for row in (teacher, student)]
    tokens = [(side, i, s, e, {b for b in range(s, e) if b in common}) for side, row in enumerate((teacher, student)) for i, (s, e) in enumerate(row)]
    full = [t for t in tokens if t[4]]
    parts = []
    for t in full:
        linked = [p for p in parts if any(t[4] & o[4] if t[0] != o[0] else runs[t[0]][t[1]] == runs[o[0]][o[1]] for o in p)]
        parts = [p for p in parts if p not in linked] + [[t, *itertools.chain(*linked)]]
    parts = [[min(place(t[2]) for t in p), 1, max(place(t[3]) for t in p), p] for p in parts]
    for t in tokens:
        if t[4]: continue
        at = place(t[2])
        inside = [p for p in parts if p[0] < at < p[2]] or [p for p in parts if p[0] == at == p[2]]
        if inside: inside[0][3].append(t)
        else: parts.append([at, 0, at, [t]])
    groups = []
    for _, kind, _, p in sorted(parts, key=lambda p: p[:3]):
        left, right = ([i for side, i, *_ in p if side == which] for which in (0, 1))
        groups.append((sorted(left), sorted(right), bool(kind) and len(left) == len(right) == 1))
    return groups


def ours(aligned):
    assert len(aligned.teacher) == 1
    t, s = aligned.teacher_splits, aligned.student_splits
    return [(list(range(t[g], t[g + 1])), list(range(s[g], s[g + 1])), bool(aligned.one_to_one[g])) for g in range(len(t) - 1)]


# -- alignment ------------------------------------------------------------------------------------------------------------------------

@quick
@given(text=texts, pair=st.sampled_from(PAIRS))
def test_alignment_is_that_of_brute_force(text, pair):
    teacher, student = (token_spans(TOKENIZERS[name], text) for name in pair)
    assert ours(align(teacher, student)) == brute_force(rows_of(teacher)[0], rows_of(student)[0])


@pytest.mark.parametrize('text', [' '.join(HOSTILE), ''.join(HOSTILE), f'  {RATIONALE}\n', ''], ids=['apart', 'together', 'plain', 'empty'])
def test_hostile_pieces_in_a_row(text):
    spans = {name: token_spans(tokenizer, text) for name, tokenizer in TOKENIZERS.items()}
    for one, other in itertools.combinations(TOKENIZERS, 2):
        assert ours(align(spans[one], spans[other])) == brute_force(rows_of(spans[one])[0], rows_of(spans[other])[0]), (one, other)


@pytest.mark.parametrize('text', HOSTILE, ids=ascii)
def test_each_hostile_piece_between_words(text):
    for one, other in (('bert', 'cotkit'), ('t5', 'llama'), ('nfc', 'cotkit-large'), ('gpt2', 'bert'), ('cotkit-t5', 't5'), ('cotkit', 'sentencepiece')):
        teacher, student = (token_spans(TOKENIZERS[name], f'Ann {text}has') for name in (one, other))
        assert ours(align(teacher, student)) == brute_force(rows_of(teacher)[0], rows_of(student)[0]), (one, other)


@st.composite
def span_rows(draw, size=12):
    "Spans as a tokenizer might give them: gaps, overlaps, empty ones, a space before the text"
    at, row = draw(st.integers(-1, 2)), []
    for _ in range(draw(st.integers(0, 8))):
        end = min(at + draw(st.integers(0, 3)), size)
        row.append((at, end))
        at = max(min(end + draw(st.sampled_from([0, 0, 0, 1, 2, -1])), size), at, 0)
    return row


@settings(quick, max_examples=200)
@given(pairs=st.lists(st.tuples(span_rows(), span_rows()), min_size=1, max_size=3))
def test_any_spans_align_as_by_brute_force_one_by_one_and_together(pairs):
    sides = [[spans_from_offsets('x' * 12, pair[side], unit='bytes') for pair in pairs] for side in (0, 1)]
    together = align(*(spans_from_offsets(['x' * 12] * len(pairs), [pair[side] for pair in pairs], unit='bytes') for side in (0, 1)))
    expected, t, s = [], 0, 0
    for teacher, student in zip(*sides):
        groups = brute_force(rows_of(teacher)[0], rows_of(student)[0])
        assert ours(align(teacher, student)) == groups
        expected += [([i + t for i in a], [i + s for i in b], one) for a, b, one in groups]
        t, s = t + len(teacher.starts), s + len(student.starts)
    splits = zip(together.teacher_splits, together.teacher_splits[1:], together.student_splits, together.student_splits[1:], together.one_to_one)
    assert [(list(range(a, b)), list(range(c, d)), bool(one)) for a, b, c, d, one in splits] == expected
    assert sum(len(together._groups_of(row)) for row in range(len(pairs))) == len(expected)


@quick
@given(text=texts, name=st.sampled_from(list(TOKENIZERS)))
def test_a_tokenization_aligns_with_itself(text, name):
    spans = token_spans(TOKENIZERS[name], text)
    aligned = align(spans, spans)
    assert aligned.group_coverage == 1 or not len(spans.starts)
    if name in ('cotkit', 'cotkit-large', 'llama', 'gpt2') and not re.search('▁|</s>|<unk>', text): assert aligned.coverage == 1 or not text.strip()


@quick
@given(texts=st.lists(texts, max_size=5), name=st.sampled_from(list(TOKENIZERS)))
def test_many_texts_at_once_are_as_each_alone(texts, name):
    together = token_spans(TOKENIZERS[name], texts)
    assert rows_of(together) == [rows_of(token_spans(TOKENIZERS[name], text))[0] for text in texts]
    assert all(s <= e for row in rows_of(together) for s, e in row)


@quick
@given(text=texts, name=st.sampled_from(['gpt2', 'llama', 'cotkit', 'cotkit-large', 'cotkit-t5']))
def test_spans_without_a_normaliser_are_what_the_tokens_spell(text, name):
    "Byte by byte: the tokens' own bytes stand at their spans, and nothing of the text is left out"
    tokenizer, data = TOKENIZERS[name], b' ' + text.encode()
    spans = token_spans(tokenizer, text)
    row = rows_of(spans)[0]
    assert b''.join(data[s + 1:e + 1] for s, e in row).removeprefix(b' ') == text.encode().removeprefix(b' ')
    assert all(b == c for (_, b), (c, _) in zip(row, row[1:]))
    characters = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
    for (s, e), (a, b) in zip(row, characters):
        assert s <= len(text[:b].encode()) and e >= len(text[:a].encode())


@quick
@given(text=texts, name=st.sampled_from(['gpt2', 'llama', 'cotkit', 'cotkit-large', 'sentencepiece', 't5']))
def test_offsets_and_spelling_agree(text, name):
    "Where a text is spelled, spans from the tokenizer's offsets put each token opposite itself"
    tokenizer = TOKENIZERS[name]
    exact = token_spans(tokenizer, text)
    offsets = _from_offsets(tokenizer, (text,), exact.ids, exact.splits)
    for t, s, _ in ours(align(exact, offsets)): assert t == s or not t or not s or set(t) & set(s)
    for t, s in zip(*align(exact, offsets).pairs): assert t == s


def test_white_space_belongs_to_nobody_or_to_the_next_word():
    for names in itertools.permutations(('bert', 'cotkit-large', 't5', 'llama', 'gpt2'), 2):
        groups = align(*(token_spans(TOKENIZERS[n], 'The answer is  11.') for n in names)).groups()
        for t, s in groups:
            if t and s: assert ''.join(t).replace(' ', '') == ''.join(s).replace(' ', '')
    words = align(token_spans(TOKENIZERS['cased'], RATIONALE), token_spans(TOKENIZERS['cotkit-large'], RATIONALE))
    assert (['apples'], [' apples']) in words.groups() and words.coverage > 0.8


def test_lower_case_and_accents_refer_to_the_original_text():
    spans = token_spans(TOKENIZERS['bert'], 'CAFÉ Cafe\u0301 İ')
    assert ''.join(spans.pieces()).replace('\u0301', '') in ('CAFÉCafeİ', 'CAFÉCafe' + 'İ')


def test_a_ligature_is_kept_together():
    groups = align(token_spans(TOKENIZERS['t5'], 'a ﬁ b'), token_spans(TOKENIZERS['cotkit'], 'a ﬁ b')).groups()
    assert [''.join(sorted(set(t))) for t, s in groups if 'ﬁ' in t] == ['ﬁ']


def test_lone_surrogates_and_other_texts_are_refused():
    with pytest.raises(CotkitError, match='surrogate pair at character 1'): token_spans(TOKENIZERS['cotkit'], 'a\ud83d')
    with pytest.raises(CotkitError, match='same texts'): align(token_spans(TOKENIZERS['cotkit'], 'a'), token_spans(TOKENIZERS['cotkit'], 'b'))
    with pytest.raises(CotkitError, match='leave the text'): spans_from_offsets('abc', [(0, 4)])
    with pytest.raises(CotkitError, match='rows of offsets'): spans_from_offsets(['abc'], [[], []])


def test_offsets_that_go_backwards_are_kept_together():
    spans = spans_from_offsets('abcdef', [(0, 2), (3, 4), (2, 3), (4, 6)])
    other = spans_from_offsets('abcdef', [(i, i + 1) for i in range(6)])
    assert [(t, s) for t, s, _ in ours(align(spans, other))] == [([0], [0, 1]), ([1, 2], [2, 3]), ([3], [4, 5])]


def test_nothing_at_all():
    spans = token_spans(TOKENIZERS['cotkit'], [])
    aligned = align(spans, spans)
    assert len(aligned.one_to_one) == 0 and aligned.coverage == 0 and 'Alignment' in aligned._repr_html_()


@quick
@given(texts=st.lists(texts, min_size=1, max_size=4), name=st.sampled_from(list(TOKENIZERS)), arch=st.sampled_from(['causal', 'seq2seq']))
def test_target_spans_are_those_of_target_tokens(texts, name, arch):
    spans = target_spans(TOKENIZERS[name], texts, arch)
    assert np.split(spans.ids, spans.splits[1:-1])[0].tolist() == target_tokens(TOKENIZERS[name], texts, arch)[0]
    assert spans.ids.tolist() == list(itertools.chain(*target_tokens(TOKENIZERS[name], texts, arch)))
    for text, row in zip(texts, rows_of(spans)):
        assert row[-1] == (len(text.encode()),) * 2 and all(-1 <= s <= e <= len(text.encode()) for s, e in row)


# -- the teacher's strings ------------------------------------------------------------------------------------------------------------

def tokens_of(strings): return [TokenLogprob(s, -0.5, ((s, -0.5),)) for s in strings]


@pytest.mark.parametrize('strings', [
    ['Ann', ' 🧮', ' 3'], ['Ann', r'bytes: \xf0\x9f', r'bytes:\xa7\xae', ' 3'], ['▁Ann', '▁', '<0xF0>', '<0x9F>', '<0xA7>', '<0xAE>', '▁3'],
    ['Ann', 'ĠðŁ', '§', '®', 'Ġ3'], ['Ann', ' \ufffd', '\ufffd', ' 3'], ['Ann', ' ', '\ufffd', '\ufffd', '\ufffd', '\ufffd', ' ', '3'],
    [' Ann', ' \ufffd\ufffd', '', ' 3', ''], ['So: ', 'Ann', ' 🧮', ' 3', '\n\n', 'Q:']], ids=range(8))
def test_tokens_are_found_however_a_server_writes_them(strings):
    teacher = TeacherTokens.from_logprobs([tokens_of(strings)], ['Ann 🧮 3'])
    assert not teacher.unplaced
    student = spans_from_offsets('Ann 🧮 3', [(0, 3), (3, 5), (5, 7)])
    groups = ours(align(teacher.spans, student))
    covering = [(t, s) for t, s, _ in groups if s]
    assert [s for _, s in covering] == [[0], [1], [2]] and all(t for t, _ in covering)
    assert [one for _, s, one in groups if s in ([0], [2])] == [True, len([o for o in strings if o.strip(' ▁Ġ') == '3']) == 1 and ' ' not in strings]


def test_a_literal_replacement_character_is_itself():
    teacher = TeacherTokens.from_logprobs([tokens_of(['a', '\ufffd', 'b'])], ['a\ufffdb'])
    assert rows_of(teacher.spans) == [[(0, 1), (1, 4), (4, 5)]]


def test_tokens_of_a_part_and_of_more_than_the_text():
    part = TeacherTokens.from_logprobs([tokens_of(['11', ' apples', '.'])], ['So 11 apples. The answer is 11.'])
    more = TeacherTokens.from_logprobs([tokens_of(['\n', ' 11', ' apples', '.', '\n\n', 'Q'])], ['11 apples.'])
    assert part.spans.pieces() == ['11', ' apples', '.'] and more.spans.pieces() == ['', ' 11', ' apples', '.', '', '']


def test_where_the_target_goes_another_way_the_tokens_end():
    target = '3 + 8 = 11. The answer is 11.'
    strings = ['3', ' +', ' 8', ' =', ' 11', '.', ' So', ' it', ' is', ' 11', '.']
    spans = TeacherTokens.from_logprobs([tokens_of(strings)], [target]).spans
    assert spans.pieces() == ['3', ' +', ' 8', ' =', ' 11', '.', '', '', '', '', '']
    strings[6] = ' These'
    assert TeacherTokens.from_logprobs([tokens_of(strings)], [target]).spans.pieces()[:7] == ['3', ' +', ' 8', ' =', ' 11', '.', '']
    strings[:1] = ['\ufffd', '\ufffd', ' 3']
    spans = TeacherTokens.from_logprobs([tokens_of(strings)], [f'½ {target}']).spans
    assert spans.pieces()[:4] == ['½', '½', ' 3', ' +'] and spans.pieces()[-3:] == ['', '', '']


def test_a_token_that_reaches_over_the_end_counts_only_if_that_is_white_space():
    for last, expected in (('.\n\n', '.'), ('.)', ''), ('. ', '.')):
        assert TeacherTokens.from_logprobs([tokens_of(['11', last, 'Q'])], ['11.']).spans.pieces() == ['11', expected, '']


def test_examples_find_the_rationale_they_are_made_of():
    problem = Problem('apples-1', 'How many apples are 3 + 8?', '11')
    chains = ['3 + 8 = 11. So the answer is 11.', 'Count on from 8: 9, 10, 11. So the answer is 11.']
    rationales = [Rationale(problem.id, text, '11', True, logprobs=tuple(tokens_of(token_spans(TOKENIZERS['cotkit'], text).pieces()))) for text in chains]
    for format, placed in ((ZeroShotCoT(), 2), (StepByStep(), 2), (AnswerOnly(), 0)):
        examples = format.examples(problem, rationales)
        teacher = TeacherTokens.from_rationales(examples, rationales)
        assert sum(bool(n) for n in teacher.spans.lengths) == placed and not teacher.unplaced
        for row, example in enumerate(examples):
            if teacher.spans.lengths[row]: assert example.target.startswith(''.join(teacher.spans.pieces(row)).strip())
            if teacher.spans.lengths[row]: assert len(''.join(teacher.spans.pieces(row))) > len('3 + 8 = 11')


def test_tokens_of_another_text_give_no_targets():
    teacher = TeacherTokens.from_logprobs([tokens_of(['no', ' such']), tokens_of(['The', ' answer']), []], ['The answer', 'The answer', 'The answer'])
    soft = soft_targets(teacher, TOKENIZERS['cotkit-large'])
    assert soft.unplaced == (0,) and 'unplaced' in repr(soft)
    assert [bool(soft.has_target[a:b].any()) for a, b in zip(soft.splits, soft.splits[1:])] == [False, True, False]


@quick
@given(text=texts.filter(lambda t: '\ufffd' not in t), name=st.sampled_from(['cotkit', 'cotkit-large', 'llama', 'gpt2']))
def test_strings_with_unreadable_parts_stand_where_the_tokens_stand(text, name):
    "Each token decoded alone, as servers do: what is readable stands exactly, and a run of parts covers its characters"
    tokenizer = TOKENIZERS[name]
    spans = token_spans(tokenizer, text)
    data = b' ' + text.encode()
    assume((spans.ends[:-1] == spans.starts[1:]).all())
    strings = [data[s + 1:e + 1].decode(errors='replace') for s, e in rows_of(spans)[0]]
    teacher = TeacherTokens.from_logprobs([tokens_of(strings)], [text])
    if teacher.unplaced or not strings: return
    for (s, e), (a, b), string in zip(rows_of(spans)[0], rows_of(teacher.spans)[0], strings):
        if '\ufffd' not in string and string.strip() and (a, b) != (0, 0): assert (max(a, 0), b) == (max(s, 0), e) or text.strip() != text
        else: assert a <= e and b >= s


# -- soft targets ---------------------------------------------------------------------------------------------------------------------

def random_logprobs(strings, vocabulary, seed, k=4):
    random, rows = np.random.default_rng(seed), []
    for string in strings:
        top = list(dict.fromkeys([string, *random.choice(vocabulary, k)]))
        p = random.dirichlet(np.ones(len(top) + 1))[:-1]
        order = np.argsort(-p)
        rows.append(TokenLogprob(string, math.log(p[0]), tuple((top[i], math.log(p[i])) for i in order)))
    return rows


@pytest.mark.parametrize('rest', RESTS)
@pytest.mark.parametrize('names', [('cotkit-large', 'cotkit'), ('cotkit', 'cotkit-large'), ('llama', 'cotkit-large'), ('cotkit-large', 'llama'), ('gpt2', 't5'), ('cotkit-large', 'sentencepiece'), ('sentencepiece', 'cotkit-large')])
def test_soft_targets_are_the_naive_ones(names, rest):
    teacher_tokenizer, student_tokenizer = (TOKENIZERS[n] for n in names)
    texts = [RATIONALE, 'The answer is 11.', 'Ann has 3 apples']
    teacher_strings = [[(b' ' + t.encode())[s + 1:e + 1].decode() for s, e in row] for t, row in zip(texts, rows_of(target_spans(teacher_tokenizer, texts, end=False)))]
    vocabulary = [s for s in {teacher_tokenizer.decode([0, i])[len(teacher_tokenizer.decode([0])):] for i in range(len(teacher_tokenizer))} if '\ufffd' not in s and s]
    logprobs = [random_logprobs(strings, sorted(vocabulary), seed) for seed, strings in enumerate(teacher_strings)]
    soft = soft_targets(TeacherTokens.from_logprobs(logprobs, texts), student_tokenizer, rest=rest)
    spelled = {}
    for i in range(len(student_tokenizer) - 1, -1, -1):
        token = student_tokenizer.convert_ids_to_tokens(i)
        if i in student_tokenizer.all_special_ids: continue
        if names[1] in ('llama', 't5', 'sentencepiece'): spelled[chr(int(token[3:5], 16)) if token.startswith('<0x') and int(token[3:5], 16) < 128 else token.replace('▁', ' ')] = i
        else: spelled[student_tokenizer.decode([i])] = i
    aligned = align(TeacherTokens.from_logprobs(logprobs, texts).spans, target_spans(student_tokenizer, texts))
    flat, matched = [t for row in logprobs for t in row], dict(zip(*reversed(aligned.pairs)))
    assert 0 < len(matched) < len(soft.ids) and soft.coverage == len(matched)/len(soft.ids)
    for j, label in enumerate(aligned.student.ids):
        assert soft.ids[j, 0] == label and soft.has_target[j] == (j in matched)
        expected = {int(label): 1.0}
        if j in matched:
            token = flat[matched[j]]
            expected = {int(label): math.exp(token.logprob)}
            for string, value in token.top:
                if string != token.token and string in spelled: expected[spelled[string]] = expected.get(spelled[string], 0) + math.exp(value)
        m = sum(expected.values())
        scale, tail = {'tail': (1, 1 - m), 'restrict': (1, 0), 'renormalise': (1/m, 0)}[rest]
        found = {int(i): float(p) for i, p in zip(soft.ids[j], soft.probabilities[j]) if p > 0}
        assert found == pytest.approx({i: p*scale for i, p in expected.items()}, rel=1e-5)
        assert soft.tail[j] == pytest.approx(tail, abs=1e-6)


def test_upper_and_lower_case_add_up_for_a_student_in_lower_case():
    logprobs = [[TokenLogprob('The', math.log(.5), (('The', math.log(.5)), ('the', math.log(.25)), ('THE', math.log(.125)))),
                 TokenLogprob(' answer', math.log(.5), ((' answer', math.log(.5)), ('s', math.log(.2)), (' s', math.log(.1)), ('.', math.log(.1))))]]
    tokenizer = TOKENIZERS['bert']
    soft = soft_targets(TeacherTokens.from_logprobs(logprobs, ['The answer']), tokenizer)
    names = [{tokenizer.convert_ids_to_tokens(int(i)): round(float(p), 3) for i, p in zip(*row) if p} for row in zip(soft.ids, soft.probabilities)]
    assert names[0] == {'the': 0.875}
    assert names[1] == {'answer': 0.5, '##s': 0.2, 's': 0.1, '.': 0.1}


def test_special_tokens_are_text_to_a_student():
    logprobs = [[TokenLogprob('The', math.log(.5), (('</s>', math.log(.3)), ('<unk>', math.log(.1))))]]
    for name in ('cotkit-large', 'bert', 't5', 'llama'):
        soft = soft_targets(TeacherTokens.from_logprobs(logprobs, ['The']), TOKENIZERS[name])
        assert not set(soft.ids[soft.probabilities > 0][:-1].tolist()) & {TOKENIZERS[name].unk_token_id}
        assert soft.ids[:-1][soft.probabilities[:-1] > 0].tolist().count(TOKENIZERS[name].eos_token_id) == 0


def test_probabilities_above_one_are_scaled_and_nothing_is_negative():
    logprobs = [[TokenLogprob('The', 0.0, (('The', 0.0), (' answer', -0.1), ('.', -9999.0)))]]
    soft = soft_targets(TeacherTokens.from_logprobs(logprobs, ['The']), TOKENIZERS['cotkit-large'])
    assert (soft.probabilities >= 0).all() and (soft.tail >= 0).all() and np.allclose(soft.probabilities.sum(1) + soft.tail, 1)
    with pytest.raises(CotkitError, match='restrict'): soft_targets(TeacherTokens.from_logprobs(logprobs, ['The']), TOKENIZERS['cotkit'], rest='drop')


@pytest.mark.parametrize('arch,name', [('causal', 'cotkit-large'), ('seq2seq', 'cotkit-t5')])
def test_batches_carry_their_own_rows(arch, name):
    tokenizer, texts = TOKENIZERS[name], ['The answer is 11.', RATIONALE, 'Ann has 3 apples.']
    teacher = TeacherTokens.from_logprobs([random_logprobs(token_spans(TOKENIZERS['cotkit'], t).pieces(), WORDS, i) for i, t in enumerate(texts)], texts)
    soft = soft_targets(teacher, tokenizer, arch)
    rows = encode([Example('How many?', t) for t in texts], tokenizer, arch)
    batch = SoftCollator(Collator(tokenizer, arch, multiple=8), soft)([rows[2], rows[0]])
    for row, e in zip(range(2), (2, 0)):
        marked, part = batch['labels'][row] != IGNORED, slice(soft.splits[e], soft.splits[e + 1])
        assert torch.equal(batch['indices'][row][marked], torch.from_numpy(soft.ids[part].astype(np.int64)))
        assert torch.equal(batch['probabilities'][row][marked], torch.from_numpy(soft.probabilities[part]))
        assert torch.equal(batch['tail'][row][marked], torch.from_numpy(soft.tail[part]))
        assert torch.equal(batch['has_target'][row][marked], torch.from_numpy(soft.has_target[part]))
        assert not batch['probabilities'][row][~marked].any() and not batch['has_target'][row][~marked].any()
    assert batch['indices'].dtype == torch.int64 and batch['indices'].shape[:2] == batch['labels'].shape == batch['tail'].shape
    other = soft_targets(teacher, TOKENIZERS['llama'], arch)
    with pytest.raises(CotkitError, match='not those of these labels'): SoftCollator(Collator(tokenizer, arch), other)([rows[0]])


# -- losses ---------------------------------------------------------------------------------------------------------------------------

def naive(logits, listed, tail, divergence):
    "One position, in plain Python: probabilities of the listed tokens and of all others"
    q = [math.exp(x) for x in logits.tolist()]
    q = [x/sum(q) for x in q]
    pairs = [(p, q[i]) for i, p in listed.items()] + [(tail, sum(x for i, x in enumerate(q) if i not in listed))]
    if divergence == 'forward': return sum(p*math.log(p/x) for p, x in pairs if p)
    if divergence == 'reverse': return sum(x*math.log(x/max(p, 1e-6)) for p, x in pairs)
    return sum((p*math.log(p/((p + x)/2)) if p else 0) + x*math.log(x/((p + x)/2)) for p, x in pairs)/2


def random_targets(seed, n=5, k=4, vocabulary=11, rest='tail'):
    random = np.random.default_rng(seed)
    ids = np.stack([random.permutation(vocabulary)[:k] for _ in range(n)])
    p = random.dirichlet(np.ones(k + 1), n)
    keep = random.integers(1, k + 1, n)
    filled = np.arange(k) >= keep[:, None]
    ids, p = np.where(filled, ids[:, :1], ids), np.where(np.append(filled, np.zeros((n, 1), bool), 1), 0, p)
    p /= p.sum(1, keepdims=True)
    listed, tail = p[:, :-1], p[:, -1]
    if rest != 'tail': tail = np.zeros(n)
    if rest == 'renormalise': listed = listed/listed.sum(1, keepdims=True)
    return torch.from_numpy(ids), torch.from_numpy(listed), torch.from_numpy(tail)


@pytest.mark.parametrize('divergence', DIVERGENCES)
@pytest.mark.parametrize('rest', RESTS)
def test_losses_and_gradients_are_the_naive_ones(divergence, rest):
    for seed in range(3):
        ids, p, tail = random_targets(seed, rest=rest)
        logits = torch.from_numpy(np.random.default_rng(seed + 9).normal(size=(5, 11))*2).requires_grad_()
        losses = distribution_loss(logits, ids, p, tail, divergence)
        expected = [naive(row, {int(i): float(x) for i, x in zip(a, b) if x > 0}, float(c), divergence) for row, a, b, c in zip(logits.detach(), ids, p, tail)]
        assert losses.tolist() == pytest.approx(expected, rel=1e-9)
        assert torch.autograd.gradcheck(lambda x: distribution_loss(x, ids, p, tail, divergence), (logits,))


def test_gradients_are_those_of_a_dense_softmax():
    "Forward divergence with a tail, written densely: the tail's gradient is spread as the student spreads its own"
    ids, p, tail = random_targets(0)
    logits = torch.randn(5, 11, dtype=torch.float64, requires_grad=True)
    [found] = torch.autograd.grad(distribution_loss(logits, ids, p, tail).sum(), logits)
    q = logits.detach().softmax(-1)
    listed = torch.zeros_like(q).scatter_add(1, ids, p)
    others = (listed == 0)*q
    assert torch.allclose(found, q - listed - tail[:, None]*others/others.sum(1, keepdim=True))


def test_one_hot_targets_are_cross_entropy_and_nothing_listed_is_nothing():
    logits, labels = torch.randn(2, 3, 7), torch.randint(7, (2, 3))
    p = torch.zeros(2, 3, 2)
    p[..., 0] = 1
    p[1, 2] = 0
    losses = distribution_loss(logits, labels[..., None].expand(2, 3, 2), p)
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction='none').view(2, 3)
    expected[1, 2] = 0
    assert torch.allclose(losses, expected, atol=1e-6)
    for divergence in DIVERGENCES: assert distribution_loss(logits, labels[..., None].expand(2, 3, 2), p, torch.zeros(2, 3), divergence)[1, 2] == 0


def test_restricting_is_renormalising_weighed_by_what_arrived():
    ids, p, _ = random_targets(1)
    logits = torch.randn(5, 11, dtype=torch.float64, requires_grad=True)
    m = p.sum(1, keepdim=True)
    [restricted] = torch.autograd.grad(distribution_loss(logits, ids, p).sum(), logits)
    [renormalised] = torch.autograd.grad(distribution_loss(logits, ids, p/m).sum(), logits)
    assert torch.allclose(restricted, m*renormalised)


@pytest.mark.parametrize('divergence', ['forward', 'jensen-shannon'])
def test_the_tail_never_says_more_than_the_whole_distribution(divergence):
    teacher, student = torch.randn(2, 40, 30, dtype=torch.float64).mul(2)
    p = teacher.softmax(-1)
    last = torch.zeros(40, dtype=torch.float64)
    for k in (1, 3, 10, 29):
        top, ids = p.topk(k)
        loss = distribution_loss(student, ids, top, 1 - top.sum(-1), divergence)
        assert (loss >= last - 1e-9).all() and (loss <= full_distribution_loss(student, teacher, divergence) + 1e-9).all()
        last = loss


@pytest.mark.parametrize('divergence', DIVERGENCES)
def test_the_whole_vocabulary(divergence):
    student = torch.randn(4, 9, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(4, 12, dtype=torch.float64)
    p, q = teacher[:, :9].softmax(-1), student.softmax(-1)
    kl = lambda a, b: (a*(a/b).log()).sum(-1)
    expected = {'forward': kl(p, q), 'reverse': kl(q, p), 'jensen-shannon': (kl(p, (p + q)/2) + kl(q, (p + q)/2))/2}[divergence]
    assert torch.allclose(full_distribution_loss(student, teacher, divergence), expected)
    assert torch.autograd.gradcheck(lambda x: full_distribution_loss(x, teacher, divergence, temperature=2.0), (student,))
    with pytest.raises(CotkitError, match='jensen-shannon'): full_distribution_loss(student, teacher, 'backward')


@pytest.mark.parametrize('divergence', DIVERGENCES)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_a_sure_student_has_finite_gradients(divergence, dtype):
    "Probabilities that underflow give no infinities"
    logits = torch.zeros(2, 50, dtype=dtype)
    logits[:, 3], logits[:, 4] = 300, -300
    logits.requires_grad_()
    ids, p = torch.tensor([[3, 4, 3], [4, 5, 4]]), torch.tensor([[0.9, 0.1, 0.0], [0.5, 0.5, 0.0]])
    for tail in (None, torch.zeros(2), torch.tensor([0.0, 0.2])):
        loss = distribution_loss(logits, ids, p, tail, divergence)
        [gradient] = torch.autograd.grad(loss.sum(), logits)
        assert loss.isfinite().all() and gradient.isfinite().all()


# -- a teacher in memory --------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('arch', ['causal', 'seq2seq'])
def test_scores_are_those_of_one_text_at_a_time(arch):
    tokenizer = train_tokenizer(TEXTS, arch, vocab_size=300)
    model = build_model('nano', tokenizer, arch)
    inputs, targets = ['How many?', 'And how many apples are there?', 'Now?'], [RATIONALE, 'The answer is 11.', 'Ann']
    scored = score(model, tokenizer, inputs, targets, arch, top=4, batch_size=2)
    assert scored.top.shape[1] == 5
    for i, (asked, written) in enumerate(zip(inputs, targets)):
        read, [ids] = tokenizer(asked).input_ids, target_tokens(tokenizer, [written], arch)
        with torch.no_grad():
            if arch == 'causal': logits = model(torch.tensor([read + ids])).logits[0, len(read) - 1:-2]
            else: logits = model(input_ids=torch.tensor([read]), labels=torch.tensor([ids])).logits[0, :-1]
        expected, part = logits.log_softmax(-1), slice(scored.spans.splits[i], scored.spans.splits[i + 1])
        assert scored.top[part, 0].tolist() == ids[:-1]
        assert np.allclose(np.take_along_axis(expected.numpy(), scored.top[part], 1), scored.logprobs[part], atol=1e-4)
        for row, own, likely in zip(expected, ids, scored.top[part]):
            assert set(likely[1:].tolist()) == set(row.scatter(0, torch.tensor(own), -torch.inf).topk(4).indices.tolist())


def test_with_one_tokenizer_and_all_tokens_listed_it_is_the_full_divergence():
    tokenizer = train_tokenizer(TEXTS, vocab_size=270)
    teacher, student = build_model('nano', tokenizer, seed=1), build_model('nano', tokenizer, seed=2)
    for model in (teacher, student):
        with torch.no_grad(): [p.mul_(3) for p in model.parameters()]
    asked, written = 'How many?', 'The answer is 11.'
    scored = score(teacher, tokenizer, [asked], [written], top=len(tokenizer))
    soft = soft_targets(scored, tokenizer, rest='renormalise')
    assert soft.coverage == 1 - 1/len(soft.ids)
    ids = tokenizer(asked).input_ids + target_tokens(tokenizer, [written])[0]
    with torch.no_grad(): ours, theirs = (m(torch.tensor([ids])).logits[0, -len(soft.ids) - 1:-2] for m in (student, teacher))
    n = len(soft.ids) - 1
    sparse = distribution_loss(ours, torch.from_numpy(soft.ids[:n].astype(np.int64)), torch.from_numpy(soft.probabilities[:n]))
    assert torch.allclose(sparse, full_distribution_loss(ours, theirs), atol=0.02, rtol=0.02) and sparse.min() > 0.05


def test_group_logprobs_add_up():
    aligned = align(token_spans(TOKENIZERS['cotkit-large'], TEXTS[:2]), target_spans(TOKENIZERS['cotkit'], TEXTS[:2]))
    values = [np.random.default_rng(0).normal(size=len(o.starts)) for o in (aligned.teacher, aligned.student)]
    sums = group_logprobs(aligned, *values)
    for own, value, splits in zip(sums, values, (aligned.teacher_splits, aligned.student_splits)):
        assert np.allclose(own, [value[a:b].sum() for a, b in zip(splits, splits[1:])])
    assert aligned.coverage < aligned.group_coverage < 1
