"""How many requests a second `collect` makes, beside raw aiohttp and a plain AsyncOpenAI, against a server in another process.

    python tests/bench_collect.py [--requests 2000] [--max-concurrency 100] [--latency 0.1] [--refuse 0.0] [--rounds 3]

Prints one JSON object: medians over interleaved rounds, in requests per second.
"""
from __future__ import annotations

import argparse, asyncio, json, statistics, subprocess, sys, tempfile, time
from pathlib import Path

import aiohttp, openai

from cotkit.teachers.collect import RequestLimits, collect
from cotkit.data.core import Problem
from cotkit.data.formats import ZeroShotCoT
from cotkit.teachers.store import Store
from cotkit.teachers.openai import EndpointConfig, OpenAITeacher
from measured import Measured


async def pool(ask, requests: int, max_concurrency: int) -> None:
    numbers = iter(range(requests))

    async def worker():
        for n in numbers: await ask(n)

    await asyncio.gather(*[worker() for _ in range(max_concurrency)])


def body(n: int) -> dict:
    return {'model': 'tiny', 'messages': [{'role': 'user', 'content': f'Q: What is {n} plus 1?'}], 'temperature': 0.0, 'max_tokens': 512}


async def raw_aiohttp(base_url: str, requests: int, max_concurrency: int) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        async def ask(n):
            async with session.post(f'{base_url}/chat/completions', json=body(n)) as response:
                assert (await response.json())['choices']
        await pool(ask, requests, max_concurrency)


async def plain_openai(base_url: str, requests: int, max_concurrency: int) -> None:
    async with openai.AsyncOpenAI(base_url=base_url, api_key='none', max_retries=0, http_client=openai.DefaultAioHttpClient()) as client:
        async def ask(n): assert (await client.chat.completions.create(**body(n))).choices
        await pool(ask, requests, max_concurrency)


def ours(base_url: str, requests: int, max_concurrency: int) -> None:
    problems = [Problem(str(n), f'What is {n} plus 1?', str(n + 1)) for n in range(requests)]
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder)/'store.sqlite') as store:
        collected = collect(problems, ZeroShotCoT(), OpenAITeacher('tiny', EndpointConfig(base_url)), store, limits=RequestLimits(max_concurrency, progress=False))
        assert collected.sent == len(store) == requests, collected


def rate(work, requests: int) -> float:
    start = time.perf_counter()
    work()
    return requests / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--requests', type=int, default=2000)
    parser.add_argument('--max-concurrency', type=int, default=100)
    parser.add_argument('--latency', type=float, default=0.1)
    parser.add_argument('--refuse', type=float, default=0.0, help='share of requests that the server answers with 429; then only collect is run')
    parser.add_argument('--rounds', type=int, default=3)
    o = parser.parse_args()
    server = subprocess.Popen([sys.executable, str(Path(__file__).with_name('loopback.py')), '--latency', str(o.latency), '--refuse', str(o.refuse)], stdout=subprocess.PIPE, text=True)
    try:
        base_url = f'http://127.0.0.1:{int(server.stdout.readline())}/v1'
        clients = {'cotkit': lambda: ours(base_url, o.requests, o.max_concurrency)}
        if not o.refuse:
            clients['raw aiohttp: the limit'] = lambda: asyncio.run(raw_aiohttp(base_url, o.requests, o.max_concurrency))
            clients['AsyncOpenAI'] = lambda: asyncio.run(plain_openai(base_url, o.requests, o.max_concurrency))
        rounds = [{name: rate(work, o.requests) for name, work in clients.items()} for _ in range(o.rounds)]
    finally:
        server.kill()
        server.wait()
    medians = {name: statistics.median(r[name] for r in rounds) for name in clients}
    measured, load = Measured(__file__, 'collect'), f'{o.requests:,} requests, {o.max_concurrency} in flight, each answered after {1000 * o.latency:.0f} ms'
    print(load + (f', {o.refuse:.0%} of them refused' if o.refuse else ''))
    for name, value in medians.items():
        if name != 'cotkit':
            measured.say(name, value, 'requests/s')
            measured.say('cotkit, end to end', medians['cotkit'], 'requests/s', name, value)
    if o.refuse: measured.say('cotkit, end to end', medians['cotkit'], 'requests/s')
    else: measured.save()


if __name__ == '__main__': main()
