"""The site as a reader meets it: built strictly, then walked in headless Chromium from a web server and from the file system."""
from __future__ import annotations

import base64, functools, html.parser, http.server, json, os, re, shutil, struct, subprocess, sys, threading, zlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given, settings, strategies as st
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT/'nbs'
sys.path.insert(0, str(NBS/'_site'))

from adapter import Adapter, SiteAdapter, SiteError, read_notebooks, regular_lists, split_fences  # noqa: E402
from build import build_readme, build_sidebar, build_site  # noqa: E402
from reference import read_symbols  # noqa: E402

FLAGS = ('--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking '
         '--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1280,1000').split()


# ---------------------------------------------------------------- a small tree of notebooks with everything in it

def md(text: str) -> dict: return {'cell_type': 'markdown', 'metadata': {}, 'source': text}


def code(text: str, *outputs: dict) -> dict:
    return {'cell_type': 'code', 'metadata': {}, 'source': text, 'outputs': list(outputs), 'execution_count': None}


def result(**data: str) -> dict:
    mimes = {'html': 'text/html', 'plain': 'text/plain', 'png': 'image/png', 'svg': 'image/svg+xml'}
    return {'output_type': 'execute_result', 'metadata': {}, 'execution_count': None, 'data': {mimes[k]: v for k, v in data.items()}}


def stripes(width: int = 60, height: int = 40) -> str:
    "A PNG of vertical stripes, in base64"
    def chunk(kind: bytes, data: bytes) -> bytes: return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    row = b'\0' + b''.join(b'\xff\x80\x00' if x//10 % 2 else b'\x00\x40\x80' for x in range(width))
    png = b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)) + chunk(b'IDAT', zlib.compress(row*height)) + chunk(b'IEND', b'')
    return base64.b64encode(png).decode()


WIDE = ('<table class="dataframe"><thead><tr>' + ''.join(f'<th>column number {i}</th>' for i in range(20)) + '</tr></thead>'
        '<tbody><tr>' + '<td>1.25</td>'*20 + '</tr></tbody></table>')
PROSE = r'''It costs $5 and then $6, or \$7. The weight $\alpha_t = \frac{1}{n}\sum_{i=1}^{n} w_i * x_i$ is no `$money$`.

$$
\mathcal{L} = \sum_t w_t \cdot \mathbb{E}_{(x, y) \sim p_t}\left[-\log q_\theta(y \mid x)\right]
$$

A list right after its sentence:
- one about `Thing`
  - nested, two spaces in
- two

See [the part](data/00_core.ipynb#a-part-of-it), [its name](data/00_core.ipynb#thing) and [the tutorial](tutorials/first.ipynb).

::: {.callout-note}
## Mind this
A `Thing` weighs $m_0$.

- and has parts
:::

::: {.callout-warning title="Folded away" collapse="true"}
Inside.
:::
'''
CORE = '''#| export
class Thing:
    "Something with a weight; see `make_thing`"
    def __init__(self,
        weight: float,          # in kilograms | pounds
        *parts: str,            # what it is made of
        name: 'str | None' = None, # what it is called
    ): self.weight = weight

    def lift(self, height: float = 1.0) -> float:
        "The work done, in joules"
        return 9.81*self.weight*height


def make_thing(weight: float) -> Thing: # a nameless one
    "A `Thing` from its weight"
    return Thing(weight)
'''


def write_notebook(path: Path, *cells: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({'cells': cells, 'metadata': {}, 'nbformat': 4, 'nbformat_minor': 5}), encoding='utf-8')


def small_tree(folder: Path, *more: dict) -> Path:
    "A folder of notebooks; `more` cells are added to the tutorial"
    write_notebook(folder/'nbs'/'index.ipynb', md('# Small\n\n> A tree about a `Thing`'), md(PROSE),
        code('frame', result(html=WIDE, plain='a frame')), code('#| fig-cap: "Stripes"\nplot()', result(png=stripes(), plain='<Figure>')),
        code('#| echo: false\nunseen_input', result(plain="'seen output'")), code('#| hide\nunseen()', result(plain="'unseen output'")))
    write_notebook(folder/'nbs'/'data'/'00_core.ipynb', md('# Core\n\n> Things'), code('#| default_exp data.core'), md('## A part of it\n\nFirst, `Thing.lift()`.'), code(CORE))
    write_notebook(folder/'nbs'/'tutorials'/'first.ipynb', md('# First\n\n> Steps'), md('Back to [core](../data/00_core.ipynb#a-part-of-it), `make_thing`.'), *more)
    write_notebook(folder/'nbs'/'_drafts'/'no.ipynb', md('no page'))
    return folder/'nbs'


# ---------------------------------------------------------------- building and walking

@pytest.fixture(scope='session')
def nbs(tmp_path_factory) -> Path:
    "The notebooks as they are now: somebody may be at work on them while the tests run"
    folder = tmp_path_factory.mktemp('checkout')
    shutil.copy(ROOT/'settings.ini', folder)
    return shutil.copytree(NBS, folder/'nbs', ignore=shutil.ignore_patterns('_site', '.*'))


@pytest.fixture(scope='session')
def site(nbs) -> Path:
    "The site of this checkout"
    build_site(nbs, nbs.parent/'docs')
    return nbs.parent/'docs'


@pytest.fixture(scope='session')
def small(tmp_path_factory) -> Path:
    "The site of the small tree"
    folder = tmp_path_factory.mktemp('small')
    build_site(small_tree(folder), folder/'docs')
    return folder/'docs'


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_): pass


@contextmanager
def served(folder: Path):
    "The address at which a loopback server shows `folder`"
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try: yield f'http://127.0.0.1:{server.server_port}'
        finally: server.shutdown()


@pytest.fixture(scope='session')
def address(site): 
    with served(site) as o: yield o


@pytest.fixture(scope='session')
def browser(tmp_path_factory):
    chromium, chromedriver = shutil.which('chromium') or shutil.which('google-chrome'), shutil.which('chromedriver')
    if not (chromium and chromedriver): pytest.fail('The site is tested in a browser: install the Debian packages chromium and chromium-driver (.ci/run does).')
    options = webdriver.ChromeOptions()
    for flag in (*FLAGS, f'--user-data-dir={tmp_path_factory.mktemp("browser")}'): options.add_argument(flag)
    options.binary_location = chromium
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL', 'performance': 'ALL'})
    driver = webdriver.Chrome(options=options, service=Service(chromedriver))
    driver.set_page_load_timeout(60)
    driver.get('about:blank')
    yield driver
    driver.quit()


def phone(browser, on: bool) -> None:
    if on: browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', {'width': 390, 'height': 844, 'deviceScaleFactor': 2, 'mobile': True})
    else: browser.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})


def until(browser, script: str, seconds: float = 20):
    "What `script` returns, once that is true"
    return WebDriverWait(browser, seconds, poll_frequency=0.05).until(lambda b: b.execute_script(script), f'still false: {script}')


LOOK = r'''
const figures = [...document.querySelectorAll('article img')].map(image => {
  const canvas = document.createElement('canvas')
  canvas.width = image.naturalWidth; canvas.height = image.naturalHeight
  let colours = 0
  if (image.naturalWidth && image.naturalHeight) {
    canvas.getContext('2d').drawImage(image, 0, 0)
    const pixels = new Uint32Array(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.buffer)
    colours = new Set(pixels).size
  }
  return {source: image.getAttribute('src'), width: image.getBoundingClientRect().width, colours, alt: image.alt}
})
const prose = document.querySelector('article').cloneNode(true)
prose.querySelectorAll('pre, code, math, .rich-output').forEach(o => o.remove())
const formulas = [...document.querySelectorAll('article math')].map(o => ({text: o.textContent, height: o.getBoundingClientRect().height}))
return {title: document.querySelector('article h1')?.textContent, figures, formulas, prose: prose.textContent,
        full_width: document.documentElement.scrollWidth}
'''


@dataclass
class Look:
    "What one page looked like"
    name: str
    title: str
    prose: str
    figures: list[dict]
    formulas: list[dict]
    full_width: int
    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)


def requests(browser) -> list[str]:
    "The addresses asked for since the last call, whoever asked"
    messages = (json.loads(o['message'])['message'] for o in browser.get_log('performance'))
    sent = (o['params']['request']['url'] for o in messages if o['method'] == 'Network.requestWillBeSent')
    return [o for o in sent if not o.startswith('chrome://')]  # the browser's own first tab


def errors(browser) -> list[str]: return [o['message'] for o in browser.get_log('browser') if o['level'] in ('SEVERE', 'WARNING')]


def look(browser, base: str, name: str) -> Look:
    errors(browser), requests(browser)
    browser.get(f'{base}/{name}')
    page = Look(name, **browser.execute_script(LOOK))
    page.errors = errors(browser)
    page.outside = [o for o in requests(browser) if not o.startswith((base, 'data:', 'blob:'))]
    return page


def pages(site: Path) -> list[str]: return sorted(o.relative_to(site).as_posix() for o in site.rglob('*.html') if o.name != '404.html')


@pytest.fixture(scope='session')
def looks(browser, site, address) -> list[Look]:
    "Every page on a phone, where what is too wide shows; other tests look at single pages on a desktop"
    phone(browser, True)
    found = [look(browser, address, o) for o in pages(site)]
    phone(browser, False)
    return found


# ---------------------------------------------------------------- every page of this checkout

def test_every_notebook_is_a_page(nbs, site):
    assert set(pages(site)) == {str(o.page.with_suffix('.html')) for o in read_notebooks(nbs)} | {'names.html'}


def test_pages_load_without_errors_and_without_asking_anyone_outside(looks):
    assert {o.name: (o.errors, o.outside) for o in looks if o.errors or o.outside} == {}
    assert [o.name for o in looks if not o.title] == []


def test_no_markup_leaks_into_prose(looks):
    leaks = re.compile(r':::|#\||\$\$|\{\.|\{:|\{ #|\\(?:frac|sum|alpha|mathcal|text)\b|</?(?:div|span|table)|\]\(|data-html|default_exp')
    assert {o.name: leaks.findall(o.prose) for o in looks if leaks.search(o.prose)} == {}


def test_every_figure_shows_something(looks):
    figures = [(o.name, f) for o in looks for f in o.figures]
    assert figures, 'no notebook has a figure'
    assert [(name, f) for name, f in figures if f['colours'] < 2 or f['width'] < 100 or not f['alt']] == []


def test_every_formula_is_set(looks):
    formulas = [(o.name, f) for o in looks for f in o.formulas]
    assert formulas, 'no notebook has a formula'
    assert [(name, f) for name, f in formulas if f['height'] < 5 or '\\' in f['text'] or not f['text'].strip()] == []


def test_a_phone_shows_every_page_without_scrolling_sideways(looks):
    assert {o.name: o.full_width for o in looks if o.full_width > 390} == {}


def test_the_site_map_has_five_parts(browser, address):
    browser.get(f'{address}/index.html')
    assert [o.text for o in browser.find_elements(By.CSS_SELECTOR, '.md-tabs__link')] == ['Start here', 'Tutorials', 'Papers', 'Explanations', 'Reference']


def search_for(browser, page: str, words: str) -> None:
    "Type `words` into the search field of `page` and follow the line of the first page found that is headed so"
    browser.get(page)
    browser.find_element(By.CSS_SELECTOR, '.md-search__input').send_keys(words)
    links = until(browser, '''const o = document.querySelectorAll(".md-search-result__item:first-child a.md-search-result__link")
        return o.length > 1 && [...o].map(a => [a.querySelector("h1, h2")?.textContent.trim(), a.href])''')
    assert words in dict(links)
    browser.get(dict(links)[words])


def assert_in_view(browser, anchor: str, text: str) -> None:
    "The heading `anchor` reads `text`, and a reader sees it below the header"
    until(browser, f'''const box = document.getElementById("{anchor}")?.getBoundingClientRect()
        return document.readyState === "complete" && box && box.height > 0 && box.top >= document.querySelector(".md-header").getBoundingClientRect().bottom - 1 && box.bottom <= innerHeight''')
    heading = browser.find_element(By.ID, anchor)
    assert heading.is_displayed() and heading.tag_name in ('h2', 'h3')
    assert browser.execute_script('return arguments[0].firstChild.textContent', heading) == text


@pytest.mark.parametrize('scheme', ['http', 'file'])
def test_search_finds_a_class_and_lands_on_it(browser, site, address, scheme):
    base = address if scheme == 'http' else site.as_uri()
    errors(browser), requests(browser)
    search_for(browser, f'{base}/data/core.html', 'StepByStep')
    assert re.split(r'[?#]', browser.current_url)[0] == f'{base}/data/formats.html'
    assert_in_view(browser, 'StepByStep', 'StepByStep')
    assert [o for o in requests(browser) if not o.startswith((base, 'data:', 'blob:'))] == [] and errors(browser) == []


def test_a_name_in_prose_leads_to_its_heading_on_another_page(browser, site, address):
    doclink = re.compile(r'<a href="((?:\.\./)?(?:\w+/)?\w+\.html)#(\w+)"><code>\2</code></a>')
    found = ((o, m) for o in pages(site) if o.startswith('data/') for m in doclink.finditer((site/o).read_text(encoding='utf-8')))
    page, link = next((page, m) for page, m in found if Path(m[1]).name != Path(page).name)
    browser.get(f'{address}/{page}')
    browser.execute_script('arguments[0].click()', browser.find_element(By.CSS_SELECTOR, f'article a[href="{link[1]}#{link[2]}"]'))
    assert_in_view(browser, link[2], link[2])
    assert browser.current_url == f'{address}/{os.path.normpath(os.path.join(os.path.dirname(page), link[1]))}#{link[2]}'


def test_pages_work_from_the_file_system(browser, site):
    for name in ('index.html', 'data/formats.html', 'names.html'):
        errors(browser), requests(browser)
        browser.get(f'{site.as_uri()}/{name}')
        assert browser.execute_script('return getComputedStyle(document.querySelector(".md-header")).backgroundColor') == 'rgb(23, 56, 74)'
        assert errors(browser) == [] and [o for o in requests(browser) if not o.startswith((site.as_uri(), 'data:'))] == []


def test_colours_can_be_switched(browser, address):
    browser.get(f'{address}/index.html')
    def scheme() -> str: return browser.execute_script('return document.body.dataset.mdColorScheme')
    before = scheme()
    browser.find_element(By.CSS_SELECTOR, 'label.md-header__button[for^="__palette"]:not([hidden])').click()
    WebDriverWait(browser, 10).until(lambda _: scheme() != before)
    browser.execute_script('localStorage.clear()')


class Links(html.parser.HTMLParser):
    "The links and the anchors of a page"
    def __init__(self, source: str):
        super().__init__()
        self.links, self.loads, self.anchors = [], [], set()
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors |= {given[o] for o in ('id', 'name') if given.get(o)}
        if tag == 'a' and 'href' in given: self.links.append(given['href'])
        if tag in ('script', 'img', 'iframe', 'source') and 'src' in given: self.loads.append(given['src'])
        if tag == 'link' and given.get('rel') in ('stylesheet', 'icon', 'preconnect', 'preload', 'dns-prefetch'): self.loads.append(given['href'])


def test_every_link_of_every_page_has_its_end(site):
    parsed = {o: Links((site/o).read_text(encoding='utf-8')) for o in pages(site)}
    broken = []
    for name, page in parsed.items():
        for link in page.links + page.loads:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in page.loads and parts.scheme != 'data': broken.append((name, link))
                continue
            target = os.path.normpath(os.path.join(os.path.dirname(name), unquote(parts.path))) if parts.path else name
            exists = (site/target).is_file() or target == '.'
            anchored = not parts.fragment or target not in parsed or unquote(parts.fragment) in parsed[target].anchors | {'__tabbed'}
            if not (exists and anchored): broken.append((name, link))
    assert broken == []


def test_each_page_offers_its_notebook(nbs, site):
    for notebook in read_notebooks(nbs):
        page = (site/notebook.page).with_suffix('.html')
        assert f'href="{notebook.path.name}"' in page.read_text(encoding='utf-8')
        assert (page.parent/notebook.path.name).read_bytes() == (nbs/notebook.path).read_bytes()


# ---------------------------------------------------------------- what authors write and readers see, on the small tree

@pytest.fixture(scope='module')
def home(browser, small):
    browser.get(f'{small.as_uri()}/index.html')
    return browser


def test_formulas_are_mathml(home):
    boxes = home.execute_script('return [...document.querySelectorAll("article math")].map(o => [o.getAttribute("display"), o.getBoundingClientRect().height])')
    assert [display for display, _ in boxes] == ['inline', 'block', 'inline'] and all(height > 5 for _, height in boxes)
    text = home.find_element(By.TAG_NAME, 'article').text
    assert 'It costs $5 and then $6, or $7.' in text and '$money$' in text and '$$' not in text and '\\' not in text


def test_callouts_are_boxes(home):
    note = home.find_element(By.CSS_SELECTOR, '.admonition.note')
    assert note.text.splitlines()[0] == 'Mind this'
    assert [len(note.find_elements(By.CSS_SELECTOR, o)) for o in ('a', 'math', 'li')] == [1, 1, 1]
    folded = home.find_element(By.CSS_SELECTOR, 'details.warning')
    assert folded.get_attribute('open') is None and folded.find_element(By.TAG_NAME, 'summary').text == 'Folded away'


def test_lists_nest_as_in_the_notebook(home):
    items = home.execute_script('''return [...document.querySelectorAll("article > ul > li")].map(o =>
        [o.firstChild.textContent.trim(), o.querySelectorAll("li").length])''')
    assert items == [['one about', 1], ['two', 0]]


def test_hidden_cells_are_gone_and_outputs_are_told_from_inputs(home):
    text = home.page_source
    assert 'unseen' not in text and 'seen output' in text and 'echo: false' not in text
    colours = home.execute_script('return [".input code", ".output code"].map(o => getComputedStyle(document.querySelector(o)).backgroundColor)')
    assert colours[0] != colours[1]


def test_a_wide_table_scrolls_by_itself(home):
    frame = home.execute_script('''const o = document.querySelector('.rich-output'), cell = o.querySelector('td'), style = getComputedStyle(cell)
        return [o.scrollWidth > o.clientWidth, getComputedStyle(o).overflowX, parseFloat(style.fontSize), parseFloat(style.paddingLeft),
            getComputedStyle(o.querySelector('th')).fontWeight]''')
    assert frame[:2] == [True, 'auto'] and frame[2] >= 11 and frame[3] >= 5 and int(frame[4]) >= 600
    phone(home, True)
    assert home.execute_script('return document.documentElement.scrollWidth') <= 390
    phone(home, False)


def test_a_figure_is_a_file_beside_its_page(home, small):
    image = home.find_element(By.CSS_SELECTOR, 'figure img')
    assert int(image.get_attribute('naturalWidth')) == 60 and image.get_attribute('alt') == 'Stripes'
    assert home.find_element(By.TAG_NAME, 'figcaption').text == 'Stripes'
    assert (small/image.get_dom_attribute('src')).read_bytes() == base64.b64decode(stripes())


def test_reference_entries(browser, small):
    browser.get(f'{small.as_uri()}/data/core.html#Thing')
    assert_in_view(browser, 'Thing', 'Thing')
    parameters, methods = browser.execute_script('''return [...document.querySelectorAll(".api")[0].querySelectorAll("table")].map(t =>
        [...t.rows].map(r => [...r.cells].map(c => c.textContent)))''')
    assert parameters == [['Name', 'Type', 'Default', 'Meaning'], ['weight', 'float', '', 'in kilograms | pounds'],
                          ['*parts', 'str', '', 'what it is made of'], ['name', 'str | None', 'None', 'what it is called']]
    assert methods == [['Method', 'What it does'], ['lift(height=1.0) -> float', 'The work done, in joules']]
    links = browser.execute_script('return [...document.querySelectorAll("article p a, article td a")].map(o => o.getAttribute("href"))')
    assert '#Thing.lift' in links or 'core.html#Thing.lift' in links
    assert browser.execute_script('return document.getElementById("Thing.lift").closest("table") !== null')
    assert len(browser.find_elements(By.CSS_SELECTOR, '.exported')) == 1


# ---------------------------------------------------------------- strictness

@pytest.mark.parametrize('cell, complaint', [
    (md('[gone](../07_gone.ipynb)'), '07_gone.ipynb'),
    (md('[no such part](../data/00_core.ipynb#no-such-part)'), 'no-such-part'),
    (md('[absolute](/etc/hostname)'), '/etc/hostname'),
    (md('::: {.callout-note}\nnever closed'), 'tutorials/first.ipynb: ::: {.callout-note} is not closed'),
    (md('::: {.panel-tabset}\n:::'), 'tutorials/first.ipynb: .panel-tabset is not a callout'),
    (md(r'$\nosuchcommand{x}$'), r'tutorials/first.ipynb: \nosuchcommand is not known'),
    (code('show_doc(nowhere)'), 'tutorials/first.ipynb: show_doc(nowhere)'),
    (code('#| export\ndef broken(:'), 'tutorials/first.ipynb: an exported cell is not Python'),
])
def test_a_broken_notebook_fails_the_build_and_leaves_the_old_site(tmp_path, cell, complaint):
    out = tmp_path/'docs'
    out.mkdir()
    (out/'old.html').write_text('old')
    with pytest.raises(SiteError) as e: build_site(small_tree(tmp_path, cell), out)
    assert complaint in str(e.value)
    assert [o.name for o in out.iterdir()] == ['old.html'] and {o.name for o in tmp_path.iterdir()} == {'nbs', 'docs'}


def test_a_notebook_without_title_is_named(tmp_path):
    write_notebook(tmp_path/'nbs'/'data'/'00_core.ipynb', md('no title'))
    with pytest.raises(SiteError, match='00_core.ipynb: the first markdown cell has no'): read_notebooks(tmp_path/'nbs')


def test_the_command_says_what_is_wrong_on_one_line(tmp_path):
    nbs = small_tree(tmp_path, md('::: {.callout-note}'))
    done = subprocess.run([sys.executable, NBS/'_site'/'build.py', 'site', '--nbs', nbs, '--out', tmp_path/'docs'], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == '' and len(done.stderr.strip().splitlines()) == 1 and 'tutorials/first.ipynb' in done.stderr
    assert not (tmp_path/'docs').exists()


# ---------------------------------------------------------------- README and Quarto

def test_readme_is_what_the_index_notebook_says(tmp_path):
    build_readme(NBS, tmp_path/'README.md')
    assert (tmp_path/'README.md').read_text(encoding='utf-8') == (ROOT/'README.md').read_text(encoding='utf-8'), 'run: make readme'


def test_readme_is_plain_markdown_whose_links_lead_somewhere(tmp_path):
    for tree in (NBS, small_tree(tmp_path)):
        build_readme(tree, tmp_path/'README.md')
        text = (tmp_path/'README.md').read_text(encoding='utf-8')
        outside_code = ''.join(chunk for is_code, chunk in split_fences(text) if not is_code)
        assert not re.search(r'data:image|:::|^#\||<table|<div|\]\([^)]*\.html', outside_code, re.M)
        links = [o for o in re.findall(r'\]\(([^)\s]+)\)', outside_code) if not urlsplit(o).scheme]
        assert links and [o for o in links if not (tree.parent/o.split('#')[0]).exists()] == []


def test_sidebar_for_quarto_is_current(tmp_path):
    build_sidebar(NBS, tmp_path/'sidebar.yml')
    assert (tmp_path/'sidebar.yml').read_text(encoding='utf-8') == (NBS/'sidebar.yml').read_text(encoding='utf-8'), 'run: python nbs/_site/build.py sidebar'


# ---------------------------------------------------------------- pieces

def test_signatures_are_read_from_source():
    thing, make_thing = read_symbols(CORE)
    assert thing.signature == 'Thing(weight, *parts, name=None)' and make_thing.signature == 'make_thing(weight) -> Thing'
    assert [o.comment for o in thing.parameters] == ['in kilograms | pounds', 'what it is made of', 'what it is called']
    assert make_thing.returns.comment == 'a nameless one' and make_thing.parameters[0].comment == ''
    later, = read_symbols('async def later(a, /, b=1, *, c: int, d=None, **e): pass')
    assert later.signature == 'await later(a, b=1, *, c, d=None, **e)' and later.kind == 'coroutine'
    row, = read_symbols('@dataclass\nclass Row(Base):\n    "A row"\n    a: int  # first\n    b: dict = field(default_factory=dict)\n'
                        '    KNOWN: ClassVar[int] = 3\n    @property\n    def c(self) -> int: return 1\n    def _d(self): pass')
    assert [(o.name, o.default, o.comment) for o in row.parameters] == [('a', '', 'first'), ('b', 'dict()', '')]
    assert row.bases == ('Base',) and [(o.name, o.kind, o.signature) for o in row.methods] == [('Row.c', 'property', 'c -> int')]


@pytest.fixture(scope='module')
def adapter(tmp_path_factory) -> SiteAdapter:
    nbs = small_tree(tmp_path_factory.mktemp('adapter'))
    return SiteAdapter(nbs, read_notebooks(nbs))


@given(st.text(alphabet='ab$_*[](){}\\|:#.`/ \n', max_size=60).filter(lambda o: '```' not in o))
@settings(max_examples=150, deadline=None)
def test_code_is_never_changed(adapter, source):
    notebook = adapter.notebooks[0]
    block = f'```python\n{source}\n```'
    assert adapter.prose(notebook, f'Before `Thing`.\n\n{block}\n\nAfter $x$.').split('\n\n', 1)[1].startswith(block)
    line = ' '.join(source.replace('`', '').split())
    if line and line != 'Thing': assert f'`{line}`' in adapter.prose(notebook, f'In a line: `{line}`.')


@given(st.lists(st.sampled_from(['text', '- item', '  - deeper', '    - deepest', '1. first', '   more', '', '> quote']), max_size=8))
@settings(deadline=None)
def test_regular_lists_keep_every_word(lines):
    text = '\n'.join(lines)
    once = regular_lists(text)
    assert once.split() == text.split()


def test_lists_are_rewritten_for_python_markdown():
    assert regular_lists('text\n- a\n  - b\n\n    more b\n- c\nstill c\n\nend') == 'text\n\n- a\n    - b\n\n        more b\n- c\n    still c\n\nend'
    assert regular_lists('in\n2019. Then') == 'in\n2019. Then' and regular_lists('so:\n1. a\n2. b') == 'so:\n\n1. a\n2. b'
    assert regular_lists('1. a\n\n   ```\n   - code\n     x\n   ```\n2. b') == '1. a\n\n    ```\n    - code\n      x\n    ```\n2. b'


def test_what_a_page_shows_for_show_doc_and_for_an_override(tmp_path):
    nbs = small_tree(tmp_path, code('#| export\nclass Heavy(Thing):\n    def lift(self, height: float) -> float: return 0.0'), code('show_doc(Thing.lift)'), code('#| gpu\ntrain()'))
    adapter = SiteAdapter(nbs, read_notebooks(nbs))
    text = adapter.markdown(adapter.notebooks[-1])
    assert text.count('The work done, in joules') == 2 and 'show_doc' not in text and '`lift(height) -> float`' in text
    assert '```{ .python .input title="needs a GPU" }\ntrain()\n```' in text


def test_names_are_linked_once_and_not_inside_links_or_headings(adapter):
    notebook = next(o for o in adapter.notebooks if o.path.name == 'first.ipynb')
    assert adapter.prose(notebook, 'A `Thing`, a `thing`, `Thing()` and [a `Thing`](../data/00_core.ipynb).\n\n## On `Thing`') == (
        'A [`Thing`](../data/core.md#Thing), a `thing`, [`Thing()`](../data/core.md#Thing) and [a `Thing`](../data/core.md).\n\n## On `Thing`')
    assert Adapter(adapter.root, adapter.notebooks).prose(notebook, 'A `Thing`') == 'A [`Thing`](nbs/data/00_core.ipynb)'


# ---------------------------------------------------------------- what a page opens with, and what fits on it

MEASURE = '''return [...document.querySelectorAll(".exported pre > code, .input pre > code")].filter(o => o.clientWidth).map(o => {
    const style = getComputedStyle(o), mark = document.createElement("span")
    mark.textContent = "x".repeat(100)
    mark.style.cssText = `position: absolute; visibility: hidden; font: ${style.font}`
    o.appendChild(mark)
    const width = mark.getBoundingClientRect().width
    mark.remove()
    return 100*(o.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight))/width })'''


@pytest.mark.parametrize('page', ['data/formats.html', 'papers/distilling_step_by_step.html'])
def test_a_hundred_columns_of_code_fit_at_1280_pixels(browser, address, page):
    size = browser.get_window_size()
    browser.set_window_size(1280, 900)
    try:
        browser.get(f'{address}/{page}')
        browser.execute_script('document.querySelectorAll("details").forEach(o => o.open = true)')
        columns = browser.execute_script(MEASURE)
    finally: browser.set_window_size(size['width'], size['height'])
    assert len(columns) > 10 and min(columns) >= 100


def test_a_reference_page_opens_with_its_main_name(site):
    "Signature and parameters of the function that the module is called after stand before the first code"
    page = (site/'teachers'/'collect.html').read_text(encoding='utf-8')
    first, entry = page.index('class="glance"'), page.index('id="collect"')
    assert first < page.index('exported') < entry and 'href="#collect"' in page[first:entry]


def test_the_code_of_a_study_is_folded(site):
    page = (site/'papers'/'distilling_step_by_step.html').read_text(encoding='utf-8')
    assert page.count('<details class="quote">') > 10
    outside = re.sub(r'<details class="quote">.*?</details>', '', page, flags=re.S)
    assert 'exported' in page and not re.search(r'class="[^"]*\b(exported|input)\b', outside)
