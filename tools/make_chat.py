"""Make the requests of the example ``chat``: everyday questions to a real chat model.

    python tools/make_chat.py          # rewrites manifests/examples/chat/prompts.jsonl

Topics and forms of question are put together at random: short ones, long ones with a passage to
work on, several turns, shared and own system prompts, and ``max_tokens`` from 16 to 128. The same
seed always makes the same file.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PROMPTS = ROOT / "manifests" / "examples" / "chat" / "prompts.jsonl"
SEED = 20260502
NUM_REQUESTS = 300
MAX_TOKENS = (16, 24, 32, 48, 64, 96, 128)

TOPICS = (
    "how rain forms",
    "why the sky is blue",
    "photosynthesis",
    "the water cycle",
    "how bees make honey",
    "the phases of the moon",
    "how a bicycle stays upright",
    "the history of bread",
    "why leaves change colour in autumn",
    "how vaccines work",
    "the French Revolution",
    "how a refrigerator keeps food cold",
    "prime numbers",
    "the difference between weather and climate",
    "how to learn a new language",
    "how the heart pumps blood",
    "volcanoes",
    "how computers store numbers",
    "the life of Marie Curie",
    "why the sea is salty",
    "how to plan a vegetable garden",
    "the rules of chess",
    "how sound travels",
    "the invention of printing",
)

SHORT_FORMS = (
    "What is the most important thing to know about {topic}?",
    "Explain {topic} in one sentence.",
    "Explain {topic} to a ten-year-old.",
    "Give me three facts about {topic}.",
    "Write a two-line poem about {topic}.",
    "List five words that belong to {topic}.",
    "Tell me about {topic}.",
    "Write a headline for an article on {topic}.",
    "What do most people get wrong about {topic}?",
    "Ask me a quiz question on {topic} and give its answer.",
)

FACTS = (
    "What is the capital of {thing}?",
    "Which language is spoken in {thing}?",
    "Name a famous city in {thing}.",
    "On which continent is {thing}?",
)
COUNTRIES = ("France", "Japan", "Brazil", "Egypt", "Canada", "Italy", "Kenya", "India", "Norway")

PASSAGE = (
    "The ferry left the harbour at six in the morning, while fog still lay on the water.",
    "On deck, a group of students compared the maps they had drawn the evening before.",
    "Nobody had expected the island to be inhabited, yet smoke rose from behind the first hill.",
    "The captain said that his grandfather had delivered mail there twice a year.",
    "Two goats watched the landing party from a wall of dark, carefully fitted stones.",
    "In the village they found a bakery, a school with eleven pupils, and a small weather station.",
    "The baker explained that flour comes by boat in spring and that the winters are long.",
    "Each household keeps a notebook of the wind, a habit that began more than a century ago.",
    "The students copied four of these notebooks and photographed the rest.",
    "They learned that storms from the north have become rarer, but stronger.",
    "In the evening the teacher played the accordion, and everybody knew the words but the guests.",
    "When the ferry returned, the children ran along the pier until it ended.",
    "Back on the mainland, the measurements filled a gap of thirty years in the records.",
    "The paper they wrote names every family of the island among its authors.",
)
PASSAGE_FORMS = (
    "Summarise this text in one sentence:\n\n{passage}",
    "What is the main idea of the following passage?\n\n{passage}",
    "{passage}\n\nWhere does this story take place?",
    "Give the following text a title.\n\n{passage}",
    "Read this and list the people or animals in it:\n\n{passage}",
)

SYSTEM_PROMPTS = (
    "You are a patient teacher. Answer in plain words and keep it short.",
    "You are the assistant of a public library. You help visitors of every age to understand the "
    "world. Be friendly and exact; say so when you do not know something; never use technical "
    "words without explaining them; and end with a suggestion of what to read next.",
    "Answer like a pirate.",
)

FOLLOW_UPS = (
    ("Thank you. Can you say that in fewer words?", "Of course: it is simpler than it looks."),
    ("Can you give an example?", "Yes. Think of something you see every day at home."),
    ("Why does that matter?", "It matters because it touches how we live and what we decide."),
)


def question(random_source: random.Random) -> str:
    """One user message, from a few words to a long passage."""
    kind = random_source.random()
    if kind < 0.15:
        return random_source.choice(FACTS).format(thing=random_source.choice(COUNTRIES))
    if kind < 0.4:
        first = random_source.randrange(len(PASSAGE) - 2)
        last = random_source.randint(first + 2, len(PASSAGE))
        passage = " ".join(PASSAGE[first:last])
        return random_source.choice(PASSAGE_FORMS).format(passage=passage)
    return random_source.choice(SHORT_FORMS).format(topic=random_source.choice(TOPICS))


def conversation(random_source: random.Random) -> list[dict[str, str]]:
    """System prompt or none, up to two earlier turns, and the question."""
    messages = []
    if random_source.random() < 0.4:
        messages.append({"role": "system", "content": random_source.choice(SYSTEM_PROMPTS)})
    messages.append({"role": "user", "content": question(random_source)})
    if random_source.random() < 0.25:
        answer = f"Let me tell you about {random_source.choice(TOPICS)} first, then we go on."
        messages.append({"role": "assistant", "content": answer})
        follow_ups = random_source.sample(FOLLOW_UPS, random_source.randint(1, 2))
        for asked, answered in follow_ups:
            messages.append({"role": "user", "content": asked})
            messages.append({"role": "assistant", "content": answered})
        messages.append({"role": "user", "content": question(random_source)})
    return messages


def make_requests(seed: int) -> list[dict[str, Any]]:
    random_source = random.Random(seed)
    return [
        {
            "custom_id": f"chat-{number:03}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "messages": conversation(random_source),
                "max_tokens": random_source.choice(MAX_TOKENS),
            },
        }
        for number in range(1, NUM_REQUESTS + 1)
    ]


def to_jsonl(requests: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(request, ensure_ascii=False) + "\n" for request in requests)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--output", type=Path, default=PROMPTS)
    arguments = parser.parse_args()
    requests = make_requests(arguments.seed)
    arguments.output.write_text(to_jsonl(requests), encoding="utf-8")
    print(f"{arguments.output}: {len(requests)} requests")


if __name__ == "__main__":
    main()
