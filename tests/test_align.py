"Alignment against brute force on hostile Unicode"
import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from cotkit.training.align import _from_offsets, align, group_logprobs, spans_from_offsets, target_spans, token_spans
from cotkit.data.core import CotkitError
from cotkit.models.tokenizers import tokenize_targets
from tokenizers_of_kinds import HOSTILE, RATIONALE, TEXTS, TOKENIZERS, ours, quick, rows_of, texts

PAIRS = list(itertools.permutations(TOKENIZERS, 2))


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
    assert np.split(spans.ids, spans.splits[1:-1])[0].tolist() == tokenize_targets(TOKENIZERS[name], texts, arch)[0]
    assert spans.ids.tolist() == list(itertools.chain(*tokenize_targets(TOKENIZERS[name], texts, arch)))
    for text, row in zip(texts, rows_of(spans)):
        assert row[-1] == (len(text.encode()),) * 2 and all(-1 <= s <= e <= len(text.encode()) for s, e in row)


def test_group_logprobs_add_up():
    aligned = align(token_spans(TOKENIZERS['cotkit-large'], TEXTS[:2]), target_spans(TOKENIZERS['cotkit'], TEXTS[:2]))
    values = [np.random.default_rng(0).normal(size=len(o.starts)) for o in (aligned.teacher, aligned.student)]
    sums = group_logprobs(aligned, *values)
    for own, value, splits in zip(sums, values, (aligned.teacher_splits, aligned.student_splits)):
        assert np.allclose(own, [value[a:b].sum() for a, b in zip(splits, splits[1:])])
    assert aligned.coverage < aligned.group_coverage < 1
