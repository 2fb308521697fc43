"Alignment beside tokenising and beside dynamic programming, in one run: rows per second on about 1,300 answers"
import json
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')

from cotkit.training.align import spans_of_tokens, align, token_spans
from cotkit.models.tokenizers import train_tokenizer
from cotkit.data.word_problems import word_problems
from measured import Measured

GSM8K = Path(__file__).resolve().parent.parent.parent/'shared'/'data'/'gsm8k'/'test.jsonl'


def answers():
    "GSM8K's 1,319 test answers where they are at hand, else as many rationales of synthetic word problems"
    if GSM8K.is_file(): return [json.loads(line)['answer'] for line in GSM8K.open(encoding='utf-8')], 'GSM8K answers'
    return [' '.join(p.gold_steps) for p in word_problems(1319, steps=(4, 7))], 'synthetic rationales'


def dynamic_programming(teacher, student):
    "The least edit distance between two lists of token strings, with the links that reach it: the way of the paper's code"
    cost = [[i + j if not i*j else 0 for j in range(len(student) + 1)] for i in range(len(teacher) + 1)]
    for i, t in enumerate(teacher, 1):
        above, row = cost[i - 1], cost[i]
        for j, s in enumerate(student, 1): row[j] = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (t != s))
    i, j, links = len(teacher), len(student), []
    while i and j:
        if cost[i][j] == cost[i - 1][j - 1] + (teacher[i - 1] != student[j - 1]): i, j = i - 1, j - 1; links.append((i, j))
        elif cost[i][j] == cost[i - 1][j] + 1: i -= 1
        else: j -= 1
    return links


def two_pointers(teacher, student):
    "Two pointers over byte offsets, one row at a time"
    groups, i, j, a, b = [], 0, 0, 0, 0
    while i < len(teacher) and j < len(student):
        if teacher[i] == student[j]: groups.append((a, i + 1, b, j + 1)); i, j = i + 1, j + 1; a, b = i, j
        elif teacher[i] < student[j]: i += 1
        else: j += 1
    return groups


def rate(function, n, repeats):
    "Rows per second, the median of some runs"
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - began)
    return n/statistics.median(seconds)


def main():
    texts, source = answers()
    teacher_tokenizer, student_tokenizer = train_tokenizer(texts, vocab_size=8192), train_tokenizer(texts, vocab_size=1024)
    teacher, student = token_spans(teacher_tokenizer, texts), token_spans(student_tokenizer, texts)
    aligned = align(teacher, student)
    print(f'{len(texts):,} {source}: {len(teacher.ids):,} teacher tokens (vocabulary {len(teacher_tokenizer):,}), '
          f'{len(student.ids):,} student tokens ({len(student_tokenizer):,}), coverage {aligned.coverage:.1%}')

    def tokenise():
        for tokenizer in (teacher_tokenizer, student_tokenizer): tokenizer(texts, add_special_tokens=False)

    def tokenise_in_rust():
        for tokenizer in (teacher_tokenizer, student_tokenizer): tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)

    few = 40
    strings = [[spans.pieces(row) for row in range(few)] for spans in (teacher, student)]
    ends = [[spans.ends[spans.splits[row]:spans.splits[row + 1]].tolist() for row in range(len(texts))] for spans in (teacher, student)]
    single = [(token_spans(teacher_tokenizer, text), token_spans(student_tokenizer, text)) for text in texts[:100]]
    ids = [tokenizer(texts, add_special_tokens=False).input_ids for tokenizer in (teacher_tokenizer, student_tokenizer)]

    def from_ids():
        spans = [spans_of_tokens(tokenizer, teacher.texts, teacher.sizes, rows) for tokenizer, rows in zip((teacher_tokenizer, student_tokenizer), ids)]
        return align(*spans)

    rows = [
        ('tokenising both sides', rate(tokenise, len(texts), 5)),
        ('tokenising both sides, without transformers', rate(tokenise_in_rust, len(texts), 5)),
        ('dynamic programming', rate(lambda: [dynamic_programming(t, s) for t, s in zip(*strings)], few, 1)),
        ('two pointers over byte offsets', rate(lambda: [two_pointers(t, s) for t, s in zip(*ends)], len(texts), 5)),
        ('align, one row at a time', rate(lambda: [align(t, s) for t, s in single], len(single), 5)),
        ('spans from token ids, and align', rate(from_ids, len(texts), 9)),
        ('align', rate(lambda: align(teacher, student), len(texts), 15))]
    base, measured = rows[0][1], Measured(__file__, 'align')
    for name, value in rows: measured.say(name, value, 'rows/s', rows[0][0], base)
    measured.save()
    assert min(rows[-1][1], rows[-2][1]) > base, 'alignment should cost less than tokenising both sides'


if __name__ == '__main__': main()
