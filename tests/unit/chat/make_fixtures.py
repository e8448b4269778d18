#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Renders the templates beside this file, and small ones written here, as transformers does: its
environment, and its way with messages. Writes fixtures/renderings.json, which test_templates.c
compares. Needs jinja2 3.1.6 or newer, and nothing else; the environment is that of transformers 5
(utils/chat_template_utils.py), whose own rendering --check compares where it is installed."""
import argparse
import datetime
import json
import pathlib

import jinja2
import jinja2.ext
import jinja2.nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = pathlib.Path(__file__).parent / "fixtures"
NOW = 1722470400


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("show"), [], [], body).set_lineno(line)

    def show(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                        extensions=[Generation, jinja2.ext.loopcontrols])

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                          sort_keys=sort_keys)

    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda f: datetime.datetime.fromtimestamp(
        NOW, datetime.timezone.utc).strftime(f)
    return env


def case(env, name, source, variables, file=None):
    out = {"name": name, "vars": variables}
    out |= {"file": file} if file else {"template": source}
    try:
        out["text"] = env.from_string(source).render(**json.loads(json.dumps(variables)))
    except jinja2.exceptions.TemplateError as e:
        out["error"] = str(e) if type(e) is jinja2.exceptions.TemplateError else ""
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        out["error"] = ""
    return out


TOOLS = [
    {"type": "function", "function": {
        "name": "weather", "description": "Today's \"weather\" <now> \u00e9\n",
        "parameters": {"type": "object", "required": ["city"], "properties": {
            "city": {"type": "string", "enum": ["Paris", "\u6771\u4eac"]},
            "days": {"type": ["integer", "null"], "default": 3}}}}},
    {"type": "function", "function": {
        "name": "noop", "description": "", "parameters": {"type": "object", "properties": {}}}},
]
USER = {"role": "user", "content": "Hello <there> & \u00e9\n\n"}
ANSWER = {"role": "assistant", "content": " Hi! "}
SYSTEM = {"role": "system", "content": "  Be brief.\n"}
CALL = {"role": "assistant", "content": "", "tool_calls": [
    {"id": "a1", "type": "function", "function": {
        "name": "weather", "arguments": {"city": "Paris", "f": 1.5, "b": True, "z": None}}}]}
CALLS = {"role": "assistant", "content": "", "tool_calls": [
    {"id": "b1", "type": "function", "function": {
        "name": "weather", "arguments": "{\"city\": \"Paris\"}"}},
    {"id": "b2", "type": "function", "function": {"name": "noop", "arguments": "{}"}}]}
RESULT = {"role": "tool", "name": "weather", "tool_call_id": "b1", "content": "{\"t\": 21}"}
RESULT2 = {"role": "tool", "tool_call_id": "b2", "content": "ok"}
THOUGHT = {"thinking": "so", "role": "assistant", "content": "<think>so</think>\n\nYes",
           "reasoning_content": "so"}
PICTURE = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": " What is it? "},
                                       {"type": "image_url", "image_url": {"url": "u"}}]}
CHATS = [
    [USER], [SYSTEM, USER], [SYSTEM, USER, ANSWER, USER], [SYSTEM], [USER, CALL],
    [SYSTEM, USER, CALL, RESULT], [USER, CALLS, RESULT, RESULT2],
    [SYSTEM, USER, CALLS, RESULT, RESULT2, ANSWER, USER], [USER, THOUGHT, USER, THOUGHT],
    [PICTURE], [SYSTEM, PICTURE, ANSWER, USER], [{"role": "critic", "content": "x"}],
    [SYSTEM, SYSTEM, USER],
]
VARS = {
    "d": {"a": 1, "b": "two"}, "l": [3, 1, 2], "f": 2.5, "t": True, "n": None,
    "s": "h\u00e9llo \"w\"\n\\ <b>\u007f\u2028",
    "u": [{"n": 1, "k": "b"}, {"n": 2, "k": "A"}, {"n": 2, "k": "c", "m": 0}],
    "tree": [{"n": 1, "c": [{"n": 2}, {"n": 3, "c": [{"n": 4}]}]}, {"n": 5}],
}


def small():
    for line in (HERE / "expressions.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("##"):
            yield line
    yield from json.loads((HERE / "layouts.json").read_text(encoding="utf-8"))


def cases():
    env = environment()
    for file in sorted(HERE.glob("*.jinja")):
        source = file.read_text(encoding="utf-8")
        for number, chat in enumerate(CHATS):
            for tools in (None, TOOLS):
                variables = {"messages": chat, "tools": tools, "documents": None,
                             "add_generation_prompt": number % 2 == 0, "bos_token": "<s>",
                             "eos_token": "</s>"}
                if number % 3 == 1:
                    variables["tools_in_user_message"] = False
                yield case(env, f"{file.stem} {number} {'tools' if tools else ''}", source,
                           variables, file.name)
    for number, source in enumerate(small()):
        yield case(env, f"expression {number}", source, VARS)


def check():
    from transformers.utils import chat_template_utils as theirs
    n = 0
    for c in cases():
        if "text" in c and "messages" in c["vars"]:
            v = dict(c["vars"])
            out, _ = theirs.render_jinja_template(
                conversations=[v.pop("messages")],
                chat_template=(HERE / c["file"]).read_text(encoding="utf-8"), **v)
            assert out[0] == c["text"], c["name"]
            n += 1
    print(f"{n} renderings are transformers' own")


parser = argparse.ArgumentParser()
parser.add_argument("--check", action="store_true")
if parser.parse_args().check:
    check()
else:
    text = ",\n".join(json.dumps(c, ensure_ascii=False) for c in cases())
    (HERE / "renderings.json").write_text("[\n" + text + "\n]\n", encoding="utf-8")
