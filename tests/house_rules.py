"What the rules of the house are measured by; `test_house.py` holds us to them, the design page shows them"
from __future__ import annotations

import ast, json, re, statistics
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Iterator

ROOT = Path(__file__).resolve().parent.parent
COLUMNS, CELLS, PARAMETERS = 100, 60, 6
FENCED = re.compile(r'^```.*?^```', re.M | re.S)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Page:
    "One notebook, with its cells as text"
    path: Path

    @cached_property
    def cells(self) -> list[tuple[str, str]]:
        rows = json.loads(self.path.read_text(encoding='utf-8'))['cells']
        return [(row['cell_type'], ''.join(row['source'])) for row in rows]

    @property
    def name(self) -> str: return str(self.path.relative_to(ROOT/'nbs'))

    @property
    def code(self) -> list[str]: return [source for kind, source in self.cells if kind == 'code']

    @property
    def exports(self) -> list[str]:
        return [o for o in self.code if re.search(r'^#\|\s*export\b', o, re.M)]

    @property
    def module(self) -> str | None:
        found = (re.search(r'^#\|\s*default_exp\s+([\w.]+)', o, re.M) for o in self.code)
        return next((m[1] for m in found if m), None)

    @property
    def number(self) -> int:
        "Its place in the order of imports; a study comes after all stages"
        return int(self.path.name[:2]) if re.match(r'\d\d_', self.path.name) else 100

    @property
    def wide_lines(self) -> list[str]:
        "Lines of code, also in prose, that a page cannot show at 1280 pixels"
        prose = (source for kind, source in self.cells if kind == 'markdown')
        fenced = [block for source in prose for block in FENCED.findall(source)]
        return [o for source in (*self.code, *fenced) for o in source.splitlines() if len(o) > COLUMNS]

    @property
    def export_lengths(self) -> list[int]:
        "Lines of each export cell; blank ones and directives do not count"
        def counts(line: str) -> bool: return bool(line.strip()) and not line.startswith('#|')
        return [sum(map(counts, source.splitlines())) for source in self.exports]

    @property
    def longest_function_cell(self) -> int:
        "Lines of the longest export cell that is not one class"
        lengths = zip(self.exports, self.export_lengths)
        return max((n for source, n in lengths if not is_one_class(source)), default=0)

    def definitions(self) -> Iterator[ast.AST]:
        "Every function and class that its exports define at the top level, and the methods"
        for source in self.exports:
            for node in ast.parse(source).body:
                if isinstance(node, (*FUNCTIONS, ast.ClassDef)): yield node
                if isinstance(node, ast.ClassDef): yield from (o for o in node.body if isinstance(o, FUNCTIONS))

    @property
    def signatures(self) -> dict[str, int]:
        "Public functions and methods, with how many parameters each takes besides self"
        return {node.name: count_parameters(node) for node in self.definitions()
                if isinstance(node, FUNCTIONS) and (not node.name.startswith('_') or node.name == '__init__')}

    @property
    def names(self) -> tuple[list[str], list[str]]:
        "Public and private names that it defines at the top level"
        tops = [n.name for s in self.exports for n in ast.parse(s).body if isinstance(n, (*FUNCTIONS, ast.ClassDef))]
        return [o for o in tops if not o.startswith('_')], [o for o in tops if o.startswith('_')]

    @property
    def median_export(self) -> float: return statistics.median(self.export_lengths)


def is_one_class(source: str) -> bool:
    "Whether a cell holds a class; it may be longer, for a class is never cut in two"
    return any(isinstance(node, ast.ClassDef) for node in ast.parse(source).body)


def count_parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    "Parameters besides self and cls"
    given = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    return len([a for a in given if a not in ('self', 'cls')])


def pages() -> list[Page]:
    "All notebooks, in the order of their numbers within each wing"
    found = sorted((ROOT/'nbs').rglob('*.ipynb'))
    return [Page(p) for p in found if not any(o[0] in '._' for o in p.relative_to(ROOT).parts)]


def stages() -> list[Page]:
    "The notebooks that export code, lowest number first"
    return sorted((p for p in pages() if p.module), key=lambda p: (p.number, p.name))


if __name__ == '__main__':
    for page in pages():
        wide, signatures = len(page.wide_lines), {k: n for k, n in page.signatures.items() if n > PARAMETERS}
        found = [f'{wide} lines over {COLUMNS}'] if wide else []
        if len(page.cells) > CELLS: found.append(f'{len(page.cells)} cells')
        if page.exports and page.median_export > 12: found.append(f'median export {page.median_export}')
        if page.longest_function_cell > 45: found.append(f'longest export cell {page.longest_function_cell}')
        if page.exports and max(page.export_lengths) > 60: found.append(f'longest class {max(page.export_lengths)}')
        prose = sum(kind == 'markdown' for kind, _ in page.cells)
        if prose < 0.6 * len(page.exports): found.append(f'{prose} cells of prose for {len(page.exports)} exports')
        if signatures: found.append(f'signatures {signatures}')
        if found: print(f'{page.name}: {"; ".join(found)}')
