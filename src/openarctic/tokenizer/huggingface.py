"""A Hugging Face folder to the `tokenizer.*` keys of a GGUF file, and back.

`tokenizer.json` is read where it exists, else `tokenizer.model`. `tokenizer_config.json` may give ids new names: Arctic
instruct makes `<|im_start|>` and `<|im_end|>` of 31998 and 31999, which are Chinese characters in `tokenizer.model` (spec 1.2,
trap 17). What the files ask for and we do not do is an error that names it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from openarctic.config import read_object, write_text
from openarctic.errors import CorruptError, MissingError, UserError
from openarctic.tokenizer.backends import GPT2_SPLITS, adds_bos, adds_space
from openarctic.tokenizer.sentencepiece import read_sentencepiece
from openarctic.tokenizer.vocabulary import (
    ADDS_BOS,
    ADDS_EOS,
    ADDS_SPACE,
    BYTE,
    CONTROL,
    MERGES,
    MODEL,
    NAMED_IDS,
    NORMAL,
    PRE,
    SCORES,
    STOPS,
    TEMPLATE,
    TOKENS,
    TYPES,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    id_key,
    padding_token,
    scores_from_merges,
    stop_list,
    token_types,
)

JSON, MODEL_FILE, CONFIG, MAP, TEMPLATE_FILE, GENERATION = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)
# transformers takes a class that it does not know for its own general one, which reads `tokenizer.json` as it is.
CLASS = "ArcticTokenizer"
_BYTES = {f"<0x{byte:02X}>" for byte in range(256)}
_NAMES = {gguf: f"{name}_token" for name, gguf in NAMED_IDS.items()}


def read_folder(folder: Path) -> dict[str, Any]:
    """The keys of a GGUF file. Raises MissingError, CorruptError or UserError."""
    if not folder.is_dir():
        raise MissingError(f"no folder {folder}", "give the folder of a checkpoint, with its tokenizer.json or tokenizer.model")
    config = {**_named_tokens(_read(folder / MAP)), **_read(folder / CONFIG)}
    if (folder / JSON).exists():
        values = _from_json(folder / JSON)
    elif (folder / MODEL_FILE).exists():
        values = _from_sentencepiece(folder / MODEL_FILE, config)
    else:
        raise MissingError(f"{folder} has neither {JSON} nor {MODEL_FILE}", "a checkpoint's tokenizer is in one of them")
    if config.get("legacy") and values[MODEL] == "llama":
        raise UserError(
            f"{folder / CONFIG} has legacy = true, a space after every special token, which is not supported",
            "set it to false; plain text gives the same ids",
        )
    try:
        _rename(values, {int(id): token for id, token in (config.get("added_tokens_decoder") or {}).items()}, config)
        _rename(values, {id: {"content": name} for name, id in _read(folder / "added_tokens.json").items()}, config)
        return _with_settings(values, config, folder)
    except (TypeError, AttributeError, ValueError) as error:
        raise CorruptError(f"{folder}: the files beside the vocabulary are damaged: {error!r}") from error


def _named_tokens(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in _NAMES.values() if name in values}


def _read(path: Path) -> dict[str, Any]:
    return read_object(path) if path.exists() else {}


def _from_sentencepiece(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    model = read_sentencepiece(path)
    ids = {id_key(name): id for name, id in model.ids.items() if id is not None}
    space = config.get("add_prefix_space")
    return {
        MODEL: "llama",
        PRE: "default",
        TOKENS: model.tokens,
        SCORES: model.scores,
        TYPES: model.types,
        ADDS_SPACE: model.adds_space if space is None else bool(space),
        **ids,
    }


def _from_json(path: Path) -> dict[str, Any]:
    document = _read(path)
    try:
        model = document["model"]
        kind = model.get("type") or ("BPE" if "merges" in model else "unknown")
        if kind != "BPE":
            raise UserError(f"{path} is a tokenizer of kind {kind}, only BPE is supported")
        if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
            raise UserError(f"{path} marks the parts of a word, which is not supported")
        tokens = _tokens(model["vocab"], path)
        merges = _merges(model["merges"], model["vocab"], path)
        values: dict[str, Any] = {TOKENS: tokens, TYPES: [NORMAL] * len(tokens)}
        values |= _byte_level(document, path) if _mentions(document, "ByteLevel") else _llama_like(document, path)
        if values[MODEL] == "llama":
            values[TYPES] = [BYTE if token in _BYTES else NORMAL for token in tokens]
        if isinstance(model.get("unk_token"), str):
            values[id_key("unknown")] = tokens.index(model["unk_token"])
        _rename(values, {entry["id"]: entry for entry in document.get("added_tokens") or []}, {})
        _fit_merges(values, merges)
        values.update(_begin_and_end(document.get("post_processor"), values))
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise CorruptError(f"{path} is not a tokenizer as the tokenizers library writes it: {error!r}") from error
    return values


def _tokens(vocab: Mapping[str, int], path: Path) -> list[str]:
    """Tokens in the order of their ids; an id without a token becomes unused."""
    names = {id: token for token, id in vocab.items()}
    size = max(names, default=-1) + 1
    if len(names) != len(vocab) or size == 0 or size > 2 * len(names) or min(names) < 0:
        raise CorruptError(f"{path}: the ids of the vocabulary are not 0 to {len(vocab) - 1}")
    return [names.get(id, padding_token(id)) for id in range(size)]


def _merges(given: Iterable[Any], vocab: Mapping[str, int], path: Path) -> list[tuple[str, str]]:
    merges = [(left, right) for left, right in (m.split(" ", 1) if isinstance(m, str) else m for m in given)]
    for left, right in merges:
        if left not in vocab or right not in vocab or left + right not in vocab:
            raise CorruptError(f"{path}: the merge {left!r} + {right!r} is not of tokens of the vocabulary")
    return merges


def _mentions(document: Mapping[str, Any], kind: str) -> bool:
    return any(kind in json.dumps(document.get(part)) for part in ("pre_tokenizer", "decoder", "normalizer"))


def _byte_level(document: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What is done to a text before merging must be one of the ways that have a name in GGUF."""
    rewrites = [step["type"] for step in _steps(document.get("normalizer"), "normalizers")]
    if rewrites not in ([], ["NFC"]):
        raise UserError(f"{path} rewrites text before encoding ({', '.join(rewrites)}), which is not supported")
    given = _steps(document.get("pre_tokenizer"), "pretokenizers")
    ignores = bool(document["model"].get("ignore_merges"))
    for name, split in GPT2_SPLITS.items():
        own = _steps(json.loads(split.pre_tokenizer.__getstate__()), "pretokenizers")
        if (given, rewrites == ["NFC"], ignores) == (own, split.composes, split.ignores_merges):
            return {MODEL: "gpt2", PRE: name, ADDS_SPACE: False}
    told = [*rewrites, *given, *(["ignores merges"] if ignores else [])]
    raise UserError(f"{path} cuts text in a way that is not supported: {told}", f"known: {', '.join(GPT2_SPLITS)}")


def _llama_like(document: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """SentencePiece's way: a space before the text or none, and spaces written as U+2581. Old files put a space after every
    special token too; Arctic does not (legacy = false)."""
    if not document["model"].get("byte_fallback"):
        raise UserError(f"{path} is neither byte-level BPE nor SentencePiece BPE with byte fallback")
    if document["model"].get("ignore_merges"):
        raise UserError(f"{path} ignores merges, which SentencePiece BPE does not")
    steps = [*_steps(document.get("normalizer"), "normalizers"), *_steps(document.get("pre_tokenizer"), "pretokenizers")]
    space = False
    for step in steps:
        if step["type"] == "Prepend" or (step["type"] == "Replace" and str(step["pattern"].get("Regex", "")).startswith(r"\A")):
            space = True
        elif step["type"] == "Metaspace":
            space = space or step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never") != "never"
        elif step["type"] != "Replace" or step["pattern"] != {"String": " "}:
            raise UserError(f"{path} has a step that is not supported: {step['type']}", "SentencePiece BPE has none such")
    return {MODEL: "llama", PRE: "default", ADDS_SPACE: space}


def _steps(part: Mapping[str, Any] | None, inner: str) -> list[dict[str, Any]]:
    """A pipeline as a flat list, without what has no effect on ids."""
    if part is None:
        return []
    if part["type"] == "Sequence":
        return [step for child in part[inner] for step in _steps(child, inner)]
    default = {"use_regex": True} if part["type"] == "ByteLevel" else {}  # old files do not say it
    return [{**default, **{k: v for k, v in part.items() if k != "trim_offsets"}}]


def _rename(values: dict[str, Any], added: Mapping[int, Any], config: Mapping[str, Any]) -> None:
    """Give ids new names and types. A name that stands at another id already is damage."""
    tokens = values[TOKENS]
    named = {_content(config.get(name)) for name in _NAMES.values()}
    ids = {token: id for id, token in enumerate(tokens)}
    for id, entry in sorted(added.items()):
        name = _content(entry)
        if not isinstance(name, str) or not name:
            raise CorruptError(f"the added token {id} has no content")
        if any(entry.get(flag) for flag in ("lstrip", "rstrip", "single_word")):
            raise UserError(f"the added token {name!r} takes spaces or words around it, which is not supported")
        if ids.get(name, id) != id:
            raise CorruptError(f"the added token {name!r} has id {id} in one place and {ids[name]} in another")
        while id >= len(tokens):
            if len(tokens) > 2 * max(len(ids), 1):
                raise CorruptError(f"the added token {name!r} has id {id}, far beyond the vocabulary")
            _append(values, padding_token(len(tokens)))
        ids.pop(tokens[id], None)
        tokens[id], ids[name] = name, id
        values[TYPES][id] = _type_of(values, id, entry.get("special", name in named))


def _append(values: dict[str, Any], token: str) -> None:
    values[TOKENS].append(token)
    values[TYPES].append(UNUSED)
    if SCORES in values:
        values[SCORES].append(0.0)


def _type_of(values: Mapping[str, Any], id: int, special: bool) -> int:
    before: int = values[TYPES][id]
    if before in (UNKNOWN, CONTROL):
        return before
    if values[MODEL] == "llama" and id == values.get(id_key("unknown")):
        return UNKNOWN
    return CONTROL if special else USER_DEFINED


def _content(token: Any) -> Any:
    return token.get("content") if isinstance(token, Mapping) else token


def _fit_merges(values: dict[str, Any], merges: list[tuple[str, str]]) -> None:
    """The merges as the kind of tokenizer keeps them."""
    for id, token in enumerate(values[TOKENS]):
        if token == padding_token(id) and values[TYPES][id] == NORMAL:
            values[TYPES][id] = UNUSED
    if values[MODEL] == "llama":
        values[SCORES] = scores_from_merges(values, merges)
    else:
        values[MERGES] = [" ".join(merge) for merge in merges]


def _begin_and_end(processor: Mapping[str, Any] | None, values: Mapping[str, Any]) -> dict[str, Any]:
    """Whether begin and end tokens are added, and which, as the template of `tokenizer.json` says."""
    found: dict[str, Any] = {}
    for step in _steps(processor, "processors"):
        if step["type"] == "TemplateProcessing":
            single = [part.get("SpecialToken", {}).get("id") for part in step["single"]]
            text = single.index(None)
            for name, key, token in (("bos", ADDS_BOS, single[:text][-1:]), ("eos", ADDS_EOS, single[text + 1 :][:1])):
                found[key] = bool(token)
                found |= {id_key(name): values[TOKENS].index(t) for t in token}
    return found


def _with_settings(values: dict[str, Any], config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What the files beside the vocabulary say: special ids, what is added to a text, the chat template."""
    generation, model = _read(folder / GENERATION), _read(folder / "config.json")
    ids = {token: id for id, token in enumerate(values[TOKENS])}
    for name, key in _NAMES.items():
        token = _content(config.get(key))
        if token is not None:
            if token not in ids:
                raise CorruptError(f"{folder}: {key} {token!r} is not in the vocabulary")
            values[id_key(name)] = ids[token]
            if values[TYPES][ids[token]] == NORMAL and name in ("bos", "eos"):
                values[TYPES][ids[token]] = CONTROL
    for name in ("bos", "eos"):
        given = _as_ids(f"{name}_token_id", generation, model)
        if given and _content(config.get(_NAMES[name])) is None:
            values[id_key(name)] = given[0]
        others = [id for id in given if id != values.get(id_key(name))]
        if name == "eos" and others:
            values[id_key("eot")] = others[0]
            values |= {STOPS: others[1:]} if others[1:] else {}
    for key, option in ((ADDS_BOS, "add_bos_token"), (ADDS_EOS, "add_eos_token")):
        if config.get(option) is not None:
            values[key] = bool(config[option])
    template = _template(config.get("chat_template"), folder)
    return {
        **values,
        ADDS_BOS: adds_bos(values) and id_key("bos") in values,
        ADDS_EOS: bool(values.get(ADDS_EOS, False)),
        **({TEMPLATE: template} if template is not None else {}),
    }


def _as_ids(key: str, generation: Mapping[str, Any], model: Mapping[str, Any]) -> list[int]:
    """One id, several or none, each once; what generation_config.json says goes before config.json."""
    value = generation.get(key, model.get(key))
    given = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(id) is int for id in given):
        raise CorruptError(f"{key} is {value!r}, neither an id nor a list of ids")
    return list(dict.fromkeys(given))


def _template(given: Any, folder: Path) -> str | None:
    if (folder / TEMPLATE_FILE).exists():
        return (folder / TEMPLATE_FILE).read_text(encoding="utf-8")
    if isinstance(given, list):  # several templates with names
        given = next((entry.get("template") for entry in given if entry.get("name") == "default"), None)
    if given is not None and not isinstance(given, str):
        raise CorruptError(f"{folder / CONFIG}: chat_template is not text")
    return given


def write_folder(folder: Path, document: str, metadata: Mapping[str, Any]) -> None:
    """Write the three files, and where more than one token ends a text the list in `generation_config.json`.

    `tokenizer_config.json` is last, as it makes the folder a tokenizer for transformers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokens = metadata[TOKENS]
    named = {key: tokens[metadata[id_key(name)]] for name, key in _NAMES.items() if metadata.get(id_key(name)) is not None}
    config = {
        "tokenizer_class": CLASS,
        "add_bos_token": adds_bos(metadata),
        "add_eos_token": bool(metadata.get(ADDS_EOS, False)),
        "add_prefix_space": adds_space(metadata),
        "legacy": False,
        "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": {str(id): entry for id, entry in _added_entries(metadata)},
        **named,
    }
    if TEMPLATE in metadata:
        config["chat_template"] = metadata[TEMPLATE]
    stops = stop_list(metadata)
    if len(stops) > 1:
        generation = {**_read(folder / GENERATION), "eos_token_id": stops}
        write_text(folder / GENERATION, json.dumps(generation, ensure_ascii=False, indent=2) + "\n")
    write_text(folder / JSON, document)
    write_text(folder / MAP, json.dumps(named, ensure_ascii=False, indent=2) + "\n")
    write_text(folder / CONFIG, json.dumps(config, ensure_ascii=False, indent=2) + "\n")


def _added_entries(metadata: Mapping[str, Any]) -> Iterable[tuple[int, dict[str, Any]]]:
    for id, kind in enumerate(token_types(metadata)):
        if kind in (CONTROL, UNKNOWN, USER_DEFINED):
            flags = dict.fromkeys(("lstrip", "rstrip", "single_word"), False)
            normalized = metadata[MODEL] == "llama"
            yield id, {"content": metadata[TOKENS][id], **flags, "normalized": normalized, "special": kind != USER_DEFINED}
