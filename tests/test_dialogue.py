"Dialogues: whatever was read before, the texts are those of a loop that reads every prompt whole"
from __future__ import annotations

import random

import pytest, torch

from cotkit.models.config import ARCHITECTURES, DecodingParams
from cotkit.models.dialogue import Dialogue, common_prefix
from cotkit.models.generate import generations
from cotkit.models.students import Student
from test_generate import QUESTION, STUDENTS, TOKENIZERS, WORDS, student_of

torch.set_num_threads(1)
REMEMBER = ('llama', 'gpt2', 'opt')


def grow(rng: random.Random, prompt: str, written: str) -> str:
    "A next prompt: the output whole, in part or not at all, then something new; sometimes another beginning"
    kept = written[:rng.choice((0, len(written) // 2, len(written), len(written)))]
    begin = prompt if rng.random() < 0.9 else ' '.join(rng.sample(WORDS, 3))
    return f'{begin} {kept} {" ".join(rng.sample(WORDS, rng.randint(1, 4)))}'[:45].strip()


def play(student: Student, conversations: int, decoding: DecodingParams, turns: int = 4, seed: int = 0):
    "Turns of conversations that end at different times, beside a plain loop; yields both and the dialogue"
    rng, dialogue = random.Random(seed), Dialogue(student, decoding)
    prompts = {i: ' '.join(WORDS[i % 5:i % 5 + 2 + i % 7]) for i in range(conversations)}
    for _ in range(turns):
        yield dialogue.ask(prompts), generations(student, list(prompts.values()), decoding), dialogue, prompts
        written = dict(zip(prompts, generations(student, list(prompts.values()), decoding)))
        prompts = {i: grow(rng, prompt, written[i].text) for i, prompt in prompts.items() if rng.random() < 0.8}
        if not prompts: return


@pytest.mark.parametrize('batch_size', (1, 3, 64))
@pytest.mark.parametrize('name', STUDENTS)
def test_a_dialogue_writes_what_a_plain_loop_writes(name, batch_size):
    student, remembered = STUDENTS[name](), 0
    for written, expected, dialogue, prompts in play(student, 12, DecodingParams(8, batch_size)):
        assert list(written) == list(prompts) and list(written.values()) == expected
        remembered += len(dialogue.remembered)
    assert bool(remembered) == (name in REMEMBER)


@pytest.mark.parametrize('seed', range(8))
def test_long_games(seed):
    for written, expected, _, _ in play(student_of('causal', seed), 9, DecodingParams(6, 4), turns=7, seed=seed):
        assert list(written.values()) == expected


def test_only_what_is_new_is_read():
    student, read = student_of('causal'), []
    handle = student.model.register_forward_pre_hook(lambda module, args, kwargs: read.append(kwargs['input_ids'].shape), with_kwargs=True)
    dialogue = Dialogue(student, DecodingParams(1))
    dialogue.ask({0: QUESTION, 1: QUESTION})
    dialogue.ask({0: QUESTION + ' Ann', 1: QUESTION + ' Ann has'})
    handle.remove()
    rows = student.tokenizer([QUESTION, QUESTION + ' Ann has']).input_ids
    assert read == [(2, len(rows[0])), (2, len(rows[1]) - common_prefix(*rows))]


def test_a_prompt_that_was_read_whole_gives_the_same_again():
    "Also one that is the beginning of what was read: the last token is read again, for its logits"
    student = student_of('causal')
    dialogue, expected = Dialogue(student, DecodingParams(8)), generations(student, [QUESTION], DecodingParams(8))
    assert [dialogue.ask({0: QUESTION})[0] for _ in range(3)] == expected * 3
    assert dialogue.ask({0: QUESTION[:20]})[0] == generations(student, [QUESTION[:20]], DecodingParams(8))[0]


def test_what_is_not_asked_is_forgotten():
    dialogue = Dialogue(student_of('causal'), DecodingParams(4))
    dialogue.ask({0: 'Ann', 1: 'Ann has', 7: 'Ann buys'})
    assert set(dialogue.remembered) == {0, 1, 7}
    dialogue.ask({7: 'Ann buys bags'})
    assert set(dialogue.remembered) == {7}


@pytest.mark.parametrize('arch', ARCHITECTURES)
def test_sampling_depends_on_conversation_and_turn_alone(arch):
    student, how = student_of(arch), dict(temperature=1.0, sampling_seed=3)
    games = []
    for batch_size in (64, 5, 1):
        dialogue = Dialogue(student, DecodingParams(12, batch_size, **how))
        first = dialogue.ask({i: QUESTION for i in range(8)})
        games.append((first, dialogue.ask({i: QUESTION for i in range(8)})))
    assert games[0] == games[1] == games[2]
    first, second = ({g.text for g in turn.values()} for turn in games[0])
    assert len(first) > 4 and first != second
    alone = Dialogue(student, DecodingParams(12, **how))
    alone.ask({5: 'Ann'})
    assert alone.ask({5: QUESTION})[5] == games[0][1][5]
    assert list(games[0][0].values()) == generations(student, [QUESTION] * 8, DecodingParams(12, **how))


def test_a_prompt_that_fills_the_context_is_cut_and_the_others_go_on():
    from cotkit.models.students import Size, build_model
    model = build_model(Size(2, 32, 2), TOKENIZERS['causal'], max_position_embeddings=64)
    dialogue = Dialogue(Student(model, TOKENIZERS['causal']), DecodingParams(4))
    dialogue.ask({0: 'Ann has'})
    said = dialogue.ask({0: f'Ann has {QUESTION * 3}', 1: 'Ann buys'})
    assert (said[0].text, said[0].finish_reason, said[0].completion_tokens) == ('', 'length', 0) and set(dialogue.remembered) == {1}
    assert said[1] == generations(dialogue.student, ['Ann buys'], DecodingParams(4))[0]


def test_what_runs_on_beside_others_is_not_taken_for_read():
    "A stopped row goes on in its batch for a while; its next prompt may begin just so"
    student, prompts = student_of('causal'), {i: ' '.join(WORDS[i:i + 6]) for i in range(8)}
    whole = dict(zip(prompts, generations(student, list(prompts.values()), DecodingParams(16))))
    dialogue = Dialogue(student, DecodingParams(16))
    cut = dialogue.ask(prompts, stop=tuple({g.text[2] for g in whole.values() if len(g.text) > 3}))
    assert sum(len(cut[i].text) < len(whole[i].text) for i in prompts) > 2
    prompts = {i: f'{text} {whole[i].text}' for i, text in prompts.items()}
    assert list(dialogue.ask(prompts).values()) == generations(student, list(prompts.values()), DecodingParams(16))
