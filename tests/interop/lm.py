"""The language model against transformers, on folders of random weights that transformers itself writes.

Checked for Qwen2 and Llama, with the kinds of rotary scaling that are supported, tied and untied heads:
logits to 1e-4, greedy continuation token for token, token ids of user text, text of the chat template, and that a
folder written by us loads in transformers with the same parameters. Run by `tests/interop/run.sh`; needs the example
`probe` of the crate `lm`, whose path is the argument.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import time

import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

PROBE = sys.argv[1]
SPECIALS = ["<|pad|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]
TEXTS = [
    "def f(x):\n    return x + 1\n",
    "  indented\tand <|im_end|> not a control token, nor <|endoftext|>",
    "naïve café — ünïcödé ☃ 𝄞 e\u0301",
    "",
    "\n\n\n",
    "12345 + 67890 == 80235",
]
CONVERSATIONS = [
    [{"role": "user", "content": "Add one to x."}],
    [{"role": "system", "content": " Be brief. "}, {"role": "user", "content": "Why?\n"}],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b <think>c</think> d"}, {"role": "user", "content": "e"}],
]
# One template a manner of writing: ChatML with a default system text; checks and slices; Python's methods, dates and JSON.
TEMPLATES = {
    "chatml": "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "slices": """{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'].strip() %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set system_message = none %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- if loop.index0 == 0 and system_message is not none %}
        {{- '[INST] <<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'].strip() + ' [/INST]' }}
    {%- elif message['role'] == 'user' %}
        {{- '[INST] ' ~ message['content'] | trim ~ ' [/INST]' }}
    {%- else %}
        {{- ' ' + message['content'].split('</think>')[-1].lstrip() + eos_token }}
    {%- endif %}
{%- endfor %}
""",
    "methods": """{%- set ns = namespace(n=0) %}
{{- "Today: " + strftime_now("%d %b %Y") + "\\n" if strftime_now is defined else "" }}
{%- for m in messages %}
{%- if m.content.startswith('a') or m.content.endswith('.') %}{% set ns.n = ns.n + 1 %}{% endif %}
{%- if loop.index > 5 %}{% break %}{% endif %}
<|im_start|>{{ m.role | upper }}{{ m.get('name', '!') }} {{ m.content.replace('e', 'E').rstrip('\\n') }} {{ m.content | length }}<|im_end|>
{% endfor %}
{{- {'b': [1, 2.5, none, true], 'a': 'é"\\n'} | tojson }} {{ [1, {'k': []}] | tojson(indent=2) }} {{ ns.n }}
{%- for key, value in messages[0].items() %} {{ key }}={{ value }}{% endfor %}
""",
}


def tokenizer(folder, template, byte_regex):
    t = Tokenizer(models.BPE())
    pattern = r"\n| {2,}| ?[A-Za-z_]+|[0-9]| ?[^\sA-Za-z0-9_]+| "
    if byte_regex:
        t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        t.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    corpus = [pathlib.Path(__file__).read_text(), pathlib.Path(torch.__file__).read_text()[:40_000]]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    t.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=768, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False))
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=t, eos_token="<|im_end|>", pad_token="<|pad|>", bos_token="<|im_start|>")
    fast.chat_template = template
    fast.save_pretrained(folder)
    return fast


def models_to_check():
    base = dict(vocab_size=768, hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
                max_position_embeddings=512, initializer_range=0.1, bos_token_id=2, eos_token_id=3, pad_token_id=0)
    theta = {"rope_theta": 10000.0}
    llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    qwen, llama = transformers.Qwen2Config, transformers.LlamaConfig
    yield "qwen2 tied", qwen(**base, tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 1e6})
    yield "qwen2 untied, no grouping", qwen(**{**base, "num_key_value_heads": 4}, tie_word_embeddings=False)
    yield "qwen2 yarn", qwen(**base, tie_word_embeddings=True, rope_parameters={**theta, **yarn})
    yield "llama untied", llama(**base, tie_word_embeddings=False)
    yield "llama 3.1 scaling, biases, own head size", llama(**base, head_dim=48, attention_bias=True, mlp_bias=True, rope_parameters={**theta, **llama3})
    yield "llama linear scaling", llama(**base, rope_parameters={**theta, "rope_type": "linear", "factor": 2.0})


def probe(**question):
    done = subprocess.run([PROBE], input=json.dumps(question), capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"probe failed: {done.stderr}")
    return json.loads(done.stdout)


def main():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    now = int(time.time())
    worst = largest = 0.0
    for index, (name, config) in enumerate(models_to_check()):
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as copy:
            cls = transformers.Qwen2ForCausalLM if config.model_type == "qwen2" else transformers.LlamaForCausalLM
            model = cls(config).eval()
            for parameter in model.parameters():  # biases and norms are ones and zeros in a fresh model
                if parameter.dim() == 1:
                    parameter.data.add_(torch.randn_like(parameter) * 0.1)
            # Every other model is written as shards.
            model.save_pretrained(folder, max_shard_size="1MB" if index % 2 else "5GB")
            template = list(TEMPLATES.values())[index % len(TEMPLATES)]
            fast = tokenizer(folder, template, byte_regex=index % 2 == 1)
            plain = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
            prompts = [torch.randint(7, 768, (n,)).tolist() for n in (1, 17, 200)]
            answer = probe(folder=folder, tokens=prompts, greedy=60, texts=TEXTS, conversations=CONVERSATIONS, now=now, write=copy)
            reread = cls.from_pretrained(copy).eval()
            before, after = model.state_dict(), reread.state_dict()
            assert before.keys() == after.keys(), f"{name}: the folder written back has other parameters"
            for key, value in before.items():
                assert torch.equal(value, after[key]), f"{name}: {key} is another in the folder written back"
            stops = {1, 3, 4, 5, 6}
            for prompt, ours, written in zip(prompts, answer["logits"], answer["greedy"]):
                with torch.no_grad():
                    theirs = model(torch.tensor([prompt])).logits[0]
                    sequence = list(prompt)
                    for _ in range(60):
                        sequence.append(int(model(torch.tensor([sequence])).logits[0, -1].argmax()))
                        if sequence[-1] in stops:
                            break
                difference = (theirs - torch.tensor(ours)).abs().max().item()
                worst = max(worst, difference)
                assert difference < 1e-4, f"{name}: logits differ by {difference}"
                largest = max(largest, theirs.abs().max().item())
                assert written["tokens"] == sequence[len(prompt):], f"{name}: greedy text differs"
            for text, ids, decoded in zip(TEXTS, answer["ids"], answer["decoded"]):
                # User text: control tokens are plain text on both sides.
                plain._tokenizer.encode_special_tokens = True
                theirs = plain._tokenizer.encode(text, add_special_tokens=False).ids
                assert ids == theirs, f"{name}: ids of {text!r}: {ids} for {theirs}"
                assert decoded == text, f"{name}: {decoded!r} for {text!r}"
            for messages, ours in zip(CONVERSATIONS, answer["rendered"]):
                theirs = fast.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
                assert ours == theirs, f"{name}: template\n{ours!r}\n{theirs!r}"
            print(f"{name}: equal")
    print(f"transformers {transformers.__version__}, torch {torch.__version__}: largest difference of a logit {worst:.1e}, of {largest:.1f}")


if __name__ == "__main__":
    main()
