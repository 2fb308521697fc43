"Soft targets and losses against naive ones, gradients included"
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, strategies as st

from cotkit.training.align import align, spans_from_offsets, target_spans, token_spans
from cotkit.data.core import CotkitError, Example, Problem, Rationale, TokenLogprob
from cotkit.training.encode import IGNORE_INDEX, Collator, encode
from cotkit.data.formats import AnswerOnly, StepByStep, ZeroShotCoT
from cotkit.training.config import Divergence, TailMode
from cotkit.training.teacher_tokens import TeacherModel, TeacherTokens, teacher_logprobs
from cotkit.training.soft_targets import SoftTargets, full_divergence, soft_labels, topk_divergence
from cotkit.models.students import build_model
from cotkit.models.tokenizers import tokenize_targets, train_tokenizer
from tokenizers_of_kinds import RATIONALE, TEXTS, TOKENIZERS, WORDS, ours, quick, rows_of, texts


DIVERGENCES, TAIL_MODES = Divergence.__args__, TailMode.__args__


# -- the teacher's strings ------------------------------------------------------------------------------------------------------------

def tokens_of(strings): return [TokenLogprob(s, -0.5, ((s, -0.5),)) for s in strings]


@pytest.mark.parametrize('strings', [
    ['Ann', ' 🧮', ' 3'], ['Ann', r'bytes: \xf0\x9f', r'bytes:\xa7\xae', ' 3'], ['▁Ann', '▁', '<0xF0>', '<0x9F>', '<0xA7>', '<0xAE>', '▁3'],
    ['Ann', 'ĠðŁ', '§', '®', 'Ġ3'], ['Ann', ' \ufffd', '\ufffd', ' 3'], ['Ann', ' ', '\ufffd', '\ufffd', '\ufffd', '\ufffd', ' ', '3'],
    [' Ann', ' \ufffd\ufffd', '', ' 3', ''], ['So: ', 'Ann', ' 🧮', ' 3', '\n\n', 'Q:']], ids=range(8))
def test_tokens_are_found_however_a_server_writes_them(strings):
    teacher = TeacherTokens.from_logprobs([tokens_of(strings)], ['Ann 🧮 3'])
    assert not teacher.unaligned
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
        assert sum(bool(n) for n in teacher.spans.lengths) == placed and not teacher.unaligned
        for row, example in enumerate(examples):
            if teacher.spans.lengths[row]: assert example.target.startswith(''.join(teacher.spans.pieces(row)).strip())
            if teacher.spans.lengths[row]: assert len(''.join(teacher.spans.pieces(row))) > len('3 + 8 = 11')


def test_tokens_of_another_text_give_no_targets():
    teacher = TeacherTokens.from_logprobs([tokens_of(['no', ' such']), tokens_of(['The', ' answer']), []], ['The answer', 'The answer', 'The answer'])
    soft = soft_labels(teacher, TOKENIZERS['cotkit-large'])
    assert soft.unaligned == (0,) and 'unaligned' in repr(soft)
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
    if teacher.unaligned or not strings: return
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


@pytest.mark.parametrize('rest', TAIL_MODES)
@pytest.mark.parametrize('names', [('cotkit-large', 'cotkit'), ('cotkit', 'cotkit-large'), ('llama', 'cotkit-large'), ('cotkit-large', 'llama'), ('gpt2', 't5'), ('cotkit-large', 'sentencepiece'), ('sentencepiece', 'cotkit-large')])
def test_soft_targets_are_the_naive_ones(names, rest):
    teacher_tokenizer, student_tokenizer = (TOKENIZERS[n] for n in names)
    texts = [RATIONALE, 'The answer is 11.', 'Ann has 3 apples']
    teacher_strings = [[(b' ' + t.encode())[s + 1:e + 1].decode() for s, e in row] for t, row in zip(texts, rows_of(target_spans(teacher_tokenizer, texts, end=False)))]
    vocabulary = [s for s in {teacher_tokenizer.decode([0, i])[len(teacher_tokenizer.decode([0])):] for i in range(len(teacher_tokenizer))} if '\ufffd' not in s and s]
    logprobs = [random_logprobs(strings, sorted(vocabulary), seed) for seed, strings in enumerate(teacher_strings)]
    soft = soft_labels(TeacherTokens.from_logprobs(logprobs, texts), student_tokenizer, tail_mode=rest)
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
    soft = soft_labels(TeacherTokens.from_logprobs(logprobs, ['The answer']), tokenizer)
    names = [{tokenizer.convert_ids_to_tokens(int(i)): round(float(p), 3) for i, p in zip(*row) if p} for row in zip(soft.ids, soft.probabilities)]
    assert names[0] == {'the': 0.875}
    assert names[1] == {'answer': 0.5, '##s': 0.2, 's': 0.1, '.': 0.1}


def test_special_tokens_are_text_to_a_student():
    logprobs = [[TokenLogprob('The', math.log(.5), (('</s>', math.log(.3)), ('<unk>', math.log(.1))))]]
    for name in ('cotkit-large', 'bert', 't5', 'llama'):
        soft = soft_labels(TeacherTokens.from_logprobs(logprobs, ['The']), TOKENIZERS[name])
        assert not set(soft.ids[soft.probabilities > 0][:-1].tolist()) & {TOKENIZERS[name].unk_token_id}
        assert soft.ids[:-1][soft.probabilities[:-1] > 0].tolist().count(TOKENIZERS[name].eos_token_id) == 0


def test_probabilities_above_one_are_scaled_and_nothing_is_negative():
    logprobs = [[TokenLogprob('The', 0.0, (('The', 0.0), (' answer', -0.1), ('.', -9999.0)))]]
    soft = soft_labels(TeacherTokens.from_logprobs(logprobs, ['The']), TOKENIZERS['cotkit-large'])
    assert (soft.probabilities >= 0).all() and (soft.tail >= 0).all() and np.allclose(soft.probabilities.sum(1) + soft.tail, 1)
    with pytest.raises(CotkitError, match='restrict'): soft_labels(TeacherTokens.from_logprobs(logprobs, ['The']), TOKENIZERS['cotkit'], tail_mode='drop')


# -- the end --------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('names', [('cotkit', 'cotkit-large'), ('llama', 'cotkit'), ('cotkit-large', 'sentencepiece'), ('t5', 'gpt2'), ('cotkit', 'bert')])
@pytest.mark.parametrize('arch', ['causal', 'seq2seq'])
def test_a_live_teacher_says_how_sure_it_is_of_the_end(names, arch):
    "The student's end of sequence gets the teacher's probability of its own, at the end and wherever else the teacher might have ended"
    teacher_tokenizer, student_tokenizer = (TOKENIZERS[n] for n in names)
    model = build_model('nano', teacher_tokenizer, arch)
    written = ['The answer is 11.', RATIONALE]
    scored = teacher_logprobs(TeacherModel(model, teacher_tokenizer, arch), ['How many?', 'And now?'], written, len(teacher_tokenizer))
    soft = soft_labels(scored, student_tokenizer, arch)
    student = target_spans(student_tokenizer, written, arch)
    for row, asked in enumerate(['How many?', 'And now?']):
        read, [ids] = teacher_tokenizer(asked).input_ids, tokenize_targets(teacher_tokenizer, [written[row]], arch)
        with torch.no_grad():
            if arch == 'causal': logits = model(torch.tensor([read + ids])).logits[0, len(read) - 1:-1]
            else: logits = model(input_ids=torch.tensor([read]), labels=torch.tensor([ids])).logits[0]
        end = logits.softmax(-1)[:, teacher_tokenizer.eos_token_id]
        at = soft.splits[row + 1] - 1
        assert soft.has_target[at] and soft.ids[at, 0] == student_tokenizer.eos_token_id and soft.probabilities[at, 0] == pytest.approx(end[-1].item(), rel=1e-4)
        t, s = (o - spans.splits[row] for o, spans in zip(align(scored.spans, student).pairs, (scored.spans, student)))
        for a, b in zip(t, s):
            if not (0 <= a < scored.spans.lengths[row] and 0 <= b < student.lengths[row]): continue
            position = soft.splits[row] + b
            listed = soft.probabilities[position][soft.ids[position] == student_tokenizer.eos_token_id]
            assert listed.max() == pytest.approx(end[a].item(), rel=1e-4)


def doubtful(strings, end='</s>'):
    return [TokenLogprob(o, math.log(.5), ((o, math.log(.5)), (end, math.log(.25)))) for o in strings]


@pytest.mark.parametrize('end', ['</s>', '<|im_end|>', '<|eot_id|>', '<｜end▁of▁sentence｜>'])
@pytest.mark.parametrize('arch', ['causal', 'seq2seq'])
def test_a_listed_end_token_is_the_end(end, arch):
    tokenizer = TOKENIZERS['cotkit-large' if arch == 'causal' else 'cotkit-t5']
    soft = soft_labels(TeacherTokens.from_logprobs([doubtful(['The', ' answer', end], end)], ['The answer']), tokenizer, arch)
    assert soft.has_target[-1] and soft.ids[-1, 0] == tokenizer.eos_token_id
    assert soft.probabilities[-1].sum() == soft.probabilities[-1, 0] == pytest.approx(0.5) and soft.tail[-1] == pytest.approx(0.5)
    before = soft.ids[-2][soft.probabilities[-2] > 0].tolist()
    assert before[1:] == [tokenizer.eos_token_id] and soft.probabilities[-2, :2].tolist() == pytest.approx([0.5, 0.25])


@pytest.mark.parametrize('strings, target', [
    (['The', ' answer'], 'The answer'),                              # not listed
    (['The', ' answer', '</s>'], 'The answer is 11.'),               # the target goes on
    (['The', ' answer', '\n\n', 'Q:', '</s>'], 'The answer'),        # the reply went on
    (['The', ' answer', ' end'], 'The answer'),                      # a word
    (['The', ' answer', '</s>'], 'The answer</s>'),                  # text
    (['</s>'], ''), ([], 'The answer')], ids=range(7))
def test_an_end_of_another_text_is_none(strings, target):
    teacher = TeacherTokens.from_logprobs([doubtful(strings, 'x')], [target])
    assert teacher.ends.tolist() == [-1] and not soft_labels(teacher, TOKENIZERS['cotkit-large']).has_target[-1]


@quick
@given(texts=st.lists(texts, min_size=1, max_size=4), one=st.sampled_from(list(TOKENIZERS)), other=st.sampled_from(list(TOKENIZERS)))
def test_ends_match_whatever_the_text(texts, one, other):
    spans = target_spans(TOKENIZERS[one], texts)
    teacher = TeacherTokens(spans, [b''] * len(TOKENIZERS[one]), spans.ids[:, None], np.full((len(spans.ids), 1), math.log(.5)), spans.splits[1:] - 1)
    soft = soft_labels(teacher, TOKENIZERS[other])
    last = soft.splits[1:] - 1
    assert soft.has_target[last].all() and np.allclose(soft.probabilities[last, 0], 0.5) and (soft.ids[last, 0] == TOKENIZERS[other].eos_token_id).all()


@pytest.mark.parametrize('arch,name', [('causal', 'cotkit-large'), ('seq2seq', 'cotkit-t5')])
def test_batches_carry_their_own_rows(arch, name):
    tokenizer, texts = TOKENIZERS[name], ['The answer is 11.', RATIONALE, 'Ann has 3 apples.']
    teacher = TeacherTokens.from_logprobs([random_logprobs(token_spans(TOKENIZERS['cotkit'], t).pieces(), WORDS, i) for i, t in enumerate(texts)], texts)
    soft = soft_labels(teacher, tokenizer, arch)
    rows = encode([Example('How many?', t) for t in texts], tokenizer, arch)
    pad, mixed = Collator(tokenizer, arch, multiple=8), [rows[2], rows[0]]
    batch = SoftTargets(soft).collate(pad(mixed), mixed)
    for row, e in zip(range(2), (2, 0)):
        marked, part = batch['labels'][row] != IGNORE_INDEX, slice(soft.splits[e], soft.splits[e + 1])
        assert torch.equal(batch['indices'][row][marked], torch.from_numpy(soft.ids[part].astype(np.int64)))
        assert torch.equal(batch['probabilities'][row][marked], torch.from_numpy(soft.probabilities[part]))
        assert torch.equal(batch['tail'][row][marked], torch.from_numpy(soft.tail[part]))
        assert torch.equal(batch['has_target'][row][marked], torch.from_numpy(soft.has_target[part]))
        assert not batch['probabilities'][row][~marked].any() and not batch['has_target'][row][~marked].any()
    assert batch['indices'].dtype == torch.int64 and batch['indices'].shape[:2] == batch['labels'].shape == batch['tail'].shape
    other = soft_labels(teacher, TOKENIZERS['llama'], arch)
    with pytest.raises(CotkitError, match='not those of these examples'): SoftTargets(other).collate(pad([rows[0]]), [rows[0]])


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
@pytest.mark.parametrize('rest', TAIL_MODES)
def test_losses_and_gradients_are_the_naive_ones(divergence, rest):
    for seed in range(3):
        ids, p, tail = random_targets(seed, rest=rest)
        logits = torch.from_numpy(np.random.default_rng(seed + 9).normal(size=(5, 11))*2).requires_grad_()
        losses = topk_divergence(logits, ids, p, tail, divergence)
        expected = [naive(row, {int(i): float(x) for i, x in zip(a, b) if x > 0}, float(c), divergence) for row, a, b, c in zip(logits.detach(), ids, p, tail)]
        assert losses.tolist() == pytest.approx(expected, rel=1e-9)
        assert torch.autograd.gradcheck(lambda x: topk_divergence(x, ids, p, tail, divergence), (logits,))


def test_gradients_are_those_of_a_dense_softmax():
    "Forward divergence with a tail, written densely: the tail's gradient is spread as the student spreads its own"
    ids, p, tail = random_targets(0)
    logits = torch.randn(5, 11, dtype=torch.float64, requires_grad=True)
    [found] = torch.autograd.grad(topk_divergence(logits, ids, p, tail).sum(), logits)
    q = logits.detach().softmax(-1)
    listed = torch.zeros_like(q).scatter_add(1, ids, p)
    others = (listed == 0)*q
    assert torch.allclose(found, q - listed - tail[:, None]*others/others.sum(1, keepdim=True))


def test_one_hot_targets_are_cross_entropy_and_nothing_listed_is_nothing():
    logits, labels = torch.randn(2, 3, 7), torch.randint(7, (2, 3))
    p = torch.zeros(2, 3, 2)
    p[..., 0] = 1
    p[1, 2] = 0
    losses = topk_divergence(logits, labels[..., None].expand(2, 3, 2), p)
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction='none').view(2, 3)
    expected[1, 2] = 0
    assert torch.allclose(losses, expected, atol=1e-6)
    for divergence in DIVERGENCES: assert topk_divergence(logits, labels[..., None].expand(2, 3, 2), p, torch.zeros(2, 3), divergence)[1, 2] == 0


def test_restricting_is_renormalising_weighed_by_what_arrived():
    ids, p, _ = random_targets(1)
    logits = torch.randn(5, 11, dtype=torch.float64, requires_grad=True)
    m = p.sum(1, keepdim=True)
    [restricted] = torch.autograd.grad(topk_divergence(logits, ids, p).sum(), logits)
    [renormalised] = torch.autograd.grad(topk_divergence(logits, ids, p/m).sum(), logits)
    assert torch.allclose(restricted, m*renormalised)


@pytest.mark.parametrize('divergence', ['forward', 'jensen-shannon'])
def test_the_tail_never_says_more_than_the_whole_distribution(divergence):
    teacher, student = torch.randn(2, 40, 30, dtype=torch.float64).mul(2)
    p = teacher.softmax(-1)
    last = torch.zeros(40, dtype=torch.float64)
    for k in (1, 3, 10, 29):
        top, ids = p.topk(k)
        loss = topk_divergence(student, ids, top, 1 - top.sum(-1), divergence)
        assert (loss >= last - 1e-9).all() and (loss <= full_divergence(student, teacher, divergence) + 1e-9).all()
        last = loss


@pytest.mark.parametrize('divergence', DIVERGENCES)
def test_the_whole_vocabulary(divergence):
    student = torch.randn(4, 9, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(4, 12, dtype=torch.float64)
    p, q = teacher[:, :9].softmax(-1), student.softmax(-1)
    kl = lambda a, b: (a*(a/b).log()).sum(-1)
    expected = {'forward': kl(p, q), 'reverse': kl(q, p), 'jensen-shannon': (kl(p, (p + q)/2) + kl(q, (p + q)/2))/2}[divergence]
    assert torch.allclose(full_divergence(student, teacher, divergence), expected)
    assert torch.autograd.gradcheck(lambda x: full_divergence(x, teacher, divergence, temperature=2.0), (student,))
    with pytest.raises(CotkitError, match='jensen-shannon'): full_divergence(student, teacher, 'backward')


@pytest.mark.parametrize('divergence', DIVERGENCES)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_a_sure_student_has_finite_gradients(divergence, dtype):
    "Probabilities that underflow give no infinities"
    logits = torch.zeros(2, 50, dtype=dtype)
    logits[:, 3], logits[:, 4] = 300, -300
    logits.requires_grad_()
    ids, p = torch.tensor([[3, 4, 3], [4, 5, 4]]), torch.tensor([[0.9, 0.1, 0.0], [0.5, 0.5, 0.0]])
    for tail in (None, torch.zeros(2), torch.tensor([0.0, 0.2])):
        loss = topk_divergence(logits, ids, p, tail, divergence)
        [gradient] = torch.autograd.grad(loss.sum(), logits)
        assert loss.isfinite().all() and gradient.isfinite().all()


# -- a teacher in memory --------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('arch', ['causal', 'seq2seq'])
def test_scores_are_those_of_one_text_at_a_time(arch):
    tokenizer = train_tokenizer(TEXTS, arch, vocab_size=300)
    model = build_model('nano', tokenizer, arch)
    inputs, targets = ['How many?', 'And how many apples are there?', 'Now?'], [RATIONALE, 'The answer is 11.', 'Ann']
    scored = teacher_logprobs(TeacherModel(model, tokenizer, arch), inputs, targets, 4, batch_size=2)
    assert scored.top.shape[1] == 5
    for i, (asked, written) in enumerate(zip(inputs, targets)):
        read, [ids] = tokenizer(asked).input_ids, tokenize_targets(tokenizer, [written], arch)
        with torch.no_grad():
            if arch == 'causal': logits = model(torch.tensor([read + ids])).logits[0, len(read) - 1:-1]
            else: logits = model(input_ids=torch.tensor([read]), labels=torch.tensor([ids])).logits[0]
        expected, part = logits.log_softmax(-1), slice(scored.spans.splits[i], scored.spans.splits[i + 1])
        assert scored.top[part, 0].tolist() == ids and scored.ends[i] == part.stop - 1
        assert np.allclose(np.take_along_axis(expected.numpy(), scored.top[part], 1), scored.logprobs[part], atol=1e-4)
        for row, own, likely in zip(expected, ids, scored.top[part]):
            assert set(likely[1:].tolist()) == set(row.scatter(0, torch.tensor(own), -torch.inf).topk(4).indices.tolist())


def test_with_one_tokenizer_and_all_tokens_listed_it_is_the_full_divergence():
    tokenizer = train_tokenizer(TEXTS, vocab_size=270)
    teacher, student = build_model('nano', tokenizer, init_seed=1), build_model('nano', tokenizer, init_seed=2)
    for model in (teacher, student):
        with torch.no_grad(): [p.mul_(3) for p in model.parameters()]
    asked, written = 'How many?', 'The answer is 11.'
    scored = teacher_logprobs(TeacherModel(teacher, tokenizer), [asked], [written], len(tokenizer))
    soft = soft_labels(scored, tokenizer, tail_mode='renormalise')
    assert soft.coverage == 1
    ids = tokenizer(asked).input_ids + tokenize_targets(tokenizer, [written])[0]
    with torch.no_grad(): ours, theirs = (m(torch.tensor([ids])).logits[0, -len(soft.ids) - 1:-1] for m in (student, teacher))
    sparse = topk_divergence(ours, torch.from_numpy(soft.ids.astype(np.int64)), torch.from_numpy(soft.probabilities))
    assert torch.allclose(sparse, full_divergence(ours, theirs), atol=0.02, rtol=0.02) and sparse.min() > 0.05
