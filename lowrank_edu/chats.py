"""Conversations as tokens: the model's own chat template writes them, and the assistant's turns are learnt."""

from jinja2.exceptions import TemplateError


def has_template(tok):
    """Whether this tokenizer knows how its model writes a conversation."""
    return bool(getattr(tok, "chat_template", None))


def rendered(tok, turns, place, *, answer=False):
    """The text that the chat template makes of turns ((role, content), …).

    answer  end where the assistant's next turn begins

    ValueError with the place where there is no template, or where the template refuses the conversation.
    """
    if not has_template(tok):
        raise ValueError(
            f"{place}: a conversation needs a chat template, and this model has none. Take one that has, such as "
            'smollm2-135m, or write the row as "prompt" and "completion". (In Python, tok.chat_template can be set.)'
        )
    messages = [{"role": role, "content": content} for role, content in turns]
    try:
        return tok.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer)
    except TemplateError as error:  # some allow no system message, or ask that roles alternate
        raise ValueError(f"{place}: the model's chat template refuses this conversation: {error}") from None


def chat_tokens(tok, turns, place):
    """(ids, learnt) of a conversation: its tokens as the template writes them, and for each whether it is learnt.

    Learnt are the assistant's words and the token that ends them, in every turn: the template's own, or the
    end-of-text token after the last turn if the template has none. The rest is only read. What comes after the last
    answer is left out, for nothing is learnt from it.
    """
    text, found = rendered(tok, turns, place), []
    if not getattr(tok, "is_fast", False):
        raise ValueError(f"{place}: a conversation needs a fast tokenizer, which says where in a text a token is.")
    for number, (role, content) in enumerate(turns):
        if role == "assistant":
            found.append(_words(tok, turns, number, content.strip(), text, place))
    coded = tok(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, spans = coded["input_ids"], coded["offset_mapping"]
    ends = set(tok.all_special_ids) | set(tok.added_tokens_decoder)
    learnt = [False] * len(ids)
    for start, stop in found:
        inside = [i for i, (a, b) in enumerate(spans) if b > start and a < stop]
        first, last = inside[0], inside[-1]
        after = last + 1
        while after < len(ids) and ids[after] not in ends and not text[slice(*spans[after])].strip():
            after += 1  # white space between the words and the token that ends them
        closed = after < len(ids) and ids[after] in ends
        last = after if closed else last
        learnt[first : last + 1] = [True] * (last + 1 - first)
    end = [] if closed else [tok.eos_token_id]
    return ids[: last + 1] + end, learnt[: last + 1] + [True] * len(end)


def _words(tok, turns, number, words, text, place):
    """(start, stop) in `text` of what the assistant says in turn `number`, from where its turn begins."""
    before = rendered(tok, turns[:number], place, answer=True)
    room = len(rendered(tok, turns[: number + 1], place))  # not beyond its own turn
    at = text.find(words, len(before), room)
    if not text.startswith(before) or at < 0:
        raise ValueError(
            f"{place}, message {number + 1}: the model's chat template writes this conversation differently when "
            "messages follow, so it cannot be said which tokens are the answer's. End the conversation here."
        )
    return len(before), at + len(words)
