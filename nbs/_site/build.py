"""The documentation site and README.md, from the notebooks.

    python nbs/_site/build.py site      the site, into _docs/
    python nbs/_site/build.py readme    README.md, from index.ipynb
    python nbs/_site/build.py sidebar   sidebar.yml, the same site map for those who build with Quarto

A broken link or anchor fails the build, and a build that fails leaves what was there before.
"""
from __future__ import annotations

import argparse, configparser, json, os, re, shutil, subprocess, sys, tempfile
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from adapter import Adapter, Notebook, SiteAdapter, SiteError, read_notebooks, table
from reference import Symbol

HERE = Path(__file__).resolve().parent
FOLDERS = {'tutorials': 'Tutorials', 'papers': 'Papers', 'explanations': 'Explanations'}
WINGS = {'data': 'Data', 'models': 'Models', 'teachers': 'Teachers', 'training': 'Training', 'pretraining': 'Pretraining',
         'evaluation': 'Evaluation', 'reporting': 'Reporting', 'app': 'Command line'}
Nav = list[dict[str, Any]]


def settings(nbs: Path) -> dict[str, str]:
    "The project's settings.ini, beside the folder of notebooks"
    parser = configparser.ConfigParser()
    parser.read(nbs.parent/'settings.ini', encoding='utf-8')
    return dict(parser['DEFAULT'])


def navigation(notebooks: list[Notebook]) -> Nav:
    "The site map, as far as there are notebooks for it"
    def pages(chosen: list[Notebook]) -> Nav: return [{o.title: str(o.page)} for o in chosen]
    nav: Nav = [{'Start here': str(o.page)} for o in notebooks if str(o.path) == 'index.ipynb']
    for folder, title in FOLDERS.items():
        if found := [o for o in notebooks if o.path.parts[0] == folder]:
            nav.append({title: pages(sorted(found, key=lambda o: o.path.name[:1].isdigit()))})  # code for several pages comes last
    wings = {title: [o for o in notebooks if o.path.parts[0] == wing] for wing, title in WINGS.items()}
    groups: Nav = [{title: pages(found)} for title, found in wings.items() if found]
    if groups: nav.append({'Reference': [{'All names': 'names.md'}, *groups]})
    return nav


def names_page(adapter: SiteAdapter) -> str:
    "Every public name of the package with its module and what it is"
    root = Notebook(PurePosixPath('names.ipynb'), [], 'All names')
    def row(notebook: Notebook, symbol: Symbol) -> list[str]:
        link = f'[`{symbol.name}`]({adapter.address(root, notebook, symbol.name)})'
        return [link, f'[{notebook.module.split(".")[-1]}]({notebook.page})', symbol.kind, adapter.comment(root, symbol.doc)]
    found = sorted(((s, n) for n in adapter.notebooks for _, s in n.symbols), key=lambda o: (o[0].name.lower(), o[1].module))
    rows = [['Name', 'Module', 'Kind', 'What it is'], *(row(n, s) for s, n in found)]
    return f'# All names\n\nWhat the package exports, in alphabetical order.\n{{: .subtitle }}\n\n{table(rows)}\n'


def write_sources(adapter: SiteAdapter, docs: Path, nav: Nav) -> None:
    "Everything mkdocs reads: pages, figures, notebooks to download"
    for notebook in adapter.notebooks: _write(docs/notebook.page, adapter.markdown(notebook).encode())
    for place, content in adapter.assets.items(): _write(docs/place, content if isinstance(content, bytes) else content.read_bytes())
    if any('Reference' in o for o in nav): _write(docs/'names.md', names_page(adapter).encode())


def configuration(nbs: Path, docs: Path, nav: Nav) -> dict[str, Any]:
    "What mkdocs.yml cannot know"
    own = settings(nbs)
    host = own.get('doc_host', '').rstrip('/') + own.get('doc_baseurl', '')
    return {'INHERIT': str(HERE/'mkdocs.yml'), 'site_name': own.get('title', nbs.parent.name), 'site_description': own.get('description', ''),
            'copyright': f'© {own["copyright"]}' if 'copyright' in own else '', 'site_url': f'{host}/' if host else '',
            'docs_dir': str(docs), 'nav': nav, 'hooks': [str(HERE/'hooks.py')],
            'theme': {'name': 'material', 'custom_dir': str(HERE/'theme')}}


def build_site(
    nbs: Path,   # the folder of notebooks
    out: Path,   # the folder to make or replace
) -> int:        # the number of pages
    "Build the site; `SiteError` if a notebook or a link is wrong, and then `out` stays as it was"
    notebooks = read_notebooks(nbs, settings(nbs).get('lib_name', 'cotkit'))
    nav = navigation(notebooks)
    adapter = SiteAdapter(nbs, notebooks)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_sources(adapter, work/'docs', nav)
        (work/'mkdocs.yml').write_text(json.dumps(configuration(nbs, work/'docs', nav)), encoding='utf-8')  # JSON is YAML
        done = subprocess.run([sys.executable, '-m', 'mkdocs', 'build', '--strict', '-f', work/'mkdocs.yml', '-d', work/'site'],
                              capture_output=True, text=True, env={**os.environ, 'NO_MKDOCS_2_WARNING': '1'})
        if done.returncode: raise SiteError(_complaints(done.stderr + done.stdout, notebooks))
        _replace(out, work/'site')
    return len(notebooks)


def _complaints(log: str, notebooks: list[Notebook]) -> str:
    "What mkdocs found wrong, a line each, by notebook. (With --quiet it would count no warnings, and strict would mean nothing.)"
    sources = {f"'{o.page}'": f"'{o.path}'" for o in notebooks}
    lines = (re.sub(r"(?<=Doc file )'.*?'", lambda m: sources.get(m[0], m[0]), o) for o in log.splitlines())
    return '\n'.join(o for o in lines if o.strip() and not o.startswith('INFO'))


def build_readme(nbs: Path, out: Path) -> None:
    "Write index.ipynb as markdown for GitHub"
    notebooks = read_notebooks(nbs, settings(nbs).get('lib_name', 'cotkit'))
    index = next((o for o in notebooks if str(o.path) == 'index.ipynb'), None)
    if not index: raise SiteError(f'{nbs}: there is no index.ipynb')
    note = '<!-- Made from nbs/index.ipynb by `python nbs/_site/build.py readme`; edit the notebook. -->\n\n'
    _write_text(out, note + Adapter(nbs, notebooks).markdown(index))


def build_sidebar(nbs: Path, out: Path) -> None:
    "Write the site map as Quarto reads it"
    notebooks = read_notebooks(nbs, settings(nbs).get('lib_name', 'cotkit'))
    paths = {str(o.page): str(o.path) for o in notebooks}
    def contents(nav: Nav) -> list[Any]:
        entries = [(title, place) for o in nav for title, place in o.items() if isinstance(place, list) or place in paths]
        return [{'section': title, 'contents': contents(place)} if isinstance(place, list) else paths[place] for title, place in entries]
    note = '# The site map for Quarto, written by `python nbs/_site/build.py sidebar`.\n'
    _write_text(out, note + yaml.safe_dump({'website': {'sidebar': {'contents': contents(navigation(notebooks))}}}, sort_keys=False, allow_unicode=True))


def _write_text(out: Path, text: str) -> None:
    "Whole or not at all"
    temporary = out.with_name(f'.{out.name}.{os.getpid()}.tmp')
    temporary.write_text(text, encoding='utf-8')
    os.replace(temporary, out)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _replace(target: Path, new: Path) -> None:
    "Put a finished folder in the place of another; the copy may cross file systems, the two renames do not"
    fresh, old = (target.with_name(f'.{target.name}.{os.getpid()}.{o}') for o in ('new', 'old'))
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(new, fresh)
    if target.exists(): os.rename(target, old)
    os.rename(fresh, target)
    shutil.rmtree(old, ignore_errors=True)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('what', choices=['site', 'readme', 'sidebar'], help='what to make')
    parser.add_argument('--nbs', type=Path, default=HERE.parent, help='the folder of notebooks (default: this one)')
    parser.add_argument('--out', type=Path, help='where to write (default: _docs, README.md or sidebar.yml, each in its place)')
    args = parser.parse_args(argv)
    nbs = args.nbs.resolve()
    build, default = {'site': (build_site, nbs.parent/'_docs'), 'readme': (build_readme, nbs.parent/'README.md'),
                      'sidebar': (build_sidebar, nbs/'sidebar.yml')}[args.what]
    out = (args.out or default).resolve()
    try: build(nbs, out)
    except SiteError as e: sys.exit(str(e))
    print(out)


if __name__ == '__main__': main()
