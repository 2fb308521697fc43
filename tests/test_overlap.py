"Problems that share words with test items"
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotkit.data.core import CotkitError, Problem
from cotkit.data.overlap import overlaps, read_items, without_overlap
from cotkit.data.word_problems import word_problems

LONG = ' '.join(a + b for a in 'bcdfghjk' for b in 'aeiou')


def problem(words, id='p'): return Problem(id, ' '.join(words), '1')


@settings(max_examples=60)
@given(st.permutations(list(range(30))).map(lambda o: [f'w{i}' for i in o]), st.integers(9, 30), st.data())
def test_one_word_put_in_between_hides_nothing(words, length, data):
    words = words[:length]
    at = data.draw(st.integers(0, length))
    found = overlaps([problem([*words[:at], 'then', *words[at:]])], [' '.join(words)])
    assert [o.item for o in found] == [' '.join(words)] and 0 < found[0].share <= 1


def test_templates_with_other_numbers_are_not_found():
    problems = word_problems(60, seed=1)
    assert not overlaps(problems[:30], [o for o in problems[30:] if o.question not in {p.question for p in problems[:30]}], least=1.0)
    assert not overlaps([Problem('p', 'Ben has 5 pears and buys 2. How many pears does he have?', '7')], ['Ann has 3 apples and buys 8. How many apples does she have?'])


def test_a_long_item_needs_a_long_run():
    words = LONG.split()
    assert overlaps([problem(words[10:23])], [LONG]) and not overlaps([problem(words[10:22])], [LONG]) and overlaps([problem(words[10:22])], [LONG], n=12)
    broken = [o if i % 12 else 'x' for i, o in enumerate(words)]
    assert not overlaps([problem(broken)], [LONG])


def test_case_and_punctuation_do_not_matter_and_numbers_do():
    item = Problem('t-1', 'Ann has 1,440 apples and buys 8 more. How many?', '1448')
    [found] = overlaps([Problem('p', 'ANN has 1440 apples, and buys 8 more; how many??', '1448')], [item])
    assert (found.problem_id, found.item, found.share) == ('p', 't-1', 1.0)
    assert not overlaps([Problem('p', 'Ann has 12 apples and buys 9 pears. How many?', '21')], [item])


def test_what_is_left(tmp_path):
    leaked, other = Problem('a', LONG + ' and so on', '1'), Problem('b', 'Quite another question about the sea', '1')
    kept, dropped = without_overlap([leaked, other], [LONG])
    assert kept == [other] and [o.problem_id for o in dropped] == ['a'] and without_overlap([leaked], [])[0] == [leaked] and not overlaps([], [LONG])


def test_item_lists(tmp_path):
    (tmp_path/'items.txt').write_text(f'{LONG}\n\nA second item.\n')
    (tmp_path/'items.jsonl').write_text(json.dumps({'question': LONG, 'answer': 'x'}))
    assert read_items(tmp_path/'items.txt') == [LONG, 'A second item.'] and [o.question for o in read_items(tmp_path/'items.jsonl')] == [LONG]
    (tmp_path/'none.txt').write_text('\n')
    for path, words in (('none.txt', 'has no items'), ('missing.txt', 'no text'), ('missing.jsonl', 'no such file')):
        with pytest.raises(CotkitError, match=words): read_items(tmp_path/path)
    for options, field in (({'n': 3}, 'n'), ({'least': 0}, 'least'), ({'least': 1.5}, 'least')):
        with pytest.raises(CotkitError) as caught: overlaps([], [LONG], **options)
        assert caught.value.field == field
