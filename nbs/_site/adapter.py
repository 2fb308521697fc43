"""From notebooks to markdown: what nbdev and Quarto conventions mean on a page.

`Adapter` writes plain markdown, as GitHub shows it: README.md is made with it.
`SiteAdapter` writes what mkdocs-material shows: admonitions, anchors, figures in files, maths as MathML.
"""
from __future__ import annotations

import base64, html, json, os, re
from dataclasses import dataclass, field, replace
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from tokenize import TokenError
from typing import Any, Callable, Iterable, Iterator, Mapping

from latex2mathml.converter import convert
from markdown.extensions.toc import slugify

from hooks import slot
from reference import Parameter, Symbol, read_symbols


class SiteError(Exception):
    "A notebook that cannot be turned into a page: names the notebook and what is wrong"


# ---------------------------------------------------------------- notebooks

@dataclass
class Cell:
    "One cell, with its `#|` directives taken off"
    kind: str
    source: str
    directives: dict[str, str]
    outputs: list[dict[str, Any]]

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Cell:
        lines, directives = _text(raw['source']).splitlines(), {}
        while raw['cell_type'] == 'code' and lines and (m := re.match(r'#\|\s*([\w-]+)\s*:?\s*(.*)', lines[0])):
            directives[m[1]] = m[2].strip()
            lines.pop(0)
        lines = [o for o in lines if not re.search(r'#\|\s*hide_line\s*$', o)]
        return cls(raw['cell_type'], '\n'.join(lines).strip('\n'), directives, raw.get('outputs', []))

    def off(self, name: str) -> bool: return self.directives.get(name) == 'false'

    @property
    def exported(self) -> bool: return bool(self.directives.keys() & {'export', 'exports', 'exporti'})

    @property
    def hidden(self) -> bool: return 'hide' in self.directives or self.off('include') or 'default_exp' in self.directives and not self.source


@dataclass
class Notebook:
    "One notebook of the tree, and the page it becomes"
    path: PurePosixPath                   # relative to the folder of all notebooks
    cells: list[Cell]
    title: str
    subtitle: str = ''
    module: str = ''                      # what it exports, as imported; empty for prose

    @classmethod
    def read(cls, root: Path, path: Path, library: str) -> Notebook:
        cells = [Cell.from_json(o) for o in json.loads(path.read_text(encoding='utf-8'))['cells']]
        name = path.relative_to(root).as_posix()
        head = next((o for o in cells if o.kind == 'markdown'), None)
        title = re.match(r'\s*#\s+(.+)', head.source) if head else None
        if not title: raise SiteError(f'{name}: the first markdown cell has no "# Title"')
        subtitle = re.search(r'^>\s+(.+)$', head.source, re.M)
        head.source = re.sub(r'^>\s+.+$', '', head.source[title.end():], count=1, flags=re.M).strip()
        exports = next((o.directives['default_exp'] for o in cells if 'default_exp' in o.directives), '')
        return cls(PurePosixPath(name), cells, re.sub('[`*]', '', title[1]).strip(), subtitle[1].strip() if subtitle else '',
                   f'{library}.{exports}' if exports else '')

    @property
    def page(self) -> PurePosixPath:
        "Where its page is: numbers order the files, they are not part of the name"
        return self.path.with_name(re.sub(r'^\d+[a-z]?_', '', self.path.stem) + '.md')

    @cached_property
    def symbols(self) -> list[tuple[Cell, Symbol]]:
        "The public names it exports, each with its cell"
        exported = (o for o in self.cells if o.kind == 'code' and o.exported and not o.hidden and 'exporti' not in o.directives)
        try: return [(cell, symbol) for cell in exported for symbol in read_symbols(cell.source)]
        except (SyntaxError, TokenError) as e: raise SiteError(f'{self.path}: an exported cell is not Python: {e}') from e


def read_notebooks(root: Path, library: str = 'cotkit') -> list[Notebook]:
    "All notebooks under `root` that are pages, in reading order"
    def is_page(path: Path) -> bool: return not any(o[0] in '._' for o in path.relative_to(root).parts)
    return [Notebook.read(root, o, library) for o in sorted(root.rglob('*.ipynb')) if is_page(o)]


def _text(source: str | list[str]) -> str: return source if isinstance(source, str) else ''.join(source)


# ---------------------------------------------------------------- markdown, piece by piece

FENCE = re.compile(r'\s*(`{3,}|~{3,})')
ITEM = re.compile(r'(\s*)([-*+]|\d+[.)])(\s+)(?=\S)')
CODE = re.compile(r'(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)', re.S)
LINK = re.compile(r'(?<=\]\()<?([^()\s<>]+)>?')
LINKED = re.compile(r'\[(?:[^\[\]]|\[[^\[\]]*\])*\](?=\()')
DISPLAY = re.compile(r'^([ ]*)\$\$(.+?)\$\$[ ]*$|\$\$(.+?)\$\$', re.S | re.M)
INLINE = re.compile(r'(?<![\\$\w])\$(?=\S)((?:\\.|[^$\\\n]|\n(?!\s*\n))+?)(?<=\S)\$(?![\d$])')
CALLOUT = re.compile(r'\s*:::+\s*\{?(.*?)\}?\s*$')
APPLIED = re.compile(r'(<m[io][^>]*>(?:log|ln|exp|sin|cos|tan|max|min|Pr)</m[io]>)(?=<m(?:i|n|sub|sup|subsup|frac|sqrt|over)\b)')
WORDS = re.compile(r'<td>(?=[^<]*[A-Za-z]{2})')
NAME = re.compile(r'([A-Za-z][\w.]*)(\(\))?')


def split_fences(text: str) -> Iterator[tuple[bool, str]]:
    "(is code, lines) in turn, where code is fenced or indented by four outside a list"
    held: list[str] = []
    fence, in_list, blank, code, fenced, ends = '', False, True, False, False, False
    for line in text.split('\n'):
        opening = FENCE.match(line)
        was, marker = code, opening[1] if opening else ''
        if fence: ends = marker.startswith(fence) and line.strip() == marker
        else:
            if line.strip() and not line.startswith(' '): in_list = bool(ITEM.match(line))
            code = bool(marker) or line.startswith('    ') and not in_list and (blank or was) or was and not line.strip() and not fenced
        if code != was and held:
            yield was, '\n'.join(held)
            held = []
        held.append(line)
        if fence and ends:
            yield True, '\n'.join(held)
            held, fence, code = [], '', False
        elif not fence and marker: fence = marker
        fenced, blank = bool(fence), not line.strip()
    if held: yield code, '\n'.join(held)


def regular_lists(text: str) -> str:
    "Lists as Python-Markdown wants them: a blank line before the first item, four spaces for each level"
    out: list[str] = []
    levels: list[int] = []  # the column at which the text of each open item begins
    blank, fence = True, ''
    for line in text.split('\n'):
        indent, item = len(line) - len(line.lstrip()), None if fence else ITEM.match(line)
        listed = bool(levels)
        if item and not listed and not blank and item[2][:-1] not in ('', '1'): item = None  # a number at the start of a line of prose
        if not fence and line.strip() and (item or blank):
            while levels and indent < levels[-1]: levels.pop()
        if item:
            if not listed and not blank: out.append('')
            out.append('    '*len(levels) + line.lstrip())
            levels.append(item.end())
        elif not levels or not line.strip(): out.append(line)
        else: out.append('    '*len(levels) + line[min(indent, levels[-1]) if blank or fence else indent:])
        if (m := FENCE.match(line)): fence = '' if fence and m[1].startswith(fence) else fence or m[1]
        blank = not line.strip()
    return '\n'.join(out)


def mathml(tex: str, display: bool, where: str) -> str:
    "A formula as MathML on one line, in which markdown finds nothing to change"
    known = tex.strip().replace(r'\operatorname*', r'\operatorname').replace(r'\mathtt{', r'\texttt{')
    try: out = convert(known, display='block' if display else 'inline')
    except Exception as e: raise SiteError(f'{where}: the formula {tex.strip()!r} cannot be read: {type(e).__name__} {e}') from e
    if unknown := re.search(r'>\s*(\\[a-zA-Z]+)', out): raise SiteError(f'{where}: {unknown[1]} is not known in the formula {tex.strip()!r}')
    def inert(m: re.Match[str]) -> str:
        text = re.sub(r'\\([_%&#$])', r'\1', html.unescape(m[1]))
        return ''.join(o if o.isalnum() and o.isascii() else f'&#{ord(o)};' for o in text)
    return APPLIED.sub(r'\1<mspace width="0.167em"/>', re.sub(r'(?<=>)([^<>]+)(?=<)', inert, out))


class TableReader(HTMLParser):
    "The rows of the first table in a piece of HTML"
    def __init__(self, source: str):
        super().__init__()
        self.rows: list[list[str]] = []
        self.inside = False
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        if tag == 'tr': self.rows.append([])
        if tag in ('td', 'th') and self.rows:
            self.rows[-1].append('')
            self.inside = True
        if tag == 'br' and self.inside: self.rows[-1][-1] += ' '

    def handle_endtag(self, tag):
        if tag in ('td', 'th'): self.inside = False

    def handle_data(self, data):
        if self.inside: self.rows[-1][-1] += data


def table(rows: Iterable[Iterable[str]]) -> str:
    "Rows as a markdown table; the first is the header"
    def line(cells: Iterable[str]) -> str: return '| ' + ' | '.join(' '.join(o.split()) for o in cells) + ' |'
    first, *rest = [list(o) for o in rows]
    return '\n'.join([line(first), '|---'*len(first) + '|', *map(line, rest)])


def fenced(code: str, info: str) -> str:
    "A fenced block whose fence is longer than any run of backticks in it"
    fence = '`'*max([3, *(len(o) + 1 for o in re.findall(r'`{3,}', code))])
    return f'{fence}{info}\n{code.rstrip()}\n{fence}'


# ---------------------------------------------------------------- pages

@dataclass
class Adapter:
    "Notebooks as plain markdown that GitHub shows, with links relative to the folder above the notebooks"
    root: Path                             # the folder of all notebooks
    notebooks: list[Notebook]
    assets: dict[PurePosixPath, bytes | Path] = field(default_factory=dict)  # files that pages need, by their place in the site

    @cached_property
    def index(self) -> dict[str, tuple[Notebook, str]]:
        "Every way to write a public name, with its notebook and anchor"
        names: dict[str, tuple[Notebook, str]] = {}
        for notebook in self.notebooks:
            for _, symbol in notebook.symbols:
                for name in (symbol.name, *(o.name for o in symbol.methods)):
                    for written in (name, f'{notebook.module}.{name}', f'{notebook.module.split(".", 1)[-1]}.{name}'):
                        names.setdefault(written, (notebook, name))
        return names

    @cached_property
    def by_path(self) -> dict[PurePosixPath, Notebook]: return {o.path: o for o in self.notebooks}

    def markdown(self, notebook: Notebook) -> str:
        "The whole page"
        blocks = [*self.opening(notebook), *(o for cell in notebook.cells if not cell.hidden for o in self.cell(notebook, cell))]
        return '\n\n'.join(o.strip('\n') for o in blocks if o.strip()) + '\n'

    def opening(self, notebook: Notebook) -> Iterator[str]:
        yield f'# {notebook.title}'
        if notebook.subtitle: yield f'> {self.prose(notebook, notebook.subtitle)}'

    def cell(self, notebook: Notebook, cell: Cell) -> Iterator[str]:
        if cell.kind == 'markdown': yield self.prose(notebook, cell.source)
        if cell.kind != 'code': return
        if cell.source.strip() and not (cell.off('echo') or 'hide_input' in cell.directives): yield self.code(notebook, cell)
        if cell.off('output') or 'hide_output' in cell.directives: return
        for n, output in enumerate(cell.outputs): yield self.output(notebook, cell, n, output)

    def code(self, notebook: Notebook, cell: Cell) -> str:
        shell = re.match(r'%%(bash|sh|html|javascript)\b.*\n', cell.source)
        source = re.sub(r'^\s*%.*\n?', '', cell.source, flags=re.M)
        return fenced(source, shell[1] if shell else 'python') if source.strip() else ''

    def output(self, notebook: Notebook, cell: Cell, number: int, output: Mapping[str, Any]) -> str:
        "One stored output in the richest form a page can show"
        kind, data = output['output_type'], {k: _text(v) if isinstance(v, (str, list)) else v for k, v in output.get('data', {}).items()}
        if kind == 'stream' and output['name'] == 'stdout':
            text = _text(output['text'])
            return self.prose(notebook, text) if cell.directives.get('output') == 'asis' else self.text(text)
        if kind == 'error': return self.text(f'{output["ename"]}: {output["evalue"]}')
        if 'text/html' in data: return self.html(data['text/html'], data.get('text/plain', ''))
        if 'text/markdown' in data: return self.prose(notebook, data['text/markdown'])
        for mime, suffix in (('image/svg+xml', 'svg'), ('image/png', 'png'), ('image/jpeg', 'jpg')):
            if mime in data:
                content = data[mime].encode() if suffix == 'svg' else base64.b64decode(data[mime])
                return self.figure(notebook, cell, number, suffix, content, output.get('metadata', {}).get(mime, {}))
        widget = any('widget-view' in mime for mime in data)
        return self.text(data['text/plain']) if 'text/plain' in data and not widget else ''

    def text(self, text: str) -> str:
        text = re.sub(r'\x1B(?:[@-Z\\-_]|\[[0-?]*[ -/]*[@-~])', '', text)
        return fenced(text, '') if text.strip() else ''

    def html(self, source: str, plain: str) -> str:
        rows = TableReader(source).rows
        if not rows or len({len(o) for o in rows}) > 1: return self.text(plain)
        escaped = [[' '.join(o.split()).replace('|', r'\|') for o in row] for row in rows]
        return table(escaped if '<thead' in source else [['']*len(escaped[0]), *escaped])

    def figure(self, notebook: Notebook, cell: Cell, number: int, suffix: str, content: bytes, metadata: Mapping[str, Any]) -> str:
        return f'*[{cell.directives.get("fig-cap", "The figure is in the notebook").strip(chr(34))}]({self.address(notebook, notebook)}).*'

    # ---- prose

    def prose(self, notebook: Notebook, text: str) -> str:
        "Markdown of a cell: callouts, then links, names and formulas outside code"
        return self.callouts(notebook, text)

    def callouts(self, notebook: Notebook, text: str) -> str:
        "`::: {.callout-note}` … `:::`, at any depth; another kind of div is refused, so that none leaks onto a page"
        open_divs: list[tuple[str, list[str], list[str]]] = [('', [], [])]  # attributes, finished blocks, lines still to be read
        def finish() -> str:
            _, blocks, lines = open_divs[-1]
            blocks.append(self.plain('\n'.join(lines), notebook))
            lines.clear()
            return '\n'.join(blocks)
        for code, chunk in split_fences(text):
            for line in chunk.split('\n'):
                mark = None if code else CALLOUT.match(line)
                if not mark: open_divs[-1][2].append(line)
                elif mark[1]: open_divs.append((mark[1], [], []))
                elif len(open_divs) == 1: raise SiteError(f'{notebook.path}: ::: closes nothing')
                else:
                    block = self.callout(notebook, open_divs[-1][0], finish())
                    open_divs.pop()
                    finish()
                    open_divs[-1][1].append(block)
        if len(open_divs) > 1: raise SiteError(f'{notebook.path}: ::: {{{open_divs[-1][0]}}} is not closed')
        return finish()

    def callout(self, notebook: Notebook, attributes: str, body: str) -> str:
        kind = re.search(r'\.callout-(note|tip|warning|caution|important)', attributes)
        if not kind: raise SiteError(f'{notebook.path}: {attributes} is not a callout; the site shows callout-note, -tip, -warning, -caution and -important')
        heading = re.match(r'\s*#+\s+(.+)\n?', body)
        given = re.search(r'title="([^"]*)"', attributes)
        title = given[1] if given else heading[1] if heading else ''
        return self.admonition(kind[1], title, body[heading.end():] if heading and not given else body, re.search(r'collapse="?true', attributes) is not None)

    def admonition(self, kind: str, title: str, body: str, folded: bool) -> str:
        lines = [f'[!{kind.upper()}]', *([f'**{title}**', ''] if title else []), *body.strip().splitlines()]
        return '\n' + '\n'.join(f'> {o}'.rstrip() for o in lines) + '\n'

    def plain(self, text: str, notebook: Notebook) -> str:
        "Links, names and formulas, outside code"
        return '\n'.join(chunk if code else self.words(notebook, chunk) for code, chunk in split_fences(text))

    def words(self, notebook: Notebook, text: str) -> str:
        "One stretch of text without code blocks"
        text = self.formulas(text, str(notebook.path))
        linked = [m.span() for m in LINKED.finditer(text)] + [m.span() for m in re.finditer(r'^#+ .*$', text, re.M)]
        out, end = [], 0
        for m in CODE.finditer(text):
            out.append(LINK.sub(lambda o: self.target(notebook, o[1]), text[end:m.start()]))
            inside = any(a <= m.start() < b for a, b in linked)
            out.append(m[0] if inside else self.name(notebook, m[0], m[2]))
            end = m.end()
        return ''.join(out) + LINK.sub(lambda o: self.target(notebook, o[1]), text[end:])

    def formulas(self, text: str, where: str) -> str: return text

    def name(self, notebook: Notebook, written: str, code: str) -> str:
        "A name in backticks, linked if it is a public name of the package"
        m = NAME.fullmatch(code)
        if not m or m[1] not in self.index: return written
        target, anchor = self.index[m[1]]
        return f'[{written}]({self.address(notebook, target, anchor)})'

    def target(self, notebook: Notebook, link: str) -> str:
        "Where a link of a notebook leads from its page"
        path, _, anchor = link.partition('#')
        if link.startswith('attachment:'): raise SiteError(f'{notebook.path}: {link} is inside the notebook; save the picture under samples/ and link that')
        if re.match(r'[a-z][a-z0-9+.-]*:', link) or not path: return link
        found = PurePosixPath(os.path.normpath(notebook.path.parent/path))
        if found in self.by_path: return self.address(notebook, self.by_path[found], anchor)
        return self.file(notebook, found, link)

    def address(self, notebook: Notebook, target: Notebook, anchor: str = '') -> str: return f'{self.root.name}/{target.path}'

    def file(self, notebook: Notebook, found: PurePosixPath, link: str) -> str: return f'{self.root.name}/{found}'


FOLDED = ('papers',)  # folders whose pages are read for their results: code is folded there
FLAGS = {'slow': 'takes long', 'gpu': 'needs a GPU', 'api': 'asks a server'}  # cells that the tests leave out
KINDS = {'note': 'note', 'tip': 'tip', 'warning': 'warning', 'caution': 'warning', 'important': 'info'}


class SiteAdapter(Adapter):
    "Notebooks as pages of the site"

    def opening(self, notebook: Notebook) -> Iterator[str]:
        hide = '\nhide: [navigation]' if str(notebook.path) == 'index.ipynb' else ''
        yield f'---\ntitle: {json.dumps(notebook.title)}\ndescription: {json.dumps(notebook.subtitle)}{hide}\n---'
        yield f'# {notebook.title}'
        if notebook.subtitle: yield f'{self.prose(notebook, notebook.subtitle)}\n{{: .subtitle }}'
        self.assets[notebook.path] = self.root/notebook.path
        module = f'Module `{notebook.module}`. Code with a coloured edge is its source. ' if notebook.symbols else ''
        yield f'{module}[Download this page as a notebook]({notebook.path.name}){{ download="{notebook.path.name}" .notebook }}\n{{: .provenance }}'

    @cached_property
    def symbols(self) -> dict[str, Symbol]:
        "What is known about each public name, methods included"
        found = [s for notebook in self.notebooks for _, s in notebook.symbols]
        return {o.name: o for s in reversed(found) for o in (s, *s.methods)}

    def cell(self, notebook: Notebook, cell: Cell) -> Iterator[str]:
        if cell.kind == 'glance': yield self.glance(notebook)
        for _, symbol in (o for o in notebook.symbols if o[0] is cell): yield from self.symbol(notebook, symbol)
        asked = re.findall(r'^show_doc\(\s*([\w.]+)', cell.source, re.M) if cell.kind == 'code' else []
        for name in asked:
            if name not in self.symbols: raise SiteError(f'{notebook.path}: show_doc({name}) asks for a name that no notebook exports')
            yield self.details(notebook, self.symbols[name])
        if not asked: yield from super().cell(notebook, cell)

    def markdown(self, notebook: Notebook) -> str:
        "The page, with its main names at a glance before its first heading or code"
        at = next((i for i, o in enumerate(notebook.cells) if i and (o.kind == 'code' and not o.hidden or re.match(r'\s*##', o.source))), 0)
        glance = Cell('glance', '', {}, [])
        return super().markdown(replace(notebook, cells=[*notebook.cells[:at], glance, *notebook.cells[at:]]) if at and self.main(notebook) else notebook)

    def main(self, notebook: Notebook) -> list[Symbol]:
        "What a reader comes for: the names in `#| main: …`, or else the one that the module is called after"
        told = ' '.join(o.directives.get('main', '') for o in notebook.cells).split() or [notebook.module.split('.')[-1]]
        found = {s.name: s for _, s in notebook.symbols}
        if unknown := [o for o in told if o not in found and len(told) > 1]: raise SiteError(f'{notebook.path}: #| main names {unknown[0]}, which it does not export')
        return [found[o] for o in told if o in found]

    def glance(self, notebook: Notebook) -> str:
        "The main names with signature and parameters, each leading to its place on the page"
        body = '\n\n'.join(f'{self.details(notebook, s, short=True)}\n\n[How `{s.name}` works](#{s.name})' for s in self.main(notebook))
        return f'<div class="glance" markdown="1">\n\n{body}\n\n</div>'

    def symbol(self, notebook: Notebook, symbol: Symbol) -> Iterator[str]:
        "Heading, signature, docstring, parameters and methods of a public name"
        yield f'### {symbol.name.replace("_", chr(92) + "_")} {{ #{symbol.name} .symbol data-kind="{symbol.kind}" }}'
        yield self.details(notebook, symbol)

    def details(self, notebook: Notebook, symbol: Symbol, short: bool = False) -> str:
        "Signature, docstring and parameters; unless `short`, the methods too"
        parts = [fenced(symbol.signature, '{ .python .signature }'), self.prose(notebook, symbol.doc)]
        rows = list(symbol.parameters)
        if symbol.returns.comment: rows.append(Parameter('returns', symbol.returns.annotation, comment=symbol.returns.comment))
        if any(o.comment for o in rows): parts.append(self.parameters(notebook, rows))
        if symbol.methods and not short:
            cells = [[f'<span id="{o.name}"></span>`{o.signature}`' , self.comment(notebook, self.doc(symbol, o))] for o in symbol.methods]
            parts.append(table([['Method', 'What it does'], *cells]))
        body = '\n\n'.join(o for o in parts if o.strip())
        return f'<div class="api" markdown="1">\n\n{body}\n\n</div>'

    def doc(self, owner: Symbol, method: Symbol) -> str:
        "The docstring of a method, or of the one it overrides"
        overridden = (self.symbols.get(f'{base}.{method.name.split(".")[-1]}') for base in owner.bases)
        return method.doc or next((o.doc for o in overridden if o and o.doc), '')

    def parameters(self, notebook: Notebook, rows: list[Parameter]) -> str:
        defaults = any(o.default for o in rows)
        head = ['Name', 'Type', *(['Default'] if defaults else []), 'Meaning']
        def code(text: str) -> str: return f'`{text}`' if text else ''
        return table([head, *([code(o.name) if o is not rows[-1] or o.name != 'returns' else '*returns*', self.plain(code(o.annotation), notebook),
                               *([code(o.default)] if defaults else []), self.comment(notebook, o.comment)] for o in rows)])

    def comment(self, notebook: Notebook, text: str) -> str:
        "Prose of a comment inside a table"
        text = re.sub(r'(`[^`]*`)|\|', lambda m: m[1] or '&#124;', ' '.join(text.split('\n\n')[0].split()))
        return self.plain(text, notebook)

    def code(self, notebook: Notebook, cell: Cell) -> str:
        block = super().code(notebook, cell)
        label = ', '.join(text for flag, text in FLAGS.items() if flag in cell.directives)
        options = ('.exported' if cell.exported else '.input') + (f' title="{label}"' if label else '')
        block = re.sub(r'\A(`+)(\w+)', rf'\1{{ .\2 {options} }}', block)
        if cell.off('code-fold') or not ('code-fold' in cell.directives or notebook.path.parts[0] in FOLDED): return block
        summary = cell.directives.get('code-summary', 'Code').strip('"')
        return f'??? quote "{summary}"\n\n' + _indent(block)

    def text(self, text: str) -> str: return super().text(text).replace('\n', '{ .text .output }\n', 1)

    def html(self, source: str, plain: str) -> str:
        words = WORDS.sub('<td class="words">', source)
        return slot(f'<div class="rich-output">{words}</div>')

    def figure(self, notebook: Notebook, cell: Cell, number: int, suffix: str, content: bytes, metadata: Mapping[str, Any]) -> str:
        place = notebook.page.with_suffix('')/f'figure-{notebook.cells.index(cell)}-{number}.{suffix}'
        self.assets[place] = content
        caption = cell.directives.get('fig-cap', '').strip('"')
        alt = cell.directives.get('fig-alt', '').strip('"') or caption or f'Figure of “{notebook.title}”'
        size = ''.join(f' {k}="{int(metadata[k])}"' for k in ('width', 'height') if k in metadata)
        image = f'<img src="{place.relative_to(notebook.page.parent)}" alt="{html.escape(alt)}"{size}>'
        return slot(f'<figure>{image}' + (f'<figcaption>{html.escape(caption)}</figcaption>' if caption else '') + '</figure>')

    def admonition(self, kind: str, title: str, body: str, folded: bool) -> str:
        label = f' "{title}"' if title else f' "{kind.capitalize()}"'
        return f'\n{"???" if folded else "!!!"} {KINDS[kind]}{label}\n\n{_indent(body.strip())}\n'

    def plain(self, text: str, notebook: Notebook) -> str: return super().plain(regular_lists(text), notebook)

    def formulas(self, text: str, where: str) -> str:
        def display(m: re.Match[str]) -> str:
            return f'\n{m[1]}<div class="formula">{mathml(m[2], True, where)}</div>\n' if m[2] else mathml(m[3], True, where)
        def outside_code(piece: str) -> str:
            piece = INLINE.sub(lambda m: mathml(m[1], False, where), DISPLAY.sub(display, piece))
            return piece.replace(r'\$', '&#36;')
        return _outside(CODE, text, outside_code)

    def address(self, notebook: Notebook, target: Notebook, anchor: str = '') -> str:
        place = os.path.relpath(target.page, notebook.page.parent)
        if not anchor: return place
        names = {o.lower(): o for s in target.symbols for o in (s[1].name, *(m.name for m in s[1].methods))}
        return f'{place}#{anchor if anchor in names.values() else names.get(anchor.lower()) or slugify(anchor.replace("-", " "), "-")}'

    def file(self, notebook: Notebook, found: PurePosixPath, link: str) -> str:
        if (self.root/found).is_file() and '..' not in found.parts: self.assets[found] = self.root/found
        return link


def _indent(text: str) -> str: return '\n'.join('    ' + o if o else '' for o in text.splitlines())


def _outside(pattern: re.Pattern[str], text: str, change: Callable[[str], str]) -> str:
    "`text` with `change` applied between the matches of `pattern`"
    out, end = [], 0
    for m in pattern.finditer(text):
        out += [change(text[end:m.start()]), m[0]]
        end = m.end()
    return ''.join(out) + change(text[end:])
