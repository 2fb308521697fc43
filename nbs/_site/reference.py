"""The public names of a module, read from its source without running it.

Signatures, comments and docstrings are taken as they are written, so a page shows `str | None` where the author wrote `str | None`,
and building the site imports neither the package nor torch.
"""
from __future__ import annotations

import ast, io, tokenize
from dataclasses import dataclass

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Parameter:
    "A parameter, a field, or (without a name) what is returned"
    name: str
    annotation: str = ''
    default: str = ''
    comment: str = ''


@dataclass(frozen=True)
class Symbol:
    "A public function, class or method and what its source says about it"
    name: str                              # qualified by its class: `Row.to_dict`
    kind: str                              # function, coroutine, class, method or property
    doc: str = ''
    parameters: tuple[Parameter, ...] = ()
    returns: Parameter = Parameter('')
    keywords_from: str = ''                # the first parameter that must be named
    bases: tuple[str, ...] = ()
    methods: tuple[Symbol, ...] = ()

    @property
    def signature(self) -> str:
        "How it is called: short defaults, no types but that of what comes back"
        back = f' -> {self.returns.annotation}' if self.returns.annotation else ''
        if self.kind == 'property': return self.name.split('.')[-1] + back
        def shown(p: Parameter) -> str:
            default = f'={p.default if len(p.default) <= 24 else "…"}' if p.default else ''
            return ('*, ' if p.name == self.keywords_from else '') + p.name + default
        return f'{"await " if self.kind == "coroutine" else ""}{self.name.split(".")[-1]}({", ".join(map(shown, self.parameters))}){back}'


def read_symbols(
    source: str,  # the code of one cell
) -> list[Symbol]:
    "The public functions and classes defined at the top level of `source`, in order"
    comments = _comments(source)
    return [_symbol(node, comments) for node in ast.parse(source).body if isinstance(node, Definition) and not node.name.startswith('_')]


def _comments(source: str) -> dict[int, str]:
    "The comment of each line that has one"
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip('#').strip() for t in tokens if t.type == tokenize.COMMENT}


def _symbol(node: Definition, comments: dict[int, str], owner: str = '') -> Symbol:
    name, doc = f'{owner}.{node.name}' if owner else node.name, ast.get_docstring(node) or ''
    if isinstance(node, ast.ClassDef):
        methods = tuple(_symbol(o, comments, name) for o in node.body if isinstance(o, FUNCTIONS) and not o.name.startswith('_'))
        return Symbol(name, 'class', doc, _fields(node, comments), Parameter(''), next(map(_keywords_from, _init(node)), ''),
                      tuple(map(ast.unparse, node.bases)), methods)
    decorators = {ast.unparse(o).split('.')[-1] for o in node.decorator_list}
    kind = ('property' if decorators & {'property', 'cached_property'} else 'coroutine' if isinstance(node, ast.AsyncFunctionDef)
            else 'method' if owner else 'function')
    parameters = _parameters(node, comments)
    if owner and 'staticmethod' not in decorators: parameters = parameters[1:]
    comment = comments.get(node.returns.end_lineno, '') if node.returns and node.returns.end_lineno < node.body[0].lineno else ''
    return Symbol(name, kind, doc, parameters, Parameter('', _annotation(node.returns), comment=comment), _keywords_from(node))


def _keywords_from(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    return node.args.kwonlyargs[0].arg if node.args.kwonlyargs and not node.args.vararg else ''


def _init(node: ast.ClassDef) -> list[ast.FunctionDef]:
    "Its own `__init__`, if any"
    return [o for o in node.body if isinstance(o, ast.FunctionDef) and o.name == '__init__']


def _annotation(node: ast.expr | None) -> str:
    "A type as written; one that is quoted for the interpreter's sake loses its quotes"
    if node is None: return ''
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ast.unparse(node)


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef, comments: dict[int, str]) -> tuple[Parameter, ...]:
    "All parameters in order; a line's comment belongs to the last parameter that ends on it, unless the return type does too"
    a = node.args
    plain = a.posonlyargs + a.args
    defaults: list[ast.expr | None] = [None]*(len(plain) - len(a.defaults)) + list(a.defaults)
    rows = list(zip(plain, defaults, ['']*len(plain)))
    if a.vararg: rows.append((a.vararg, None, '*'))
    rows += zip(a.kwonlyargs, a.kw_defaults, ['']*len(a.kwonlyargs))
    if a.kwarg: rows.append((a.kwarg, None, '**'))
    ends = [(default or arg).end_lineno for arg, default, _ in rows]
    taken = {node.returns.end_lineno} if node.returns else set()
    return tuple(Parameter(stars + arg.arg, _annotation(arg.annotation), ast.unparse(default) if default else '',
                           '' if end in taken or end in ends[i+1:] else comments.get(end, ''))
                 for i, ((arg, default, stars), end) in enumerate(zip(rows, ends)))


def _fields(node: ast.ClassDef, comments: dict[int, str]) -> tuple[Parameter, ...]:
    "What a class is made from: the parameters of `__init__`, or else its annotated fields"
    for init in _init(node): return _parameters(init, comments)[1:]
    return tuple(Parameter(o.target.id, _annotation(o.annotation), _default(o.value), comments.get(o.end_lineno, ''))
                 for o in node.body if isinstance(o, ast.AnnAssign) and isinstance(o.target, ast.Name)
                 and not o.target.id.startswith('_') and 'ClassVar' not in ast.unparse(o.annotation))


def _default(value: ast.expr | None) -> str:
    "A default as a caller would write it: `field(default_factory=dict)` is `dict()`"
    if not (isinstance(value, ast.Call) and ast.unparse(value.func).split('.')[-1] == 'field'): return ast.unparse(value) if value else ''
    given = {o.arg: o.value for o in value.keywords}
    if 'default' in given: return ast.unparse(given['default'])
    factory = given.get('default_factory')
    if factory is None: return ''
    return ast.unparse(factory.body) if isinstance(factory, ast.Lambda) else f'{ast.unparse(factory)}()'
