"The story world: vocabulary is all that differs, facts hold, questions have one right answer and were never read"
import re
from collections import Counter
from itertools import islice

import pytest
from hypothesis import given, settings, strategies as st

from cotkit.data.core import CotkitError, question_key
from cotkit.data.story_world import (
    _BY_WORD, _LEXICON, _PARADIGMS, PHENOMENA, STORY_QUESTIONS, held_out, stories, story_problems, story_words)
from cotkit.data.tasks import load_task

CONCEPTS = {word: concept[0] for concepts in (*_LEXICON.values(), _BY_WORD.values()) for concept in concepts for word in concept}
FORMS = {form: concept[i] for word, concept in CONCEPTS.items() for i, form in enumerate(word) if i != 1}


def words_of(text): return re.findall('[A-Za-z]+', text)


def simple_words(text):
    "Each word of a text by the simple word of its concept; a and an are the same"
    return ['a' if o == 'an' else FORMS.get(o, o) for o in words_of(text)]


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 10**6), st.integers(0, 5), st.sampled_from(['train', 'validation', 'test']))
def test_vocabulary_is_all_that_differs(number, seed, split):
    "Word by word, each rich word is one of the concept that the simple story names there; facts too"
    simple, rich, mixed = (next(stories(v, seed, split, number)) for v in ('simple', 'rich', 'mixed'))
    assert simple.id == rich.id == mixed.id
    for other in (rich, mixed):
        assert simple_words(other.text) == ['a' if o == 'an' else o for o in words_of(simple.text)]
        assert re.sub('[A-Za-z]+', '', other.text) == re.sub('[A-Za-z]+', '', simple.text)
        assert [tuple(FORMS.get(o, o) for o in f) for f in other.facts] == [tuple(FORMS.get(o, o) for o in f) for f in simple.facts]
    assert not re.search(r'\ba [aeiou]|\ban [^aeiou]|[{}%]', rich.text)


def test_a_concept_has_its_own_words():
    words = [form for concept in {*CONCEPTS.values()} for word in CONCEPTS if CONCEPTS[word] == concept for form in {word.base}]
    assert len(words) == len(set(words)) and len(story_words('rich')) > 3.5 * len(story_words('simple'))


def test_the_same_seed_tells_the_same_stories():
    one, again, other = ([s.text for s in islice(stories('rich', seed), 300)] for seed in (0, 0, 1))
    assert one == again and one[7] == next(stories('rich', start=7)).text
    assert not set(one) & set(other) and len(set(one)) == 300
    assert not set(one) & {s.text for s in islice(stories('rich', split='test'), 300)}


@pytest.mark.parametrize('vocabulary', ['simple', 'rich', 'mixed'])
def test_the_list_of_words(vocabulary):
    "Exactly the words of stories: none is missing, and hardly any is never used"
    told = Counter(o.lower() for s in islice(stories(vocabulary), 8000) for o in words_of(s.text))
    known = set(story_words(vocabulary))
    assert set(told) <= known
    assert len(known - set(told)) <= 0.12 * len(known), sorted(known - set(told))


def test_facts_hold():
    "Each is told by a sentence of the story, and a thing has one colour and one place"
    for story in islice(stories('rich'), 500):
        by_key = {}
        for relation, subject, value in story.facts:
            assert re.search(rf'\b{subject}\b', story.text) and re.search(rf'\b{value}\b', story.text)
            assert by_key.setdefault((relation, subject, value), value) == value
        colours = [f for f in story.facts if f[0] == 'colour']
        assert all(f'{value} {subject}' in story.text for _, subject, value in colours)
        assert len({subject for _, subject, _ in colours}) == len(colours)
        for _, thing, box in (f for f in story.facts if f[0] == 'in'): assert f'the {thing} in the {box}' in story.text


def test_richness_is_a_matter_of_the_story():
    "Rich words follow Zipf's law; a mixed story has any share of them"
    shares = {v: [sum(a != b for a, b in zip(words_of(s.text), simple_words(s.text))) for s in islice(stories(v), 400)] for v in ('simple', 'rich', 'mixed')}
    assert max(shares['simple']) <= 6  # plurals only
    assert min(shares['rich']) > 5 and min(shares['mixed']) <= 2 and max(shares['mixed']) > 15
    dogs = Counter(o for s in islice(stories('rich'), 12000) for o in words_of(s.text) if CONCEPTS.get(o) is None and FORMS.get(o) == 'dog')
    first, second = dogs['dog'], dogs['hound']
    assert 1.6 < first / second < 2.5


@pytest.mark.parametrize('kind', STORY_QUESTIONS)
@pytest.mark.parametrize('vocabulary', ['simple', 'rich'])
def test_questions(kind, vocabulary):
    problems = story_problems(kind, 2000, vocabulary)
    assert len({question_key(p) for p in problems}) == 2000
    assert problems[:100] == story_problems(kind, 100, vocabulary)
    first = Counter(p.choices.index(p.answer) for p in problems)
    n = len(problems[0].choices)
    assert all(abs(count - 2000 / n) < 4 * (2000 / n * (1 - 1 / n)) ** 0.5 for count in first.values())
    for p in problems:
        assert len(set(p.choices)) == len(p.choices) == (4 if kind == 'cloze' else 2)
        assert p.question == p.question.strip() and '%' not in p.question + ''.join(p.choices)


def test_the_right_answers():
    "Worked out again by other means: agreement and gender from the words, cloze from the facts of the text"
    women = {'Ann', 'Mia', 'Eva', 'Lucy', 'Nora', 'Rose', 'Ella', 'Ruth', 'Lena', 'Jane', 'Kate', 'Amy'}
    plural = {word[2] for concept in _LEXICON['animal'] for word in concept}
    for p in story_problems('agreement', 1000, 'rich'):
        subject = re.match(r'The (\w+ )*?(\w+)( near .*)?$', p.question)[2]
        verb = p.answer.split()[0]
        assert (verb == 'were' or not verb.endswith('s')) == (subject in plural), p
    for p in story_problems('anaphora', 1000, 'rich'):
        words, reflexive = p.question.split(), p.answer.split()[0]
        if ' and ' in p.question: assert reflexive == 'themselves'
        elif words[0] == 'The': assert reflexive == ('themselves' if words[1] in plural else 'itself')
        else: assert reflexive == ('herself' if words[0] in women else 'himself')
    for p in story_problems('word order', 500): assert sorted(p.answer.strip('.').split()) == sorted(p.choices[0].strip('.').split())
    for p in story_problems('cloze', 1000, 'rich'):
        seen = [o for o in p.choices if re.search(rf'\b{o[:-1]}\b', p.question)]
        assert p.answer in seen and len(seen) == 2  # the answer and its rival


def test_pairs_were_never_read():
    "No sentence of 20,000 stories is the right sentence of a pair"
    told = {o for s in islice(stories(), 20000) for o in re.findall(r'[^.]+\.', s.text) for o in [o.strip()]}
    for kind in PHENOMENA: assert not {f'{p.question} {p.answer}' for p in story_problems(kind, 2000)} & told


def test_each_paradigm_is_told_in_stories():
    texts = ' '.join(s.text for s in islice(stories(), 3000))
    for p in _PARADIGMS:
        pattern = re.sub(r'%\(\w+\)s', r'\\w+', re.escape(f'{p.beginning} {p.right}').replace(r'%\(', '%(').replace(r'\)s', ')s'))
        assert re.search(pattern, texts), p


def test_held_out_is_a_quarter():
    share = sum(held_out((a, b, c)) for a in range(12) for b in range(8) for c in range(10)) / 960
    assert abs(share - 0.25) < 0.01


def test_as_a_task():
    task = load_task('story-world', n=20)
    assert {split: len(p) for split, p in task.splits.items()} == dict.fromkeys(('agreement', 'anaphora', 'word_order', 'cloze', 'endings'), 20)


@pytest.mark.parametrize('make', [
    lambda: stories('poor'), lambda: stories(split='all'), lambda: story_problems('rhymes', 3), lambda: story_problems('cloze', 3, 'poor'),
    lambda: story_words('poor'), lambda: story_problems('agreement', 10**4)])
def test_bad_input(make):
    with pytest.raises(CotkitError): make()
