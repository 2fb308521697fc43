"""Megabytes of text per second of processor time: cotkit's `simplify` against the plain rule, interleaved in one run; and two processes against one.

    python tests/bench_simplify.py [megabytes]

On the children's books beside the checkout if they are there, or else on made-up text of the same make. The plain side reads a part of it, since it is slow; both sides' spans are compared there.
Processor time, so that a busy machine disturbs it less. The two processes are timed by the clock, which wants a quiet machine of two cores, and by the processor time of all processes together: twice that ratio is what two free cores can give at most.
"""
from __future__ import annotations

import gzip, json, os, random, resource, statistics, sys, time, tracemalloc
from pathlib import Path

from cotkit.pretraining.simplify import simplify
from cotkit.pretraining.spans import SpanRule, plain_spans
from cotkit.pretraining.vocabulary import Vocabulary, read_vocabulary
from measured import Measured

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get('COTKIT_DATA') or ROOT.parent/'shared'/'data')
BOOKS, WORDS = DATA/'text'/'gutenberg_children.jsonl.gz', DATA/'vocab'/'aochildes_words.tsv'
SHAPES = {'books': None, 'pages of 2,000 characters': 2000, 'posts of 200 characters': 200}


def made_up(characters: int) -> tuple[list[str], Vocabulary]:
    "Books of words by Zipf's law, a tenth of them unknown, with punctuation, capitals, contractions and numbers"
    draw = random.Random(0)
    words = [''.join(draw.choices('etaoinshrdlucmfwypvbgk', k=draw.choice((2, 3, 3, 4, 4, 5, 5, 6, 7, 8, 9, 11)))) for _ in range(30_000)]
    weights = [1 / (i + 3) for i in range(len(words))]
    def book(size: int) -> str:
        text, length = [], 0
        while length < size:
            sentence = draw.choices(words, weights, k=draw.randint(4, 25))
            if draw.random() < 0.2: sentence[1] += "n't"
            if draw.random() < 0.1: sentence.insert(2, str(draw.randint(1, 1900)))
            text.append(' '.join(sentence).capitalize() + draw.choice('.....?!') + ('\n' if draw.random() < 0.2 else ''))
            length += len(text[-1]) + 1
        return ' '.join(text)
    known = {word for word in words if draw.random() < 0.9}
    return [book(characters // 40) for _ in range(40)], Vocabulary(frozenset(known))


def corpus(characters: int) -> tuple[str, list[str], Vocabulary]:
    if not (BOOKS.is_file() and WORDS.is_file()): return 'made-up text', *made_up(characters)
    with gzip.open(BOOKS, 'rt', encoding='utf-8') as f: books = [json.loads(line)['text'] for line in f]
    return 'children\'s books', books, read_vocabulary(WORDS)


def cut(texts: list[str], size: int | None) -> list[str]:
    "The same text in documents of another size"
    if size is None: return texts
    return [text[i:i + size] for text in texts for i in range(0, len(text), size)]


def megabytes(texts: list[str]) -> float: return sum(len(text.encode()) for text in texts) / 1e6


def first(texts: list[str], characters: int) -> list[str]:
    "About so many characters of them"
    chosen = []
    for text in texts:
        if characters <= 0: break
        chosen.append(text[:characters])
        characters -= len(text)
    return chosen


def per_second(run, texts: list[str], clock=time.process_time) -> float:
    began = clock()
    run(texts)
    return megabytes(texts) / (clock() - began)


def cpu_seconds() -> float:
    "Processor time of this process and of those that it has waited for"
    return sum(getattr(resource.getrusage(who), name) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN) for name in ('ru_utime', 'ru_stime'))


def main(characters: int = 24, repeats: int = 5) -> None:
    name, books, vocabulary = corpus(characters * 1_000_000)
    measured = Measured(__file__, 'simplify')
    for kind in ('reference', 'clean'):
        for shape, size in SHAPES.items():
            rule, texts = SpanRule(kind), cut(books, size)
            few = first(texts, 1_000_000)
            def plain(texts): return [span for i, text in enumerate(texts) for span in plain_spans(text, vocabulary, rule, i)]
            def fast(texts): return list(simplify(texts, vocabulary, rule))
            assert plain(few) == fast(few)
            sides = {'plain': [], 'fast': []}
            for _ in range(repeats):
                sides['plain'].append(per_second(plain, few))
                sides['fast'].append(per_second(fast, texts))
            slow, quick = (statistics.median(o) for o in sides.values())
            measured.say(f'plain rule, {kind}, {name} as {shape}', slow, 'MB/s')
            measured.say(f'simplify, {kind}, {name} as {shape}', quick, 'MB/s', 'the plain rule', slow)
    rule, by_clock, by_processor = SpanRule(), {1: [], 2: []}, {1: [], 2: []}
    texts = books * 4
    for _ in range(repeats):
        for processes in (1, 2):
            before, began = cpu_seconds(), time.perf_counter()
            for _ in simplify(texts, vocabulary, rule, processes): pass
            by_clock[processes].append(megabytes(texts) / (time.perf_counter() - began))
            by_processor[processes].append(megabytes(texts) / (cpu_seconds() - before))
    for name, speeds in (('clock', by_clock), ('processor time of all', by_processor)):
        one, two = (max(o) for o in speeds.values())
        measured.say(f'simplify, clean, one process, by the {name}', one, 'MB/s')
        measured.say(f'simplify, clean, two processes, by the {name}', two, 'MB/s', 'one process', one)
    tracemalloc.start()
    for times_over in (1, 4):
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        for _ in simplify((text for _ in range(times_over) for text in cut(books[:20], 2000)), vocabulary, rule): pass
        measured.say(f'peak of memory, {times_over} × 20 books as pages', (tracemalloc.get_traced_memory()[1] - before) / 1e6, 'MB')
    measured.save()


if __name__ == '__main__': main(*map(int, sys.argv[1:2]))
