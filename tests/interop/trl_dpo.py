"""Loss and per-parameter gradients of one DPO batch: ours against TRL's DPOTrainer, in fp32, from the same token ids.

usage: trl_dpo.py PATH_OF_THE_EXAMPLE_BINARY_dpo_gradients
Exits with 1 where the loss or any parameter's gradient differs by more than 1e-4 relative. Prints the figures.
"""
import json, os, subprocess, sys, tempfile

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
import torch
from datasets import Dataset
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from trl import DPOConfig, DPOTrainer

TOLERANCE = 1e-4
VOCAB = 512
BINARY = sys.argv[1]
torch.set_num_threads(1)

# a word-level tokenizer whose words are the ids, so that texts become exactly the wanted ids
words = Tokenizer(models.WordLevel({str(i): i for i in range(VOCAB)}, unk_token="0"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="0", eos_token="1", pad_token="2", bos_token=None)


def model(family, seed):
    torch.manual_seed(seed)
    size = dict(hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
                vocab_size=VOCAB, max_position_embeddings=512)
    if family == "qwen2":
        m = Qwen2ForCausalLM(Qwen2Config(**size, tie_word_embeddings=True))
    else:
        m = LlamaForCausalLM(LlamaConfig(**size, tie_word_embeddings=False))
    # larger than the usual start, so that gradients are not all alike, and biases that are not zero
    with torch.no_grad():
        for p in m.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    return m.float()


def compare(family, beta):
    generator = torch.Generator().manual_seed(1)
    ids = lambda n: torch.randint(10, VOCAB, (n,), generator=generator).tolist()
    text = lambda row: " ".join(map(str, row))
    rows = [dict(prompt=text(ids(20 + 7 * i)) + " ", chosen=text(ids(5 + 3 * i)), rejected=text(ids(11 - 2 * i))) for i in range(4)]
    policy, reference = model(family, 0), model(family, 1)
    with tempfile.TemporaryDirectory() as work:
        folder = {name: os.path.join(work, name) for name in ("policy", "reference", "out")}
        os.mkdir(folder["out"])
        policy.save_pretrained(folder["policy"]); reference.save_pretrained(folder["reference"])
        args = DPOConfig(output_dir=work, per_device_train_batch_size=len(rows), beta=beta, max_length=None,
                         report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False, disable_dropout=True, seed=0,
                         dataloader_pin_memory=False, save_strategy="no", disable_tqdm=True)
        trainer = DPOTrainer(model=policy, ref_model=reference, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
        batch = next(iter(trainer.get_train_dataloader()))
        trainer.model.train()
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        # the ids that TRL made of the texts, end-of-text tokens included
        pairs, n = [], len(rows)
        for i in range(n):
            pair = {}
            for side, row in (("chosen", i), ("rejected", n + i)):
                real = batch["attention_mask"][row].bool()
                seen, completion = batch["input_ids"][row][real], batch["completion_mask"][row][real].bool()
                pair["prompt"], pair[side] = seen[~completion].tolist(), seen[completion].tolist()
            pairs.append(pair)
        path = os.path.join(work, "batch.json")
        with open(path, "w") as f:
            json.dump(dict(beta=beta, label_smoothing=0.0, pairs=pairs), f)
        subprocess.run([BINARY, folder["policy"], folder["reference"], path, folder["out"]], check=True)
        ours = load_file(os.path.join(folder["out"], "gradients.safetensors"))
        with open(os.path.join(folder["out"], "loss.json")) as f:
            our_loss = json.load(f)["loss"]
    theirs = {name: p.grad for name, p in trainer.model.named_parameters()}
    assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
    loss_error = abs(our_loss - loss.item()) / abs(loss.item())
    errors = {name: ((ours[name] - g).norm() / g.norm()).item() for name, g in theirs.items()}
    largest = [((ours[name] - g).abs().max() / g.abs().max()).item() for name, g in theirs.items()]
    worst = max(errors, key=errors.get)
    print(f"{family}, beta {beta}: loss {our_loss:.8f} (TRL {loss.item():.8f}, relative difference {loss_error:.1e}); "
          f"{len(errors)} gradients, largest relative difference in norm {errors[worst]:.1e} ({worst}), in any element {max(largest):.1e} of the largest")
    return loss_error <= TOLERANCE and errors[worst] <= TOLERANCE and max(largest) <= TOLERANCE


# TRL's `sigmoid` form leaves label_smoothing out (only `robust` and `exo` read it), so the plain loss is what can be compared
results = [compare("qwen2", 0.3), compare("qwen2", 0.05), compare("llama", 0.3)]
print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
sys.exit(0 if all(results) else 1)
