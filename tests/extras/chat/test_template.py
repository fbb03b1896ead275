"""Chat templates: the named ones, files, the assistant's turns, and hostile ones."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import pytest

from mtfrun.data import DataError
from mtfrun.errors import InputError
from mtfrun.extras.chat import ChatTemplate, template
from mtfrun.extras.chat.template import template_of_folder

CONVERSATION: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello, \u00e9!"},
        {"role": "assistant", "content": "Good  day."},
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "4"},
    ]
}
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}

# Where an assistant writes is in brackets.
NAMED = {
    "chatml": (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello, é!<|im_end|>\n"
        "<|im_start|>assistant\n[Good  day.<|im_end|>]\n<|im_start|>user\n2 + 2?<|im_end|>\n"
        "<|im_start|>assistant\n[4<|im_end|>]\n",
        "<|im_start|>assistant\n",
    ),
    "llama3": (
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHello, é!<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n[Good  day.<|eot_id|>]"
        "<|start_header_id|>user<|end_header_id|>\n\n2 + 2?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n[4<|eot_id|>]",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "plain": (
        "<s>System:\nBe brief.\n\nUser:\nHello, é!\n\nAssistant:\n[Good  day.</s>]\n\n"
        "User:\n2 + 2?\n\nAssistant:\n[4</s>]\n\n",
        "Assistant:\n",
    ),
    "zephyr": (
        "<|system|>\nBe brief.</s>\n<|user|>\nHello, é!</s>\n<|assistant|>\n[Good  day.</s>]\n"
        "<|user|>\n2 + 2?</s>\n<|assistant|>\n[4</s>]\n",
        "<|assistant|>\n",
    ),
}

# Without marks: the assistant's turns are found by rendering without them.
UNMARKED = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def _file(tmp_path: pathlib.Path, text: str) -> ChatTemplate:
    path = tmp_path / "chat_template.jinja"
    path.write_text(text)
    return ChatTemplate(file=str(path))


def _marked(made: ChatTemplate, tokens: Mapping[str, str] = TOKENS) -> str:
    text, answers = made(CONVERSATION, tokens, asks=False)
    for begin, end in reversed(answers):
        text = f"{text[:begin]}[{text[begin:end]}]{text[end:]}"
    return text


@pytest.mark.parametrize("name", NAMED)
def test_named_templates_write_their_formats(name: str) -> None:
    made = ChatTemplate(name)
    text, next_turn = NAMED[name]
    assert _marked(made) == text
    asked = made(CONVERSATION, TOKENS, asks=True).text
    assert asked == text.replace("[", "").replace("]", "") + next_turn
    assert repr(made) == f"ChatTemplate({name})"


def test_turns_without_marks_are_found_by_rendering_without_them(tmp_path: pathlib.Path) -> None:
    made = _file(tmp_path, UNMARKED)
    text, answers = made(CONVERSATION, TOKENS, asks=False)
    assert [text[begin:end] for begin, end in answers] == ["Good  day.</s>", "4</s>"]


def test_a_turn_that_later_ones_change_is_refused(tmp_path: pathlib.Path) -> None:
    only_last = "{% for m in messages %}{{ m.content if loop.last else '' }}{% endfor %}"
    with pytest.raises(DataError, match=r"writes message 3 otherwise .*generation"):
        _file(tmp_path, only_last)(CONVERSATION, TOKENS, asks=False)


@pytest.mark.parametrize(
    "text, reason",
    [
        ("{{ messages.__class__.__mro__ }}", "SecurityError: access to attribute '__class__'"),
        ("{{ range(10 ** 9) }}", "OverflowError: Range too big"),
        ("{{ 'a' * 10 ** 10 }}", "needs more than 1,024 MiB of memory"),
        ("{% for i in range(99999) %}{{ 'a' * 999 }}{% endfor %}", "writes more than 16,777,216"),
        ("{{ raise_exception('roles\nmust alternate') }}", "refuses it: roles must alternate"),
        ("{{ raise_exception('a\x1b[31mb') }}", r"refuses it: a\x1b[31mb"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{% for m in messages %}", "line 1 of the template: Unexpected end of template"),
        ("{% include 'other' %}", "TypeError: no loader"),
    ],
)
def test_a_template_that_fails_is_one_line(tmp_path: pathlib.Path, text: str, reason: str) -> None:
    made = _file(tmp_path, text)
    with pytest.raises(DataError) as raised:
        made(CONVERSATION, TOKENS, asks=False)
    assert reason in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.slow
def test_an_endless_template_is_ended(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template, "_MOST_SECS", 2.0)
    loops = "{% if eos_token %}" + "{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3
    made = _file(tmp_path, loops + "{% endif %}{{ messages | length }}")
    with pytest.raises(DataError, match="needs more than 2 s"):
        made(CONVERSATION, TOKENS, asks=True)
    assert made(CONVERSATION, {}, asks=True).text == "5"


def test_a_conversation_cannot_write_marks() -> None:
    message = {"role": "assistant", "content": "a\ufdd1\ufdd2b\ufdd3\ud800"}
    rendered = ChatTemplate("plain")({"messages": [message]}, TOKENS, asks=False)
    assert rendered.text == "<s>Assistant:\na\ufffd\ufffdb\ufffd?</s>\n\n"
    assert len(rendered.answers) == 1


def test_a_tokenizer_config_has_the_template_and_its_tokens(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "tokenizer_config.json"
    templates = [{"name": "rag", "template": "no"}, {"name": "default", "template": UNMARKED}]
    config = {"eos_token": {"content": "<e>"}, "pad_token": None, "chat_template": templates}
    path.write_text(json.dumps(config))
    made = ChatTemplate(file=str(path))
    assert made.special_tokens == {"eos_token": "<e>"} and list(made.files) == [str(path)]
    # A text may be an object, as in other places of such files.
    assert made.fingerprint != ChatTemplate(file=str(path), special_tokens=TOKENS).fingerprint


def test_an_unknown_name_and_a_file_without_a_template_are_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "tokenizer_config.json"
    for content in ("{}", '{"chat_template": 1}', "[1"):
        path.write_text(content)
        with pytest.raises(DataError, match=r"ChatTemplate.file: .* has no chat template"):
            ChatTemplate(file=str(path))
    with pytest.raises(InputError, match=r"is none of chatml, .*did you mean 'chatml'"):
        ChatTemplate("chatlm")


def test_the_files_of_a_tokenizer_may_have_a_template(tmp_path: pathlib.Path) -> None:
    assert template_of_folder(tmp_path) is None
    config = {"eos_token": "<e>", "chat_template": UNMARKED}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    of_config = template_of_folder(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ eos_token }}")
    of_file = template_of_folder(tmp_path)
    assert of_config is not None and of_file is not None
    assert of_config.special_tokens == of_file.special_tokens == {"eos_token": "<e>"}
    assert of_file(CONVERSATION, {**TOKENS, **of_file.special_tokens}, asks=True).text == "<e>"
    (tmp_path / "tokenizer_config.json").write_text("[1")
    with pytest.raises(DataError, match=r"tokenizer_config\.json cannot be read"):
        template_of_folder(tmp_path)
