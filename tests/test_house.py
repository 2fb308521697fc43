"Rules of the house: notebooks and package agree, imports go downwards, cells stay small, imports stay light"
import ast
import inspect
import json
import re
import shutil
import statistics
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest

from house_rules import CELLS, PARAMETERS, pages, stages

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(p for p in (ROOT/'nbs').rglob('*.ipynb')
                   if not any(part.startswith(('.', '_')) for part in p.relative_to(ROOT).parts))
NUMBERED = [p for p in NOTEBOOKS if re.match(r'\d\d_', p.name)]
LIGHT = ('teachers.protocol', 'teachers.store', 'teachers.collect', 'teachers.curate', 'evaluation.evaluate', 'app.cli', 'pretraining.simplify', 'pretraining.text_files')
LESSON_FLAGS = ('slow', 'gpu', 'api', 'notest')


def name(path): return str(path.relative_to(ROOT/'nbs'))


@lru_cache(maxsize=None)
def cells(path): return json.loads(path.read_text(encoding='utf-8'))['cells']


def source(cell): return ''.join(cell['source'])


def code(path): return [source(c) for c in cells(path) if c['cell_type'] == 'code']


def exports(path): return [s for s in code(path) if re.search(r'^#\|\s*export\b', s, re.M)]


def module_of(path):
    return next((m.group(1) for s in code(path) if (m := re.search(r'^#\|\s*default_exp\s+([\w.]+)', s, re.M))), None)


STAGES = [p for p in NOTEBOOKS if module_of(p)]


def number(path):
    "A stage's own; a study comes after all stages"
    return int(path.name[:2]) if path in NUMBERED else 100


@pytest.fixture(scope='session')
def copy(tmp_path_factory):
    "The tree as it stands, without what git ignores"
    target = tmp_path_factory.mktemp('copy')/'cotkit'
    names = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard'], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split('\n')
    for each in filter(None, names):
        if (ROOT/each).is_file():
            (target/each).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT/each, target/each)
    return target


def test_notebooks_are_clean_and_exported(copy):
    "Cleaning and exporting again changes no byte: what is committed is what the notebooks say"
    before = {p.relative_to(copy): p.read_bytes() for folder in ('nbs', 'cotkit') for p in sorted((copy/folder).rglob('*')) if p.suffix in ('.ipynb', '.py')}
    bin = Path(sys.executable).parent
    subprocess.run([bin/'nbdev_clean'], cwd=copy, check=True, capture_output=True)
    subprocess.run([bin/'nbdev_export'], cwd=copy, check=True, capture_output=True)
    changed = [str(p) for p, content in before.items() if (copy/p).read_bytes() != content]
    assert not changed, 'run `make export` and commit'
    known = {module_of(p).replace('.', '/') + '.py' for p in STAGES} | {'_modidx.py'}
    assert {str(p.relative_to(copy/'cotkit')) for p in (copy/'cotkit').rglob('*.py') if p.name != '__init__.py'} == known


@pytest.mark.parametrize('path', STAGES, ids=name)
def test_exports_import_from_lower_numbers(path):
    numbers = {module_of(p): number(p) for p in STAGES}
    for text in exports(path):
        for node in ast.walk(ast.parse(text)):
            names = [a.name for a in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            if isinstance(node, ast.ImportFrom): names = [node.module, *(f'{node.module}.{o}' for o in names if f'{node.module}.{o}'.removeprefix('cotkit.') in numbers)]
            for module in names:
                root, _, rest = module.partition('.')
                assert root not in ('fastcore', 'nbdev', 'execnb', 'pickle'), f'{path.name} imports {module}'
                if root == 'cotkit' and rest in numbers: assert numbers[rest] < number(path), f'{path.name} imports {module}'


@pytest.mark.parametrize('path', NOTEBOOKS, ids=name)
def test_a_notebook_opens_and_closes(path):
    all_cells = cells(path)
    first = source(all_cells[0])
    assert all_cells[0]['cell_type'] == 'markdown' and re.match(r'# \S.*\n\n> \S[^\n]*', first), 'an H1 and a one-line subtitle'
    last = next(source(c) for c in reversed(all_cells) if c['cell_type'] == 'markdown')
    if path.name != 'index.ipynb': assert re.search(r'\]\([^)]*\.ipynb[^)]*\)', last), 'the last paragraph says where to go next'


@pytest.mark.parametrize('page', pages(), ids=lambda page: page.name)
def test_a_page_fits_a_screen(page):
    "A hundred columns are what the site shows; a notebook of more than sixty cells is two modules"
    assert not page.wide_lines
    assert len(page.cells) <= CELLS


@pytest.mark.parametrize('page', stages(), ids=lambda page: page.name)
def test_cells_are_small_and_explained(page):
    assert page.median_export <= 12
    assert page.longest_function_cell <= 45 and max(page.export_lengths) <= 60
    prose = sum(kind == 'markdown' for kind, _ in page.cells)
    assert prose >= 0.6*len(page.exports)


@pytest.mark.parametrize('page', stages(), ids=lambda page: page.name)
def test_signatures_are_short(page):
    "What belongs together is one object"
    assert {name: n for name, n in page.signatures.items() if n > PARAMETERS} == {}


@pytest.mark.parametrize('path', NOTEBOOKS, ids=name)
def test_nothing_is_skipped_unsafe_or_left_over(path):
    for text in (source(c) for c in cells(path)):
        assert 'skip_exec' not in text and not re.search(r'\b(TODO|FIXME|XXX)\b', text)
    for text in code(path):
        assert not re.search(r'trust_remote_code\s*=\s*True|^\s*import pickle|(?<![\w.])eval\(', text, re.M)
        assert not re.search(r'^#\|\s*eval:\s*false', text, re.M), 'flag it slow, gpu or api instead'


@pytest.mark.parametrize('path', NOTEBOOKS, ids=name)
def test_stored_outputs_are_small_and_say_nothing_of_this_machine(path):
    assert path.stat().st_size < 600_000
    for cell in cells(path):
        for output in cell.get('outputs', ()):
            text = json.dumps({k: v for k, v in output.get('data', output).items() if not k.startswith('image/')})
            assert output.get('name') != 'stderr' and output['output_type'] != 'error'
            assert not re.search(r'0x[0-9a-f]{8}|/(work|tmp|root|home)/|it/s', text), text[:300]


@pytest.mark.parametrize('path', STAGES, ids=name)
def test_public_names_are_documented(path):
    "Every public function and class has a docstring; every parameter a type, and of functions a comment beside it"
    module = __import__(f'cotkit.{module_of(path)}', fromlist=['_'])
    for public in module.__all__:
        thing = getattr(module, public)
        if getattr(thing, '__module__', None) != module.__name__ or not (inspect.isclass(thing) or inspect.isfunction(thing)): continue
        assert inspect.getdoc(thing), f'{public} has no docstring'
        if not inspect.isfunction(thing): continue
        parameters = inspect.signature(thing).parameters.values()
        untyped = [p.name for p in parameters if p.annotation is inspect.Parameter.empty]
        assert not untyped, f'{public}: no type for {untyped}'
        text = inspect.getsource(thing)
        silent = [p.name for p in parameters if not re.search(rf'^.*\b{p.name}\b\s*:.*#\s*\S', text, re.M)]
        assert not silent, f'{public}: no comment beside {silent}'


def test_import_is_light():
    "Importing the package and every stage before the models loads no torch, transformers, datasets or openai"
    light = [m for m in map(module_of, NUMBERED) if m.startswith('data.') or m in LIGHT]
    program = ('import sys, cotkit\n' + ''.join(f'import cotkit.{m}\n' for m in light)
               + 'print([m for m in ("torch", "transformers", "datasets", "openai", "seaborn", "pandas") if m in sys.modules])')
    out = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert out.strip() == '[]'


def test_the_main_names_resolve_and_are_listed():
    "`cotkit.<Tab>` offers them; each comes from its module, and none is listed twice"
    import cotkit
    assert set(cotkit.__all__) <= set(dir(cotkit)) and len(cotkit.__all__) == len(set(cotkit.__all__)) > 40
    for each in cotkit.__all__:
        thing = getattr(cotkit, each)
        assert each in __import__(cotkit._HOME[each], fromlist=['_']).__all__ and thing is getattr(cotkit, each)
    assert cotkit.training.__name__ == 'cotkit.training'
    with pytest.raises(AttributeError, match='cotkit has no .distil.'): cotkit.distil


def test_readme_is_the_index(tmp_path):
    "README.md is what the builder writes from nbs/index.ipynb"
    subprocess.run([sys.executable, 'nbs/_site/build.py', 'readme', '--out', tmp_path/'README.md'], cwd=ROOT, check=True, capture_output=True)
    assert (tmp_path/'README.md').read_text() == (ROOT/'README.md').read_text(), 'run `make readme`'


def test_readme_commands_exist():
    "Every `make` target and `cotkit` subcommand that the README names is real"
    readme = (ROOT/'README.md').read_text()
    targets = set(re.findall(r'^([a-z]+):', (ROOT/'Makefile').read_text(), re.M))
    named = set(re.findall(r'\bmake ([a-z]+)\b', readme))
    assert {'demo', 'test'} <= named <= targets
    from cotkit.app.recipes import load_commands
    assert set(re.findall(r'^(?:\$ )?cotkit ([a-z]+)', readme, re.M)) <= set(load_commands())


def test_nothing_tracked_names_a_private_place():
    tracked = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard'], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split('\n')
    for each in filter(None, tracked):
        path = ROOT/each
        if path == Path(__file__) or not path.is_file() or path.suffix in ('.png', '.svg', '.woff2'): continue
        found = re.search(r'/work/(main|shared|src|tools|\.)', path.read_text(encoding='utf-8', errors='ignore'))
        assert not found, f'{each}: {found}'
