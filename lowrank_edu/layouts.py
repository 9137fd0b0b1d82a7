"""What a row of your data may look like: the four layouts that people have, each recognised by its keys.

A row is a dict from a line of JSONL, a line of CSV, or a dataset. Keys that belong to no layout, such as "id", are
passed over. A row of two layouts at once could be read in two ways, so it is refused.
"""

LAYOUTS = {
    "text": ("text",),
    "prompt": ("prompt", "completion"),
    "instruction": ("instruction", "output"),
    "messages": ("messages",),
}
"""{name: the keys that a row of this layout has}; an "instruction" may also have an "input"."""
EXPECTED = '"text", or "prompt" and "completion", or "instruction" and "output", or "messages"'
ROLES = ("system", "user", "assistant")
ALPACA = {
    False: "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{instruction}\n\n### Response:\n",
    True: "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
    "response that appropriately completes the request."
    "\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n",
}
"""The prompt with which Alpaca was trained, without and with an input.   tatsu-lab/stanford_alpaca"""


def layout_of(row, place):
    """The name of a row's layout; ValueError where it has none, or several."""
    found = sorted(map(str, row)) if isinstance(row, dict) else type(row).__name__
    names = [name for name, keys in LAYOUTS.items() if isinstance(row, dict) and set(keys) <= set(row)]
    if not names:
        raise ValueError(f"{place}: expected {EXPECTED}; found {found}.")
    if len(names) > 1:
        told = " as well as ".join(" and ".join(map(repr, LAYOUTS[name])) for name in names)
        raise ValueError(f"{place}: found {told}, which are different layouts. Leave one of them in the data.")
    return names[0]


def parts_of(row, layout, place):
    """(prompt, text, messages) of a row: what is given, what is learnt, and the same as turns (role, content).

    Messages are empty where the row is no conversation; prompt and text are empty where it is nothing else. ValueError
    for a field that is missing, empty, or no text, with its name.
    """
    if layout == "messages":
        turns = turns_of(row["messages"], place)
        if "assistant" not in dict(turns):
            raise ValueError(f"{place}: no message is the assistant's, so there is nothing to learn. Remove the line.")
        return "", "", turns
    *given, learnt = LAYOUTS[layout]
    for key in (*given, learnt):
        if not isinstance(row[key], str):
            raise ValueError(f"{place}: expected text under {key!r}; found {row[key]!r}.")
    if not row[learnt].strip():
        raise ValueError(f"{place}: {learnt!r} is empty, so there is nothing to learn. Remove the line.")
    if layout != "instruction":
        return (row[given[0]] if given else ""), row[learnt], ()
    more = row.get("input") or ""  # datasets put None where a row has none
    if not isinstance(more, str):
        raise ValueError(f"{place}: expected text under 'input'; found {more!r}.")
    prompt = ALPACA[bool(more)].format(instruction=row["instruction"], input=more)
    asked = f"{row['instruction']}\n\n{more}" if more else row["instruction"]
    return prompt, row[learnt], (("user", asked), ("assistant", row[learnt]))


def turns_of(messages, place):
    """((role, content), …) of a list of {"role", "content"}; ValueError that names the message that is none."""
    if not isinstance(messages, list | tuple) or not messages:
        raise ValueError(f'{place}: "messages" is a list of {{"role", "content"}}; found {messages!r}.')
    turns = []
    for number, message in enumerate(messages, 1):
        at = f"{place}, message {number}"
        if not isinstance(message, dict) or not {"role", "content"} <= set(message):
            found = sorted(map(str, message)) if isinstance(message, dict) else repr(message)
            raise ValueError(f'{at}: expected "role" and "content"; found {found}.')
        more = [key for key, value in message.items() if key not in ("role", "content") and value is not None]
        if more:
            raise ValueError(f"{at}: {more[0]!r} cannot be learnt here; a message has a role and a content.")
        role, content = message["role"], message["content"]
        if role not in ROLES:
            raise ValueError(f"{at}: the role {role!r} is none of {', '.join(ROLES)}.")
        if not isinstance(content, str):
            raise ValueError(f"{at}: expected text under 'content'; found {content!r}.")
        if role == "assistant" and not content.strip():
            raise ValueError(f"{at}: the assistant says nothing. Remove the conversation, or end it before.")
        turns.append((role, content))
    return tuple(turns)
