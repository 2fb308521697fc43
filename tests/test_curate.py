"Curation: what is cut, what is dropped, and that nothing is lost on the way"
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from cotkit.data.core import CotkitError, Problem, Rationale, TokenLogprob, read_jsonl, write_jsonl
from cotkit.teachers.curate import PRESETS, REASONS, Dropped, NoReasoning, OverQuota, curate, majority_vote, read_rationale, training_span
from cotkit.data.formats import StepByStep, ZeroShotCoT, contaminated

DATA = Path(__file__).resolve().parents[2] / 'shared' / 'data'
FORMAT = ZeroShotCoT()
APPLES = Problem('apples-1', 'Ann has 3 apples. She buys 4 bags with 2 apples each. How many apples does Ann have now?', '11')
SUBJECT = Problem('subject', 'What do you solve in maths?', 'math problem', 'choice', ('doctor', 'fractions', 'a lesson', 'math problem'))
GOOD = 'The bags hold 4 * 2 = 8 apples. So Ann has 3 + 8 = 11 apples. The answer is 11.'


def about(text, problem=APPLES, **fields): return Rationale(problem.id, text, **fields)


def reasons(*texts, problem=APPLES, **options):
    "The verdict on each text, in order; `kept` for those that are taught"
    said = [about(text, problem, sample=i, request=f'key {i}') for i, text in enumerate(texts)]
    curated = curate(said, [problem], FORMAT, **options)
    verdicts = {d.rationale.sample: d.reason for d in curated.dropped} | {r.sample: 'kept' for r in curated.kept}
    return [verdicts[i] for i in range(len(texts))]


@pytest.mark.parametrize('raw, taught', [
    ('Of the above, only math problem fits. So the answer is (d) math problem.\n\nQ: What is next?\nA: So the answer is (a) doctor.', 'Of the above, only math problem fits. So the answer is (d) math problem.'),
    ('It is what you solve. The answer is (d) math problem. I hope this helps!', 'It is what you solve. The answer is (d) math problem.'),
    ('  It is what you solve.\n#### math problem\nDone.', 'It is what you solve.\n#### math problem'),
    ('It is what you solve. The answer is Math Problem', 'It is what you solve. The answer is Math Problem'),
    ('Surely the math problem is what one solves', 'Surely the math problem is what one solves'),
])
def test_text_ends_where_the_answer_ends(raw, taught):
    read = read_rationale(about(raw, SUBJECT), SUBJECT, FORMAT)
    assert read.text == taught
    assert read.answer == 'math problem' and read.correct


def test_expressions_keep_their_brackets():
    junk = Problem('junk', 'How many pieces?', '( ( 16.0 * 17.0 ) * 4.0 )', 'expression')
    read = read_rationale(about('16 * 17 houses. The answer is (16 * 17) * 4.\n\nQ: Next', junk), junk, FORMAT)
    assert read.correct and read.text.endswith('The answer is (16 * 17) * 4.')


def test_decimal_point_does_not_end_the_answer():
    price = Problem('price', 'What does it cost?', '2.50')
    read = read_rationale(about('Half of 5 dollars. The answer is $2.50. Good luck.', price), price, FORMAT)
    assert read.correct and read.text == 'Half of 5 dollars. The answer is $2.50.'


@pytest.mark.parametrize('text, reason', [
    (GOOD, 'kept'), ('', 'empty'), ('  \n ', 'empty'), ('\n\nQ: What else?\nA: The answer is 11.', 'empty'),
    ('I cannot say.', 'unparsed'), ('Ann has 9 apples now I think. The answer is 9.', 'wrong'),
    ('The answer is 11.', 'no reasoning'), ('11. The answer is 11.', 'no reasoning'), ('11', 'no reasoning')])
def test_reasons(text, reason): assert reasons(text) == [reason]


def test_keep_excuses_only_what_it_says():
    texts = [GOOD, 'Ann has 9 apples now I think. The answer is 9.', 'I cannot say.', 'The answer is 11.', '']
    assert reasons(*texts) == ['kept', 'wrong', 'unparsed', 'no reasoning', 'empty']
    assert reasons(*texts, keep='parsed') == ['kept', 'kept', 'unparsed', 'no reasoning', 'empty']
    assert reasons(*texts, keep='all') == ['kept', 'kept', 'kept', 'kept', 'empty']
    with pytest.raises(CotkitError, match='correct, parsed, all'): curate([about(GOOD)], [APPLES], FORMAT, keep='right')


def test_bare_numbers_are_kept_when_asked():
    assert reasons('The answer is 11.', filters=[NoReasoning(0)]) == ['kept']


def test_duplicates_are_told_by_normalised_text_and_problem():
    assert reasons(GOOD, GOOD.upper(), GOOD.replace('. ', '.\n '), GOOD.replace('So ', 'Then ')) == ['kept', 'duplicate', 'duplicate', 'kept']
    twin = dataclasses.replace(APPLES, id='apples-2')
    assert len(curate([about(GOOD), about(GOOD, twin)], [APPLES, twin], FORMAT).kept) == 2


def test_operators_and_decimals_tell_rationales_apart():
    assert reasons('She has 3 + 8 = 11. The answer is 11.', 'She has 3 * 8 = 11. The answer is 11.', filters=[NoReasoning(0)]) == ['kept', 'kept']
    assert reasons('She has 1.5 and 9.5 then. The answer is 11.', 'She has 15 and 95 then. The answer is 11.') == ['kept', 'kept']


def test_per_problem_takes_the_first():
    assert reasons(*[f'{i} words of thought here. The answer is 11.' for i in range(4)], filters=[OverQuota(2)]) == ['kept', 'kept', 'over quota', 'over quota']


def test_truncated_is_told_from_a_run_on_by_how_the_completion_ended():
    "Nobody has to pass a limit: the rationale knows how it ended"
    sum_in_the_middle = 'The bags hold 4 * 2 = 8 apples. So Ann has 3 + 11'
    run_on = f'{GOOD}\n\nQ: Ben has'
    assert reasons(sum_in_the_middle, run_on) == ['kept', 'kept']
    ended = [about(text, sample=i, finish_reason='length') for i, text in enumerate((sum_in_the_middle, run_on))]
    for keep in ('correct', 'parsed'):
        curated = curate(ended, [APPLES], FORMAT, keep=keep)
        assert curated.by_reason() == {'truncated': 1} and [r.sample for r in curated.kept] == [1]
    assert len(curate(ended, [APPLES], FORMAT, keep='all').kept) == 2


def test_a_sum_at_the_limit_is_no_answer_even_if_it_is_the_right_number():
    twelve = Problem('p', 'How many?', '12')
    cut = Rationale('p', 'There are 3 bags with 4 apples each, so we compute 3 * 4 = 12', finish_reason='length')
    assert curate([cut], [twelve], FORMAT).by_reason() == {'truncated': 1}


def test_rationales_without_a_finish_reason_are_read_as_before():
    old = {'problem_id': 'apples-1', 'text': GOOD, 'answer': None, 'correct': None, 'sample': 0, 'teacher': 't', 'request': 'k', 'logprobs': [], 'tokens': 16}
    assert len(curate([Rationale.from_dict(old)], [APPLES], FORMAT).kept) == 1


def test_thinking_in_an_old_text_is_not_taught():
    "Stores from before thinking was kept apart have it in the text"
    raw = 'Maybe the answer is 12.\n</think>\n\nSo Ann has 3 + 8 = 11 apples. The answer is 11.'
    read = read_rationale(about(raw), APPLES, FORMAT)
    assert read.text == 'So Ann has 3 + 8 = 11 apples. The answer is 11.' and read.correct and 'Maybe' in read.thinking
    assert reasons('<think>\nOkay, 3 + 8. The answer is 11? Let me check') == ['empty']


def test_a_lenient_reading_needs_a_gold_answer():
    "Where nobody can check the number, it must be stated as the answer"
    unlabelled = dataclasses.replace(APPLES, answer='')
    sorry = "I'm sorry, but I can't help with that. My knowledge ends in 2021."
    assert reasons(sorry, GOOD, problem=unlabelled, keep='parsed') == ['unstated', 'kept']
    assert reasons('So Ann has 3 + 8 = 11 apples', keep='parsed') == ['kept']


def test_a_list_of_filters_decides():
    texts = [GOOD, 'Ann has 9 apples now I think. The answer is 9.', 'The answer is 11.']
    assert reasons(*texts, keep=[]) == ['kept'] * 3
    assert reasons(*texts, keep=['wrong']) == ['kept', 'wrong', 'kept']
    assert reasons(*texts, keep=['no_reasoning', {'filter': 'no_reasoning', 'min_words': 100}]) == ['no reasoning'] * 3
    with pytest.raises(CotkitError, match='no filter .unparsd.*Did you mean unparsed'): reasons(GOOD, keep=['unparsd'])
    with pytest.raises(CotkitError, match='It has: per_problem'): reasons(GOOD, filters=[{'filter': 'over_quota', 'most': 2}])
    with pytest.raises(CotkitError, match='It has: none'): reasons(GOOD, filters=[{'filter': 'wrong', 'most': 2}])


def test_filters_of_ones_own_survive_save_and_load_in_another_process(tmp_path):
    (tmp_path/'mine.py').write_text('from dataclasses import dataclass\nfrom cotkit.teachers.curate import register_filter\n'
        '@register_filter\ndef shouted(reading): return "shouted" if reading.rationale.text.isupper() else None\n'
        '@register_filter("longer_than")\n@dataclass(frozen=True)\nclass LongerThan:\n    words: int = 5\n'
        '    def __call__(self, reading): return "too long" if len(reading.rationale.text.split()) > self.words else None\n')
    program = ('import json, sys; sys.path.insert(0, sys.argv[1]); import mine; from cotkit.teachers.curate import curate; '
               'from cotkit.data.core import Problem, Rationale; from cotkit.data.formats import ZeroShotCoT; '
               'c = curate([Rationale("p", "SO THE ANSWER IS 3."), Rationale("p", "we count one two three apples. The answer is 3.", sample=1)], [Problem("p", "How many?", "3")], '
               'ZeroShotCoT(), keep=[], filters=%s); print(json.dumps([c.to_dict()["filters"], c.by_reason()]))')
    def run(filters):
        ran = subprocess.run([sys.executable, '-c', program % filters, str(tmp_path)], capture_output=True, text=True)
        return json.loads(ran.stdout)
    saved, found = run('[mine.shouted, mine.LongerThan(words=4)]')
    assert saved == [{'filter': 'shouted'}, {'filter': 'longer_than', 'words': 4}] and found == {'shouted': 1, 'too long': 1}
    assert run(saved) == [saved, found]


def test_test_questions_are_kept_out():
    test = Problem('test-1', '  ann HAS 3 apples; she buys 4 bags with 2 apples each. How many apples does Ann have now', '11')
    assert reasons(GOOD, held_out=[test]) == ['contaminated']
    assert contaminated([APPLES], [dataclasses.replace(test, question=test.question.replace('3', '4'))]) == set()


def test_numbers():
    said = [about(GOOD), about('Ann has 9 apples now I think. The answer is 9.', sample=1), about('Hm.', sample=2), about(GOOD, dataclasses.replace(APPLES, id='nobody'))]
    curated = curate(said, [APPLES, SUBJECT], FORMAT)
    row = json.loads(json.dumps(curated.to_dict()))
    assert row | {'rationales': 4, 'parsed': 2, 'correct': 1, 'kept': 1, 'problems': 2, 'covered': 1} == row
    assert row['accuracy'] == pytest.approx(1 / 3) and row['low'] < 1 / 3 < row['high']
    assert row['dropped'] == {'unknown problem': 1, 'unparsed': 1, 'wrong': 1}
    assert (curated.first.correct, curated.first.n) == (1, 1)
    assert '33.3 %' in curated._repr_html_() and len(repr(curated)) < 200


def test_accuracy_does_not_depend_on_what_is_kept():
    said = [about(t, sample=i) for i, t in enumerate([GOOD, GOOD, 'The answer is 9.', 'Hm.', ''])]
    found = [curate(said, [APPLES], FORMAT, keep=keep, filters=[OverQuota(n)] if n else []).accuracy for keep in ('correct', 'parsed', 'all') for n in (None, 1)]
    assert {(a.correct, a.n) for a in found} == {(2, 5)}


def test_nothing_to_curate_is_an_error():
    with pytest.raises(CotkitError, match='no rationale is about'): curate([], [APPLES], FORMAT)
    with pytest.raises(CotkitError, match='no rationale is about'): curate([about(GOOD, SUBJECT)], [APPLES], FORMAT)
    with pytest.raises(CotkitError, match='no rationale is about'): majority_vote([], [APPLES], FORMAT)


def test_dropped_survives_json():
    dropped = curate([about('The answer is 9.'), about(GOOD)], [APPLES], FORMAT).dropped[0]
    assert Dropped.from_dict(json.loads(json.dumps(dropped.to_dict()))) == dropped


def test_logprobs_follow_the_text():
    pieces = [' ', 'The', ' bags', ' hold', ' 11', '.', ' The', ' answer', ' is', ' 11', '.', '\n\n', 'Q:', ' Next']
    said = about(''.join(pieces), logprobs=tuple(TokenLogprob(p, -0.5) for p in pieces))
    read = read_rationale(said, APPLES, FORMAT)
    assert ''.join(t.token for t in read.logprobs) == read.text == 'The bags hold 11. The answer is 11.'
    foreign = dataclasses.replace(said, logprobs=said.logprobs[:3])
    assert read_rationale(foreign, APPLES, FORMAT).logprobs == foreign.logprobs


def test_majority_vote():
    say = lambda answers: [about(f'I think so indeed. The answer is {a}.' if a else 'Hm.', sample=i) for i, a in enumerate(answers)]
    vote = majority_vote(say(['9', '11', '11.0', '', '9']), [APPLES], FORMAT)
    assert vote.answers == {'apples-1': '9'} and vote.k == 5
    assert majority_vote(say(['9', '11', '11.0', '$11']), [APPLES], FORMAT).accuracy.correct == 1
    assert majority_vote(say(['9', '11', '11']), [APPLES], FORMAT, k=1).answers == {'apples-1': '9'}
    assert majority_vote(say(['9', '11', '11'])[::-1], [APPLES], FORMAT, k=1).answers == {'apples-1': '9'}
    half = dataclasses.replace(APPLES, answer='1/2')
    assert majority_vote(say(['9', '50%', '1/2']), [half], FORMAT).accuracy.correct == 1, 'answers vote by value'
    silent = majority_vote(say(['', '']), [APPLES], FORMAT)
    assert silent.answers == {'apples-1': None} and silent.accuracy.correct == 0 and silent.accuracy.n == 1


def test_step_by_step_format_curates_full_rationales():
    assert curate([about(GOOD)], [APPLES], StepByStep()).kept[0].text == GOOD


hostile = st.one_of(
    st.text(max_size=60),
    st.lists(st.sampled_from(['The answer is', 'So the answer is', '####', ' 11', ' 9', '.', '\n', '\n\nQ:', ' (a)', '\x00', '</script>', ' 4 * 2 = 8', '9' * 1200, 'I', '\u2028']), max_size=12).map(''.join))


@settings(max_examples=200, deadline=None)
@given(st.lists(hostile, min_size=1, max_size=6), st.sampled_from(['correct', 'parsed', 'all']), st.sampled_from([APPLES, SUBJECT]))
def test_every_rationale_ends_up_in_one_place(texts, keep, problem):
    said = [about(t, problem, sample=i) for i, t in enumerate(texts)]
    curated = curate(said, [problem], FORMAT, keep=keep)
    assert sorted([r.sample for r in curated.kept] + [d.rationale.sample for d in curated.dropped]) == list(range(len(texts)))
    assert all(d.reason in REASONS for d in curated.dropped)
    assert curated.counts['rationales'] == len(texts) == len(curated.kept) + sum(curated.counts['dropped'].values())
    for r in curated.kept:
        assert r.text and r.text in texts[r.sample] and r.text == r.text.strip()
        if keep != 'all': assert r.answer is not None
        if keep == 'correct': assert r.correct


@settings(max_examples=200, deadline=None)
@given(hostile, st.sampled_from([APPLES, SUBJECT]))
def test_reading_twice_changes_nothing(text, problem):
    once = read_rationale(about(text, problem), problem, FORMAT)
    assert read_rationale(once, problem, FORMAT) == once
    start, end = training_span(text, problem, FORMAT)
    assert 0 <= start <= end <= len(text)


@pytest.mark.skipif(not DATA.is_dir(), reason='real data are not beside this checkout')
@pytest.mark.parametrize('name, train, test', [('svamp', 74.3, 77.5), ('cqa', 75.3, 78.2)])
def test_recorded_teacher(name, train, test):
    "The 540B teacher of Distilling step-by-step: a correct reading of its recorded outputs, and clean cuts"
    from cotkit.data.tasks import load_task
    task = load_task(name, path=DATA / name)
    results = {}
    for split in task.splits:
        said = [Rationale(id, text, teacher='palm_540b') for id, text in task.recorded(split, 'palm_540b').items()]
        results[split] = curate(said, task[split], FORMAT)
        assert len(said) == len(task[split])
        for r in results[split].kept: assert '\nQ:' not in r.text and r.text.endswith('.')
    carved = [results[s].accuracy for s in results if s != 'test']
    assert 100 * sum(a.correct for a in carved) / sum(a.n for a in carved) == pytest.approx(train, abs=0.5)
    assert 100 * results['train'].accuracy.value == pytest.approx(train, abs=0.5)
    assert 100 * results['test'].accuracy.value == pytest.approx(test, abs=0.5)


def test_the_first_token_keeps_its_logprobs_when_only_its_space_is_cut():
    "A teacher's first token often begins with the space that curation strips"
    tokens = tuple(TokenLogprob(t, -0.5) for t in (' 4', ' *', ' 2', ' =', ' 8', '.', ' The', ' answer', ' is', ' 8', '.', '\n\n', 'Q:'))
    raw = Rationale('p', ''.join(t.token for t in tokens), logprobs=tokens)
    read = read_rationale(raw, Problem('p', 'How many?', '8'), ZeroShotCoT())
    assert read.text == raw.text.strip().removesuffix('\n\nQ:') and [t.token for t in read.logprobs] == [t.token for t in tokens[:-2]]


def test_without_gold_answers_nothing_is_right_or_wrong():
    unlabelled = dataclasses.replace(APPLES, answer='')
    said = [about(GOOD), about('The bags hold 4 * 2 = 9 apples, so 12. The answer is 12.'), about('I do not know how many apples she has.')]
    curated = curate(said, [unlabelled], FORMAT, keep='parsed')
    assert [r.answer for r in curated.kept] == ['11', '12'] and curated.by_reason() == {'unparsed': 1}
    assert {r.correct for r in curated.kept} == {None} and curated.accuracy is curated.first is None
    assert json.loads(json.dumps(curated.to_dict())) == {'rationales': 3, 'parsed': 2, 'kept': 2, 'problems': 1, 'covered': 1, 'dropped': {'unparsed': 1},
        'filters': [{'filter': name} | ({'min_words': 3} if name == 'no_reasoning' else {}) for name in PRESETS['parsed']]}
    assert 'accuracy' not in curated._repr_html_()
    with pytest.raises(CotkitError, match='no gold answers.*parsed'): curate(said, [unlabelled], FORMAT)
    half = curate([*said, about(GOOD, SUBJECT)], [unlabelled, SUBJECT], FORMAT, keep='all')
    assert half.accuracy.n == 1 and len(half.kept) == 4
    both = curate([*said, about(GOOD), about('It is what you solve. The answer is (d) math problem.', SUBJECT)], [unlabelled, SUBJECT], FORMAT)
    assert [r.problem_id for r in both.kept] == ['subject'] and both.by_reason() == {'unparsed': 1, 'no gold answer': 3}


def test_the_command_line_drops_what_a_server_truncated(tmp_path, monkeypatch, capsys):
    "From the reply's finish_reason to the reason in the summary: nobody passes a limit"
    from cotkit.app.cli import main
    from loopback import Loopback, Raw
    monkeypatch.chdir(tmp_path)
    rows = [{'id': str(n), 'question': f'There are 3 bags with {n} apples each. How many apples?', 'answer': str(3 * n)} for n in (4, 5)]
    write_jsonl('easy.jsonl', rows)
    def plan(n, body):
        cut = ' 4 ' in body['messages'][-1]['content']
        text = 'There are 3 bags with 4 apples each, so we compute 3 * 4 = 12' if cut else 'There are 3 * 5 = 15 apples. The answer is 15.'
        return Raw(json.dumps({'choices': [{'finish_reason': 'length' if cut else 'stop', 'message': {'content': text}}]}))
    with Loopback(plan) as server:
        assert main(f'collect --task easy.jsonl --model tiny --base-url {server.base_url} --json'.split()) == 0
    assert {r['finish_reason'] for r in read_jsonl('rationales.jsonl')} == {'length', 'stop'}
    assert main('curate --task easy.jsonl --rationales rationales.jsonl --out kept.jsonl --json'.split()) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said['dropped'] == {'truncated': 1} and [r['problem_id'] for r in read_jsonl('kept.jsonl')] == ['5']
