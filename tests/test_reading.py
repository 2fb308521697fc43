"What a careful person would read, kind by kind: many ways to write one answer, and texts that state none"
import gzip
import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotkit.data.answers import is_correct, same_answer
from cotkit.data.completion import cut_run_on, stated_part, without_thinking
from cotkit.data.core import Problem, Rationale
from cotkit.data.formats import ZeroShotCoT, format_from_dict
from cotkit.data.notation import even_out, even_out_with_places
from cotkit.data.reading import read_answer

DATA = Path(__file__).resolve().parent.parent.parent/'shared'/'data'
DEEDS, LABELS, NLI = ('ignore', 'enforce', 'authoritarian', 'yell at'), ('yes', 'no'), ('entailment', 'neutral', 'contradiction')


def value(text, kind='number', choices=()):
    answer = read_answer(text, kind, choices)
    return answer and answer.value


def stated(text, kind='number', choices=()): return value(f'The answer is {text}', kind, choices)


# numbers

WRITTEN = {  # value: ways to state it
    '3/4': [r'$\frac{3}{4}$', r'$\dfrac34$', r'$\tfrac{3}{4}$.', r'$\frac 3 4$', r'$\frac{3}4$', r'$\frac3{4}$', '3/4', '¾', '3⁄4', '0.75', '75e-2', '0,75 kg', r'\boxed{\frac{3}{4}}'],
    '-3/4': [r'$-\frac{3}{4}$', r'$\frac{-3}{4}$', 'negative 3/4', '−3/4', 'minus 0.75'],
    '12': ['3 + 8 = 12', '3 + 8 = 12 apples', '4 * 2 = 8, 8 + 3 = 12', 'x = 12', 'x = 24 / 2', 'x = 24 / 2 = 12', '3 * 4'],
    '3/2': [r'$1\frac{1}{2}$ hours.', '1 1/2 hours', '1½', '1 ½ hours', '1 and 1/2 hours', '1.5', '1,5 hours'],
    '-3/2': [r'$-1\frac{1}{2}$', '-1 1/2', '−1½'],
    '18': ['18', '18.', '$18', '18 dollars', '€18', '18€', '£18', 'Rs. 18', 'Rs 18', '₹18', 'US$18', 'R$ 18', 'USD 18', '18 apples.', '**18**', '__18__', '`18`', '"18"', '<b>18</b>', r'$\boxed{18}$', r'\boxed{\text{18 apples}}',
           r'$\mathbf{18}$', r'\(18\).', r'\[18\]', r'$x = 18$', '3 x 6 = 18', '= 18', '~18', '≈ 18', r'$\approx 18$', '18 (eighteen)', '18, not 20', r'$18 \text{ cm}$', '18 km/h', '18 m²', '18 cm^2', r'\$18', '[18]', '#18', '$18.00 per day', r'$\left(18\right)$', '18°'],
    '-5': ['-5', '−5', '–5', '‑5', 'minus 5', 'Negative 5', '-$5', '$-5', '- 5', 'about minus 5'],
    '1440': ['1,440', '1440', "1'440", '1’440', '1 440', '1\u202f440', '$1{,}440$', r'$1\,440$', '1.44 thousand', '1.44e3', '1.44 × 10³', r'$1.44 \times 10^{3}$', '1.44 x 10^3'],
    '2500000': ['2.5 million', '2,500,000', '2.500.000', '2 500 000', '25e5', '$2.5 million', '2.5E6', '$2.5M'],
    '2881/2': ['1,440.50', '1.440,50 €', '1 440,50', '1440.5'],
    '1234567': ['12,34,567', '1,234,567', '1.234.567'],
    '18%': ['18%', '18 %', '18 percent', '18 per cent', '18％', r'$18\%$'],
    '300000000': [r'$3 \times 10^{8}$', r'$3\cdot10^{8}$', '3x10^8', '3 × 10⁸ m/s', '3e8', '300 million'],
    '1/500': ['2 × 10⁻³', '2e-3', '0.002', '0,002', r'$2 \times 10^{-3}$'], '1024': ['$2^{10}$', '2^10', '$2^{10} = 1024$'], '4': [r'$\sqrt{16} = 4$']}


@pytest.mark.parametrize('right, text', [(right, text) for right, texts in WRITTEN.items() for text in texts])
def test_one_number_is_written_in_many_ways(right, text):
    assert stated(text) == right and value(f'**Answer:** {text}') == right


@pytest.mark.parametrize('text', ['5-10', '5–10', '5—10', '5 to 10', 'from 5 to 10', 'between 5 and 10', '5-10 apples', '$5-$10', '5 or 6', 'either 5 or 6', '3, 5, and 7', '± 5', '5 ± 1', '+/- 5', 'plus or minus 5', r'$\pm 5$', 'x = 3 or x = -3', 'x = 3, x = -3', 'x=3 and y=5',
                                  '(3, 5)', '2:30', '1:2', '5/6/2024', '2024-05-06', '1.2.3', '192.168.1.1', 'x > 5', 'less than 5', 'not 18', 'unknown, since 3 of them left', 'cannot be determined from the 3 facts', 'not clear: 5 or 6', r'$\sqrt{2}$', r'$2\sqrt{3}$', '√16', '3π', r'$3\pi$',
                                  'AZYUK2A', 'B-12', 'COVID-19', 'A4', 'v2.0', 'x2', '18? No, wait: 20.', '3 or, if she sleeps, 4', '5~10', '5 ~ 10', '5 through 10', '5 & 10', '2 to 1', '5%-10%', '5% to 10%', '-5 to 5', '3,5-4,5', '3,4,5', '3,5 and 4,5', "isn't 5", 'neither 5 nor 6', '1a2b', '0x1F', '2 hundred 5', r'\boxed{3 \text{ or } 4}', r'\boxed{(3,4)}', '∞', '5; 10'])
def test_what_hedges_or_is_no_number_states_none(text): assert stated(text) is None


@pytest.mark.parametrize('text', ['It takes 5-10 minutes', 'It takes 5 to 10 minutes', 'x = 3 or x = -3', 'Le prix est de 2:30', 'so it is 3π'])
def test_what_hedges_without_a_marker(text): assert value(text) is None


NUMBERS = st.fractions(min_value=-10**6, max_value=10**6, max_denominator=1).map(int)


@given(NUMBERS, st.sampled_from(['{:,}', '{}', '**{}**', r'$\boxed{{{}}}$', r'\boxed{{{}}}', '{} apples', '{:,} dollars.', '"{}"', r'\text{{{}}}', '{}.0', '{}.', '`{}`', '<b>{}</b>', '[{}]', '{} %']), st.sampled_from(['The answer is {}', '**Answer:** {}', '#### {}', 'Final answer: {}', 'So my answer is {}, of 7', 'Die Antwort ist {}', '答案：{}', '<answer>{}</answer>']))
def test_whole_numbers_in_every_form(number, form, marker):
    said = marker.format(form.format(number))
    assert (value(f'Of 77 some.\n{said}') or '').rstrip('%') == str(number), said


@given(st.integers(1, 999), st.integers(1, 99), st.integers(2, 99), st.booleans())
def test_mixed_numbers_and_fractions_in_latex(whole, top, bottom, negative):
    sign = '-' if negative else ''
    right = (-1 if negative else 1)*(whole + Fraction(top, bottom))
    assert Fraction(stated(rf'${sign}{whole}\frac{{{top}}}{{{bottom}}}$')) == right == Fraction(stated(f'{sign}{whole} {top}/{bottom} cups'))
    assert Fraction(stated(rf'${sign}\dfrac{{{top}}}{{{bottom}}}$')) == (-1 if negative else 1)*Fraction(top, bottom)


@given(st.integers(0, 10**6), st.integers(0, 99))
def test_decimal_commas_are_those_of_decimal_points(whole, cents):
    assert stated(f'{whole},{cents:02d} €') == str(Fraction(100*whole + cents, 100)) == stated(f'{whole}.{cents:02d} €')


@given(st.integers(1, 10**5), st.integers(1, 10**5))
def test_a_range_states_no_number(low, more):
    for joint in ('-', '–', ' to ', ' or '): assert stated(f'{low}{joint}{low + more} apples') is None


@settings(max_examples=200)
@given(st.text('0123456789.,-−–/^×⁰¹³½¾\' _$%\\{}fracboxedtimilonepruhs', max_size=40))
def test_places_belong_to_what_was_evened_out(text):
    plain, places = even_out_with_places(text)
    assert plain == even_out(text) and len(places) == len(plain) and all(0 <= a < b <= len(text) for a, b in places)


def test_a_tolerance_is_asked_for():
    third = Problem('p', 'q', '1/3')
    assert not is_correct(third, '0.333333') and is_correct(third, '0.333333', 1e-5) and not is_correct(third, '0.3', 1e-2) and same_answer('33.3%', '1/3', 'number', tolerance=1e-2)
    assert not same_answer('1', '1.1', 'number', tolerance=.05) and same_answer('-100', '-101', 'number', tolerance=.01) and not same_answer('b', 'a', 'text', tolerance=1)


# choices and labels

NAMED = ['B', 'b', '(B)', '(b)', '[B]', '{B}', '<B>', 'B.', 'B)', 'B:', '**B**', '**(B)**', '*B*', '`B`', '"B"', "'B'", '“B”', 'option B', 'Option B', 'Option (B)', 'choice B', 'letter B', 'B. enforce', 'B) enforce', '(B) enforce', '**B) enforce**', '**(B) enforce**.', 'B - enforce', 'B: enforce', 'B, enforce',
         'Option B: enforce', 'enforce', 'Enforce.', '"enforce"', '**enforce**', 'to enforce', 'enforce (B)', r'$\boxed{B}$', r'\boxed{b}', r'\boxed{\text{B}}', r'\boxed{(B)}', r'\boxed{\text{(B) enforce}}', r'$\mathbf{B}$', r'\(B\)', 'B since (a) is wrong', 'B, because a) and c) are wrong', 'definitely B',
         'most likely (B)', 'B!', '<b>B</b>', 'B, not A', '(B), not (A)', '(B) not (A)', '(B) enforce, not (A) ignore', 'not (A) but (B)', 'not ignore but enforce', '(B) and not (A)', 'Ｂ', '（B）', "for sure B, it can't be A or D", 'B because one must not ignore it', 'B, since one must not ignore it', '(B) enforce because (A) ignore is wrong']


@pytest.mark.parametrize('text', NAMED)
def test_a_choice_is_named_in_many_ways(text): assert stated(text, 'choice', DEEDS) == 'enforce' == value(f'Answer: {text}', 'choice', DEEDS)


@pytest.mark.parametrize('text', ['A or B', '(A) or (B)', 'both (A) and (B)', 'either A or B', 'A and B', 'A, B', 'A/B', 'A & B', 'A or (B)', 'ignore or enforce', 'ignore/enforce', '(a) ignore or (b) enforce', 'not (B)', 'not B', 'not enforce', 'none of the above', 'unclear', 'A dog', 'E', '(E)', 'Apple', 'neither (A) nor (B)', 'neither A nor B',
                                  'neither ignore nor enforce', 'A, B, or C', '**A** or **B**', r'\boxed{A, B}', 'A and/or B'])
def test_a_choice_that_is_hedged_or_denied_is_none(text): assert stated(text, 'choice', DEEDS) is None


@pytest.mark.parametrize('text, right', [
    (r'Thus $\boxed{\text{B}}$.', 'enforce'), ('B', 'enforce'), ('**B**', 'enforce'), ('The correct option is B.', 'enforce'), ('The best answer is B, not A.', 'enforce'), ('Option B is correct.', 'enforce'), ('Therefore, B is correct.', 'enforce'), ('So it is not A. Hence (B).', 'enforce'), ('I choose B.', 'enforce'),
    ('It is neither (A) nor (C).', None), ('It cannot be (A).', None), ('It is not ignore.', None), ('Either (A) or (B) could be right.', None), ('(A) and (B) are both fine.', None), ('Answer B', 'enforce'), ('Antwort: B', 'enforce'), ('Réponse : B', 'enforce'), ('答案：Ｂ', 'enforce'), ('答案是(B)。', 'enforce'), ('答案：B。', 'enforce'), ('正解は B です', 'enforce'), ('La respuesta correcta es la B.', 'enforce'), ('My choice is B.', 'enforce'), ('I cannot choose between (A) and (B).', None), ('A is incorrect. B is correct.', 'enforce'), ('The answer is "enforce" rather than "ignore".', 'enforce')])
def test_choices_without_the_usual_marker(text, right): assert value(text, 'choice', DEEDS) == right


@given(st.sampled_from(range(4)), st.sampled_from(['({})', '[{}]', '{}.', '**{}**', r'\boxed{{{}}}', 'option {}', '"{}"', '{}', '{}) {text}', '({}) {text}', '{} because {other} is wrong', '{}, not {otherletter}']), st.sampled_from(range(1, 4)))
def test_every_choice_in_every_markup(right, form, away):
    other = (right + away) % 4
    said = form.format('ABCD'[right], text=DEEDS[right], other=DEEDS[other], otherletter='ABCD'[other])
    assert stated(said, 'choice', DEEDS) == DEEDS[right], said


@given(st.lists(st.integers(-999, 999), min_size=2, max_size=5, unique=True), st.data())
def test_choices_that_are_numbers_are_named_by_their_value(numbers, data):
    right = data.draw(st.sampled_from(numbers))
    for form in ('{}', '{}.0', '{} km', r'$\boxed{{{}}}$', f'{right - 1} + 1 = {{}}'): assert stated(form.format(right), 'choice', tuple(map(str, numbers))) == str(right), form
    assert stated(f'{right}.5', 'choice', tuple(map(str, numbers))) is None


LABELLED = [('yes', ['yes', 'Yes.', '**yes**', '"yes"', 'YES', 'yes, because no one left', 'true', r'$\boxed{\text{yes}}$', '(yes)', 'that yes, it can', 'probably yes', "Yes, he can't"]), ('no', ['no', 'No, it is not', 'false', r'\boxed{no}', '[no]', '`no`', 'no. There is yes', "it's not possible, so no"]),
            (None, ['yes or no', 'yes and no', 'no/yes', 'neither yes nor no', 'maybe', 'unknown', 'not yes', 'nothing'])]


@pytest.mark.parametrize('right, text', [(right, text) for right, texts in LABELLED for text in texts])
def test_labels(right, text): assert stated(text, 'label', LABELS) == right


@pytest.mark.parametrize('text, right', [
    ('The answer is neutral, not entailment.', 'neutral'), ('The answer is neither entailment nor contradiction.', None), ('The answer is no entailment', None), ('The answer is not neutral', None), ('The answer is non-entailment', None), ('The premise does not entail the hypothesis', None), ('This is not a contradiction', None),
    ('The premise contradicts it.', 'contradiction'), ('So it is neutral, not entailment', 'neutral'), ('The answer is not contradiction but entailment.', 'entailment')])
def test_denied_labels(text, right): assert value(text, 'label', NLI) == right


@pytest.mark.parametrize('text, right', [('Yes, it is. There is no water left.', 'yes'), ('There are no apples, so yes.', 'yes'), ('No.', 'no'), ('It is not true.', None), ('First no, but then yes.', 'yes'), ('No. Yes would be wrong.', None)])
def test_labels_without_a_marker(text, right): assert value(text, 'label', LABELS) == right


@pytest.mark.parametrize('text', ['Paris', '**Paris**.', '"Paris"', '`Paris`', r'$\boxed{\text{Paris}}$', r'\boxed{Paris}.', '<b>Paris</b>', '“Paris”', '\n\nParis', '\n```\nParis\n```', '*Paris*'])
def test_a_text_in_markup(text):
    problem = Problem('p', 'q', 'Paris', 'text')
    read = read_answer(f'We know it well. The answer is {text}', 'text')
    assert read.value == 'paris' and read.raw == 'Paris' and is_correct(problem, read)
    assert ZeroShotCoT().examples(problem, [Rationale('p', f'We know it well. The answer is {text}', read.value)])[0].target.endswith('The answer is Paris.')


# thinking, run-on, markers

THOUGHTS = ['<think>{}</think>', '<thinking>{}</thinking>\n', '<THINK>{}</THINK>', '[THINK]{}[/THINK]', '◁think▷{}◁/think▷', '<reasoning>{}</reasoning>', '<seed:think>{}</seed:think>', '<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final <|constrain|>json<|message|>', '<scratchpad>{}</scratchpad>', '{}</think>', '<|begin_of_thought|>{}<|end_of_thought|>', '<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>']


@given(st.sampled_from(THOUGHTS), st.sampled_from(['The answer is 5.', '5', '#### 5', '\\boxed{5}', 'Q: 5?\n\nQ: 6?']), st.sampled_from(['The answer is 18.', '\n\n18', '**18**', 'She has 18', '\\boxed{18}']))
def test_the_answer_is_read_after_the_thinking(thought, inside, outside):
    assert value(thought.format(inside) + outside) == '18'
    assert value(thought.format(inside)) is None
    assert value(f'{outside} <think>{inside}') == '18'


@pytest.mark.parametrize('text', ['<think>The answer is 5', '<|channel|>analysis<|message|>The answer is 5', '<thinking>5', '[THINK]5'])
def test_who_still_thinks_has_not_answered(text): assert value(text) is None and without_thinking(text) == ''


TAILS = ['\n\nQ: next?\nA: The answer is 5.', '\nQ: next?\nA: The answer is 5.', '\n\n## Question\nNext?\nThe answer is 5.', '\n\n**Question 2**\nNext? The answer is 5.', '\n\n### Problem 2\nThe answer is 5.', '\n\n### Instruction:\nNext\n### Response:\nThe answer is 5.', '\nHuman: next?\nAssistant: The answer is 5.',
         '<s>The answer is 5', '[INST] next [/INST] The answer is 5', '<|assistant|>The answer is 5', '<end_of_turn>\n<start_of_turn>user\nThe answer is 5', '\n\nExample 2:\nThe answer is 5.', '\n\nTask: The answer is 5.', '\n\nPassage: x\nQuestion: y\nThe answer is 5.', '\n\nFrage: n?\nDie Antwort ist 5.', '\n\n问题：x\n答案是5', '\n\nQuestion #2\nThe answer is 5.']


@pytest.mark.parametrize('tail', TAILS)
def test_run_on_behind_an_answer_is_cut(tail): assert cut_run_on('Ann has 3 + 15. The answer is 18.' + tail) == 'Ann has 3 + 15. The answer is 18.'


@pytest.mark.parametrize('text', ['Q: Ann has 3 apples.\nA: 3+15 = 18. The answer is 18.', 'Question: Ann has 3 apples. How many?\n\nAnswer: 18', 'Let me restate the problem.\n\nProblem: Ann has 3 apples and 15.\n\nThe answer is 18.', 'Here is the question again.\n\nQ: How many?\n\nA: The answer is 18.',
                                  'Sure!\n\n**Problem:** 3+15\n\n**Solution:** 18 it is', 'I split it.\n\nQuestion 1: How many at first? 3.\n\nQuestion 2: How many more? 15.\n\nThe answer is 18.', '### Problem\nAnn has 3.\n\n### Solution\n3 + 15. The answer is 18.'])
def test_a_restated_problem_is_no_run_on(text): assert cut_run_on(text) == text and value(text) == '18'


@pytest.mark.parametrize('text', ['Final answer: 18, not 20', 'Final Answer\n\n18 apples. (Of 20.)', 'The answer would be 18 of 20', 'Therefore, the answer should be 18 (not 20).', 'Ans: 18 of 20', 'The correct answer: 18, not 20', 'The answer to the question is 18, not 20', 'My answer is 18, not 20', 'The answer, therefore, is 18 of 20.',
                                  'The answer is:\n- 18', 'The answer is:\n\n$$\n18\n$$', 'The answer is:\n```\n18\n```', 'So <answer>18</answer> of 20', '{"answer": 18, "n": 20}', 'Die Antwort ist 18, nicht 20.', 'La respuesta es 18 de 20.', 'La réponse est 18 sur 20.', '答案是18，不是20。', '答えは18です。20ではない', 'Ответ: 18 из 20', 'La risposta è 18 su 20',
                                  r'\boxed{18} is it, since 3 + 15 = 18 and not 20.', 'Is the answer 20? The answer is 18.'])
def test_markers(text): assert value(text) == '18' and stated_part(text)[1] is not None


def test_own_markers_are_a_setting_of_a_format():
    problem, own = Problem('p', 'Ann has 3 apples and buys 8. How many?', '11'), ZeroShotCoT(markers=('Lösung:', 'Ergebnis ='))
    text = '3 + 8 = 11. Lösung: 11 (nicht 12)'
    assert own.parse(text, problem).strict and not ZeroShotCoT().parse(text, problem).strict and own.parse('The answer is 11, not 12.', problem).value == '11'
    assert own.examples(problem, [Rationale('p', text, '11', True)])[0].target == '3 + 8 = 11. The answer is 11.'
    assert format_from_dict(json.loads(json.dumps(own.to_dict()))) == own and 'markers' not in ZeroShotCoT().to_dict()


# real outputs

@pytest.mark.skipif(not DATA.is_dir(), reason='needs ../shared/data')
def test_every_flag_of_recorded_solutions_is_agreed_with():
    "GSM8K as solved by two GPT-3 (Cobbe et al. 2021), with the authors' verdicts: shares .2168 .3904 .3472 .5625"
    agreed, right = 0, {}
    with gzip.open(DATA/'socratic'/'gsm8k_model_solutions.jsonl.gz', 'rt', encoding='utf-8') as f: rows = [json.loads(line) for line in f]
    for row in rows:
        gold = value(row['ground_truth'])
        for name, said in row.items():
            if not isinstance(said, dict): continue
            found = value(said['solution'])
            correct = found is not None and same_answer(found, gold, 'number')
            agreed += correct == said['is_correct']
            right[name] = right.get(name, 0) + correct
    assert agreed == 5276 and [round(n/1319, 4) for n in right.values()] == [.2168, .3904, .3472, .5625]
