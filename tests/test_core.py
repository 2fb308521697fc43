"Core: registries, the one key by which questions are compared, ids from content, records of older versions"
import dataclasses, string

import pytest
from hypothesis import given, settings, strategies as st

from cotkit.data.core import (Completion, CotkitError, Problem, Rationale, Registry, Step, TokenLogprob, from_dataset,
                              question_key, to_dataset)


def key(question, kind='text', choices=()):
    return question_key(Problem('', question, '', kind, choices))


# registries

def test_a_registry_is_a_table_of_what_registered_itself():
    fruit = Registry('fruit')

    @fruit.register('apple')
    class Apple: "Crunchy"

    @fruit.register
    class Pear: name = 'pear'

    @fruit.register
    def plum(): "Sweet"

    assert dict(fruit) == {'apple': Apple, 'pear': Pear, 'plum': plum} and len(fruit) == 3
    assert 'apple' in fruit and 'aple' not in fruit and fruit.get('aple') is None
    assert 'Crunchy' in fruit._repr_html_()


def test_an_unknown_name_has_close_names_and_the_remedy():
    fruit = Registry('fruit')
    fruit.register('apple')(len)
    with pytest.raises(CotkitError) as e: fruit['aplpe']
    assert 'Did you mean apple?' in str(e.value) and 'import the file that registers it' in str(e.value)
    with pytest.raises(CotkitError, match='One of: apple'): fruit['zucchini']
    with pytest.raises(CotkitError): fruit[None]


def test_a_name_belongs_to_one_thing_and_a_cell_may_run_twice():
    fruit = Registry('fruit')
    def made():
        class Apple: pass
        return Apple
    fruit.register('apple')(made())
    again = fruit.register('apple')(made())
    assert fruit['apple'] is again
    with pytest.raises(CotkitError, match='already'): fruit.register('apple')(Registry)


# the key of a question

SAME = [
    ('How many apples does Ann have?', 'How many apples does Ann have'), ('ANN HAS 3 APPLES.', 'Ann has 3 apples'),
    ('Ann has  3\napples.', ' Ann has 3 apples '), ('Ann’s “big” apples', 'Anns big apples'), ('What is 5+3?', 'What is 5 + 3'),
    ('What is 5 − 3?', 'what is 5-3'), ('She pays $1,000.', 'She pays 1000'), ('Ａｎｎ has ３ apples', 'ann has 3 apples'),
    ('an ice-cream, a pear', 'An ice cream; a pear'), ('a 5-pound bag', 'a 5 pound bag'), ('Is it – in short – red?', 'Is it, in short, red?'),
    ('2 × 3', '2 * 3'), ('6 ÷ 2', '6/2'), ('**Ann** has 3', 'Ann has 3'), ('and/or', 'and or'), ('caf\u00e9', 'cafe\u0301'),
    ('3, 4 and 5', '3,4 and 5'), ('soft\u00adware', 'software'), ('5 %', '5%'), ('(a) yes', 'a yes')]
DIFFERENT = [
    ('What is 5 + 3?', 'What is 5 - 3?'), ('What is 5 * 3?', 'What is 5 / 3?'), ('2.5', '25'), ('What is -5?', 'What is 5?'), ('.5', '5'),
    ('3 + -5', '3 + 5'), ('1 2', '12'), ('x - y', 'x + y'), ('x - y', 'x * y'), ('5% of 20', '5 of 20'), ('2^3', '23'), ('5²', '52'), ('5²', '5'),
    ('3½', '31/2'), ('1/2', '12'), ('(5 - 3) * 2', '(5 + 3) * 2'), ('1,5', '15'), ('1,000', '1.000'), ('5 < 3', '5 > 3'), ('a ≤ b', 'a ≥ b'),
    ('√16', '16'), ('reverse: ab c', 'reverse: a bc'), ('🍎 or 🍐', '🍎 or 🍊'), ('कि', 'की'), ('2 ** 3', '2 * 3'), ('$-5', '$5')]


@pytest.mark.parametrize('a, b', SAME)
def test_the_same_question_in_another_spelling(a, b): assert key(a) == key(b)


@pytest.mark.parametrize('a, b', DIFFERENT)
def test_another_question(a, b): assert key(a) != key(b)


WORDS = st.lists(st.sampled_from(['Ann', 'has', '3', 'apples', '2.5', '1,000', 'and', 'a', 'pear']), min_size=1, max_size=8)


@given(WORDS, st.lists(st.sampled_from(['?', '!', '…', ' ', '\n', '“', '”', '\u200b', ';', '—'])))
@settings(max_examples=100, deadline=None)
def test_punctuation_at_the_ends_and_white_space_never_count(words, marks):
    plain = ' '.join(words)
    assert key(''.join(marks) + '  '.join(words).upper() + ''.join(marks)) == key(plain)


@given(st.text(max_size=40).filter(lambda t: any(c.isdecimal() or c.isupper() or c.islower() for c in t)))
@settings(max_examples=200, deadline=None)
def test_a_question_mark_never_counts(text): assert key(f' {text} ?') == key(text)


@given(st.integers(-99, 99), st.integers(1, 99), st.sampled_from('+-*/'), st.integers(-99, 99), st.integers(1, 99), st.sampled_from('+-*/'))
@settings(max_examples=200, deadline=None)
def test_two_calculations_are_the_same_only_if_they_are(a, b, sign, c, d, other):
    same = (a, b, sign) == (c, d, other)
    assert (key(f'What is {a} {sign} {b}?') == key(f'what is {c}{other}{d}')) is same


def test_choices_count_in_any_order_and_labels_do_not():
    assert key('Where?', 'choice', ('zoo', 'river')) == key('where', 'choice', ('River.', 'zoo')) != key('Where?', 'choice', ('zoo', 'sea'))
    assert key('Where?', 'choice', ('zoo', 'river')) != key('Where?')
    assert key('Is it?', 'label', ('yes', 'no')) == key('Is it?', 'label', ())


def test_punctuation_alone_is_still_a_question_of_its_own():
    assert key('?!') != key('!?') and key('') == ''


# ids

def test_an_empty_id_comes_from_the_question_alone():
    problem = Problem('', 'How many apples?', '11')
    assert len(problem.id) == 16 and set(problem.id) <= set(string.hexdigits)
    assert dataclasses.replace(problem, answer='12').id == Problem('', ' how many apples').id == problem.id
    assert Problem('', 'How many pears?').id != problem.id and Problem('7', 'How many apples?').id == '7'
    assert Problem.from_dict(problem.to_dict()) == problem


# records

def test_rows_of_older_versions_still_load():
    old = {'problem_id': 'p', 'text': 't', 'answer': '3', 'correct': True, 'sample': 0, 'teacher': 'o', 'request': 'k', 'logprobs': [], 'tokens': 4}
    assert Rationale.from_dict(old) == Rationale('p', 't', '3', True, teacher='o', request='k', tokens=4)
    assert Completion.from_dict({'text': 't', 'finish_reason': 'length'}) == Completion('t', finish_reason='length')


def test_everything_a_rationale_has_survives_json_and_tables():
    token = TokenLogprob('3', -0.5, (('3', -0.5), ('4', -1.0)))
    full = Rationale('p', 't', finish_reason='length', thinking='Hm.', steps=(Step('How many?', '3'),), logprobs=(token,))
    assert Rationale.from_dict(full.to_dict()) == full
    assert from_dataset(to_dataset([full, Rationale('q', 'u')]), Rationale) == [full, Rationale('q', 'u')]
    with pytest.raises(CotkitError, match='finish'): Rationale.from_dict({'problem_id': 'p', 'text': 't', 'finish': 'x'})
