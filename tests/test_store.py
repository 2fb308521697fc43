"The store: faults, threads, processes"
import json, os, random, signal, sqlite3, subprocess, sys, threading, time
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from cotkit.data.core import Completion, CotkitError, Request, TokenLogprob, read_jsonl
from cotkit.teachers.store import SCHEMA_VERSION, Store


def pair(n: int, teacher: str = 't') -> tuple[Request, Completion]:
    return Request(teacher, f'question {n}'), Completion(f'answer {n}', prompt_tokens=n, completion_tokens=2)


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=()), max_size=40), st.text(st.characters(exclude_categories=()), max_size=40), st.integers(0, 9))
def test_any_text_survives(tmp_path_factory, prompt, text, sample):
    request, completion = Request('t', prompt, sample=sample), Completion(text, logprobs=(TokenLogprob(text, -0.5, ((text, -0.5),)),))
    with Store(tmp_path_factory.mktemp('s')/'a.db') as store:
        store.put(request, completion)
        assert store.get(request) == completion
        assert list(store) == [(request, completion)]


def test_first_answer_stays(tmp_path):
    with Store(tmp_path/'a.db') as store:
        request, completion = pair(1)
        assert store.put(request, completion) and not store.put(request, Completion('other'))
        assert store.get(request) == completion and len(store) == 1


def test_usage_sums(tmp_path):
    with Store(tmp_path/'a.db') as store:
        for n in range(5): store.put(*pair(n, 'a' if n % 2 else 'b'))
        assert [(o.teacher, o.completions, o.prompt_tokens, o.completion_tokens) for o in store.usage()] == [('a', 2, 4, 4), ('b', 3, 6, 6)]


def test_iterates_over_pages_while_others_write(tmp_path):
    with Store(tmp_path/'a.db') as store, Store(tmp_path/'a.db') as writer:
        for n in range(1200): store.put(*pair(n))
        seen = []
        for n, (request, _) in enumerate(store):
            seen.append(request.prompt)
            if n == 10: writer.put(*pair(5000))
        assert seen[:1200] == [f'question {n}' for n in range(1200)] and seen[-1] == 'question 5000'


def test_threads_share_one_store(tmp_path):
    with Store(tmp_path/'a.db') as store:
        def work(k):
            for n in range(50):
                store.put(*pair(n * 8 + k))
                assert store.get(pair(n * 8 + k)[0]) is not None
        threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
        for t in threads: t.start()
        for t in threads: t.join()
        assert len(store) == 400


WRITER = '''
import sys
from cotkit.data.core import Request, Completion
from cotkit.teachers.store import Store
with Store(sys.argv[1]) as store:
    for n in range(int(sys.argv[2]), int(sys.argv[3])):
        store.put(Request('t', f'question {n}'), Completion(f'answer {n}'))
        print(n, flush=True)
'''


def writer(path: Path, start: int, stop: int) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, '-c', WRITER, str(path), str(start), str(stop)], stdout=subprocess.PIPE, text=True)


def test_processes_share_one_file(tmp_path):
    "Four processes create the same store at the same moment and write overlapping rows"
    processes = [writer(tmp_path/'a.db', k * 50, k * 50 + 100) for k in range(4)]
    for p in processes:
        p.communicate()
        assert p.returncode == 0
    with Store(tmp_path/'a.db') as store: assert len(store) == 250


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_all_who_create_a_store_at_once_can_use_it(tmp_path):
    "None takes the half-made file of another for a database of some other program, none finds it locked"
    def child(path: Path, start: float) -> int:
        if pid := os.fork(): return pid
        while time.time() < start: pass
        try: Store(path).close()
        except BaseException: os._exit(1)
        os._exit(0)

    ends = []
    for round in range(60):
        start = time.time() + 0.02
        children = [child(tmp_path/f'{round}.db', start) for _ in range(6)]
        ends += [os.waitpid(pid, 0)[1] for pid in children]
    assert ends == [0] * 360


@pytest.mark.parametrize('seed', range(3))
def test_nothing_acknowledged_is_lost_by_a_kill(tmp_path, seed):
    process = writer(tmp_path/'a.db', 0, 10 ** 9)
    acknowledged, last = [], random.Random(seed).randrange(20, 400)
    for line in process.stdout:
        acknowledged.append(int(line))
        if acknowledged[-1] >= last: break
    os.kill(process.pid, signal.SIGKILL)
    acknowledged += [int(o) for o in process.stdout.read().split('\n')[:-1]]
    process.wait()
    with Store(tmp_path/'a.db') as store:
        assert [n for n in acknowledged if Request('t', f'question {n}') not in store] == []
        assert len(store) in (len(acknowledged), len(acknowledged) + 1) # the last one may not have been announced
        store.put(*pair(-1))


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_a_forked_process_uses_its_own_connection(tmp_path):
    script = '''
import os, sys
from cotkit.data.core import Request, Completion
from cotkit.teachers.store import Store
store = Store(sys.argv[1])
store.put(Request('t', 'parent'), Completion('1'))
child = os.fork()
if not child:
    store.put(Request('t', 'child'), Completion('2'))
    store.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
store.put(Request('t', 'after'), Completion('3'))
assert len(store) == 3
'''
    assert subprocess.run([sys.executable, '-c', script, str(tmp_path/'a.db')]).returncode == 0


def test_merge_in_any_order(tmp_path):
    for name, numbers in (('a', range(0, 700)), ('b', range(500, 1300))):
        with Store(tmp_path/f'{name}.db') as store:
            for n in numbers: store.put(*pair(n))
    with Store(tmp_path/'one.db') as one, Store(tmp_path/'two.db') as two:
        assert one.merge(tmp_path/'a.db') == 700 and one.merge(tmp_path/'b.db') == 600 and one.merge(tmp_path/'a.db') == 0
        two.merge(tmp_path/'b.db'), two.merge(tmp_path/'a.db')
        assert dict((r.key, c) for r, c in one) == dict((r.key, c) for r, c in two) and len(one) == 1300
        assert one.merge(tmp_path/'one.db') == 0
    with Store(tmp_path/'one.db') as one, pytest.raises(CotkitError, match='no such file'): one.merge(tmp_path/'missing.db')
    assert not (tmp_path/'missing.db').exists()


def test_export(tmp_path):
    with Store(tmp_path/'a.db') as store:
        for n in range(3): store.put(*pair(n))
        assert store.export(tmp_path/'a.jsonl') == 3
    rows = list(read_jsonl(tmp_path/'a.jsonl', required=('key', 'time', 'request', 'completion')))
    assert [Request.from_dict(o['request']).key for o in rows] == [o['key'] for o in rows]
    assert [Completion.from_dict(o['completion']) for o in rows] == [pair(n)[1] for n in range(3)]


def test_newer_layout_is_refused_and_untouched(tmp_path):
    path = tmp_path/'a.db'
    Store(path).close()
    with sqlite3.connect(path) as c: c.execute(f'PRAGMA user_version = {SCHEMA_VERSION + 1}')
    c.close()
    before = path.read_bytes()
    for read_only in (False, True):
        with pytest.raises(CotkitError, match='newer cotkit') as e: Store(path, read_only=read_only)
        assert str(path) in str(e.value) and '\n' not in str(e.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize('content', [b'not a database at all\n' * 50, b'SQLite format 3\0' + b'\xff' * 200, b'x'])
def test_other_files_are_refused_and_untouched(tmp_path, content):
    path = tmp_path/'a.db'
    path.write_bytes(content)
    for read_only in (False, True):
        with pytest.raises(CotkitError) as e: Store(path, read_only=read_only)
        assert str(path) in str(e.value) and '\n' not in str(e.value)
    assert path.read_bytes() == content
    assert [o.name for o in tmp_path.iterdir()] == ['a.db']


def test_a_database_of_another_program_is_refused(tmp_path):
    with sqlite3.connect(tmp_path/'a.db') as c: c.execute('CREATE TABLE completions (x)')
    c.close()
    with pytest.raises(CotkitError, match='other program'): Store(tmp_path/'a.db')


def test_an_empty_file_and_a_new_folder_become_stores(tmp_path):
    (tmp_path/'empty.db').touch()
    for path in (tmp_path/'empty.db', tmp_path/'new'/'folder'/'a?b#c%20.db'):
        with Store(path) as store: store.put(*pair(1))
        assert path.is_file() and len(Store(path, read_only=True)) == 1


def test_folder_as_file(tmp_path):
    with pytest.raises(CotkitError, match='is a folder'): Store(tmp_path)


def test_read_only_changes_nothing(tmp_path):
    path = tmp_path/'a.db'
    with pytest.raises(CotkitError, match='no such file'): Store(path, read_only=True)
    assert not path.exists()
    with Store(path) as store: store.put(*pair(1))
    before = path.read_bytes()
    with Store(path, read_only=True) as viewer:
        assert viewer.get(pair(1)[0]) == pair(1)[1]
        with pytest.raises(CotkitError, match='reading only'): viewer.put(*pair(2))
        with pytest.raises(CotkitError, match='reading only'): viewer.merge(path)
    assert path.read_bytes() == before and [o.name for o in tmp_path.iterdir()] == ['a.db']


def test_a_reader_sees_what_a_writer_commits(tmp_path):
    with Store(tmp_path/'a.db') as store, Store(tmp_path/'a.db', read_only=True) as viewer:
        assert len(viewer) == 0
        store.put(*pair(1))
        assert len(viewer) == 1


def test_closed(tmp_path):
    store = Store(tmp_path/'a.db')
    store.close(), store.close()
    with pytest.raises(CotkitError, match='is closed'): store.get(pair(1)[0])


def test_a_damaged_file_is_reported_not_raised_raw(tmp_path):
    path = tmp_path/'a.db'
    with Store(path) as store:
        for n in range(500): store.put(*pair(n))
    content = bytearray(path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(CotkitError) as e:
        with Store(path) as store: list(store)
    assert '\n' not in str(e.value)
