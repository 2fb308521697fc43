"Answers: what the notebook does not show, above all hostile text"
import json, math, random, subprocess, sys
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from cotkit.data import answers
from cotkit.data.answers import Accuracy, Answer, is_correct, normalise, same_answer, to_number, value_of
from cotkit.data.reading import MARKERS, cut_run_on, published_correct, published_reading, read_answer
from cotkit.data.core import ANSWER_KINDS, CotkitError, Problem

ROOT = Path(__file__).resolve().parents[1]
FOREST = ('desert', 'zoo', 'wooded area', 'ocean', 'mall')
NLI = ('entailment', 'neutral', 'contradiction')

# numbers


@pytest.mark.parametrize('text, value', [
    ('1,000', 1000), ('$18.00', 18), ('3/4', Fraction(3, 4)), ('50%', 50), ('2.50', Fraction(5, 2)), ('−4', -4), ('–4', -4), ('- 4', -4),
    ('1 1/2', Fraction(3, 2)), ('-1 1/2', Fraction(-3, 2)), ('£3', 3), ('€ 7', 7), ('1\u2009000', 1000), ('12\u202f345\u202f678', 12345678),
    ('1 000', 1000), ('1½', Fraction(3, 2)), ('½', Fraction(1, 2)), ('6.5e3', 6500), ('1E-2', Fraction(1, 100)), ('.5', Fraction(1, 2)),
    ('-$7', -7), ('$-7', -7), ('+7', 7), ('18.', 18), (' 18 ', 18), ('１２', 12), ('007', 7), ('3 / 4', Fraction(3, 4)), ('3⁄4', Fraction(3, 4)),
    (r'\$1,000', 1000), (r'\boxed{18}', 18), ('1,234,567.89', Fraction(123456789, 100))])
def test_numbers_read_exactly(text, value):
    assert to_number(text) == value
    assert normalise(text, 'number') == str(Fraction(value)) + '%'*('%' in text)


@pytest.mark.parametrize('text', ['', ' ', 'x', 'eleven', '3 apples', '14, 21', '1,00', '10,00', '1.2.3', '1/0', '1 1/0', '1e999999999', '1e-999999999', '--4',
                                  '1'*1001, '1'*10**6, '1e5e5', 'NaN', 'inf', '0x10', '\ud800', '\x00', '٣', '1 2', '$', '%', '-'])
def test_what_is_no_number_is_none(text): assert to_number(text) is None


@given(st.fractions(max_denominator=10**6))
def test_a_fraction_is_read_back(value):
    assert to_number(str(value)) == value and normalise(str(value), 'number') == str(value)
    assert read_answer(f'The answer is {value}.').value == str(value)


@given(st.integers(-10**12, 10**12), st.sampled_from(['{:,}', '${:,}', '{:,}.00', '{}', '{} apples', '{:,} dollars and nothing else', 'about {}', '**{}**', ': {}']))
def test_stated_integers_are_read(value, form):
    answer = read_answer(f'We had 3 and 4. The answer is {form.format(value)}.\nThat is all: 99.')
    assert answer.strict and answer.value == str(value)

# expressions


@st.composite
def expressions(draw, depth=3):
    "An expression as text, with its value; None where it divides by zero"
    if depth == 0 or draw(st.booleans()):
        number = draw(st.decimals(0, 1000, places=2, allow_nan=False))
        return str(number), Fraction(number)
    (left, a), (right, b), sign = draw(expressions(depth - 1)), draw(expressions(depth - 1)), draw(st.sampled_from('+-*/'))
    text = f'( {left} {sign} {right} )'
    if a is None or b is None or (sign == '/' and b == 0): return text, None
    return text, {'+': lambda: a + b, '-': lambda: a - b, '*': lambda: a*b, '/': lambda: a/b}[sign]()


@given(expressions())
def test_expressions_have_their_value(expression):
    text, value = expression
    if value is None:
        with pytest.raises(CotkitError): value_of(text)
        assert normalise(text, 'expression') is None
    else:
        assert value_of(text) == value
        answer = read_answer(f'So we divide. The answer is {text}.\n\nQ: 1 + 1?', 'expression')
        assert answer.strict and Fraction(answer.value) == value


@given(st.lists(st.tuples(st.sampled_from(['+', '-', '*']), st.integers(0, 99)), min_size=1, max_size=12), st.integers(0, 99))
def test_precedence_is_that_of_arithmetic(parts, first):
    text = f'{first}' + ''.join(f' {sign} {number}' for sign, number in parts)
    total, product, sign = Fraction(0), Fraction(first), 1
    for operation, number in parts:
        if operation == '*': product *= number
        else: total, product, sign = total + sign*product, Fraction(number), 1 if operation == '+' else -1
    assert value_of(text) == total + sign*product


@pytest.mark.parametrize('text, value', [('2^3^2', 512), ('-2^2', -4), ('2**-1', Fraction(1, 2)), ('(1+2)*-3', -9), ('12 x 5', 60), ('20% * 50', 10), ('11,210 / 2', 5605),
                                         ('6 × 7 ÷ 2', 21), ('$5 * 3', 15), ('(12 - 2) - 7', 3), ('10 - (-2)', 12)])
def test_notation(text, value): assert value_of(text) == value


@pytest.mark.parametrize('text', ['', '()', '(', ')', '1 +', '* 2', '2 3', '7x = 14', '(2 * x)', '(some - 8)', '1 / 0', '0 ^ -1', '2 ^ 0.5', '2 ^ 65', '9**9**9', '9^64^64', '('*41 + '1' + ')'*41,
                                  '2^'*60 + '1', '-'*2000 + '1', '1' + '+1'*600, '__import__("os").system("true")', 'a.b', '1;2', '1\x00', '\ud800', '1 if 1 else 2', '5%%', '99999*'*300 + '1'])
def test_hostile_expressions_are_errors(text):
    with pytest.raises(CotkitError): value_of(text)


def test_sums_of_fractions_stay_small():
    with pytest.raises(CotkitError): value_of('+'.join(f'1/{n}^60' for n in range(11, 110)))

# choices, labels, text


@pytest.mark.parametrize('text, kind, choices, value', [
    ('(c) wooded area', 'choice', FOREST, 'wooded area'), ('( C )', 'choice', FOREST, 'wooded area'), ('c.', 'choice', FOREST, 'wooded area'), ('"Wooded  Area".', 'choice', FOREST, 'wooded area'),
    ('(a) wooded area', 'choice', FOREST, 'wooded area'), ('(f)', 'choice', FOREST, None), ('forest', 'choice', FOREST, None), ('', 'choice', FOREST, None),
    ('Yes.', 'label', ('yes', 'no'), 'yes'), ('True', 'label', ('yes', 'no'), 'yes'), ('no', 'label', ('true', 'false'), 'false'), ('FALSE!', 'label', ('yes', 'no'), 'no'),
    ('Entails', 'label', NLI, 'entailment'), ('contradictory', 'label', NLI, 'contradiction'), ('neutral', 'label', NLI, 'neutral'), ('maybe', 'label', NLI, None),
    ('a', 'choice', ('b', 'a'), 'a'), ('washington d.c.', 'choice', ('ohio', 'washington d.c'), 'washington d.c'), ('cafe\u0301', 'choice', ('café', 'bar'), 'café'),
    ('positive', 'label', ('negative', 'positive'), 'positive'), ('E  d\nC.', 'text', (), 'e d c'), ('...', 'text', (), None)])
def test_names_read(text, kind, choices, value): assert normalise(text, kind, choices) == value


@pytest.mark.parametrize('line, kind, choices, value', [
    ('So the answer is (d) ocean.', 'choice', FOREST, 'ocean'), ('so the answer is ocean, since fish live there, not in a zoo.', 'choice', FOREST, 'ocean'),
    ('So the answer is either (a) desert or (d) ocean.', 'choice', FOREST, None), ('So the answer is (a) desert, (b) zoo, or (e) mall.', 'choice', FOREST, None),
    ('The answer is desert or ocean.', 'choice', FOREST, None), ('So the answer is (d).', 'choice', FOREST, 'ocean'), ('So the answer is the zoo.', 'choice', FOREST, 'zoo'),
    ('So the answer is a zookeeper.', 'choice', FOREST, None), ('Answer: B', 'choice', FOREST, 'zoo'), ('Answer:\nB', 'choice', FOREST, 'zoo'),
    ('The answer is no. Yes would be wrong', 'label', ('yes', 'no'), 'no'), ('The answer is nothing.', 'label', ('yes', 'no'), None), ('Answer: contradiction', 'label', NLI, 'contradiction'),
    ('The answer is yes, because there is no water.', 'label', ('yes', 'no'), 'yes'), ('The answer is yes or no.', 'label', ('yes', 'no'), None), ('The answer is true.', 'label', (), 'yes'),
    ('The answer is 14 or 21.', 'number', (), None), ('The answer is 14, or 14 apples.', 'number', (), '14'), ('The answer is 3 + 8 = 11 apples.', 'number', (), '11'),
    ('The answer is 3 + 8.', 'number', (), '11'), ('The answer is $1,234.50 per day. Not 7.', 'number', (), '2469/2'), ('The answer is unknown.', 'number', (), None),
    ('#### 1,440', 'number', (), '1440'), ('The answer is 50%.', 'number', (), '50%'), (r'The answer is $\boxed{\frac{1}{2}}$.', 'number', (), '1/2'), ('The answer is', 'number', (), None),
    ('The answer is 2 1/2 cups.', 'number', (), '5/2'), ('The answer is -4.', 'number', (), '-4'), ('The answer is: -4', 'number', (), '-4'), ('THE ANSWER IS 4', 'number', (), '4'),
    ('The answer is (8 / 4) and (6 / 4).', 'expression', (), None), ('The answer is (9 + 6', 'expression', (), None), ('The answer is (84 / 2) points.', 'expression', (), '42'),
    ('The answer is (84 / 2) = 43.', 'expression', (), '42'), ('The answer is x = 84 / 2.', 'expression', (), '42'), ('The answer is (7x = 14).', 'expression', (), None),
    ('The answer is e d c.', 'text', (), 'e d c')])
def test_stated_answers(line, kind, choices, value):
    answer = read_answer(f'Some reasoning with 77 and (b) and yes.\n{line}', kind, choices)
    assert (answer and answer.value) == value and (answer is None or answer.strict)


@pytest.mark.parametrize('text, kind, choices, value', [
    ('ocean', 'choice', FOREST, 'ocean'), ('It is not the zoo but the ocean', 'choice', FOREST, 'ocean'), ('I take (b)', 'choice', FOREST, 'zoo'), ('3 + 8 = 11 apples', 'number', (), '11'),
    ('from 10-8 we get', 'number', (), '8'), ('( 84.0 / 2.0 )', 'expression', (), '42'), ('( 4.0 / 2.0', 'expression', (), None), ('so it is 16 - 7 = 9 peaches', 'expression', (), '9'), ('First no, but then yes.', 'label', ('yes', 'no'), 'yes'),
    ('<scratch>\n1 + 1\n</scratch>\n8 6', 'text', (), '8 6'), ('nothing here', 'number', (), None)])
def test_flexible_reading(text, kind, choices, value):
    answer = read_answer(text, kind, choices)
    assert (answer and answer.value) == value and (answer is None or not answer.strict)
    assert read_answer(text, kind, choices, flexible=False) is None


@given(st.sampled_from(FOREST), st.sampled_from(['({letter}) {text}', '{text}', '({letter})', '{letter}) {text}', '{text}.', '{upper}', '({letter}) {upper}.', '**({letter}) {text}**']), st.sampled_from(MARKERS))
def test_every_way_to_name_a_choice(choice, form, marker):
    said = form.format(letter='abcde'[FOREST.index(choice)], text=choice, upper=choice.title())
    assert read_answer(f'There are five. {marker} {said}', 'choice', FOREST) == Answer(choice, read_answer(f'{marker} {said}', 'choice', FOREST).raw, strict=True)


@given(st.text(), st.sampled_from(ANSWER_KINDS), st.lists(st.text(min_size=1), min_size=2, max_size=5).map(tuple))
def test_canonical_text_is_its_own(text, kind, choices):
    value = normalise(text, kind, choices)
    if value is not None:
        assert normalise(value, kind, choices) == value or kind == 'choice' and choices.count(value) != 1
        assert same_answer(text, value, kind, choices)


def test_every_character_compares_with_itself():
    words = [f'a{chr(code)}b' for code in range(0x30, 0x2fa20) if not 0xd800 <= code < 0xe000]
    assert all(normalise(normalise(word, 'text'), 'text') == normalise(word, 'text') for word in words)


def test_percent_agrees_with_both():
    assert same_answer('50%', '50', 'number') and same_answer('0.5', '50 %', 'number') and same_answer('50%', '50.0%', 'number')
    assert not same_answer('50', '0.5', 'number') and not same_answer('50%', '5', 'number') and not same_answer('50%', '0.5%', 'number')


def test_markers_may_be_given():
    assert read_answer('Lösung: 7. The answer is 8.', markers=('Lösung:',)).value == '7'
    assert read_answer('Lösung: 7 so 8', markers='Lösung:').value == '7'
    assert read_answer('it says 3 (4) $^', markers=('$^',)) is None

# run-on and hostile text


@pytest.mark.parametrize('tail', ['\n\nQ: Next? A: The answer is 5.', '\n\nQuestion: Next?\nAnswer: 5', '\n \t\nQ: 5', '\r\n\r\nQ: 5', '\n\n\n\nQuestion 2: 5', '\n\nPremise: 5', '\n\nHuman: #### 5', '<|im_end|>\n#### 5', '</s>The answer is 5.', '<|endoftext|>Answer: 5'])
def test_run_on_is_cut(tail):
    assert cut_run_on('So 3. The answer is 11.' + tail) == 'So 3. The answer is 11.'
    assert read_answer('So 3. The answer is 11.' + tail).value == '11'


@pytest.mark.parametrize('text', ['Q: a sub-question?\nA: 5', 'one\nQ: two', 'the Q: is', 'a\n\nQuite so', '\n\nA: 3'])
def test_what_is_no_run_on_stays(text): assert cut_run_on(text) == text


HOSTILE = '''
from cotkit.data.answers import *
from cotkit.data.completion import *
from cotkit.data.reading import *
from cotkit.data.core import Problem
MANY = ('a', 'aa', 'zoo', 'or', ',')
def texts(n): return ['#### ' * (n // 5), '#### ' + '1' * n, '1' * n, '1,' * (n // 2), '1,111,' * (n // 6), '1 1/' * (n // 4), '(' * n, ')' * n, '(1+' * (n // 3), '-' * n, '1^' * (n // 2), '\\n' * n, ' ' * n, '\\n ' * (n // 2),
    '\\n\\nQ' * (n // 3), 'Q:\\n' * (n // 3), '\\x00' * n, '\\ud800' * n, 'The answer is ' * (n // 14), 'The answer is ' + ',' * n, 'The answer is ' + 'yes,' * (n // 4), 'The answer is yes' + ',' * n + 'no',
    'the answer is yes ' + 'or ' * (n // 3) + 'no', '<|im_end|>' * (n // 10), '\\u0301' * n, 'a' * n, 'A) ' * (n // 3), '(a)' * (n // 3), '$' * n, '1e' * (n // 2), '1e' + '9' * n, '%' * n, '0.' * (n // 2), '.' * n,
    '\\\\boxed{' * (n // 7), '\\\\frac{1}{' * (n // 9), '½' * n, '\\u2009' * n, '1\\u2009' * (n // 2), '=' * n, '1=' * (n // 2), 'The answer is ' + '1 and ' * (n // 6), 'zoo ' * (n // 4), 'The answer is 1' + ' ' * n + 'or 2', 'ß' * n, 'İ' * n]
for text in texts(200_000):
    for kind, choices in (('number', ()), ('expression', ()), ('choice', MANY), ('label', ()), ('text', ())): read_answer(text, kind, choices)
    to_number(text), cut_run_on(text), published_reading(text, 'choice'), published_reading(text, 'expression')
    assert is_correct(Problem('p', text, '11'), read_answer('The answer is 11.'))
for text in texts(10**6)[::4]: read_answer(text, 'number'), read_answer(text, 'choice', MANY)
print(len(texts(1000)))
'''


def test_a_million_hostile_characters_are_read_in_linear_time():
    # a quadratic reading of 10^6 characters takes hours; the limit only keeps the suite from hanging
    done = subprocess.run([sys.executable, '-c', HOSTILE], capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 40


@settings(max_examples=300)
@given(st.text(alphabet=st.characters(exclude_categories=()), max_size=200), st.sampled_from(ANSWER_KINDS), st.lists(st.text(max_size=8), max_size=4).map(tuple), st.booleans())
def test_no_text_breaks_the_reader(text, kind, choices, flexible):
    for completion in (text, f'The answer is {text}', f'{text} #### {text}'):
        answer = read_answer(completion, kind, choices, flexible)
        assert answer is None or (isinstance(answer.value, str) and isinstance(answer.raw, str))


@given(st.text(alphabet='0123456789+-*/^().,%$=xe \n#answeri:Theyo', max_size=60))
def test_no_arithmetic_breaks_the_reader(text):
    for kind in ANSWER_KINDS:
        answer = read_answer('The answer is ' + text, kind, ('yes', 'no'))
        assert answer is None or answer.value


@given(st.text(max_size=100))
def test_what_stands_before_the_last_marker_does_not_matter(text):
    assert read_answer(f'x{text}'.replace('<', '').replace('\n', ' ') + '\nThe answer is 11.').value == '11'

# right or wrong


def test_correctness():
    problem = Problem('p', 'How many?', '1,440')
    assert is_correct(problem, Answer('1440')) and is_correct(problem, '1440.0') and not is_correct(problem, None) and not is_correct(problem, 'many')
    assert not is_correct(Problem('p', 'How many?', 'unreadable'), 'unreadable')


def test_published_reading_and_ours_differ_where_the_paper_cuts():
    problem = Problem('p', 'q', '( ( 12.0 - 2.0 ) - 7.0 )', 'expression')
    cut, hedged = 'The answer is (12 - 2) - 7.', 'The answer is (9 + 9) and (10 - 7).'
    assert [published_correct(problem, o) for o in (cut, hedged)] == [False, True]
    assert [is_correct(problem, read_answer(o, 'expression')) for o in (cut, hedged)] == [True, False]
    assert published_reading('The answer is 3. The answer is (3).', 'expression') is None
    capital = Problem('p', 'q', 'ymca', 'choice', ('ymca', 'school'))
    assert not published_correct(capital, 'So the answer is (a) YMCA.') and is_correct(capital, read_answer('So the answer is (a) YMCA.', 'choice', capital.choices))


@given(st.integers(0, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_interval_holds_the_value(counts):
    accuracy = Accuracy(*counts)
    if not accuracy.n:
        with pytest.raises(CotkitError): accuracy.value
        return
    assert 0 <= accuracy.low <= accuracy.value <= accuracy.high <= 1 and accuracy.low < accuracy.high
    assert Accuracy.from_dict(json.loads(json.dumps(accuracy.to_dict()))) == accuracy
    p, n, z = accuracy.value, accuracy.n, 1.959963984540054
    for bound in (accuracy.low, accuracy.high):  # the bounds solve (p - b)^2 = z^2 b (1 - b) / n
        assert math.isclose((p - bound)**2, z*z*bound*(1 - bound)/n, abs_tol=1e-9)


def test_interval_covers_the_truth():
    rng = random.Random(0)
    hits = [Accuracy(sum(rng.random() < 0.1 for _ in range(60)), 60) for _ in range(2000)]
    assert 0.93 < sum(a.low <= 0.1 <= a.high for a in hits)/2000 < 0.98


@pytest.mark.parametrize('correct, n', [(-1, 3), (4, 3)])
def test_impossible_counts_are_refused(correct, n):
    with pytest.raises(CotkitError): Accuracy(correct, n)


def test_accuracy_shows_itself():
    assert str(Accuracy(567, 700)) == '81.0 % [77.9, 83.7], n = 700' and Accuracy(567, 700)._repr_html_() == str(Accuracy(567, 700))
    assert str(Accuracy(0, 0)) == 'no answers, n = 0'


def test_answers_is_light():
    code = "import sys, cotkit.data.answers, cotkit.data.tasks; print([m for m in ('torch', 'transformers', 'datasets', 'pyarrow', 'fastcore', 'nbdev') if m in sys.modules])"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT).stdout.strip() == '[]'
    assert 'eval(' not in Path(answers.__file__).read_text().replace('`eval`', '')


@pytest.mark.parametrize('text', ['4 * 2 = 8. She has 3 + 8 = 11', '4 * 2 = 8\n3 + 8 = 11'])
@pytest.mark.parametrize('kind', ['number', 'expression'])
def test_reasoning_that_opens_with_an_equation_is_not_a_bare_answer(text, kind):
    assert read_answer(text, kind).value == '11'


# kinds of text that were misread or not read; neighbours of inputs from public reports

PAIR = ('ignore', 'enforce', 'authoritarian', 'yell at')
WELL_READ = [
    # LaTeX: fractions, mixed numbers, powers, thousands
    (r'The answer is $1\frac{1}{2}$ hours.', 'number', (), '3/2'), (r'The answer is $\frac34$.', 'number', (), '3/4'),
    (r'The length is $\frac{1}{3}$ meters.', 'number', (), '1/3'), (r'The answer is $\dfrac{2}{5}$ cups.', 'number', (), '2/5'),
    (r'The answer is $6 \div \frac{1}{2}$.', 'number', (), '12'), (r'The answer is $2 \times \frac{1}{2}$.', 'number', (), '1'),
    (r'The answer is $3 \times 10^{8}$.', 'number', (), '300000000'), ('The answer is 3 × 10⁸.', 'number', (), '300000000'),
    ('The answer is 1.5E3 grams.', 'number', (), '1500'), ('The answer is 2e-2 m', 'number', (), '1/50'), ('The answer is 5 eggs.', 'number', (), '5'),
    (r'The answer is $11,\! 111,\! 111,\! 100$', 'number', (), '11111111100'), ('The answer is 12 m².', 'number', (), '12'),
    # signs in words; what is no single number
    ('The answer is negative 5.', 'number', (), '-5'), ('The answer is minus $5.', 'number', (), '-5'), ('The answer is 8 minus 3 = 5.', 'number', (), '5'),
    ('The answer is ± 5.', 'number', (), None), (r'The answer is $\pm 5$.', 'number', (), None), ('The answer is 5-10.', 'number', (), None),
    ('The answer is 10-8.', 'number', (), '2'), ('The answer is 2:30.', 'number', (), None), ('The answer is x = 3 or x = -3.', 'number', (), None),
    ('The answer is 18, as she left at 2:30.', 'number', (), '18'), ('The answer is 3,5 kg.', 'number', (), '7/2'), ('Le prix est de 2,74 $', 'number', (), '137/50'),
    ('The answer is AZYUK2A.', 'number', (), None), ('The answer is B12.', 'number', (), None), ('The answer is 5kg', 'number', (), '5'), ('She needs 2x3 of them.', 'number', (), '3'),
    ('The answer is not 18 but 20.', 'number', (), '20'), ('The answer is not 18.', 'number', (), None),
    # headings that look like markers, run-ons, turns, thinking
    ('#### Step 1: Count\nThere are 5 boxes.\n#### Step 2: Multiply\n5*4=20.\nSo there are 20 pencils.', 'number', (), '20'),
    ('5 boxes.\n#### Final Answer\n18', 'number', (), '18'), ('5 boxes.\n**Answer**\n18 apples', 'number', (), '18'), ('#### 18', 'number', (), '18'),
    ('The answer is 18.\n\n### Question:\nNext?\n### Answer:\nThe answer is 5.', 'number', (), '18'),
    ('The answer is 18.\n\n**Problem 2:** Next?\n\nThe answer is 5.', 'number', (), '18'),
    ('The answer is 18.<｜end▁of▁sentence｜>The answer is 5.', 'number', (), '18'), ('The answer is 18.<eos>The answer is 5.', 'number', (), '18'),
    ('The answer is 18.<|user|>The answer is 5.', 'number', (), '18'), ('Maybe the answer is 12.\n</think>\n\nAnn has 11.\n\n**11**', 'number', (), '11'),
    ('<think>\nOkay, 3 + 8. The answer is 11? Let me check', 'number', (), None), ('<think>12?</think>The answer is 11.', 'number', (), '11'),
    ('<|channel|>analysis<|message|>The answer is 5?<|end|><|start|>assistant<|channel|>final<|message|>The answer is 18.<|return|>', 'number', (), '18'),
    # choices and labels
    ('The answer is B because (a) is false.', 'choice', PAIR, 'enforce'), ('The answer is B, since one must not ignore it.', 'choice', PAIR, 'enforce'),
    ('The answer is B because one must not ignore it.', 'choice', PAIR, 'enforce'), ('I believe the correct answer is C', 'choice', PAIR, 'authoritarian'),
    ("The answer is for sure D, it can't be A or B", 'choice', PAIR, 'yell at'), ('The answer is A dog.', 'choice', PAIR, None),
    ('The answer is 125.', 'choice', ('A)125', 'B)150', 'C)225'), 'A)125'), ('The answer is (B).', 'choice', ('A)125', 'B)150', 'C)225'), 'B)150'),
    ('Based on these points, both (B) box and (D) cabinet would be suitable.', 'choice', ('printer', 'box', 'folding', 'cabinet', 'office'), None),
    ('It cannot be (A). So I would take (D) cabinet.', 'choice', ('printer', 'box', 'folding', 'cabinet', 'office'), 'cabinet'),
    ('The answer is not contradiction but entailment.', 'label', NLI, 'entailment'), ('The answer is not yes.', 'label', ('yes', 'no'), None),
    ('The answer is not equivalent.', 'label', ('equivalent', 'not equivalent'), 'not equivalent')]


@pytest.mark.parametrize('text, kind, choices, value', WELL_READ)
def test_what_used_to_be_misread(text, kind, choices, value):
    answer = read_answer(text, kind, choices)
    assert (answer and answer.value) == value
