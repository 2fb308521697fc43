"Figures, tables, the model card, and the HTML page as a person meets it in a browser"
import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cotkit.data.answers import Accuracy
from cotkit.data.core import CotkitError, Problem, Rationale, Step
from cotkit.teachers.curate import curate
from cotkit.evaluation.evaluate import Evaluation, Prediction, Estimate, compare
from cotkit.data.records import RunRecord
from cotkit.data.formats import ZeroShotCoT
from cotkit.reporting.figures import (accuracy_figure, accuracy_table, comparison_table, comparisons, curation_figure, curve_figure, difference_figure, estimates, set_style, tradeoff_figure)
from cotkit.reporting.html import Page, asset, html_report, inline_svg
from cotkit.reporting.publish import ModelCard, model_card

CHROMIUM, DRIVER = Path('/usr/bin/chromium'), Path('/usr/bin/chromedriver')
FLAGS = '--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync --window-size=1200,900'.split()
HOSTILE = ('</script><script>document.title="owned"</script><img src="http://127.0.0.1:9/x" onerror="document.title=\'owned\'"> <!--'
           '<svg onload=alert(1)> javascript:alert(1) {{7*7}} ${7*7} \x00 \u2028 \ud800 & &amp; &lt;b&gt; Ω')


def problems_of(n): return [Problem(f'p{i}', f'Ann has {i} apples and buys 4 more. How many apples does Ann have now?', str(i + 4)) for i in range(n)]


def taken(problems, verdicts, name, split='test', seed=0):
    texts = [f'{p.answer if v else 0} is what {name} says. The answer is {p.answer if v else 0}.' for p, v in zip(problems, verdicts)]
    return Evaluation(name, split, [Prediction(p.id, t, p.answer if v else '0', {'exact_match': float(v > 0)}, True) for p, v, t in zip(problems, verdicts, texts)], seed)


@pytest.fixture(scope='module')
def material():
    problems = problems_of(60)
    evaluations = [taken(problems, [i % 10 != 0 for i in range(60)], 'careful'), taken(problems, [i % 2 for i in range(60)], 'hasty'),
                   taken(problems[:30], [i % 3 for i in range(30)], 'careful', 'longer')]
    nasty = Problem('nasty', f'What is {HOSTILE}?', '11')
    said = [Rationale(p.id, f'Ann has {p.id[1:]} + 4 = {p.answer} apples. The answer is {p.answer}.', teacher='oracle') for p in problems]
    said += [Rationale('p1', 'Ann has 1 + 4 = 6 apples. The answer is 6.', teacher='oracle', sample=1), Rationale('p2', 'Hm, who knows.', teacher='oracle', sample=1),
             Rationale('nasty', f'These are three words {HOSTILE}. The answer is 11.', teacher='<i>evil</i>')]
    return problems + [nasty], evaluations, curate(said, problems + [nasty], ZeroShotCoT())


@pytest.fixture(scope='module')
def page(material, tmp_path_factory):
    problems, evaluations, curated = material
    record = RunRecord({'title': HOSTILE, 'size': 'tiny'}, seed=3, seconds={'train': 12.3}, data={'apples': 'f00d'}, results={})
    figures = {f'Accuracy {HOSTILE[:30]}': accuracy_figure(evaluations, teacher=0.8, title='a < b & c'), 'Curation': curation_figure(curated)}
    page = Page(f'Report {HOSTILE[:20]}', 'First.\n\nSecond <b>.', figures)
    return html_report(tmp_path_factory.mktemp('report') / 'report.html', evaluations, curated, problems, record, page)


# ---------------------------------------------------------------- figures and tables

def drawn(figure):
    figure.canvas.draw()
    return [t.get_text() for t in figure.findobj(lambda o: hasattr(o, 'get_text')) if t.get_text()]


def test_accuracy_figure_shows_points_and_intervals(material):
    _, evaluations, _ = material
    figure = accuracy_figure(evaluations, teacher=0.8, chance=0.1)
    texts = drawn(figure)
    assert {'careful', 'hasty', 'test', 'longer', 'teacher', 'chance', 'accuracy (%)'} <= set(texts)
    points = [tuple(round(y, 6) for y in c[0].get_ydata()) for c in figure.axes[0].containers]
    assert points == [tuple(round(100 * e.accuracy.value, 6) for e in (evaluations[0], evaluations[2])), (round(100 * evaluations[1].accuracy.value, 6),)]
    (low, high), = [s[:, 1] for s in figure.axes[0].containers[1][2][0].get_segments()]
    assert (low, high) == pytest.approx((100 * evaluations[1].accuracy.low, 100 * evaluations[1].accuracy.high))


def test_seeds_become_one_estimate():
    problems = problems_of(40)
    runs = [taken(problems, [(i + s) % 4 for i in range(40)], 'careful', seed=s) for s in range(3)]
    found = estimates(runs)
    assert len(found) == 1 and len(found[0].by_seed) == 3 and '3 seeds' in accuracy_table(runs).loc['careful', 'test']
    other = [taken(problems, [i % 2 for i in range(40)], 'hasty', seed=s) for s in range(3)]
    assert comparison_table(comparisons(runs + other))['seeds'].tolist() == [3]


def test_tables(material):
    _, evaluations, _ = material
    table = accuracy_table(evaluations)
    assert table.loc['careful', 'test'] == '90.0 % [79.9, 95.3], n = 60'
    assert table.loc['hasty', 'longer'] == ''
    pairs = comparisons(evaluations)
    assert pairs == [compare(evaluations[0], evaluations[1])]
    assert comparison_table(pairs).loc[0, 'points'] == '+40.0'


def test_curves_pass_over_rows_of_other_quantities():
    log = {'student': [{'step': 1, 'loss': 2.0}, {'step': 1, 'eval_loss': 3.0}, {'step': 2, 'loss': 1.0, 'loss_low': 0.9, 'loss_high': 1.1}, {'train_runtime': 3.0}]}
    line, = curve_figure(log).axes[0].lines
    assert list(line.get_xdata()) == [1, 2] and list(line.get_ydata()) == [2.0, 1.0]
    with pytest.raises(CotkitError, match='accuracy'): curve_figure(log, y='accuracy')


def test_curation_figure_adds_up(material):
    bars = curation_figure(material[2]).axes[0].patches
    assert [b.get_width() for b in bars] == [61, 1, 1]


def test_difference_figure(material):
    _, evaluations, _ = material
    figure = difference_figure(comparisons(evaluations))
    assert 'careful − hasty, test' in drawn(figure) and list(figure.axes[0].containers[0][0].get_xdata()) == [pytest.approx(40)]
    with pytest.raises(CotkitError, match='no comparisons'): difference_figure([])


def test_tradeoff_figure_is_a_path_with_intervals_both_ways():
    "Points in the order of the steps, Wilson's intervals on both axes, an arrow at the end, few numbers, one where paths meet"
    start = (0, Accuracy(180, 200), Accuracy(4, 200))
    mixed = Estimate(0.5, 0.4, 0.7, 200, (0.4, 0.6), name='m', split='test')
    figure = tradeoff_figure({'task only': [(400, Accuracy(60, 200), Accuracy(150, 200)), start, (200, Accuracy(100, 200), Accuracy(90, 200))],
                              'mixture': [start, (400, Accuracy(170, 200), mixed)]}, title='Costs')
    first, second = figure.axes[0].containers
    assert list(first[0].get_xdata()) == pytest.approx([90, 50, 30]) and list(first[0].get_ydata()) == pytest.approx([2, 45, 75])
    across, up = first[2]
    assert sorted(across.get_segments()[0][:, 0]) == pytest.approx([100 * start[1].low, 100 * start[1].high])
    assert sorted(up.get_segments()[0][:, 1]) == pytest.approx([100 * start[2].low, 100 * start[2].high])
    assert sorted(second[2][1].get_segments()[1][:, 1]) == pytest.approx([40, 70])
    arrows = [t for t in figure.axes[0].texts if t.arrow_patch]
    assert [t.xy for t in arrows] == [pytest.approx((30, 75)), pytest.approx((85, 50))]
    assert [t.get_text() for t in figure.axes[0].texts if t.get_text()] == ['0', '200', '400', '400']
    assert {'task only', 'mixture', 'generic ability (%)', 'accuracy on the task (%)', 'Costs'} <= set(drawn(figure))
    assert first[0].get_color() != second[0].get_color() and first[0].get_marker() != second[0].get_marker()
    for none in ({}, {'task only': []}):
        with pytest.raises(CotkitError, match='no checkpoints'): tradeoff_figure(none)


def test_a_long_legend_stays_inside():
    paths = {f'{name} and a mixture of four formats': [(0, Accuracy(1, 2), Accuracy(1, 2))] for name in ('raw start', 'tuned start', 'third')}
    figure = tradeoff_figure(paths)
    figure.canvas.draw()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width


def test_a_notebook_shows_a_figure(material):
    first, second = (curation_figure(material[2])._repr_png_() for _ in range(2))
    assert first.startswith(b'\x89PNG') and first == second and b'matplotlib' not in first


def test_figures_leave_the_settings_of_matplotlib_alone(material):
    "F35: drawing and showing every kind of figure changes nothing; `set_style` does"
    import matplotlib as mpl
    _, evaluations, curated = material
    before = dict(mpl.rcParams)
    log = {'careful': [{'step': 1, 'loss': 2.0}, {'step': 2, 'loss': 1.0}]}
    path = {'careful': [(0, Accuracy(1, 4), Accuracy(1, 4)), (9, Accuracy(1, 4), Accuracy(3, 4))]}
    figures = [accuracy_figure(evaluations), curve_figure(log), curation_figure(curated), tradeoff_figure(path),
               difference_figure(comparisons(evaluations))]
    for figure in figures: figure._repr_png_(); inline_svg(figure, 0, 'x')
    assert {k: v for k, v in mpl.rcParams.items() if before[k] != v} == {}
    with mpl.rc_context():
        set_style()
        assert mpl.rcParams['axes.titleweight'] == 'bold' != before['axes.titleweight']
    with mpl.rc_context({'axes.titleweight': 'light', 'font.size': 30}):
        figure = accuracy_figure(evaluations, title='Title')
    assert figure.axes[0].title.get_fontweight() in ('normal', 'bold') and figure.axes[0].xaxis.label.get_size() < 20


def test_style_and_script_are_installed(tmp_path):
    "What a wheel would hold, built from a copy of the tree"
    root = Path(__file__).resolve().parent.parent
    for name in ('setup.py', 'settings.ini', 'README.md', 'cotkit'):
        (shutil.copytree if (root/name).is_dir() else shutil.copy2)(root/name, tmp_path/name)
    build = [sys.executable, 'setup.py', '-q', 'build_py', '--build-lib', 'built']
    ran = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    for name in ('report.css', 'report.js'):
        assert (tmp_path/'built'/'cotkit'/'assets'/name).read_text() == asset(name) == (root/'cotkit'/'assets'/name).read_text()


def test_the_script_is_valid_and_the_page_has_it(page):
    text = page.read_text()
    assert asset('report.js') in text and asset('report.css') in text and '</script' not in asset('report.js')
    if node := shutil.which('node'):
        assert subprocess.run([node, '--check', Path(__file__).parent.parent/'cotkit'/'assets'/'report.js']).returncode == 0


def test_figures_leave_pyplot_alone():
    import matplotlib.pyplot as plt
    accuracy_figure([taken(problems_of(4), [1, 0, 1, 1], 'careful')])
    assert plt.get_fignums() == []
    with pytest.raises(CotkitError, match='no evaluations'): accuracy_figure([])


# ---------------------------------------------------------------- the file

class Outline(HTMLParser):
    "What an HTML parser sees"
    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.ids = [], [], []
    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *a) for a in attrs]
        self.ids += [v for k, v in attrs if k == 'id']


def test_the_file_holds_two_scripts_and_no_address(page):
    outline = Outline()
    outline.feed(page.read_text())
    assert outline.tags.count('script') == 2 and 'img' not in outline.tags and 'link' not in outline.tags and 'iframe' not in outline.tags
    assert not [a for a in outline.attributes if a[1].startswith('on')]
    assert not [a for a in outline.attributes if a[1] in ('src', 'href', 'xlink:href') and not (a[2] or '').startswith('#')]
    assert len(outline.ids) == len(set(outline.ids)), 'an id occurs twice'


def test_rows_survive_the_json(page, material):
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)[1]
    assert not set('<>&') & set(text)
    data = json.loads(text)
    rows = [dict(zip(data['fields'], row)) for row in data['rows']]
    assert len(rows) == 60 + 60 + 30 + 63
    assert HOSTILE in next(r['text'] for r in rows if r['who'] == '<i>evil</i>')


def test_an_empty_report_and_one_without_problems(tmp_path, material):
    assert html_report(tmp_path / 'empty.html').read_text().count('<section') == 0
    text = html_report(tmp_path / 'few.html', evaluations=material[1][:1]).read_text()
    assert 'id="browse"' in text and 'id="record"' not in text


def test_nothing_half_written(tmp_path, material):
    with pytest.raises(AttributeError): html_report(tmp_path / 'report.html', page=Page(figures={'none': None}))
    assert list(tmp_path.iterdir()) == []


def test_same_input_same_file(tmp_path, material):
    problems, evaluations, curated = material
    files = [html_report(tmp_path / f'{i}.html', evaluations, curated, problems, page=Page('Report', figures={'f': accuracy_figure(evaluations)})).read_bytes() for i in range(2)]
    assert files[0] == files[1]


def test_model_card(material):
    _, evaluations, _ = material
    record = RunRecord({'alpha': 0.5, 'note': '```\n</div>'}, seed=3, data={'apples': 'f00d'})
    card = model_card(ModelCard('apples-student', {'teacher': 'oracle | 80 %', 'recipe': 'step-by-step\n# no heading'}, 'apache-2.0'), evaluations, record)
    front = card.split('---')[1]
    assert 'license: "apache-2.0"' in front and 'library_name: "transformers"' in front
    row = next(line for line in card.splitlines() if line.startswith('| careful | test'))
    assert [c.strip() for c in row.strip('|').split('|')] == ['careful', 'test', '90.0 %', '79.9 – 95.3 %', '60', '1']
    assert '\n# no heading' not in card and card.count('```') == 2 and 'f00d' in card


# ---------------------------------------------------------------- the browser

@pytest.fixture(scope='module')
def browser():
    if not (CHROMIUM.exists() and DRIVER.exists()): pytest.skip('chromium and chromedriver are not installed')
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for flag in (*FLAGS, f'--user-data-dir={folder}'): options.add_argument(flag)
        options.set_capability('goog:loggingPrefs', {'browser': 'ALL', 'performance': 'ALL'})
        driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
        try: yield driver
        finally: driver.quit()


@pytest.fixture
def view(browser, page):
    "The page, freshly opened"
    browser.get_log('performance'), browser.get_log('browser')
    browser.get(page.as_uri())
    return browser


def run(view, script, *arguments): return view.execute_script(script, *arguments)
def count(view): return int(run(view, 'return document.getElementById("count").textContent').split()[0].replace(',', ''))
def lines(view): return run(view, 'return [...document.querySelectorAll("#rows tr.row")].map(r => r.innerText)')


def search(view, text):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait
    field = view.find_element(By.ID, 'search')
    before = run(view, 'return document.querySelector("#rows tbody").firstChild.isConnected && (document.querySelector("#rows tbody").firstChild.dataset.seen = "1")')
    assert before == '1'
    field.clear()
    field.send_keys(text)
    WebDriverWait(view, 5).until(lambda v: run(v, 'return !document.querySelector("#rows tbody").firstChild.dataset.seen'))


def choose(view, name, text):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select
    Select(view.find_element(By.ID, f'by-{name}')).select_by_visible_text(text)


def test_nothing_is_requested_and_nothing_complains(view, page):
    from selenium.webdriver.common.by import By
    for row in view.find_elements(By.CSS_SELECTOR, '#rows tr.row')[:5]: row.click()
    messages = [json.loads(entry['message'])['message'] for entry in view.get_log('performance')]
    ours = [m['params'] for m in messages if m['method'] == 'Network.requestWillBeSent' and m['params']['documentURL'] == page.as_uri()]
    assert {o['request']['url'] for o in ours} == {page.as_uri()}
    assert view.get_log('browser') == []


def test_search(view):
    assert count(view) == 213
    search(view, 'ann HAS 17 apples')
    assert count(view) == 4 and len(lines(view)) == 4
    assert all('Ann has 17 apples' in line for line in lines(view))
    search(view, 'zebra')
    assert count(view) == 0 and 'Nothing matches' in run(view, 'return document.querySelector("#rows tbody").innerText')


def test_filters(view):
    choose(view, 'kind', 'outputs')
    assert count(view) == 150
    choose(view, 'who', 'hasty')
    assert count(view) == 60
    choose(view, 'verdict', 'wrong')
    assert count(view) == 30 and all(line.startswith('✗ wrong') for line in lines(view))
    choose(view, 'split', 'longer')
    assert count(view) == 0
    run(view, 'document.querySelector("#filters button[type=reset]").click()')
    from selenium.webdriver.support.ui import WebDriverWait
    WebDriverWait(view, 5).until(lambda v: count(v) == 213)
    choose(view, 'status', 'dropped: wrong')
    assert count(view) == 1 and '6' in lines(view)[0]
    choose(view, 'status', 'kept')
    assert count(view) == 61


def test_paging(view):
    from selenium.webdriver.common.by import By
    assert len(lines(view)) == 25 and not view.find_element(By.ID, 'previous').is_enabled()
    first = lines(view)
    view.find_element(By.ID, 'next').click()
    assert lines(view) != first and 'Page 2 of 9' in view.find_element(By.ID, 'page').text
    view.find_element(By.ID, 'previous').click()
    assert lines(view) == first
    for _ in range(3): view.find_element(By.ID, 'next').click()
    search(view, 'Ann has 17 apples')
    assert len(lines(view)) == 4 and 'Page 1 of 1' in view.find_element(By.ID, 'page').text


def test_a_row_opens_by_mouse_and_by_keyboard(view):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    search(view, 'Ann has 17 apples')
    row = view.find_element(By.CSS_SELECTOR, '#rows tr.row')
    row.find_elements(By.TAG_NAME, 'td')[3].click()
    shown = view.find_element(By.CSS_SELECTOR, '#rows tr.detail').text
    assert 'Ann has 17 apples and buys 4 more.' in shown and '21 is what careful says. The answer is 21.' in shown and 'p17' in shown
    button = row.find_element(By.TAG_NAME, 'button')
    assert button.get_attribute('aria-expanded') == 'true'
    button.send_keys(Keys.ENTER)
    assert view.find_elements(By.CSS_SELECTOR, '#rows tr.detail') == [] and button.get_attribute('aria-expanded') == 'false'
    button.send_keys(Keys.SPACE)
    assert [m.text for m in view.find_elements(By.CSS_SELECTOR, '#rows tr.detail mark')] == ['Ann has 17 apples']


def test_a_dialogue_opens_turn_by_turn(browser, tmp_path):
    from selenium.webdriver.common.by import By
    turns = (Step('How many in the bags?', '4 * 2 = 8.'), Step(HOSTILE.replace('\ud800', ''), '3 + 8 = 11. The answer is 11.'))
    problem = problems_of(1)[0]
    evaluation = Evaluation('pair', 'test', [Prediction(problem.id, turns[1].solution, '11', {'exact_match': 0.0}, True, turns=turns, finish_reason='max turns')])
    browser.get(html_report(tmp_path / 'dialogue.html', [evaluation], problems=[problem]).as_uri())
    search(browser, 'in the bags')
    row, = browser.find_elements(By.CSS_SELECTOR, '#rows tr.row')
    assert 'max turns' in row.text
    row.find_elements(By.TAG_NAME, 'td')[3].click()
    said = browser.find_elements(By.CSS_SELECTOR, '.detail ol.dialogue li')
    assert len(said) == 2 and said[0].text.splitlines() == ['How many in the bags?', '4 * 2 = 8.'] and 'The answer is 11.' in said[1].text
    assert browser.title == 'cotkit report' and not browser.find_elements(By.CSS_SELECTOR, '.dialogue img')


def test_a_match_is_marked_and_nothing_is_lost(view):
    from selenium.webdriver.common.by import By
    search(view, '7 APPLES and')
    cells = [c.text for c in view.find_elements(By.CSS_SELECTOR, '#rows tr.row td:nth-child(4)')]
    assert 'Ann has 17 apples and buys 4 more. How many apples does Ann have now?' in cells
    assert {m.text for m in view.find_elements(By.CSS_SELECTOR, '#rows mark')} == {'7 apples and'}


def test_all_rows_about_a_problem(view):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait
    search(view, 'p17')
    view.find_element(By.CSS_SELECTOR, '#rows tr.row td:nth-child(4)').click()
    view.find_element(By.CSS_SELECTOR, '#rows tr.detail button').click()
    WebDriverWait(view, 5).until(lambda v: 'problem p17' in v.find_element(By.ID, 'count').text)
    assert count(view) == 4


def test_hostile_text_is_only_text(view):
    from selenium.webdriver.common.by import By
    search(view, 'three words')
    assert count(view) == 1
    view.find_element(By.CSS_SELECTOR, '#rows tr.row td:nth-child(4)').click()
    shown = run(view, 'return document.querySelector("#rows tr.detail").textContent.toWellFormed()')
    assert HOSTILE.replace('\ud800', '\ufffd') in shown
    assert run(view, 'return document.querySelectorAll("main img, main i b, #rows i, #rows b, #rows svg, #rows script").length') == 0
    assert run(view, 'return document.title').startswith('Report </script><scr')
    assert view.get_log('browser') == []
    assert run(view, 'return document.querySelector("h1").children.length') == 0


def test_foreign_script_is_refused_by_the_policy(view):
    "The last wall: even markup that got into the page does not run"
    run(view, '''document.body.insertAdjacentHTML("beforeend", '<img src="x" onerror="document.title=1">');
                 const s = document.createElement("script"); s.textContent = "document.title = 2"; document.body.append(s);''')
    assert run(view, 'return document.title').startswith('Report')
    assert any('Content Security Policy' in entry['message'] for entry in view.get_log('browser'))


def test_labels_and_landmarks(view):
    assert run(view, '''return [...document.querySelectorAll("input, select")].filter(e => !e.labels.length).length''') == 0
    assert run(view, 'return [...document.querySelectorAll("button")].filter(e => !e.innerText.trim() && !e.ariaLabel).length') == 0
    assert run(view, 'return [...document.querySelectorAll("figure svg")].every(e => e.getAttribute("role") === "img" && e.getAttribute("aria-label"))')
    assert run(view, 'return [...document.querySelectorAll("nav a")].every(a => document.getElementById(a.hash.slice(1)))')
    assert run(view, 'return document.documentElement.lang') == 'en'


def test_figures_have_ink(view):
    for box in run(view, 'return [...document.querySelectorAll("figure svg")].map(s => { const b = s.getBoundingClientRect(); return [b.width, b.height, s.querySelectorAll("text").length, s.querySelectorAll("path").length] })'):
        assert box[0] > 200 and box[1] > 80 and box[2] > 4 and box[3] > 4


def luminance(colour):
    channels = [int(c) / 255 for c in re.findall(r'\d+', colour)[:3]]
    return sum(w * (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4) for w, c in zip((0.2126, 0.7152, 0.0722), channels))


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_contrast(view, scheme):
    "Text is legible in both colour schemes (WCAG AA: 4.5 to 1), figures included"
    view.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': [{'name': 'prefers-color-scheme', 'value': scheme}]})
    try:
        found = run(view, '''
            const paper = getComputedStyle(document.body).backgroundColor, card = getComputedStyle(document.querySelector("figure")).backgroundColor;
            const pick = (q, p = "color") => getComputedStyle(document.querySelector(q))[p];
            return [["body", pick("body"), paper], ["soft", pick(".soft"), paper], ["link", pick("nav a"), paper], ["correct", pick(".correct"), paper],
                    ["label", pick(".filters label"), card], ["figure", pick("figure text", "fill"), card]]''')
    finally: view.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': []})
    assert (luminance(found[0][2]) > 0.5) == (scheme == 'light')
    for name, ink, paper in found:
        light, dark = sorted((luminance(ink), luminance(paper)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, name


def test_narrow_screens_do_not_scroll_sideways(browser, page):
    browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', {'width': 390, 'height': 800, 'deviceScaleFactor': 1, 'mobile': True})
    try:
        browser.get(page.as_uri())
        assert run(browser, 'return document.documentElement.scrollWidth') <= 390
    finally: browser.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})


def test_many_rows_stay_few_in_the_document(browser, tmp_path):
    problems = problems_of(10_000)
    path = html_report(tmp_path / 'large.html', evaluations=[taken(problems, [i % 3 for i in range(10_000)], 'careful')], problems=problems)
    assert path.stat().st_size < 6_000_000
    browser.get(path.as_uri())
    assert count(browser) == 10_000 and run(browser, 'return document.querySelectorAll("*").length') < 1000
    search(browser, 'Ann has 9999 apples')
    assert count(browser) == 1 and run(browser, 'return document.querySelectorAll("#rows tr.row").length') == 1


def test_a_card_lists_several_teachers_in_words():
    card = model_card(ModelCard('s', {'teacher': ['a', 'b']}))
    assert '- **teacher**: a, b' in card
